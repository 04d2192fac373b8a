"""Values in any typography: a table of what is read and what is not, and properties for values of all kinds."""

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from environments.haystack.facts import VALUE_KINDS, draw_value
from environments.haystack.tasks.task import Answer
from environments.rollouts.dates import canonical_moment
from environments.rollouts.scoring import ABSTAIN, score
from environments.rollouts.typography import fold, pattern_of
from environments.rollouts.values import normalise

WORDS = Answer("one", ("acorn-bay-cake-dune",), "words")
UUID = Answer("one", ("0ff1ce00-1234-4abc-8def-0123456789ab",), "uuids")
DATE = Answer("one", ("14 March 1874 09:32:17",), "dates")
EARLY = Answer("one", ("4 March 1874 21:05:09",), "dates")
NAME = Answer("one", ("Kaimol Betraird Zoven",), "names")
NUMBER = Answer("one", ("1234567890",), "numbers")
PEOPLE = Answer("set", ("Zork Griseand", "Hir Ropial"), "people")
NUMBERS = Answer("set", ("1111111111", "2222222222", "3333333333"), "numbers")
COUNT = Answer("one", ("21",), "count")
TEXT = Answer("one", ("don't eat “a sandwich” — sit and rest",), "text")
ABSENT = Answer("absent", (), "numbers")
NOBODY = Answer("absent", (), "names")

BOTH = [
    # dashes
    (WORDS, "acorn\u2011bay\u2011cake\u2011dune"),
    (WORDS, "acorn\u2010bay\u2010cake\u2010dune"),
    (WORDS, "acorn–bay–cake–dune"),
    (WORDS, "acorn−bay—cake‒dune"),
    (UUID, "0ff1ce00\u20111234\u20114abc\u20118def\u20110123456789ab"),
    (UUID, "0FF1CE00—1234—4ABC—8DEF—0123456789AB"),
    # spaces
    (DATE, "14\u202fMarch\u202f1874\u202f09:32:17"),
    (NAME, "Kaimol\u00a0Betraird\u00a0Zoven"),
    (NAME, "Kaimol  Betraird\tZoven"),
    (NUMBER, "1\u202f234\u202f567\u202f890"),
    (NUMBER, "1 234 567 890"),
    (NUMBER, "1’234’567’890"),
    (NUMBER, "1.234.567.890"),
    # characters that are not drawn
    (NUMBER, "\ufeff1234567890\u200b"),
    (WORDS, "acorn-\u200bbay-\u200bcake-\u200bdune"),
    (UUID, "0ff1\u00adce00-1234-4abc-8def-0123\u20604567\u200d89ab"),
    # digits of other scripts
    (NUMBER, "١٢٣٤٥٦٧٨٩٠"),
    (NUMBER, "१२३४५६७८९०"),
    (NUMBER, "𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗𝟎"),
    (DATE, "１４ March １８７４ ０９：３２：１７"),
    (COUNT, "٢١"),
    # quotes and boxes
    (NUMBER, "«1234567890»"),
    (NUMBER, "「1234567890」。"),
    (NUMBER, "„1234567890“"),
    (NUMBER, r"\boxed{1234567890}"),
    (NUMBER, r"$\boxed{1{,}234{,}567{,}890}$"),
    (NUMBER, r"\(1\,234\,567\,890\)"),
    (WORDS, r"$$\boxed{\text{acorn-bay-cake-dune}}$$"),
    (NAME, r"\boxed{\mathrm{Kaimol Betraird Zoven}}"),
    (WORDS, "_acorn-bay-cake-dune_"),
    (WORDS, "```text\nacorn-bay-cake-dune\n```"),
    # bullets, numbering, "and"
    (NUMBER, "- 1234567890"),
    (NUMBERS, "- 1111111111\n- 2222222222\n- 3333333333"),
    (NUMBERS, "• 1111111111\n• 2222222222\n☐ 3333333333"),
    (NUMBERS, "1. 1111111111\n2. 2222222222\n3. 3333333333"),
    (NUMBERS, "(1) 1111111111, (2) 2222222222, (3) 3333333333"),
    (NUMBERS, "**1.** `1111111111`\n**2.** `2222222222`\n**3.** `3333333333`"),
    (NUMBERS, "1111111111, 2222222222 and 3333333333"),
    (NUMBERS, "1,111,111,111, 2,222,222,222, and 3 333 333 333"),
    (NUMBERS, "1111111111 & 2222222222 & 3333333333"),
    (PEOPLE, "a) Zork Griseand; b) Hir Ropial"),
    (PEOPLE, "① Zork Griseand\n② Hir Ropial"),
    (PEOPLE, "Zork Griseand and Hir Ropial"),
    # case
    (NAME, "kaimol betraird zoven"),
    (NAME, "KAIMOL BETRAIRD ZOVEN"),
    (DATE, "14 march 1874 09:32:17"),
    (PEOPLE, "ZORK GRISEAND; HIR ROPIAL"),
    (PEOPLE, "zork griseand, hir ropial."),
    # dates
    (DATE, "14 March 1874 at 09:32:17"),
    (DATE, "14 March 1874 (09:32:17)"),
    (DATE, "the 14th of March, 1874, 9:32:17"),
    (DATE, "14. March 1874 09:32:17"),
    (DATE, "March 14, 1874 09:32:17"),
    (DATE, "Mar. 14th, 1874 at 9:32:17 a.m."),
    (DATE, "Saturday, 14 Mar 1874 09:32:17 GMT"),
    (DATE, "1874-03-14 09:32:17"),
    (DATE, "1874-03-14T09:32:17Z"),
    (DATE, "1874–03–14 09:32:17.000"),
    (DATE, "14/03/1874 09:32:17"),
    (DATE, "03/14/1874, 9:32:17 AM"),
    (DATE, "14.03.1874 09:32:17"),
    (DATE, "09:32:17 on 14 March 1874"),
    (EARLY, "04 March 1874 9:05:09 PM"),
    (EARLY, "1874-03-04 21:05:09"),
    # counts
    (COUNT, "twenty-one"),
    (COUNT, "Twenty one"),
    (COUNT, "twenty\u2011one"),
    # a custom needle
    (TEXT, "Don’t eat \"a sandwich\" – sit and rest."),
    (TEXT, "- don't eat «a sandwich» — sit and\u00a0rest"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), BOTH)
