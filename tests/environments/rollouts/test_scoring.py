"""What replies earn: a table of cases, properties for any reply, and hostile ones."""

import math
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile_replies import HOSTILE
from environments.haystack.facts import VALUE_KINDS, draw_value
from environments.haystack.tasks.task import Answer
from environments.rollouts.scoring import ABSTAIN, NUMBERS, STEPS_CAP, f_beta, find_values, normalise, score
from tests.environments.patience import PATIENCE, cpu_limit

NUMBER = Answer("one", ("1234567890",), "numbers")
WORDS = Answer("one", ("acorn-bay-cake-dune",), "words")
UUID = Answer("one", ("0ff1ce00-1234-4abc-8def-0123456789ab",), "uuids")
DATE = Answer("one", ("14 March 1874 09:32:17",), "dates")
NAME = Answer("one", ("Kaimol Betraird Zoven",), "names")
SET = Answer("set", ("1111111111", "2222222222", "3333333333"), "numbers")
LIST = Answer("list", ("1111111111", "2222222222", "3333333333"), "numbers")
ABSENT = Answer("absent", (), "numbers")
VERBATIM = Answer("one", ('Here is to the elk, to the "bay" and a cake. May none lack it.',), "verbatim")
TEXT = Answer("one", ("eat a sandwich, and sit in Dolores Park",), "text")
A = "<answer>{}</answer>"

