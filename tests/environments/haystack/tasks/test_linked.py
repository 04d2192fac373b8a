"""Linked samples: exact, whole, in random order, and with one answer, which a solver of its own finds in the text."""

import json
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from random import Random
from statistics import mean
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from benchmarks import linked_uniqueness
from benchmarks.linked_uniqueness import faults, parts_of, read, solve
from environments.haystack.facts import SPLITS, VALUE_KINDS
from environments.haystack.layout import LayoutError
from environments.haystack.sample import NEEDED, Haystacks, Options, Sample, rebuild
from environments.haystack.tasks import TASKS, absent_twin
from environments.haystack.tasks.task import Draw, Quiz
from environments.haystack.tokens import BREAK
from longthread.errors import ConfigError
from tests.conftest import POOL, build_tokenizer, make_haystacks

PRESENT = ("chain", "update", "find_all", "count", "order", "join")
LINKED = linked_uniqueness.LINKED


def linked(name: str = "gpt2", **options: Any) -> Haystacks:
    return make_haystacks(name, **options)


def quiz_of(task: str, seed: int = 0, split: str = "train", **options: Any) -> Quiz:
    return TASKS[task].quiz(Draw(Options(**options), split, Random(seed)))


def edits(a: str, b: str) -> int:
    return sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))


# ---- one answer ----


@cache
def judged() -> list[tuple[Sample, list[str]]]:
    """Every task in every variant of the benchmark's, twice."""
    base = linked()
    return [linked_uniqueness.judge(base, index, 2048) for index in range(384)]


def test_every_answer_is_unique_or_rightly_absent() -> None:
    assert {(s.recipe["task"], tuple(wrong)) for s, wrong in judged()} == {(task, ()) for task in LINKED}


def test_the_solver_sees_faults() -> None:
    """Take the fact away, change it, or state another one: each time the sample is no longer sound."""
    for sample, _ in judged()[:192]:
        if sample.answer.kind == "absent":
            continue
        gap, (message,) = sample.recipe["options"]["lexical_gap"], sample.messages
        needed = next(n.text for n in sample.needles if n.role in NEEDED)
        without = message["content"].replace(needed, "Nothing.")
        assert faults(replace(sample, messages=[{"role": "user", "content": without}]), gap)
        sentences, question = parts_of(sample)
        _, found = solve(read(s for s in sentences if s != needed), question, gap)
        wanted = sample.answer.values[0] if sample.answer.kind == "one" else list(sample.answer.values)
        assert wanted not in found
        wrong = replace(sample.answer, values=(*sample.answer.values[1:], "Otto Nobody"))
        assert faults(replace(sample, answer=wrong), gap)


def test_the_solver_keeps_every_answer() -> None:
    told, ends = "At the last election Bo Kaimol lost to {v}.", "The will of {v} leaves everything to {h}."
    world = read([told.format(v="Al Zoven"), told.format(v="Ed Zoven"), ends.format(v="Al Zoven", h="Kai Lo Mu"),
                  ends.format(v="Ed Zoven", h="Kai Lo Ma")])  # fmt: skip
    question = "Start with Bo Kaimol. Go to the person to whom that person lost the election. Who is the heir named by "
    sort, found = solve(world, question + "the person you have come to?", False)
    assert sort == "chain" and sorted(found) == ["Kai Lo Ma", "Kai Lo Mu"]


# ---- structure ----


def test_links_stand_in_random_order() -> None:
    made = linked(hops="4", decoys=0)
    chains = [made.sample(seed, "train", "chain", 2048) for seed in range(150)]
    inversions = Counter(s.profile["inversions"] for s in chains)
    assert set(inversions) <= set(range(7)) and max(inversions.values()) < 60  # 150 shuffles of four
    assert 2.6 < mean(s.profile["inversions"] for s in chains) < 3.4  # of six pairs
    for i in range(4):  # no link has a place of its own
        depths = [[n for n in s.needles if n.role in NEEDED][i].depth for s in chains]
        assert 0.4 < mean(depths) < 0.6 and min(depths) < 0.1 and max(depths) > 0.9