def test_the_same_value_in_other_typography(answer: Answer, said: str) -> None:
    """Aider-AI/aider PR 3851, vllm-project/vllm 41902, openai/codex PR 610: hyphens and spaces that are not ASCII's."""
    assert score(f"<answer>{said}</answer>", answer).score == 1
    assert score(said, answer, "plain").score == 1


STRICT = [
    (WORDS, "acorn bay cake dune"),
    (WORDS, "acorn - bay - cake - dune"),
    (WORDS, "acorn_bay_cake_dune"),
    (WORDS, "аcorn-bay-cake-dune"),  # a Cyrillic a
    (UUID, "0ff1ce0012344abc8def0123456789ab"),
    (NUMBER, "1234-567-890"),
    (NUMBER, "12345 67890"),
    (NUMBER, "1,234.567,890"),
    (NUMBER, "-1234567890"),
    (NUMBER, "一二三四五六七八九零"),
    (NAME, "Kaimol-Betraird-Zoven"),
    (NAME, "Kaimol\nBetraird\nZoven"),
    (NAME, "K. Betraird Zoven"),
    (EARLY, "04/03/1874 21:05:09"),  # or the third of April
    (EARLY, "03.04.1874 21:05:09"),
    (DATE, "14 March 1874"),
    (DATE, "14 March 1874 09:32"),
    (DATE, "14 March 74 09:32:17"),
    (DATE, "14 March 1874 09:32:17 PM"),
    (DATE, "14 Brumaire 1874 09:32:17"),
    (DATE, "1874-14-03 09:32:17"),
    (COUNT, "21.0"),
    (NUMBERS, "1111111111 or 2222222222 or 3333333333 or 4444444444"),
    (TEXT, "1. don't eat “a sandwich”"),
    (ABSENT, "I do not know."),
    (ABSENT, "no"),
    (ABSENT, "?"),
    (ABSENT, "The text does not say, but 1234567890."),
    (ABSENT, "It is not mentioned. 1234567890"),
    (NOBODY, "It is not stated, Kaimol Betraird Zoven"),
]