TAGGED = [
    # one value
    (NUMBER, A.format("1234567890"), 1),
    (NUMBER, A.format(" \n**1234567890**.\n"), 1),
    (NUMBER, A.format("'1234567890'"), 1),
    (NUMBER, A.format("“1234567890”"), 1),
    (NUMBER, A.format("1,234,567,890"), 1),
    (NUMBER, A.format("１２３４５６７８９０"), 1),  # NFKC
    (NUMBER, "I looked. " + A.format("1234567890") + " Done.", 1),
    (NUMBER, "<ANSWER>1234567890</Answer>", 1),
    (NUMBER, A.format("1234567890 "), 1),
    (NUMBER, A.format("12345678901"), 0),
    (NUMBER, A.format("123456789"), 0),
    (NUMBER, A.format("the number 1234567890"), 0),
    (NUMBER, A.format("1234567890; 2234567890"), 0),
    (NUMBER, A.format("1234567890; 1234567890"), 0),
    (NUMBER, A.format("1234567890, 2234567890"), 0),
    (NUMBER, A.format("1234567890,2234567890"), 0),
    (NUMBER, A.format("1234567890; none"), 0),
    (NUMBER, A.format("123\u200b4567890"), 1),  # not drawn: nobody sees it
    (NUMBER, A.format("1234,567890"), 0),
    (NUMBER, A.format(""), 0),
    (NUMBER, A.format(" ; , "), 0),
    (NUMBER, A.format("none"), ABSTAIN),
    (NUMBER, A.format("Not mentioned."), ABSTAIN),
    (WORDS, A.format("Acorn-Bay-Cake-Dune"), 1),
    (WORDS, A.format("acorn-bay-cake"), 0),
    (WORDS, A.format("acorn bay cake dune"), 0),
    (UUID, A.format("0FF1CE00-1234-4ABC-8DEF-0123456789AB"), 1),
    (UUID, A.format("0ff1ce00-1234-4abc-8def-0123456789a"), 0),
    (DATE, A.format("14 March 1874 09:32:17"), 1),
    (DATE, A.format("14 march 1874, 09:32:17"), 1),
    (DATE, A.format("14 March 1874"), 0),
    (DATE, A.format("4 March 1874 09:32:17"), 0),
    (NAME, A.format("kaimol  betraird\tzoven"), 1),
    (NAME, A.format("Kaimol Zoven"), 0),
    (TEXT, A.format("eat a sandwich, and sit in Dolores Park"), 1),
    (TEXT, A.format("Eat a sandwich, and\nsit in Dolores Park."), 1),
    (TEXT, A.format("eat a sandwich"), 0),
    (TEXT, A.format("eat a sandwich, and sit in Dolores Park; or not"), 0),
    # regions
    (NUMBER, "", 0),
    (NUMBER, "1234567890", 0),
    (NUMBER, "<answer>1234567890", 0),
    (NUMBER, "1234567890</answer>", 0),
    (NUMBER, A.format("1234567890") + A.format("1234567890"), 0),
    (NUMBER, A.format("7") + A.format("1234567890"), 0),
    (NUMBER, A.format(A.format("1234567890")), 0),
    (NUMBER, "<answer>" + A.format("1234567890"), 0),
    (NUMBER, "</answer>1234567890<answer>", 0),
    (NUMBER, "<answer >1234567890</answer >", 0),
    (NUMBER, "< answer>1234567890</answer>", 0),
    (NUMBER, '<answer id="1">1234567890</answer>', 0),
    (NUMBER, "<answer/>" + A.format("1234567890"), 0),
    (NUMBER, A.format("<!-- 1234567890 -->"), 0),
    (NUMBER, A.format("1234567890<!-- sure -->"), 0),
    # the think part
    (NUMBER, "<think>perhaps 7</think>" + A.format("1234567890"), 1),
    (NUMBER, "<think>" + A.format("7") + "</think>" + A.format("1234567890"), 1),
    (NUMBER, "perhaps " + A.format("7") + "</think>" + A.format("1234567890"), 1),  # opened by the template
    (NUMBER, "<think>" + A.format("1234567890"), 0),
    (NUMBER, "<think>" + A.format("1234567890") + "</think>", 0),
    (NUMBER, A.format("1234567890") + "<think>hm", 1),
    (NUMBER, "<THINK>x</THINK>" + A.format("1234567890"), 1),
    # sets
    (SET, A.format("1111111111; 2222222222; 3333333333"), 1),
    (SET, A.format("3333333333, 1111111111\n2,222,222,222"), 1),
    (SET, A.format("1111111111; 2222222222"), 0.8),
    (SET, A.format("1111111111"), 0.5),
    (SET, A.format("1111111111; 9"), 0.4),
    (SET, A.format("1111111111; 2222222222; 3333333333; 4444444444"), 3 / 4),
    (SET, A.format("1111111111; 1111111111; 1111111111"), 1 / 3),
    (SET, A.format("none"), ABSTAIN),
    # lists
    (LIST, A.format("1111111111; 2222222222; 3333333333"), 1),
    (LIST, A.format("2222222222; 1111111111; 3333333333"), 1 / 3),
    (LIST, A.format("1111111111"), 1 / 3),
    (LIST, A.format("1111111111; none; 3333333333"), 2 / 3),
    (LIST, A.format("1111111111; 2222222222; 3333333333; 4444444444"), 3 / 4),
    # absent
    (ABSENT, A.format("none"), 1),
    (ABSENT, A.format(" None. "), 1),
    (ABSENT, A.format("none; none"), 1),
    (ABSENT, A.format("The text does not say."), 1),
    (ABSENT, A.format("1234567890"), 0),
    (ABSENT, A.format("none; 1234567890"), 0),
    (ABSENT, A.format(""), 0),
    (ABSENT, "none", 0),
]
PLAIN = [
    (NUMBER, "1234567890", 1),
    (NUMBER, "The combination is **1,234,567,890**.", 1),
    (NUMBER, "It is 1234567890, not 1234567891.", 0),
    (NUMBER, "It is 12345678901.", 0),
    (NUMBER, "It is x1234567890.", 0),
    (NUMBER, "", 0),
    (NUMBER, "I do not know.", 0),
    (NUMBER, "None.", ABSTAIN),
    (NUMBER, "None. But 1234567890.", 0),
    (NUMBER, "<think>1234567890</think>", 0),
    (NUMBER, "<think>2</think>1234567890", 1),
    (WORDS, "The password is acorn-bay-cake-dune!", 1),
    (WORDS, "acorn-bay-cake-dune-egret", 0),
    (UUID, "Number 0ff1ce00-1234-4abc-8def-0123456789ab", 1),
    (DATE, "On 14 March 1874, 09:32:17.", 1),
    (NAME, "the heir is Kaimol Betraird Zoven.", 1),
    (SET, "1111111111, 2222222222 and 3333333333", 1),
    (SET, "1111111111 and 3333333333", 0.8),
    (LIST, "1111111111, 3333333333 and 2222222222", 1 / 3),
    (ABSENT, "none", 1),
    (ABSENT, "The text does not say.", 1),
    (ABSENT, "The text does not mention it.", 1),
    (ABSENT, "1234567890", 0),
    (ABSENT, "The text does not say that it is 1234567890.", 0),
    (ABSENT, "", 0),
    (TEXT, "You should eat a sandwich, and sit in Dolores Park.", 1),
    (TEXT, "You should eat a sandwich.", 0),
]


