"""Prompts about a document, and greedy replies: batched as alone, whatever the model's generation settings say."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lift.inference.generate import NEW_TOKENS, SEAM_TOKENS, answers, chat, index_batches, stop_token_ids, window_size
from lift.memory.document_cache import shared_tokens
from lift.tasks import Item
from tests.environments.tiny_model import EOS, tiny_model, tiny_tokenizer

torch.set_num_threads(1)  # tiny models are fastest so
TOKENIZER = tiny_tokenizer()
MODEL = tiny_model()
QUESTIONS = [
    "Who?",
    "What is the harbour called, and since when?",
    "Where does the keeper of the lighthouse live?",
    "Why?",
]
PROMPTS = [chat(TOKENIZER, "logbook", question) for question in QUESTIONS]
NEW = 12


def plain() -> Any:
    """A tokenizer without chat format, that puts BOS first."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)]
    )
    return tokenizer


def reference(prompt: list[int], stops: set[int], new: int = NEW) -> str:
    """The likeliest token again and again, the whole row read anew each time."""
    ids = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            token = int(MODEL(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    return TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


# ---- prompts ----------------------------------------------------------------------------------------------------


def test_the_prompt_is_one_user_turn_with_name_and_question_and_nothing_else() -> None:
    text = TOKENIZER.decode(chat(TOKENIZER, "logbook", "Who?"))
    asked = 'About "logbook": Who?\nReply with the answer alone.'
    assert text == f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    with_window = TOKENIZER.decode(chat(TOKENIZER, "logbook", "Who?", "It rained.\nThen not."))
    assert with_window == text.replace(asked, f"Text:\nIt rained.\nThen not.\n\n{asked}")


def test_control_tokens_of_the_chat_format_are_one_token_each() -> None:
    ids = PROMPTS[0]
    assert type(ids) is list and all(type(token) is int for token in ids)
    assert ids[0] == 256 and ids.count(256) == 2 and ids.count(257) == 1


def test_a_tokenizer_without_a_chat_format_gets_question_and_answer() -> None:
    ids = chat(plain(), "logbook", "Who?", "It rained.")
    assert ids[0] == 256 and ids.count(256) == 1
    asked = 'About "logbook": Who?\nReply with the answer alone.'
    assert plain().decode(ids[1:]) == f"Text:\nIt rained.\n\nQuestion: {asked}\nAnswer:"


def test_thinking_is_turned_off_where_the_chat_format_knows_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template += "{% if enable_thinking is false %}<think></think>{% endif %}"
    assert tokenizer.decode(chat(tokenizer, "a", "Who?")).endswith("assistant\n<think></think>")


# ---- ends -------------------------------------------------------------------------------------------------------


def test_a_reply_ends_where_its_turn_does_or_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    assert stop_token_ids(MODEL, tokenizer) == [EOS]
    tokenizer.eos_token = "<|im_start|>"  # as if its end of text were not the chat format's end of turn
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", [5, 257])
    assert stop_token_ids(MODEL, tokenizer) == [257, 256, 5]
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", None)
    assert stop_token_ids(MODEL, plain()) == [EOS]
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"  # nothing behind a turn
    assert stop_token_ids(MODEL, tokenizer) == [256]


# ---- replies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_tokens", [1, 180, 16_384])
def test_batched_as_alone_as_the_reference(batch_tokens: int) -> None:
    wanted = [reference(prompt, {EOS}) for prompt in PROMPTS]
    assert len(set(wanted)) == len(wanted) and all(wanted)
    assert answers(MODEL, TOKENIZER, PROMPTS, NEW, batch_tokens) == wanted
    assert answers(MODEL, TOKENIZER, PROMPTS[::-1], NEW, batch_tokens) == wanted[::-1]


def test_what_prompts_begin_with_may_be_read_once() -> None:
    calls: list[torch.Tensor] = []
    hook = MODEL.register_forward_pre_hook(lambda _, args, given: calls.append(given["input_ids"]), with_kwargs=True)
    replies = answers(MODEL, TOKENIZER, PROMPTS, NEW, read_once=True)
    hook.remove()
    assert replies == [reference(prompt, {EOS}) for prompt in PROMPTS]
    first, rest = calls[:2]
    assert shared_tokens(PROMPTS) > 10 and first.tolist() == [PROMPTS[0][: shared_tokens(PROMPTS)]]
    assert rest.shape == (len(PROMPTS), max(map(len, PROMPTS)) - first.shape[1])


def test_one_reply_stops_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        stop = int(MODEL(input_ids=torch.tensor([PROMPTS[1]])).logits[0, -1].argmax())
    monkeypatch.setattr(MODEL.generation_config, "eos_token_id", [EOS, stop])
    wanted = [reference(prompt, {EOS, stop}) for prompt in PROMPTS]
    assert wanted[1] == "" and any(wanted)
    assert answers(MODEL, TOKENIZER, PROMPTS, NEW) == wanted


def test_greedy_and_silent_whatever_the_model_was_published_with(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = answers(MODEL, TOKENIZER, PROMPTS, NEW)
    sampled = {"do_sample": True, "temperature": 2.0, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.9}
    for key, value in (sampled | {"max_length": 20, "num_beams": 3}).items():
        monkeypatch.setattr(MODEL.generation_config, key, value)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answers(MODEL, TOKENIZER, PROMPTS, NEW) == wanted
    assert capfd.readouterr() == ("", "")


def test_nothing_asked_nothing_answered() -> None:
    assert answers(MODEL, TOKENIZER, []) == []


def test_dropout_is_off_for_the_reply_and_the_model_as_it_was_afterwards() -> None:
    model = tiny_model(attention_dropout=0.9)
    wanted = answers(model, TOKENIZER, PROMPTS, NEW)
    model.train()
    assert answers(model, TOKENIZER, PROMPTS, NEW) == wanted and model.training


# ---- batches ----------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 10), st.integers(1, 300))
def test_batches_hold_all_once_within_the_limit(lengths: list[int], new: int, limit: int) -> None:
    found = index_batches(lengths, new, limit)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + new) <= limit
    sizes = [lengths[index] for batch in found for index in batch]
    assert sizes == sorted(sizes, reverse=True)


def test_a_window_that_is_not_given_is_what_the_model_reads() -> None:
    tokenizer, item = tiny_tokenizer(), Item("needle", "?", "!", ())
    taken = len(chat(tokenizer, "x", "?")) + NEW_TOKENS + SEAM_TOKENS
    for limit, window in ((None, 2048), (100_000, 2048), (512, 512 - taken)):
        assert window_size(None, limit, tokenizer, [("x", item.question)]) == window