def test_superseded_values_stand_before_and_after_the_current_one() -> None:
    made = linked(update_ask="current", versions="3", decoys=0)
    behind = []
    for seed in range(60):
        sample = made.sample(seed, "train", "update", 2048)
        (current,) = (n for n in sample.needles if n.role == "answer")
        old = [n for n in sample.needles if n.role == "superseded"]
        behind.append(sum(n.token_start > current.token_start for n in old))
        assert len(old) == 2 == sample.profile["superseded"] and sample.profile["needed"] == 1
    assert min(Counter(behind)[k] for k in range(3)) > 8  # first, between and last in a third of them each


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("hops", range(2, 9))
def test_decoys_share_a_prefix_and_part_by_another_kind(gap: bool, hops: int) -> None:
    shared = Counter()
    for seed in range(20):
        quiz = quiz_of("chain", seed, hops=str(hops), lexical_gap=gap)
        path = read(text for text, role in quiz.needles if role in NEEDED)
        strays = read(text for text, role in quiz.needles if role == "decoy")
        assert [role for _, role in quiz.needles].count("answer") == 1 and len(path.links) == hops - 1
        at_kind = {who: kind for who, kind, _ in path.links}
        partings = [(who, kind) for who, kind, _ in strays.links if who in at_kind]
        assert partings and len(partings) == len(strays.values) == len(set(partings))
        assert all(kind != at_kind[who] for who, kind in partings)
        after = {(who, kind): to for who, kind, to in strays.links}
        on_path = [path.links[0][0], *(to for *_, to in path.links)]
        for who, kind in partings:  # followed by the asked kinds, each leads to another value of the asked relation
            depth = on_path.index(who)
            shared[depth] += 1
            to = after[who, kind]
            for link in path.links[depth + 1 :]:
                to = after[to, link[1]]
            ends = [value for person, relation, value in strays.values if person == to]
            assert len(ends) == 1 and ends[0] != path.values[0][2]
    assert set(shared) == set(range(hops - 1))  # part at the head, and later


def test_near_duplicates_of_people_on_the_way() -> None:
    for seed in range(40):
        quiz = quiz_of("chain", seed, hops="3", distractors=5)
        path = read(text for text, role in quiz.needles if role in NEEDED)
        twins = read(text for text, role in quiz.needles if role == "distractor")
        starts = [who for who, *_ in [*twins.links, *twins.values]]
        assert len(starts) == 5
        assert all(min(edits(who, other) for other in path.people()) <= 4 for who in starts)  # two steps of two at most


def test_conditions_have_people_who_nearly_meet_them() -> None:
    for task in ("find_all", "count", "join"):
        for seed in range(20):
            world = read(text for text, _ in quiz_of(task, seed, distractors=4, matches="5").needles)
            what, where = world.events[0][1:]
            nearly = [(w == what, p == where) for _, w, p in world.events if (w, p) != (what, where)]
            assert Counter(nearly) == {(True, False): 2, (False, True): 2}  # the event alone, the place alone


def test_the_day_asked_for_is_not_next_to_the_days_told() -> None:
    """Or the right value could be found by its date alone."""
    away = []
    for seed in range(80):
        quiz = quiz_of("update", seed, update_ask="then", versions="4", distractors=0, value_kind="numbers")
        told = sorted(when for *_, when, _ in read(text for text, _ in quiz.needles).changes)
        asked = linked_uniqueness._day(re.search(r"\d+ [A-Z]\w+ \d{4}", quiz.question)[0])
        assert asked not in told and asked > told[0]
        latest = max(when for when in told if when < asked)
        right = next(text for text, role in quiz.needles if role == "answer")
        assert read([right]).changes[0][2] == latest
        away.append((asked - latest).days)
    assert min(away) >= 1 and Counter(away).most_common(1)[0][1] < 5 and mean(away) > 300


@pytest.mark.parametrize("gap", [False, True])
def test_cut_chains_rest_on_what_can_be_reached(gap: bool) -> None:
    """What stands behind the cut is no evidence: nobody who follows the chain gets there."""
    reached = Counter()
    for seed in range(80):
        quiz = quiz_of("absent_chain", seed, hops="4", lexical_gap=gap)
        needed = [text for text, role in quiz.needles if role in NEEDED]
        assert "answer" not in dict(map(reversed, quiz.needles)) and quiz.answer.values == quiz.answer.steps == ()
        world = read(needed)
        assert all(a[2] == b[0] for a, b in zip(world.links, world.links[1:], strict=False))
        reached[len(needed)] += 1
        join = quiz_of("absent_join", seed, lexical_gap=gap)
        assert {role for _, role in join.needles} <= {"link", "distractor"}
    assert set(reached) == {0, 1, 2, 3}


