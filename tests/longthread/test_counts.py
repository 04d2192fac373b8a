"""Counts stand before a singular where they are 1, and before a plural elsewhere."""

import pytest

from longthread.counts import counted


@pytest.mark.parametrize(
    ("count", "nouns", "text"),
    [
        (0, ("sample",), "0 samples"),
        (1, ("sample",), "1 sample"),
        (1200, ("sample",), "1,200 samples"),
        (1, ("reply was", "replies were"), "1 reply was"),
        (2, ("reply was", "replies were"), "2 replies were"),
    ],
)
def test_only_one_stands_before_the_singular(count: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(count, *nouns) == text
