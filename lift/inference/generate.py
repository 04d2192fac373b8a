"""Questions about a document as prompts, and a model's greedy answers to many of them at once.

prompts = [chat(tokenizer, "logbook", question) for question in questions]     # closed book: nothing but the weights
replies = answers(model, tokenizer, prompts)
"""

from collections.abc import Sequence
from typing import Any

import torch

from lift import LiftError
from longthread.model_shape import replied_tokens

NEW_TOKENS = 48  # of a reply, at most
WINDOW_TOKENS = 2048  # of text before a question in an evaluation, where nobody says otherwise
MIN_WINDOW = 32  # tokens: less holds no sentence
SEAM_TOKENS = 32  # that a window's pieces and the text around them may add when they are tokenised as one
SAID = "\ue000"  # private use area: no template contains it


def chat(tokenizer: Any, name: str, question: str, window: str = "") -> list[int]:
    """Ids of a prompt that asks about the document `name`, with the text `window` before the question.

    In the tokenizer's chat format, thinking off; a tokenizer without one gets "Question: … Answer:".
    """
    text = f"Text:\n{window}\n\n" if window else ""
    asked = f'About "{name}": {question}\nReply with the answer alone.'
    if not tokenizer.chat_template:
        return list(tokenizer(f"{text}Question: {asked}\nAnswer:")["input_ids"])
    # As text first: asked for ids, transformers 4 gives a list and transformers 5 a dict.
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": text + asked}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return list(tokenizer(prompt, add_special_tokens=False)["input_ids"])  # the template has written BOS


def ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end a reply: first what the chat format puts behind one, then the tokenizer's and the model's end of text."""
    ids: list[int | None] = []
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": SAID}]
        after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(SAID)[2].lstrip()
        behind = tokenizer(after, add_special_tokens=False)["input_ids"]
        ids += [token for token in behind[:1] if token in tokenizer.all_special_ids]
    stated = getattr(model.generation_config, "eos_token_id", None)
    ids += [tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])]
    return list(dict.fromkeys(token for token in ids if token is not None))


def window_size(wanted: int | None, limit: int | None, tokenizer: Any, asked: Sequence[tuple[str, Any]]) -> int:
    """Tokens of text beside the memory that leave the model room for the longest question and its reply. Raises
    `LiftError`.

    `wanted`: of the user, None for `WINDOW_TOKENS` or as many as there is room for. `limit`: what the model reads, None
    where that is not known. `asked`: names of documents with the items asked about each.
    """
    longest = max(len(chat(tokenizer, name, item.question)) for name, items in asked for item in items)
    taken = longest + NEW_TOKENS + SEAM_TOKENS
    room = limit - taken if limit else None
    if room is not None and room < max(MIN_WINDOW, wanted or 0):
        what = f"--window-tokens {wanted:,}" if wanted else f"a window of {MIN_WINDOW} tokens"
        fix = f"give at most {room:,}" if room >= MIN_WINDOW else "fit the document to a model that reads more"
        raise LiftError(f"{what} and {taken:,} for question and reply: the model reads {limit:,}, {fix}")
    if wanted is not None and wanted < MIN_WINDOW:
        raise LiftError(f"--window-tokens {wanted} is below {MIN_WINDOW}: give more")
    return wanted or min(WINDOW_TOKENS, room or WINDOW_TOKENS)


def batches(lengths: Sequence[int], new: int, batch_tokens: int) -> list[list[int]]:
    """Indices, longest prompts first, in batches of at most `batch_tokens` when each row is padded to the longest."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not found or (len(found[-1]) + 1) * (lengths[found[-1][0]] + new) > batch_tokens:
            found.append([])
        found[-1].append(index)
    return found


def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = NEW_TOKENS,
    batch_tokens: int | None = None,
) -> list[str]:
    """The greedy reply to each prompt, without special tokens and outer white space, in the order of the prompts.

    Whatever the model's own generation settings say. The longest batch comes first: if memory is short, it is at once.
    In float32 the same as asked one by one; in bf16 the width of a batch moves logits by a rounding, so near ties may turn.
    """
    stops = ends(model, tokenizer)
    training = model.training
    model.eval()
    replies = [""] * len(prompts)
    for batch in batches([len(prompt) for prompt in prompts], max_new_tokens, batch_tokens or replied_tokens(model)):
        rows = _generated(model, [prompts[i] for i in batch], stops, max_new_tokens)
        for i, row in zip(batch, rows, strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            replies[i] = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
    if training:
        model.train()
    return replies


def _generated(model: Any, prompts: Sequence[Sequence[int]], stops: list[int], new: int) -> list[list[int]]:
    """What follows each prompt; behind its end, padding."""
    width = max(map(len, prompts))
    filler = stops[0] if stops else 0
    ids_BT = torch.tensor([[filler] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out_BT = model.generate(
        input_ids=ids_BT.to(model.device),
        attention_mask=mask_BT.to(model.device),
        max_new_tokens=new,
        eos_token_id=stops or None,
        pad_token_id=filler,
        # Against what the model's generation_config.json may say; sampling's settings would only be warned about.
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
        max_length=None,
    )
    rows: list[list[int]] = out_BT[:, width:].tolist()
    return rows