@pytest.mark.parametrize(("answer", "said"), STRICT)
def test_what_stays_strict(answer: Answer, said: str) -> None:
    assert score(f"<answer>{said}</answer>", answer).score < 1
    assert score(said, answer, "plain").score < 1


@pytest.mark.parametrize("said", ["The password is acorn-bay-cake-dune.", "acorn-bay-cake-dune or alder-oak-elm-fir"])
def test_a_sentence_in_tags_is_no_value(said: str) -> None:
    assert score(f"<answer>{said}</answer>", WORDS).score == 0


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("It was acorn-bay-cake-dune—I am sure.", 1),
        ("I looked twice–acorn-bay-cake-dune.", 1),
        ("Both acorn-bay-cake-dune—alder-oak-elm-fir", 0),
        ("the password is ACORN‑BAY‑CAKE‑DUNE!", 1),
    ],
)
def test_a_dash_between_values_is_no_hyphen(said: str, found: int) -> None:
    assert score(said, WORDS, "plain").score == found


@pytest.mark.parametrize(
    ("answer", "said", "earned"),
    [
        (NAME, "the heir is kaimol betraird zoven.", 1),
        (NAME, "THE HEIR IS KAIMOL BETRAIRD ZOVEN", 1),
        (NAME, "The heir is KAIMOL BETRAIRD ZOVEN.", 1),
        (NAME, "kaimol betraird zoven or alder bon trail", 0),
        (NAME, "kaimol betraird zoven alder bon trail", 0),
        (NAME, "Kaimol Betraird Zoven, or maybe Alder Bon Trail", 0),
        (PEOPLE, "it was zork griseand and hir ropial", 1),
        (PEOPLE, "first zork griseand, then hir ropial, then al betraird", 2 / 3),
        (NUMBER, "No information on the owner, but the combination is 1234567890.", 1),
    ],
)
def test_plain_sentences(answer: Answer, said: str, earned: float) -> None:
    assert score(said, answer, "plain").score == pytest.approx(earned)


@pytest.mark.parametrize(
    "said",
    ["N/A", "not found", "Not mentioned in the text.", "The text doesn't say.", "The text doesn’t mention it.", "**None**",
     "The passage did not state this", "It is not stated in the text.", "This is not given",
     "The combination is not mentioned.", "There is no mention of it in the text", "no information", "Unknown.", "nothing"],
)  # fmt: skip
def test_usual_denials(said: str) -> None:
    for form, reply in (("tags", f"<answer>{said}</answer>"), ("plain", said)):
        assert score(reply, ABSENT, form).score == score(reply, NOBODY, form).score == 1
        assert score(reply, NUMBER, form).score == ABSTAIN


def test_a_custom_needle_may_deny() -> None:
    answer = Answer("one", ("Nothing",), "text")
    assert score("<answer>nothing</answer>", answer).score == score("It is nothing.", answer, "plain").score == 1


# ---- properties ----

HYPHENS = "-\u2010\u2011–—−"
SPACES = [" ", "\u00a0", "\u202f", "\u2009", "\u3000", "  "]
ZEROS = "0\u0660\u0966\uff10"
UNDRAWN = ["", "\u200b", "\u2060", "\u00ad", "\ufeff"]
AROUND = [
    "{}",
    "“{}”",
    "«{}»",
    "「{}」",
    "**{}**",
    "`{}`",
    "\\boxed{{{}}}",
    "${}$",
    "({})",
    "{}.",
    "- {}",
    "• {}",
    "1. {}",
]
CASES = [str, str.lower, str.upper]