@pytest.mark.parametrize(("answer", "completion", "expected"), TAGGED)
def test_tagged(answer: Answer, completion: str, expected: float) -> None:
    found = score(completion, answer)
    assert found.score == found.answer == pytest.approx(expected)
    assert found.correct == (expected == 1) and found.f2 is None


@pytest.mark.parametrize(("answer", "completion", "expected"), PLAIN)
def test_plain(answer: Answer, completion: str, expected: float) -> None:
    found = score(completion, answer, "plain")
    assert found.score == pytest.approx(expected) and found.correct == (expected == 1)


def test_none_is_no_completion() -> None:
    assert score(None, NUMBER).score == 0  # type: ignore[arg-type]


# ---- evidence ----

EVERY = f"<evidence>{', '.join(map(str, range(1, 101)))}</evidence>"


@pytest.mark.parametrize(
    ("answer", "completion", "right", "expected"),
    [
        (NUMBER, "<evidence>2</evidence>" + A.format("1234567890"), {2}, 1),
        (NUMBER, A.format("1234567890"), {2}, 0.5),
        (NUMBER, "<evidence>[2]</evidence>" + A.format("9"), {2}, 0.05),
        (NUMBER, "<evidence>2</evidence>" + A.format("none"), {2}, (ABSTAIN + 0.1 + 0.9 * ABSTAIN) / 2),
        (NUMBER, "<evidence>2</evidence><evidence>2</evidence>" + A.format("1234567890"), {2}, 0.5),
        (NUMBER, "<evidence>2</evidence>", {2}, 0),
        (NUMBER, "<think><evidence>2</evidence></think>" + A.format("1234567890"), {2}, 0.5),
        (NUMBER, "<evidence>2, 2</evidence>" + A.format("1234567890"), {2}, (1 + 5 / 6) / 2),
        (NUMBER, "<evidence>2, 3</evidence>" + A.format("1234567890"), {2}, (1 + 5 / 6) / 2),
        (NUMBER, EVERY + A.format("1234567890"), {2}, (1 + 5 / 104) / 2),
        (ABSENT, A.format("none"), set(), 1),
        (ABSENT, "<evidence></evidence>" + A.format("none"), set(), 1),
        (ABSENT, "<evidence>2</evidence>" + A.format("none"), set(), 0.5),
        (ABSENT, A.format("1234567890"), set(), 0),
        (ABSENT, "", set(), 0),
    ],
)  # fmt: skip
def test_evidence(answer: Answer, completion: str, right: set[int], expected: float) -> None:
    found = score(completion, answer, evidence=right)
    assert found.score == pytest.approx(expected) and found.f2 is not None


@given(st.lists(st.integers(1, 8), max_size=12), st.sets(st.integers(1, 8), max_size=8))
def test_f2_against_the_definition(predicted: list[int], right: set[int]) -> None:
    left, hits = set(right), 0
    for number in predicted:
        if number in left:
            hits += 1
            left.remove(number)
    if not right:
        expected = 0.0 if predicted else 1.0
    elif not hits:
        expected = 0.0
    else:
        precision, recall = hits / len(predicted), hits / len(right)
        expected = 5 * precision * recall / (4 * precision + recall)
    assert f_beta(predicted, right) == pytest.approx(expected)


