"""What is left of a reply without its thinking, in the markers of today's models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from environments.haystack.tasks.task import Answer
from environments.rollouts.scoring import parse_reply, score
from environments.rollouts.thinking import opened_thinking, without_thinking

NUMBER = Answer("one", ("1234567890",), "numbers")
RIGHT, DRAFT = "<answer>1234567890</answer>", "I could say <answer>7</answer>, but"
HARMONY = "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
MARKERS = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    HARMONY,
    ("analysis", "assistantfinal"),
]
markers = pytest.mark.parametrize(("opening", "closing"), MARKERS)


@markers
def test_thinking_that_ended_is_dropped(opening: str, closing: str) -> None:
    """ecosystem reports: an <answer> mentioned in thinking made a right answer earn 0 (two regions)."""
    for reply in (
        f"{opening}{DRAFT}{closing}{RIGHT}",
        f"\n{opening}{DRAFT}{closing}\n{RIGHT}\n",
        f"{opening}a{closing}{opening}{DRAFT}{closing}{RIGHT}",  # repeated
        f"{opening}{opening}{DRAFT}{closing}{DRAFT}{closing}{RIGHT}",  # nested
        f"{DRAFT}{closing}{RIGHT}",  # opened by the template
    ):
        assert score(reply, NUMBER).score == 1, reply
        assert score(reply.replace(RIGHT, "1234567890"), NUMBER, "plain").score == 1
    assert score(f"{DRAFT}{closing}{RIGHT}", NUMBER, opened=opening).score == 1
    assert score(f"{opening}{DRAFT}{closing}{RIGHT}", NUMBER, opened=opening).score == 1  # the model opens it again


@markers
def test_thinking_that_was_cut_leaves_nothing(opening: str, closing: str) -> None:
    """PrimeIntellect-ai/verifiers 207, 0xBakeer/inference-atlas PR 32: a draft in cut thinking was paid in full."""
    draft = f"I could say {RIGHT}, but first"
    for form in ("tags", "plain"):
        assert score(f"{opening}{draft}", NUMBER, form).score == 0
        again = "assistantanalysis" if opening == "analysis" else opening
        assert score(f"{opening}{DRAFT}{closing}{again}{draft}", NUMBER, form).score == 0
        assert score(draft, NUMBER, form, opened=opening).score == 0
        assert score("", NUMBER, form, opened=opening).score == 0
    assert without_thinking(draft, opening) == ""


@markers
def test_no_other_marker_ends_thinking(opening: str, closing: str) -> None:
    for _, other in MARKERS:
        if (
            other.lower() != closing.lower()
            and opening != "analysis"
            and {closing, other} != {HARMONY[1], "assistantfinal"}
        ):
            assert score(f"{other}{RIGHT}", NUMBER, opened=opening).score == 0, other
            assert score(f"{opening}{other}{RIGHT}", NUMBER).score == 0, other


def test_what_stands_before_thinking_that_was_cut_is_kept() -> None:
    assert without_thinking(f"{RIGHT}<thinking>hm") == RIGHT
    assert without_thinking(f"<think>a</think>{RIGHT}[THINK]{DRAFT}") == RIGHT


@pytest.mark.parametrize(
    "reply",
    [
        f"{HARMONY[0]}{DRAFT}<|end|><|start|>assistant<|channel|>commentary<|message|>{DRAFT}{HARMONY[1]}{RIGHT}<|return|>",
        f"<|channel|>final<|message|>{RIGHT}<|end|>",
        f"<|channel|>final <|constrain|>json<|message|>{RIGHT}",
        f"analysisWe need it. {DRAFT}assistantcommentary{DRAFT}assistantfinal{RIGHT}",
    ],
)
def test_of_harmony_the_final_channel_is_kept(reply: str) -> None:
    assert without_thinking(reply) == RIGHT


@pytest.mark.parametrize(
    "reply", [f"<|channel|>analysis{RIGHT}", f"<|channel|>commentary<|message|>{RIGHT}", f"<|channel|>{RIGHT}"]
)
def test_without_a_final_channel_nothing_is_left(reply: str) -> None:
    assert without_thinking(reply) == ""


@pytest.mark.parametrize(
    "reply",
    ["analysis of the text: 1234567890", "Analysis shows 1234567890", "<thinker>1234567890", "I think 1234567890",
     "[THINKING] 1234567890", "the final assistant says 1234567890"],
)  # fmt: skip
def test_words_are_no_markers(reply: str) -> None:
    assert without_thinking(reply) == reply


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Reply with <think> first.<|im_start|>assistant\n", ""),
        ("<|start|>assistant<|channel|>analysis<|message|>", HARMONY[0]),
        ("<|start|>assistant<|channel|>final<|message|>", ""),
        ("<|start|>assistant", ""),
        ("[/INST][THINK]", "[THINK]"),
        ("<seed:think>", "<seed:think>"),
        ("assistant\n◁think▷", "◁think▷"),
        ("<|CHATBOT_TOKEN|><|START_THINKING|>", "<|START_THINKING|>"),
        ("<start_of_turn>model\n<|channel>thought\n", "<|channel>thought"),
        ("", ""),
        ("x" * 10_000 + "<think>", "<think>"),
    ],
)
def test_the_marker_at_a_prompts_end(prompt: str, opened: str) -> None:
    assert opened_thinking(prompt) == opened
    if opened:
        assert without_thinking(RIGHT, opened) == ""


fragments = st.sampled_from([mark for pair in MARKERS for mark in pair] + [RIGHT, "text ", "<", "<|channel|>"])


@given(st.lists(fragments, max_size=12).map("".join), st.sampled_from([opening for opening, _ in MARKERS]))
def test_thinking_without_its_end_leaves_nothing_whatever_is_in_it(reply: str, opening: str) -> None:
    closing = "final" if opening in (HARMONY[0], "analysis") else dict(MARKERS)[opening].lower()
    if closing not in reply.lower():
        assert without_thinking(f"We {reply}", opening) == ""
        assert parse_reply(f"We {reply}", NUMBER, opened=opening) is None
    assert without_thinking(reply) in reply
