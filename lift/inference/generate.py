"""Prompts that ask about a document, and a model's greedy answers to many of them at once.

prompts = [chat(tokenizer, "logbook", question) for question in questions]     # closed book: nothing but the weights
replies = answers(model, tokenizer, prompts)
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from environments.haystack import document_prompt
from lift.inference.capacity import replied_tokens
from lift.memory.compact_memory import slots_at_hand
from lift.memory.document_cache import before_each, beginning, shared_tokens
from longthread.cache_argument import CACHE
from longthread.errors import ConfigError
from longthread.language_model import CausalLM, ChatTokenizer

NEW_TOKENS = 48  # of a reply, at most
WINDOW_TOKENS = 2048  # of text before a question in an evaluation, unless told otherwise
MIN_WINDOW = 32  # tokens: less holds no sentence
SEAM_TOKENS = 32  # that a window's pieces and the text around them may add when they are tokenised as one
REPLY = "\ue000"  # private use area: no template contains it
# Against what a model's generation_config.json may say; sampling's settings would only be warned about.
GREEDY: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "repetition_penalty": 1.0,
    "temperature": None, "top_p": None, "top_k": None, "max_length": None,
}  # fmt: skip


def chat(tokenizer: ChatTokenizer, name: str, question: str, window: str = "") -> list[int]:
    """Return the token ids of a prompt that asks about the document `name`, with the text `window` before the question.

    Without a name the prompt names no document. Uses the tokenizer's chat format with thinking off, or
    "Question: … Answer:" if it has none.
    """
    text, special = _prompt(tokenizer, name, question, window)
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def question_prompt(tokenizer: ChatTokenizer, question: str) -> tuple[list[int], range]:
    """Return the token ids of a prompt that names no document, and which of them are the question's."""
    text, special = _prompt(tokenizer, "", question, "")
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    first = text.rindex(question)
    spans = encoded["offset_mapping"]
    inside = [i for i, (start, end) in enumerate(spans) if start < first + len(question) and end > max(first, start)]
    return list(encoded["input_ids"]), range(inside[0], inside[-1] + 1)


def before_text(tokenizer: ChatTokenizer) -> list[int]:
    """Return the token ids of a prompt that stand before the text in its window."""
    text, special = _prompt(tokenizer, "", "", REPLY)
    return list(tokenizer(text.partition(REPLY)[0], add_special_tokens=special)["input_ids"])


def _prompt(tokenizer: ChatTokenizer, name: str, question: str, window: str) -> tuple[str, bool]:
    """Return the text of a prompt, and whether the tokenizer is to add its special tokens: a template has written them."""
    request = document_prompt.request(name, question)
    if not tokenizer.chat_template:
        request = f"Question: {request}\nAnswer:"
    content = document_prompt.behind_text(window, request) if window else request
    if not tokenizer.chat_template:
        return content, True
    return templated(tokenizer, content), False


def templated(tokenizer: ChatTokenizer, content: str) -> str:
    """Return the prompt of a user's message in the tokenizer's chat format, with thinking off."""
    # As text first: asked for ids, transformers 4 gives a list and transformers 5 a dict.
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def stop_token_ids(model: CausalLM, tokenizer: ChatTokenizer) -> list[int]:
    """Return the token ids that end a reply.

    The chat format's end of turn comes first, then the end of text of tokenizer and model.
    """
    ids: list[int | None] = []
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": REPLY}]
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(REPLY)[2].lstrip()
        first = tokenizer(after, add_special_tokens=False)["input_ids"][:1]
        ids += [token for token in first if token in tokenizer.all_special_ids]
    of_model = getattr(model.generation_config, "eos_token_id", None)
    ids += [tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])]
    return list(dict.fromkeys(token for token in ids if token is not None))