@given(st.sets(st.integers(1, 9), min_size=1), st.lists(st.integers(1, 9), max_size=12), st.booleans())
def test_evidence_alone_pays_next_to_nothing(right: set[int], cited: list[int], ok: bool) -> None:
    evidence = f"<evidence>{cited}</evidence>"
    wrong = score(evidence + A.format("7"), NUMBER, evidence=right)
    assert wrong.score <= 0.05 + 1e-12
    assert score(evidence + A.format("1234567890"), NUMBER, evidence=right).score >= 0.5


# ---- properties of any reply ----

answers = st.sampled_from([NUMBER, WORDS, UUID, DATE, NAME, SET, LIST, ABSENT, TEXT])
fragments = st.sampled_from(
    ["<answer>", "</answer>", "<evidence>", "</evidence>", "<think>", "</think>", "<answer", "<", ">", ";", ",", "\n", " ",
     "none", "1234567890", "1111111111", "2222222222", "1,234", "14 March 1874 09:32:17", "Kaimol Betraird Zoven", "²",
     "\u0661\u0662\u0663", "\u200b", "\ud800", "\x00", "<ＡＮＳＷＥＲ>", "acorn-bay-cake-dune", "the text does not "]
)  # fmt: skip
replies = st.one_of(st.text(), st.lists(st.one_of(fragments, st.text(max_size=8)), max_size=25).map("".join))


@settings(max_examples=300)
@given(
    replies, answers, st.sampled_from(["tags", "plain"]), st.one_of(st.none(), st.sets(st.integers(1, 9), max_size=4))
)
def test_a_score_is_always_finite_and_between_0_and_1(
    reply: str, answer: Answer, form: str, evidence: set | None
) -> None:
    for text in (reply, A.format(reply)):
        found = score(text, answer, form, evidence)
        assert math.isfinite(found.score) and 0 <= found.score <= 1 and 0 <= found.answer <= 1
        assert found.correct == (found.answer == 1) and score(text, answer, form, evidence) == found
        assert (found.f2 is None) == (evidence is None)


values = st.lists(st.integers(10**9, 10**9 + 6).map(str), max_size=8)


@given(values, st.lists(st.integers(10**9, 10**9 + 6).map(str), min_size=1, max_size=5, unique=True), st.randoms())
def test_set_scores(given_: list[str], gold: list[str], random: Random) -> None:
    answer = Answer("set", tuple(gold), "numbers")

    def earns(chosen: list[str]) -> float:
        return score(A.format("; ".join(chosen)), answer).score

    base = earns(given_)
    shuffled = list(given_)
    random.shuffle(shuffled)
    assert earns(shuffled) == base
    for more in ("9999999999", *given_):  # a wrong value, or one that is there already
        assert earns([*given_, more]) <= base
    missing = [value for value in gold if value not in given_]
    if missing:
        assert earns([*given_, missing[0]]) > base
    # What choosing blindly among the candidates earns on average, listing them all does not exceed.
    candidates = sorted(set(gold) | set(given_))
    assert earns(candidates) <= len(gold) / len(candidates) + 1e-12


@given(st.permutations(LIST.values))
def test_order_matters_for_a_list(order: list[str]) -> None:
    right = sum(a == b for a, b in zip(order, LIST.values, strict=True))
    assert score(A.format("; ".join(order)), LIST).score == right / 3


@pytest.mark.parametrize("form", ["tags", "plain"])
@pytest.mark.parametrize("evidence", [False, True])
def test_wrong_less_than_abstaining_less_than_right(form: str, evidence: bool) -> None:
    """Where the text says nothing a value earns less than silence does where it says something, or guessing would pay."""

    def earns(value: str, answer: Answer) -> float:
        right = {2} if answer.values else set()
        return score(A.format(value) if form == "tags" else value, answer, form, right if evidence else None).score

    assert earns("1234567890", ABSENT) == earns("9876543210", NUMBER) == 0
    assert 0 < earns("none", NUMBER) < 0.05 < earns("1234567890", NUMBER)
    assert earns("none", ABSENT) == 1


