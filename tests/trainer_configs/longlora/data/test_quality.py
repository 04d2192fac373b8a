"""Each check against texts on both sides of its threshold."""

import gzip
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from environments.haystack.filler import prose
from trainer_configs.longlora.data import quality
from trainer_configs.longlora.data.near_duplicates import SHINGLE, shingles
from trainer_configs.longlora.data.quality import Checks, judge

NOVEL = gzip.decompress((Path(__file__).parents[3] / "data" / "persuasion.txt.gz").read_bytes()).decode()
ENGLISH = "\n\n".join(map(prose.join, islice(prose.passages(3, "train"), 20)))
GERMAN = "Der Hund und die Katze liegen auf dem Sofa, weil es heute regnet und niemand nach draußen gehen will. " * 9
RUSSIAN = "Сегодня идёт дождь, и никто не хочет выходить на улицу. "
HTML = '<div class="a"><p>The rain is here and it is cold.</p><br/></div>\n' * 9
CODE = "def f(x):\n    return {k: [v[0] for v in x if v != k] for k in x}\n" * 9
EMPTY = np.arange(100)


@pytest.mark.parametrize(
    "text, checks, reason",
    [
        (NOVEL, Checks(), ""),
        (ENGLISH, Checks(), ""),
        (ENGLISH[:-1], Checks(), "truncated"),
        (ENGLISH[:-1], Checks(truncated=False), ""),
        (HTML + ".", Checks(), "markup"),
        (HTML + ".", Checks(max_markup=1), ""),
        (CODE + ".", Checks(), "markup"),
        (GERMAN, Checks(), "language"),
        (GERMAN, Checks(language="latin"), ""),
        (GERMAN, Checks(language="any"), ""),
        (RUSSIAN, Checks(language="latin"), "language"),
        (RUSSIAN, Checks(language="cyrillic"), ""),
        ("", Checks(truncated=False), "language"),
    ],
)
def test_reason(text, checks, reason):
    assert judge(text, EMPTY, checks) == reason


@pytest.mark.parametrize("end", [".", "?", "!", "…", '."', ".”", ".)", "。", "？」", "؟", "।", ".\n\n"])
def test_ends_with_a_sentence(end):
    assert not quality.ends_mid_sentence("It rained" + end)
    assert quality.ends_mid_sentence("It rained" + end + " and")


def test_repeated_counts_shingles_that_came_before():
    once = np.arange(1000)
    assert quality.repeated_share(shingles(once)) == 0
    twice = np.concatenate([once, once])
    assert quality.repeated_share(shingles(twice)) == pytest.approx((1000 - SHINGLE + 1) / (2000 - SHINGLE + 1))
    assert judge(ENGLISH, twice, Checks()) == "repeated"
    assert judge(ENGLISH, twice, Checks(max_repeated=1)) == ""
