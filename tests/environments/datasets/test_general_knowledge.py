"""General questions: none gives its answer away or is trained on, replies are judged by their first line, runs go on."""

import re
from pathlib import Path
from random import Random

import pytest

from environments.datasets import general_knowledge
from environments.datasets.general_knowledge import GeneralQuestion, ask, questions, shares
from environments.datasets.other_prompts import general_prompts
from environments.inference.contracts import ServerAddress
from lift.tasks import synthetic_document
from longthread.statistics import Share
from tests.environments.loopback import ChatServer, said


def test_there_are_over_three_hundred_and_none_is_twice_or_says_its_answer() -> None:
    every = questions()
    assert len(every) > 300 and len({one.text for one in every}) == len(every) and every == questions()
    for one in every:
        assert one.answers and not one.right(one.text), one
        assert all(one.right(f"It is {answer}.") for answer in one.answers), one
        assert "{" not in one.text and not re.search(r"[;:]", one.text), one


def test_none_is_in_training_or_asked_by_lift() -> None:
    asked = {one.text for one in questions()}
    drawn, rng = set(), general_prompts(Random(0))
    for _ in range(20_000):
        drawn.add(next(rng).question)
    assert not asked & drawn
    assert not asked & {item.question for item in synthetic_document.unrelated()}


@pytest.mark.parametrize(
    ("answers", "reply", "right"),
    [
        (("Rome",), "The capital of Italy is Rome.", True),
        (("Rome",), "rome", True),
        (("Rome",), "Romeo", False),
        (("60", "sixty"), "There are Sixty of them.", True),
        (("60", "sixty"), "160", False),
        (("1,000", "1000"), "1,000 grams", True),
        (("C",), "The letter C.", True),
        (("C",), "a c", False),
        (("Rome",), "I do not know.\nRome", False),
        (("Rome",), "", False),
        (("Rome",), "x" * 300 + " Rome", False),
    ],
)
def test_the_first_line_has_to_state_an_answer(answers: tuple[str, ...], reply: str, right: bool) -> None:
    assert GeneralQuestion("kind", "Which?", answers).right(reply) is right


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [
        GeneralQuestion("a", "One?", ("1",)),
        GeneralQuestion("a", "Two?", ("2",)),
        GeneralQuestion("b", "Six?", ("6",)),
    ]
    path = tmp_path / "new" / "general.jsonl"
    with ChatServer(said("It is 1.")).running() as server:
        address = ServerAddress(server.url, "", "m")
        monkeypatch.setattr(general_knowledge, "questions", lambda: few[:2])
        assert ask(address, path) == {"a": Share(1, 2)}
        monkeypatch.setattr(general_knowledge, "questions", lambda: few)
        server.requests.clear()
        assert ask(address, path) == shares(path) == {"a": Share(1, 2), "b": Share(0, 1)}
        assert [body["messages"][-1]["content"] for body in server.requests] == ["Six?"]
        assert all(body["temperature"] == 0 for body in server.requests)
        assert ask(address, path) == shares(path) and len(server.requests) == 1
        whole = path.read_text()
        path.write_text(whole[:-20])  # killed within a line
        assert ask(address, path) == {"a": Share(1, 2), "b": Share(0, 1)} and path.read_text() == whole