@given(st.sampled_from(sorted(VALUE_KINDS)), st.integers(0, 2**32), st.integers(1, 64))
def test_drawn_values_survive_the_way_back(kind: str, seed: int, n: int) -> None:
    rng = Random(seed)
    drawn = tuple(draw_value(kind, "train", rng) for _ in range(n))
    answer = Answer("list", drawn, kind)
    for joiner in ("; ", ", ", "\n"):
        assert score(A.format(joiner.join(drawn)), answer).score == 1
    assert find_values("; ".join(drawn), answer) == list(drawn)
    assert score("They are " + ", ".join(drawn) + ".", answer, "plain").score == 1
    assert all(normalise(normalise(value)) == normalise(value) for value in drawn)


# ---- hostile replies ----


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_read_to_its_end_and_earns_nothing(name: str) -> None:
    """What each costs is a row of `python -m benchmarks.hostile_replies`; here only a scan that never ends is stopped."""
    with cpu_limit(PATIENCE):
        for answer in (NUMBER, WORDS, TEXT):
            for form in ("tags", "plain"):
                assert score(HOSTILE[name], answer, form, {1}).score <= 0.05


# ---- linked needles ----

STEPS = ("Kai Zoven", "Bo Kaimol", "Al Betraird")
CHAIN = Answer("one", ("1234567890",), "numbers", STEPS)
S = "<steps>{}</steps>"
PEOPLE = Answer("set", STEPS, "people")
ORDER = Answer("order", STEPS, "people")
PARTIAL = Answer("partial_order", STEPS, "people")
COUNT = Answer("one", ("3",), "count")
NO_COUNT = Answer("absent", (), "count")
LINKED = [
    # steps: from the first on, never more than the cap, never beside an answer that is right
    (CHAIN, S.format("; ".join(STEPS)) + A.format("1234567890"), 1),
    (CHAIN, A.format("1234567890"), 1),
    (CHAIN, S.format("wrong; wrong") + A.format("1234567890"), 1),
    (CHAIN, S.format("; ".join(STEPS)) + A.format("7"), STEPS_CAP),
    (CHAIN, A.format("7") + S.format("; ".join(STEPS)), STEPS_CAP),
    (CHAIN, S.format("kai zoven, Bo Kaimol") + A.format("7"), STEPS_CAP * 2 / 3),
    (CHAIN, S.format("Kai Zoven\n") + A.format("7"), STEPS_CAP / 3),
    (CHAIN, S.format("Kai Zoven; Al Betraird; Bo Kaimol") + A.format("7"), STEPS_CAP / 3),
    (CHAIN, S.format("Bo Kaimol; Al Betraird") + A.format("7"), 0),
    (CHAIN, S.format("Ed Head; Kai Zoven; Bo Kaimol") + A.format("7"), 0),  # the given head
    (CHAIN, S.format("Ed Head") + A.format("7"), 0),
    (CHAIN, S.format("; ".join((*STEPS, "Ed Zu"))) + A.format("7"), 0),  # longer than the way
    (CHAIN, S.format("; ".join(STEPS * 2)) + A.format("7"), 0),
    (CHAIN, S.format("Kai Zoven") + S.format("Kai Zoven") + A.format("7"), 0),
    (CHAIN, S.format("; ".join(STEPS)) + A.format("none"), ABSTAIN),
    (CHAIN, S.format("; ".join(STEPS)), 0),  # no answer region
    (CHAIN, "<think>" + S.format("; ".join(STEPS)) + "</think>" + A.format("7"), 0),
    (CHAIN, A.format(S.format("; ".join(STEPS)) + "1234567890"), STEPS_CAP),  # inside the answer they spoil it
    (NUMBER, S.format("; ".join(STEPS)) + A.format("7"), 0),
    (ABSENT, S.format("; ".join(STEPS)) + A.format("7"), 0),
    (ABSENT, S.format("; ".join(STEPS)) + A.format("none"), 1),
    # people
    (PEOPLE, A.format("Al Betraird; kai zoven; Bo  Kaimol"), 1),
    (PEOPLE, A.format("Al Betraird; Kai Zoven"), 0.8),
    (PEOPLE, A.format("Zoven; Kaimol; Betraird"), 0),
    (Answer("set", ("the old baker by the inn",), "people"), A.format("The old baker by the inn"), 1),
    # order
    (ORDER, A.format("; ".join(STEPS)), 1),
    (ORDER, A.format("; ".join(STEPS[::-1])), 0),
    (ORDER, A.format("; ".join(STEPS[:2])), 0),
    (ORDER, A.format("; ".join((*STEPS, "Ed Zu"))), 0),
    (PARTIAL, A.format("; ".join(STEPS)), 1),
    (PARTIAL, A.format("; ".join(STEPS[::-1])), 1 / 3),
    (PARTIAL, A.format("; ".join(STEPS[:2])), 2 / 3),
    (PARTIAL, A.format("; ".join((*STEPS, "Ed Zu"))), 3 / 4),
    (PARTIAL, A.format("; ".join(STEPS * 2)), 1 / 2),
    # counts
    (COUNT, A.format("3"), 1),
    (COUNT, A.format(" Three. "), 1),
    (COUNT, A.format("4"), 0),
    (COUNT, A.format("2; 3; 4"), 0),
    (COUNT, A.format("; ".join(map(str, range(65)))), 0),
    (COUNT, A.format("0"), 0),
    (COUNT, A.format("none"), ABSTAIN),
    (Answer("one", ("42",), "count"), A.format("Forty-two"), 1),
    (Answer("one", ("64",), "count"), A.format("sixty-four"), 1),
    (Answer("one", ("20",), "count"), A.format("twenty"), 1),
    (NO_COUNT, A.format("0"), 1),
    (NO_COUNT, A.format("zero"), 1),
    (NO_COUNT, A.format("none"), 1),
    (NO_COUNT, A.format("0; 0"), 0),
    (NO_COUNT, A.format("1"), 0),
    (ABSENT, A.format("0"), 0),  # nought is a count, not a value
]  # fmt: skip
LINKED_PLAIN = [
    (COUNT, "There are 3 people.", 1),
    (COUNT, "Three people stayed there.", 1),
    (COUNT, "There are 3, or 4.", 0),
    (COUNT, "There are 23.", 0),
    (Answer("one", ("21",), "count"), "It was twenty-one people.", 1),
    (Answer("one", ("60",), "count"), "It was sixty.", 1),
    (NO_COUNT, "0", 1),
    (NO_COUNT, "None.", 1),
    (PEOPLE, "It was Kai Zoven, Bo Kaimol and Al Betraird.", 1),
    (ORDER, "first Kai Zoven, then Bo Kaimol, then Al Betraird", 1),
    (ORDER, "first Bo Kaimol, then Kai Zoven, then Al Betraird", 0),
]


