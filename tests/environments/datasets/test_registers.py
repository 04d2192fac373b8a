"""Registers: every answer is what the text itself says, read back by a slow reader that knows the forms alone."""

import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.datasets.reader_rows import registers
from environments.datasets.reader_rows.plan import FORMS as ROW_FORMS
from environments.datasets.reader_rows.plan import RowPlan, RowSettings, plan
from environments.datasets.reader_rows.questions import ReaderQuestion
from environments.datasets.reader_rows.registers import (
    ABSENT,
    ALL_BEGUN,
    ALL_OF,
    FOLLOW,
    FORMS,
    LOOKUP,
    NAMES,
    VALUE_BEGUN,
    VALUE_OF,
    Register,
)
from environments.datasets.reader_rows.rows import RowMaker
from environments.haystack.facts import in_split
from environments.haystack.tasks.task import NONE
from tests.environments.datasets.test_reader_rows import learnt, turns_in

NAME = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
SEVERAL = re.compile("; |, | ")  # between the keys of a reply: no name holds one of these
LENGTH = 2048


def pattern(form: str) -> str:
    """The form as a pattern, its slots as named groups."""
    return re.sub(r"\\{(\w)\\}", rf"(?P<\1>{NAME})", re.escape(form))


def read(text: str) -> dict[str, str]:
    """What stands under each key of a register: a value, or another key. Of all forms the one that reads most is its own."""
    found = []
    for told, refers in FORMS:
        said = [(m["k"], m["v"]) for m in re.finditer(rf"(?m)(?:^|(?<=\s)){pattern(told)}(?=\s|$)", text)]
        said += [(m["k"], m["t"]) for m in re.finditer(rf"(?m)(?:^|(?<=\s)){pattern(refers)}(?=\s|$)", text)]
        found.append(dict(said))
    return max(found, key=len)


def way(entries: dict[str, str], key: str) -> list[str]:
    """The keys passed behind `key`, and the value that they come to."""
    passed = [entries[key]]
    while passed[-1] in entries:
        passed.append(entries[passed[-1]])
    return passed


def asked_for(wordings: tuple[str, ...], text: str) -> str:
    """The key or value in a question of these wordings."""
    matches = (re.fullmatch(pattern(wording), text) for wording in wordings)
    [[name]] = [match.groups() for match in matches if match]
    return str(name)


def check_begun(begun: str, names: bool, asked: str, count: int) -> None:
    """The sentence is about what is asked, and says how many keys it names, if it does."""
    [match] = [m for w in (ALL_BEGUN if names else VALUE_BEGUN) if (m := re.fullmatch(pattern(w), begun))]
    slots = match.groupdict()
    assert int(slots.pop("n", count)) == count and slots == {"v" if names else "k": asked}


def check(question: ReaderQuestion, entries: dict[str, str]) -> None:
    if question.begun:
        asked = asked_for(ALL_OF if question.several else VALUE_OF, question.text)
        check_begun(question.begun, question.several, asked, len(SEVERAL.split(question.answer)))
        assert question.kind in (LOOKUP, NAMES)
    if question.kind == NAMES:
        value = asked_for(ALL_OF, question.text)
        keys = SEVERAL.split(question.answer)
        assert set(keys) == {key for key in entries if way(entries, key)[-1] == value} and question.several
        assert all(entries[key] == before for before, key in zip(keys, keys[1:], strict=False))
        return
    key = asked_for(VALUE_OF, question.text)
    if question.kind == ABSENT:
        assert key not in entries and question.answer == NONE
        return
    *passed, value = way(entries, key)
    assert (question.answer, question.steps, question.hops) == (value, tuple(passed), 1 + len(passed))
    assert (question.kind == LOOKUP) == (not passed)


def check_shown(text: str, entries: dict[str, str]) -> None:
    """A question of an example with its answer behind it, which may be a sentence."""
    [(wording, match)] = [
        (wording, match)
        for wording in (*VALUE_OF, *ALL_OF)
        if (match := re.fullmatch(rf"{pattern(wording)} (?P<answer>.+)", text))
    ]
    names, answer = wording in ALL_OF, match["answer"]
    asked = match["v" if names else "k"]
    wanted = {key for key in entries if way(entries, key)[-1] == asked} if names else {way(entries, asked)[-1]}
    if answer.endswith("."):
        begun = next(m[0] for w in (*VALUE_BEGUN, *ALL_BEGUN) if (m := re.match(pattern(w), answer)))
        check_begun(begun, names, asked, len(wanted))
        answer = answer[len(begun) + 1 : -1]
    assert set(SEVERAL.split(answer)) == wanted