@pytest.mark.parametrize("task", PRESENT)
@pytest.mark.parametrize("gap", [False, True])
def test_train_and_eval_share_nobody(task: str, gap: bool) -> None:
    def people(split: str) -> set[str]:
        return set().union(*(read(t for t, _ in quiz_of(task, s, split, lexical_gap=gap).needles).people()
                             for s in range(30)))  # fmt: skip

    assert not people("train") & people("eval")


def test_steps_are_the_people_on_the_way() -> None:
    for gap in (False, True):
        quiz = quiz_of("chain", 3, hops="5", lexical_gap=gap)
        links = read(text for text, role in quiz.needles if role == "link").links
        assert quiz.answer.steps == tuple(to for *_, to in links) and quiz.hops == 5
        assert links[0][0] not in quiz.answer.steps


# ---- what the question tells ----


@pytest.mark.parametrize("task", PRESENT)
@pytest.mark.parametrize("options", [{}, {"numbered": True, "lexical_gap": True}, {"answer_format": "plain"},
                                     {"distractors": 0}])  # fmt: skip
def test_an_absent_fact_is_asked_for_like_one_that_is_there(task: str, options: dict) -> None:
    def shape(name: str) -> set[str]:
        made, found = linked(**options), set()
        for seed in range(24):
            sample = made.sample(seed, "train", name, 2048)
            head, rest = sample.messages[0]["content"].split(BREAK, 1)
            tail = rest.rsplit(f"Question: {sample.question}", 1)[1]
            found.add(head + "|" + tail)
        return found

    assert shape(task) == shape(absent_twin(task)) and len(shape(task)) == 1


def test_instructions_name_steps_and_lists_where_they_belong() -> None:
    for task in PRESENT:
        for name in (task, absent_twin(task)):
            content = linked().sample(0, "train", name, 2048).messages[0]["content"]
            assert ("<steps>" in content) == (task in ("chain", "join"))
            assert ("Separate the values by semicolons" in content) == (task in ("find_all", "order"))


# ---- exactness ----

TRIED = ("smollm2", "gpt2", "mistral")
cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1023),  # one pool
        "split": st.sampled_from(SPLITS),
        "task": st.sampled_from(sorted(LINKED)),
        "length": st.one_of(st.integers(2048, 6000), st.integers(6000, 32_768)),
        "depths": st.one_of(st.none(), st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)), max_size=8)),
    }
)
options = st.fixed_dictionaries(
    {
        "numbered": st.booleans(),
        "lexical_gap": st.booleans(),
        "value_kind": st.sampled_from([*VALUE_KINDS, "any"]),
        "filler_mode": st.sampled_from(["coherent", "shuffled"]),
        "placement": st.sampled_from(["uniform", "sigmoid", "0,0.5,1"]),
        "distractors": st.integers(0, 6),
        "hops": st.integers(2, 8).map(str),
        "decoys": st.one_of(st.just(-1), st.integers(0, 12), st.integers(0, 512)),
        "versions": st.sampled_from(["2-5", "2", "8"]),
        "matches": st.sampled_from(["2-8", "2", "16"]),
        "min_span": st.sampled_from([0.0, 0.3, 0.9]),
    }
)


def check_tokens(made: Haystacks, sample: Sample) -> list[tuple[int, int]]:
    """Length and spans of the finished prompt; the spans of all that is hidden in it, in the order of the text."""
    tokens = made.tokens
    ids = tokens.encode(tokens.render(sample.messages))
    assert len(ids) == sample.length == sample.recipe["length"]
    content = sample.messages[0]["content"]
    hidden = [(n.text, n.token_start, n.token_end) for n in sample.needles]
    hidden += list(zip(*sample.decoys, strict=True))
    for text, start, end in hidden:
        assert content.count(text) == 1 and tokens.decode(ids[start:end]).strip() == text
    spans = sorted((start, end) for _, start, end in hidden)
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    return spans


