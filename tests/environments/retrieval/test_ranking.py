"""Rankings against slow references: BM25's formula, reciprocal ranks, and the order of equals."""

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.retrieval.chunking import Chunk
from environments.retrieval.ranking import BM25, Fused, Hit, TermIndex, fused, highest
from environments.retrieval.terms import terms
from longthread.errors import ConfigError

words = st.lists(st.sampled_from("ab cd ef gh ij kl".split()), max_size=8)


def reference(texts: list[list[str]], question: list[str]) -> list[float]:
    """BM25 as Lucene has it: k1 1.5, b 0.75; each term of the question counts as often as it stands there."""
    mean = sum(map(len, texts)) / len(texts)
    scores = []
    for text in texts:
        counts, score = Counter(text), 0.0
        for term in question:
            holding = sum(term in other for other in texts)
            idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            score += idf * counts[term] / (counts[term] + 1.5 * (0.25 + 0.75 * len(text) / mean)) if holding else 0.0
        scores.append(score)
    return scores


@settings(deadline=None)  # bm25s is imported within
@given(st.lists(words, min_size=1, max_size=6).filter(any), words)
def test_scores_are_those_of_bm25(texts: list[list[str]], question: list[str]) -> None:
    found = TermIndex(texts).scores(" ".join(question))
    np.testing.assert_allclose(found, reference(texts, question), rtol=1e-4, atol=1e-6)


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(-1, 14))
def test_the_highest_come_first_and_of_equals_the_earlier(scores: list[int], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[: max(k, 0)]
    assert highest(np.array(scores, np.float32), k) == expected


def chunks(*texts: str) -> list[Chunk]:
    return [Chunk(text, i, i + 1, 1) for i, text in enumerate(texts)]


def test_bm25_searches_all_that_was_added_and_leaves_out_what_shares_no_term() -> None:
    ranking, (mill, bridge, key) = BM25(), chunks("The mill burnt.", "The bridge fell.", "Anna hid the key.")
    assert ranking.search("key", 3) == []
    ranking.add([mill, bridge])
    assert ranking.search("Who hid a key?", 3) == []
    ranking.add([key])
    assert [hit.chunk for hit in ranking.search("Who hid a key?", 3)] == [key]
    assert len(ranking.search("the", 9)) == 3 and len(ranking.search("the", 2)) == 2


class Fixed:
    """Finds the same chunks for every question."""

    def __init__(self) -> None:
        self.found: list[Chunk] = []

    def add(self, added: list[Chunk]) -> None:
        self.found = [*added, *self.found]

    def search(self, question: str, k: int) -> list[Hit]:
        return [Hit(chunk, float(-i)) for i, chunk in enumerate(self.found[:k])]


def test_a_chunk_that_two_rankings_find_is_before_what_one_finds() -> None:
    a, b, c, d = chunks("a", "b", "c", "d")
    best = fused([[Hit(a, 9), Hit(b, 8), Hit(c, 7)], [Hit(b, 0.2), Hit(d, 0.1)]], 3)
    assert [hit.chunk for hit in best] == [b, a, d]
    assert best[0].score == pytest.approx(1 / 62 + 1 / 61)


def test_a_fusion_adds_to_all_of_its_rankings() -> None:
    first, second = Fixed(), BM25()
    both = Fused([first, second])
    a, b = chunks("one mill", "two bridges")
    both.add([a])
    both.add([b])
    assert [hit.chunk for hit in both.search("bridges", 2)] == [b, a]
    assert [hit.chunk for hit in both.search("mill", 1)] == [a]


def test_without_bm25s_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ConfigError, match="pip install bm25s"):
        TermIndex([["a"]])


def test_a_text_without_terms_is_found_by_nothing() -> None:
    assert TermIndex([terms("?!"), terms("")]).scores("what").tolist() == [0.0, 0.0]


def test_jax_is_not_touched(tmp_path: Path) -> None:
    """bm25s would initialise it, and with it take most of a GPU's memory; it stays importable for whoever wants it."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax/__init__.py").write_text("print('imported')")
    (tmp_path / "jax/lax.py").write_text("def top_k(*_):\n    print('initialised')")
    code = (
        "from environments.retrieval.ranking import TermIndex\n"
        "print(TermIndex([['mill'], ['safe']]).best('the safe', 1), flush=True)\n"
        "import jax"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert ran.stdout == "[1]\nimported\n"