def window_size(
    wanted: int | None, limit: int | None, tokenizer: ChatTokenizer, asked: Iterable[tuple[str, str]]
) -> int:
    """Return how many tokens of text to put beside the memory, with room for the longest question and its reply.

    `wanted` is the user's number; None stands for `WINDOW_TOKENS`, or less if the model reads less. `limit` is how many
    tokens the model reads; None if unknown. `asked` holds pairs of a document's name and a question. Raises
    `ConfigError`.
    """
    longest = max(len(chat(tokenizer, name, question)) for name, question in asked)
    taken = longest + NEW_TOKENS + SEAM_TOKENS
    room = limit - taken if limit else None
    if room is not None and room < max(MIN_WINDOW, wanted or 0):
        fix = f"give at most {room:,}" if room >= MIN_WINDOW else "fit the document to a model that reads more"
        raise ConfigError(
            f"a window of {wanted or MIN_WINDOW:,} tokens and {taken:,} for question and reply: "
            f"the model reads {limit:,}, {fix}",
            setting="window_tokens",
        )
    if wanted is not None and wanted < MIN_WINDOW:
        raise ConfigError(f"a window of {wanted} tokens is below {MIN_WINDOW}: give more", setting="window_tokens")
    return wanted or min(WINDOW_TOKENS, room or WINDOW_TOKENS)


def index_batches(lengths: Sequence[int], new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Group prompts, given by their token counts `lengths`, into batches of indices, longest prompt first.

    A batch padded to its longest prompt, with `new_tokens` for each reply, has at most `batch_tokens` tokens, unless it
    is one prompt.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * (lengths[batches[-1][0]] + new_tokens) > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def answers(
    model: CausalLM,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = NEW_TOKENS,
    batch_tokens: int | None = None,
    read_once: bool = False,
) -> list[str]:
    """Return the model's greedy reply to each prompt, in order, without special tokens and outer white space.

    Ignores the model's own generation settings. The batch of the longest prompts comes first, so that too little memory
    shows at once. In float32 batching changes nothing; in bf16 the width of a batch changes the rounding of logits, so
    near ties may flip. `read_once`: of a base model whose state is keys and values alone, what the prompts of a batch begin
    with may be read once.
    """
    stops = stop_token_ids(model, tokenizer)
    training = model.training
    model.eval()
    replies = [""] * len(prompts)
    tokens = batch_tokens or replied_tokens(model)
    for batch in index_batches([len(prompt) for prompt in prompts], max_new_tokens, tokens):
        of_batch = [prompts[i] for i in batch]
        shared = shared_tokens(of_batch) if read_once else 0
        with torch.no_grad():
            begun = beginning(model, of_batch[0][:shared]) if shared else None
        rows = continued(model, of_batch, stops, max_new_tokens, shared, begun)
        for i, row in zip(batch, rows, strict=True):
            replies[i] = reply_of(tokenizer, row, stops)
    if training:
        model.train()
    return replies


def reply_of(tokenizer: ChatTokenizer, tokens: Sequence[int], stops: Sequence[int]) -> str:
    """Return the text of a reply up to the first token that ends it, without special tokens and outer white space."""
    end = next((at for at, token in enumerate(tokens) if token in stops), len(tokens))
    return tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()


def continued(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    stops: list[int],
    new_tokens: int,
    shared: int = 0,
    begun: Any = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, padded behind the end of the reply.

    `begun` is the cache of the `shared` tokens that all prompts begin with (`beginning`); padding stands behind them.
    """
    before, width = list(prompts[0][:shared]), max(map(len, prompts))
    filler = stops[0] if stops else 0
    ids_BL = torch.tensor([[*before, *[filler] * (width - len(prompt)), *prompt[shared:]] for prompt in prompts])
    mask_BL = torch.tensor([[*[1] * shared, *[0] * (width - len(x)), *[1] * (len(x) - shared)] for x in prompts])
    with slots_at_hand(model):
        out_BL = model.generate(
            input_ids=ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            **{CACHE: before_each(begun, len(prompts))},
            max_new_tokens=new_tokens,
            eos_token_id=stops or None,
            pad_token_id=filler,
            **GREEDY,
        )
    rows: list[list[int]] = out_BL[:, width:].tolist()
    return rows