@given(
    seed=st.integers(0, 10_000), count=st.integers(1, 40), filler=st.integers(0, 40), may_abstain=st.booleans(),
    steps=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_every_answer_is_what_the_register_says(
    seed: int, count: int, filler: int, may_abstain: bool, steps: bool
) -> None:
    register = Register(Random(seed))
    questions = register.questions(count, may_abstain, steps)
    others = [entry for _ in range(filler) for entry in register.more()]
    text = register.text(others)
    assert text.startswith(register.example)
    entries = read(text.removeprefix(register.example))
    assert len(entries) == len(register.entries) + len(others)  # each is read, and none of two has the same key
    assert len(questions) == count
    for question in questions:
        check(question, entries)
    kinds = {question.kind for question in questions}
    able = {LOOKUP: True, NAMES: register.refers, FOLLOW: register.refers and steps, ABSENT: may_abstain}
    assert kinds <= {kind for kind, is_asked in able.items() if is_asked}
    assert not kinds & {FOLLOW, ABSENT} or not register.begun
    if register.in_order:  # what an entry refers to stands above it
        above = [[key in [*entries][:i] for key in [entries[k]] if key in entries] for i, k in enumerate(entries)]
        assert all(map(all, above))
    if register.example:
        before, asked = register.example.strip().rsplit("\n", 1)
        shown = read(before)
        assert not {*shown, *shown.values()} & {*entries, *entries.values()}
        check_shown(asked, shown)
    names = [*entries, *(way(entries, key)[-1] for key in entries)]
    assert all(in_split(name, "train") for name in names)


@pytest.mark.parametrize("form", ROW_FORMS)
@pytest.mark.parametrize("length", [512, LENGTH])
def test_a_row_is_filled_with_a_register_and_its_questions(gpt2: Any, form: str, length: int) -> None:
    maker = RowMaker(gpt2, RowSettings(2, length, length, registers=1.0))
    lengths, begun = [], 0
    for number in range(12):
        row = maker.row(RowPlan(number, "register", length, form))
        assert (row.input_ids == maker.row(RowPlan(number, "register", length, form)).input_ids).all()
        turns = turns_in(maker.tokens.decode(row.input_ids.tolist()))
        entries = read("\n".join(turns[0][0].removeprefix("Text:\n").split("\n\n")[:-1]))
        replies = [reply.removesuffix("<|im_end|>") for reply in learnt(row, maker.tokens)]
        given = [reply.removesuffix(end) for (_, reply), end in zip(turns, replies, strict=True)]
        assert all(end and reply.endswith(end) for (_, reply), end in zip(turns, replies, strict=True))
        assert any(given) == all(given) and len(row) <= length
        begun += any(given)
        for (asked, _), beginning, reply in zip(turns, given, replies, strict=True):
            if beginning:
                values = SEVERAL.split(reply.removeprefix(" ").removesuffix("."))
            else:
                *_, value = re.fullmatch(r"(?:<steps>(.*)</steps> )?(?:<answer>)?(.*?)(?:</answer>)?", reply).groups()  # type: ignore[union-attr]
                values = value.split("; ")
            assert values == [NONE] or all(v in entries or v in entries.values() for v in values), asked
        lengths.append(len(row))
    assert min(lengths) > 0.8 * length and 0 < begun < 12


def test_scattered_entries_stand_in_order_among_sentences_of_other_text(
    gpt2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registers, "SCATTERED", 1.0)
    drawn: list[Register] = []

    def keeping(rng: Random) -> Register:
        drawn.append(Register(rng))
        return drawn[-1]

    monkeypatch.setattr("environments.datasets.reader_rows.rows.Register", keeping)
    maker = RowMaker(gpt2, RowSettings(2, LENGTH, LENGTH, registers=1.0))
    for number in range(6):
        row = maker.row(RowPlan(number, "register", LENGTH, "plain"))
        register, text = drawn[-1], turns_in(maker.tokens.decode(row.input_ids.tolist()))[0][0]
        behind = text[text.index(register.example) + len(register.example) :]
        entries = sorted(register.entries, key=lambda entry: register.depths([entry]))
        places = [behind.index(entry) for entry in entries]
        assert places == sorted(places)
        others = behind.rpartition("\n\n")[0]
        for entry in register._places:  # all of the register's, also those that nothing asks for
            others = others.replace(entry, "")
        assert len(re.findall(r"\b[a-z]{2,}\b", others)) > 150


def test_registers_are_the_share_of_rows_that_is_asked_for() -> None:
    rows = plan(RowSettings(40, LENGTH, LENGTH, 0.25, 0.25, registers=0.25))
    assert {kind: sum(row.kind == kind for row in rows) for kind in ("document", "parallel", "text", "register")} == {
        "document": 10, "parallel": 10, "text": 10, "register": 10,
    }  # fmt: skip
    assert not any(row.kind == "register" for row in plan(RowSettings(40)))
