"""The chat: turns with a speaker each, the same again from the same seed, nobody in both splits."""

import re
from itertools import islice

from environments.haystack.filler import dialogue, prose

TURN = re.compile(r"([A-Z][a-z]+): \S.+")


def chat(seed: int, split: str, n: int = 120) -> list[list[list[str]]]:
    return list(islice(dialogue.passages(seed, split), n))


def speakers(passages: list[list[list[str]]]) -> set[str]:
    return {match[1] for passage in passages for turn in passage if (match := TURN.match(turn[0]))}


def test_every_paragraph_is_a_turn() -> None:
    passages = chat(0, "train")
    for passage in passages:
        assert len(passage) > 3 and 2 <= len(speakers([passage])) <= 4
        for turn in passage:
            assert TURN.fullmatch(turn[0]) and 1 <= len(turn) <= dialogue.TURN[1]
            assert all(text.isascii() and not re.search(r"[\d\[\]\n]", text) for text in turn)
            assert not any(": " in text for text in turn[1:])
    turns = [turn for passage in passages for turn in passage]
    assert sum(len(turn) > 1 for turn in turns) > 0.7 * len(turns)  # or few turns could be cut to fit


def test_the_words_are_those_of_the_prose() -> None:
    told = [s for passage in chat(3, "eval", 5) for turn in passage for s in turn]
    written = [s for passage in islice(prose.passages(3, "eval"), 1) for paragraph in passage for s in paragraph]
    assert [re.sub(r"^[A-Z][a-z]+: ", "", text) for text in told[: len(written)]] == written


def test_the_same_from_the_same_seed_and_nobody_in_both_splits() -> None:
    assert chat(1, "train", 20) == chat(1, "train", 20) != chat(2, "train", 20)
    assert not speakers(chat(0, "train")) & speakers(chat(0, "eval"))
    assert all(prose.is_name(name, "eval") for name in speakers(chat(0, "eval")))
