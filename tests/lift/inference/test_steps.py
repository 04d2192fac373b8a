"""Questions step by step: the prompt is the one that readers are trained on, and a reply's parts are read."""

import pytest

from environments.datasets.reader_rows.plan import RowPlan, RowSettings
from environments.datasets.reader_rows.rows import RowMaker
from environments.haystack.tokens import BREAK
from lift.inference import steps
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_tokenizer

LENGTH = 16_384  # tokens of a tokenizer of bytes


def test_the_prompt_is_that_of_reader_rows() -> None:
    """Of a memory, as in rows of documents read apart, and with a text in the window, as in rows of one document."""
    maker = RowMaker(tiny_tokenizer(), RowSettings(2, LENGTH, LENGTH, kinds=("linked", "absent"), forms=("tags",)))
    for kind in ("parallel", "document"):
        row = maker.row(RowPlan(0, kind, LENGTH, "tags")).input_ids.tolist()
        text = maker.tokens.decode(row)
        turn = text[text.rindex("<|im_start|>user", 0, text.index("like this: <steps>")) :]
        message = turn.removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]
        before, _, asked = message.rpartition("Question: ")
        question = asked.partition("\n")[0]
        window = before.split(BREAK, 1)[1].removesuffix(BREAK) if before else ""
        prompt = steps.chat(tiny_tokenizer(), question, window)
        assert any(row[at : at + len(prompt)] == prompt for at in range(len(row)))


@pytest.mark.parametrize(
    ("reply", "passed", "value"),
    [
        ("<steps>Lisa Kord; Timo Varga</steps> <answer>4829</answer>", ["Lisa Kord", "Timo Varga"], "4829"),
        ("<answer>none</answer>", [], "none"),
        ("<steps>Lisa Kord</steps> <answer>48", ["Lisa Kord"], "48"),  # cut off
        (" 4829 ", [], "4829"),
        ("<steps>;</steps>", [], "<steps>;</steps>"),
    ],
)
def test_a_reply_falls_into_steps_and_value(reply: str, passed: list[str], value: str) -> None:
    assert steps.passed(reply) == passed and steps.value(reply) == value


def test_a_model_without_a_chat_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        steps.chat(tokenizer, "Who?")