@pytest.mark.parametrize(("answer", "completion", "expected"), LINKED)
def test_linked(answer: Answer, completion: str, expected: float) -> None:
    found = score(completion, answer)
    assert found.score == found.answer == pytest.approx(expected)
    assert found.correct == (expected == 1)


@pytest.mark.parametrize(("answer", "completion", "expected"), LINKED_PLAIN)
def test_linked_plain(answer: Answer, completion: str, expected: float) -> None:
    assert score(completion, answer, "plain").score == pytest.approx(expected)


@given(st.lists(st.sampled_from([*STEPS, "Ed Head", "Ed Zu", ""]), max_size=6), st.text("ab;, \n", max_size=6))
def test_steps_pay_for_the_right_beginning_and_no_more(shown: list[str], wrong: str) -> None:
    said = [name for name in shown if name]
    right = 0
    while len(said) <= len(STEPS) and right < len(said) and said[right] == STEPS[right]:
        right += 1
    found = score(S.format("; ".join(shown)) + A.format(wrong), CHAIN)
    assert found.score == pytest.approx(STEPS_CAP * right / len(STEPS)) and not found.correct
    assert found.score <= STEPS_CAP < 1


def slow_common(a: list[str], b: list[str]) -> int:
    """The longest common subsequence by its definition: every choice of places of the shorter list."""
    return max(
        len(chosen)
        for n in range(len(b) + 1)
        for chosen in combinations(b, n)
        if all(any(x == y for y in rest) for rest in [iter(a)] for x in chosen)
    )