def check_depths(made: Haystacks, sample: Sample, spans: list[tuple[int, int]]) -> None:
    """Depths asked for and the least span hold, counted in filler, up to the end of a sentence."""
    content = sample.messages[0]["content"]
    haystack = content.split(BREAK, 1)[1].rsplit(f"{BREAK}Question: ", 1)[0]
    before, after = made.tokens.render(sample.messages).split(haystack)
    head = made.tokens.head(before.removesuffix(BREAK))
    size = sample.length - head - made.tokens.tail(after.removeprefix(BREAK)) - sum(b - a for a, b in spans)
    needed = [n for n in sample.needles if n.role in NEEDED]
    at = [n.token_start - head - sum(b - a for a, b in spans if a < n.token_start) for n in needed]
    slack = max(90, 0.02 * size)  # to the nearest end of a sentence
    asked = sample.recipe["depths"] or []
    for place, depth in zip(at, asked, strict=False):
        assert abs(place - depth * size) <= slack
    if not asked and len(needed) > 1:
        assert max(at) - min(at) >= made.options.min_span * size - 2 * slack
    starts = [n.token_start for n in needed]
    room = size + sum(b - a for a, b in spans)
    assert sample.profile["span"] == (pytest.approx((max(starts) - min(starts)) / room) if starts else None)


def check_profile(made: Haystacks, sample: Sample) -> None:
    profile, roles = sample.profile, Counter(n.role for n in sample.needles)
    full, options = sample.recipe["task"], made.options
    task = full.removeprefix("absent_")
    hops = {"chain": int(options.hops), "join": 2}.get(task, 1)
    assert profile["hops"] == hops and profile["needed"] == roles["link"] + roles["answer"]
    assert profile["decoys"] == len(sample.decoys.texts) + roles["decoy"]
    if options.decoys >= 0:
        assert len(sample.decoys.texts) == options.decoys * max(hops, 2)
    else:
        assert 0 < len(sample.decoys.texts) <= 4 * sample.length // 1024 * max(hops, 2)
    assert profile["distractors"] == roles["distractor"] and profile["superseded"] == roles["superseded"]
    ordered = [n.token_start for n in sample.needles if n.role in (*NEEDED, "superseded")]
    inversions = sum(a > b for i, a in enumerate(ordered) for b in ordered[i:])
    assert profile["inversions"] == (inversions if full in ("chain", "update", "order", "join") else None)


def check(name: str, case: dict[str, Any], chosen: dict[str, Any]) -> None:
    made = linked(name, **chosen)
    try:
        sample = made.sample(**case)
    except LayoutError as error:  # many decoys for the length: said in one line
        assert re.match(r"needles of \d+ tokens and filler do not fit into a haystack of \d+ tokens; ", str(error))
        took = int(str(error).split()[2])
        assert took > 0.5 * case["length"] or case["length"] - took < 1200
        return
    spans = check_tokens(made, sample)
    check_depths(made, sample, spans)
    check_profile(made, sample)
    assert faults(sample, chosen["lexical_gap"]) == []
    assert sample.evidence == {n.passage for n in sample.needles if n.role in NEEDED}
    if chosen["numbered"]:
        labels = re.findall(r"(?:^|\n\n)\[(\d+)\] ", sample.messages[0]["content"])
        assert labels == [str(i + 1) for i in range(len(labels))]
        passages = sample.messages[0]["content"].split("\n\n[")
        assert all(n.text in passages[n.passage] for n in sample.needles)
    assert json.dumps(made.sample(**case).to_json()) == json.dumps(sample.to_json())


@pytest.mark.parametrize("name", TRIED)
def test_every_property(name: str) -> None:
    build_tokenizer(name)  # skips here if it cannot be had

    @settings(max_examples=15, deadline=None, database=None, phases=[Phase.generate])
    @given(case=cases, chosen=options)
    def properties(case: dict, chosen: dict) -> None:
        check(name, case, chosen)

    properties()


@pytest.mark.parametrize("name", ["cl100k-like", "crossing"])
@pytest.mark.parametrize("task", ["chain", "update", "order"])
def test_awkward_tokenizers(name: str, task: str) -> None:
    made = linked(name, decoys=4)
    for seed in range(2):
        sample = made.sample(seed, "train", task, 4096)
        ids = made.tokens.encode(made.tokens.render(sample.messages))
        assert len(ids) == 4096 and faults(sample, False) == []
        for n in sample.needles:
            assert n.text in made.tokens.decode(ids[n.token_start : n.token_end])