def dressed(value: str, rng: Random) -> str:
    """The value with every mark of it in a typography of its own."""
    zero = ord(rng.choice(ZEROS))
    marks = {**{str(n): chr(zero + n) for n in range(10)}, "-": rng.choice(HYPHENS), " ": rng.choice(SPACES)}
    letters = rng.choice(CASES)(value)
    return rng.choice(AROUND).format("".join(marks.get(c, c) + rng.choice([*UNDRAWN, "", ""]) for c in letters))


kinds = st.sampled_from(sorted(VALUE_KINDS))


@settings(max_examples=300, deadline=None)
@given(kinds, st.integers(0, 2**32))
def test_any_value_in_any_typography_is_that_value_and_no_other(kind: str, seed: int) -> None:
    rng = Random(seed)
    value, other = (draw_value(kind, "train", rng) for _ in range(2))
    assume(value != other)
    said = dressed(value, rng)
    for form, reply in (("tags", f"<answer>{said}</answer>"), ("plain", said)):
        assert score(reply, Answer("one", (value,), kind), form).score == 1, said
        assert score(reply, Answer("one", (other,), kind), form).score == 0
        assert score(reply, Answer("absent", (), kind), form).score == 0


@settings(max_examples=200, deadline=None)
@given(kinds, st.integers(0, 2**32), st.integers(2, 6))
def test_any_list_in_any_typography_is_that_list(kind: str, seed: int, n: int) -> None:
    rng = Random(seed)
    values = tuple(draw_value(kind, "train", rng) for _ in range(n))
    case = rng.choice(CASES)
    for said in (
        "\n".join(f"{i}. {case(value)}" for i, value in enumerate(values, 1)),
        f"{', '.join(map(case, values[:-1]))} and {case(values[-1])}",
        f"{'; '.join(map(case, values[:-1]))}, and {case(values[-1])}",
    ):
        for form, reply in (("tags", f"<answer>{said}</answer>"), ("plain", said)):
            assert score(reply, Answer("list", values, kind), form).score == 1, said
            assert score(reply, Answer("one", values[:1], kind), form).score == 0


pieces = st.sampled_from(
    ["the ", "- ", "$", "\\boxed{", "}", "\\text", "{,}", "1", "234", ",", ".", "'", "1 234", "—", "\u200b", "twenty", "-one",
     "14 March 1874 09:32:17", "[x] ", "•", "(", ")", "İ", "ǰ", "ß", "ﬀ", "´", "\u0301", "\u0345", "\\, ", "\n", "_", "٣"]
)  # fmt: skip


@settings(max_examples=500)
@given(st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=14).map("".join)))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert fold(fold(text)) == fold(text)


@settings(max_examples=300)
@given(st.datetimes())
def test_every_way_to_write_a_moment_is_the_same_one(moment) -> None:
    day, year = moment.day, f"{moment.year:04}"
    expected = f"{day} {moment:%B} {moment.year} {moment:%H:%M:%S}".lower()
    for said in (
        f"{day} {moment:%B} {year} {moment:%H:%M:%S}", f"{moment:%B} {day}, {year} at {moment:%H:%M:%S}",
        f"{year}-{moment:%m-%d}T{moment:%H:%M:%S}", f"{moment:%I:%M:%S %p} on {day} {moment:%b} {year}",
    ):  # fmt: skip
        assert canonical_moment(said) == expected
    numeric = canonical_moment(f"{moment:%d/%m}/{year} {moment:%H:%M:%S}")
    assert numeric == (expected if day > 12 or day == moment.month else None)


def test_a_quotation_is_found_in_any_typography() -> None:
    import re

    assert re.search(pattern_of('"Don\'t" - he said'), "“Don’t” —\nhe said")
    assert not re.search(pattern_of("well-known"), "well known")