names = st.sampled_from(["Al Bo", "Cy Di", "Ed Fi", "Gi Hu", "Io Ju"])


@settings(deadline=None)
@given(st.lists(names, min_size=1, max_size=8), st.lists(names, min_size=2, max_size=5, unique=True))
def test_partial_order_against_the_definition(given_: list[str], gold: list[str]) -> None:
    earns = score(A.format("; ".join(given_)), Answer("partial_order", tuple(gold), "people")).score
    assert earns == pytest.approx(slow_common(given_, gold) / max(len(given_), len(gold)))
    exact = score(A.format("; ".join(given_)), Answer("order", tuple(gold), "people")).score
    assert exact == (given_ == gold) <= earns


@pytest.mark.parametrize("n", range(65))
def test_counts_in_digits_and_words(n: int) -> None:
    answer = Answer("one", (str(n),), "count") if n else NO_COUNT
    for said in (str(n), NUMBER_WORDS[n], NUMBER_WORDS[n].capitalize() + "."):
        assert score(A.format(said), answer).score == score(f"I count {said}", answer, "plain").score == 1
        assert score(A.format(said), Answer("one", (str(n + 1),), "count")).score == 0


NUMBER_WORDS = [word for word, _ in sorted(NUMBERS.items(), key=lambda pair: int(pair[1]))]


def test_evidence_of_a_cut_chain() -> None:
    """What was followed up to the cut is cited; abstaining stays right, and a value beside it earns next to nothing."""
    cited = "<evidence>2, 5</evidence>"
    assert score(cited + A.format("none"), ABSENT, evidence={2, 5}).score == 1
    assert score(A.format("none"), ABSENT, evidence={2, 5}).score == 0.5
    wrong = score(cited + A.format("7"), ABSENT, evidence={2, 5}).score
    assert wrong < score(cited + A.format("none"), NUMBER, evidence={2, 5}).score and wrong <= 0.05


COPY = VERBATIM.values[0]
OTHER = "Here is to the elk, to the bay and a cup. May none lack it."


@pytest.mark.parametrize("answer_format", ["tags", "plain"])
@pytest.mark.parametrize(
    ("reply", "earns"),
    [
        (COPY, 1),
        (f" “{COPY}”\n", 1),
        (COPY.replace('"', "“").upper(), 1),
        (COPY.replace(". ", ".\n"), 1),
        (COPY[:-10], 0),
        (OTHER, 0),
        (f"{OTHER} {COPY}", 0),
        (f"{COPY}\n{OTHER}", 0),
        (f"The second one is: {COPY}", 0),
        (COPY.replace("elk", "owl"), 0),
        ("none", ABSTAIN),
        ("", 0),
    ],
    ids=[
        "copy",
        "quoted",
        "typography",
        "lines",
        "cut",
        "other",
        "other first",
        "both",
        "said",
        "word",
        "none",
        "empty",
    ],
)
def test_a_copy_is_right_whole_or_not_at_all(answer_format: str, reply: str, earns: float) -> None:
    written = A.format(reply) if answer_format == "tags" else reply
    assert score(written, VERBATIM, answer_format).score == earns
    absent = Answer("absent", (), "verbatim")
    assert score(written, absent, answer_format).score == (earns == ABSTAIN)