@pytest.mark.parametrize("task", ["chain", "absent_join"])
def test_rebuilt_from_its_recipe(task: str) -> None:
    tokenizer = build_tokenizer("gpt2")
    chosen = Options(pool_tokens=8192, numbered=True, lexical_gap=True, hops="3", min_span=0.4)
    sample = Haystacks(tokenizer, chosen).sample(5, "eval", task, 2048, [0.25, 0.75])
    recipe = json.loads(json.dumps(sample.to_json()))["recipe"]
    again = rebuild(recipe, tokenizer)
    assert again == sample and json.dumps(again.to_json()) == json.dumps(sample.to_json())


def test_hundreds_of_decoys() -> None:
    for gap in (False, True):
        made = linked(hops="8", decoys=300 if gap else 512, lexical_gap=gap)
        made.options = replace(made.options, pool_tokens=POOL * 4)
        sample = made.sample(1, "train", "chain", 131_072 if not gap else 100_000)
        check_tokens(made, sample)
        assert len(sample.decoys.texts) == 8 * made.options.decoys and faults(sample, gap) == []


def test_default_decoys_follow_the_length() -> None:
    made = linked(hops="2")
    numbers = [len(made.sample(0, "train", "chain", n).decoys.texts) / 2 for n in (2048, 4096, 8192, 16384)]
    assert numbers == [8, 16, 32, 64]
    few = linked(hops="8").sample(0, "train", "chain", 2048)
    spent = sum(b - a for _, a, b in zip(*few.decoys, strict=True))
    assert 0 < spent <= 0.45 * 2048


# ---- errors ----


@pytest.mark.parametrize(
    ("task", "wrong", "words"),
    [
        ("chain", {"hops": "1"}, ("hops '1'", "2 to 8")),
        ("chain", {"hops": "9"}, ("hops '9'", "2 to 8")),
        ("chain", {"hops": "4-2"}, ("hops '4-2'", "2 to 8")),
        ("chain", {"hops": "2-9"}, ("hops '2-9'", "2 to 8")),
        ("chain", {"hops": "x"}, ("hops 'x'", "a number or a range like 2-8")),
        ("chain", {"hops": ""}, ("hops ''", "a number or a range like 2-8")),
        ("chain", {"hops": "2-"}, ("hops '2-'", "a number or a range like 2-8")),
        ("chain", {"hops": "²"}, ("hops '²'", "a number or a range like 2-8")),
        ("absent_chain", {"hops": "-3"}, ("hops '-3'", "a number or a range like 2-8")),
        ("update", {"versions": "1"}, ("versions '1'", "2 to 16")),
        ("find_all", {"matches": "1"}, ("matches '1'", "2 to 64")),
        ("count", {"matches": "65"}, ("matches '65'", "2 to 64")),
        ("order", {"matches": "2.5"}, ("matches '2.5'", "like 2-64")),
    ],
)
def test_wrong_numbers(task: str, wrong: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        quiz_of(task, **wrong)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"decoys": 600}, ("decoys 600", "-1 to 512")),
        ({"decoys": -2}, ("decoys -2", "-1 to 512")),
        ({"min_span": 2}, ("min_span 2", "0 to 0.9")),
        ({"min_span": float("nan")}, ("min_span nan", "0 to 0.9")),
        ({"update_ask": "soon"}, ("'soon'", "update_ask must be one of current, then, times")),
    ],
)
def test_wrong_options(wrong: dict, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        Options(**wrong)
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_too_many_decoys_for_the_length() -> None:
    with pytest.raises(LayoutError) as error:
        linked(decoys=512, hops="8").sample(0, "train", "chain", 4096)
    assert "\n" not in str(error.value) and "4096" not in str(error.value).split(";")[1]
    assert "lengths" in error.value.settings and "decoys" in str(error.value)


@pytest.mark.parametrize("task", sorted(LINKED))
@pytest.mark.parametrize("gap", [False, True])
def test_the_largest_options(task: str, gap: bool) -> None:
    quiz = quiz_of(task, distractors=256, matches="64", hops="8", versions="16", lexical_gap=gap)
    assert len({text for text, _ in quiz.needles}) == len(quiz.needles)
    assert [role for _, role in quiz.needles].count("distractor") >= 256
