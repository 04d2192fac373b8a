"""A sample is exact to the token, whole, uniquely answerable and rebuilt byte for byte: for random everything."""

import gzip
import json
import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.facts import PLACES, SPLITS, TRADES, TRAITS, VALUE_KINDS, parse
from environments.haystack.filler import prose
from environments.haystack.layout import LayoutError
from environments.haystack.sample import VERSION, Haystacks, Options, Sample, rebuild
from environments.haystack.tasks.task import NONE
from environments.haystack.tokens import BREAK
from longthread.errors import ConfigError, DataError
from tests.conftest import POOL, build_tokenizer, make_haystacks

FACTUAL = ("single", "multi_key", "multi_value", "multi_query", "absent")
NEVER_TOO_SHORT = 1100  # tokens: six needles of the longest kind fit there with every tokenizer here
SMALL = {"pool_tokens": 8192}

depth = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1023),  # one pool
        "split": st.sampled_from(SPLITS),
        "task": st.sampled_from(FACTUAL),
        "length": st.one_of(st.integers(512, 6000), st.integers(512, 6000), st.integers(6000, 32_768)),
        "depths": st.one_of(st.none(), st.lists(depth, max_size=3)),
    }
)
options = st.fixed_dictionaries(
    {
        "numbered": st.booleans(),
        "lexical_gap": st.booleans(),
        "value_kind": st.sampled_from([*VALUE_KINDS, "any"]),
        "answer_format": st.sampled_from(["tags", "plain"]),
        "filler_mode": st.sampled_from(["coherent", "shuffled"]),
        "placement": st.sampled_from(["uniform", "sigmoid", "0,0.5,1", "11"]),
    }
)


# ---- an independent reading of a finished sample ----


def haystack_of(sample: Sample) -> str:
    """The text between the instruction and the question."""
    content = sample.messages[0]["content"]
    return content.split(BREAK, 1)[1].rsplit(f"{BREAK}Question: ", 1)[0]


@cache
def pool_sentences(split: str, mode: str) -> dict[str, list[str]]:
    """The sentences of more filler than any pool here holds, by their first word, longest first."""
    found: dict[str, list[str]] = defaultdict(list)
    for passage in islice(prose.passages(0, split, mode), 260):
        for paragraph in passage:
            for sentence in paragraph:
                found[sentence.split(" ")[0]].append(sentence)
    return {start: sorted(sentences, key=len, reverse=True) for start, sentences in found.items()}


def sentences_in(text: str, sample: Sample, numbered: bool, mode: str) -> Counter:
    """The text as sentences of the pool and needles; fails where it is anything else."""
    known, needles = pool_sentences(sample.recipe["split"], mode), [needle.text for needle in sample.needles]
    seen: Counter = Counter()
    labels = []
    for paragraph in text.split(BREAK):
        if numbered and (label := re.match(r"\[(\d+)\] ", paragraph)):
            labels.append(int(label[1]))
            paragraph = paragraph[label.end() :]
        while paragraph:
            candidates = [*needles, *known.get(paragraph.split(" ")[0], [])]
            sentence = next((s for s in candidates if paragraph == s or paragraph.startswith(s + " ")), None)
            assert sentence, f"no whole sentence of the pool: {paragraph[:80]!r}"
            seen[sentence] += 1
            paragraph = paragraph[len(sentence) + 1 :]
    assert labels == (list(range(1, len(labels) + 1)) if numbered else [])
    return seen


@cache
def names_by_question() -> dict[str, str]:
    """Every part of a description, from what needles say to what questions do."""
    return {told: asked for table in (TRAITS, TRADES, PLACES) for told, asked in table}


def asked_for(told: str, gap: bool) -> str:
    if not gap:
        return told
    who, place = told.removeprefix("the ").split(" by the ")
    trait, trade = who.split(" ", 1)
    asked = names_by_question()
    return f"the {asked[trait]} {asked[trade]} by the {asked[place]}"


def solve(text: str, question: str, gap: bool) -> list[str]:
    """The values of those facts in the text that the question asks for, in the order asked."""
    found = []
    for entity, _, value in parse(text):
        asked = re.search(rf"(?<!\w){re.escape(asked_for(entity, gap))}(?!\w)", question)
        if asked:
            found.append((asked.start(), value))
    return [value for _, value in sorted(found)]


# ---- the properties ----


def check_tokens(haystacks: Haystacks, sample: Sample, exact: bool) -> None:
    tokens = haystacks.tokens
    ids = tokens.tokenizer.apply_chat_template(
        sample.messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert len(ids) == sample.length == sample.recipe["length"]
    assert ids == tokens.encode(tokens.render(sample.messages))
    for needle in sample.needles:
        text = tokens.decode(ids[needle.token_start : needle.token_end])
        if exact:
            assert text.strip() == needle.text
        else:  # tokens cross the border there: the span is the smallest that holds the needle
            assert needle.text in text
            for smaller in (
                ids[needle.token_start + 1 : needle.token_end],
                ids[needle.token_start : needle.token_end - 1],
            ):
                assert needle.text not in tokens.decode(smaller)


def check_places(haystacks: Haystacks, sample: Sample, exact: bool) -> None:
    text, numbered = haystack_of(sample), haystacks.options.numbered
    content = sample.messages[0]["content"]
    ids = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    before, after = haystacks.tokens.render(sample.messages).split(text)
    size = (
        len(ids) - haystacks.tokens.head(before.removesuffix(BREAK)) - haystacks.tokens.tail(after.removeprefix(BREAK))
    )
    answers = [needle for needle in sample.needles if needle.role == "answer"]
    asked = (sample.recipe["depths"] or [])[: len(answers)]
    for i, needle in enumerate(sample.needles):
        assert text.count(needle.text) == 1 and needle.before + needle.text + needle.after in content
        left, right = text.split(needle.text)
        assert needle.before == left[-160:] and needle.after == right[:160]
        assert left in ("", "[1] ") or left[-2:] == BREAK or left[-1] == " "
        ends = left.rstrip()
        assert not ends or ends[-1] in ".?!\"'”’" or re.search(r"(^|\n)\[\d+\]$", ends)
        assert right == "" or right[:2] == BREAK or (right[0] == " " and (right[1].isupper() or right[1] in "\"'“‘"))
        assert 0 <= needle.depth <= 1
        if exact:
            start = needle.token_start - haystacks.tokens.head(before.removesuffix(BREAK))
            assert needle.depth == start / (size - (needle.token_end - needle.token_start))
        if i < len(asked):
            others = sum(n.token_end - n.token_start for n in sample.needles) - (needle.token_end - needle.token_start)
            assert abs(needle.depth - asked[i]) * size <= max(120, 0.06 * size) + others
        assert needle.passage == (max(1, len(re.findall(r"(?:^|\n\n)\[\d+\] ", left))) if numbered else needle.passage)
    rest = text.removeprefix("[1] ") if numbered else text
    for depth_asked in (0.0, 1.0):  # truly first and last: nothing but each other stands outside them
        group = {sample.needles[i].text for i, d in enumerate(asked) if d == depth_asked}
        drawn = {n.text for n in sample.needles}
        edge = rest
        while group:
            at_edge = [n for n in drawn if (edge.startswith(n) if depth_asked == 0 else edge.endswith(n))]
            assert at_edge, f"a needle asked for at {depth_asked} is not there"
            group.discard(at_edge[0])
            edge = (edge.removeprefix if depth_asked == 0 else edge.removesuffix)(at_edge[0]).strip()


def check_answer(haystacks: Haystacks, sample: Sample) -> None:
    text, gap = haystack_of(sample), haystacks.options.lexical_gap
    answer, solved = sample.answer, solve(text, sample.question, gap)
    assert len(parse(text)) == len(sample.needles)
    assert (sorted(solved) == sorted(answer.values)) if answer.kind == "set" else (solved == list(answer.values))
    assert bool(solved) == (answer.kind != "absent")
    for _, _, value in parse(text):
        assert sample.messages[0]["content"].count(value) == 1
    assert sample.evidence == {n.passage for n in sample.needles if n.role == "answer"}


def check(name: str, case: dict[str, Any], chosen: dict[str, Any]) -> None:
    haystacks = make_haystacks(name, **chosen)
    try:
        sample = haystacks.sample(**case)
    except LayoutError as error:
        assert case["length"] < NEVER_TOO_SHORT and case["task"] != "single", error
        return
    exact = name != "crossing"
    check_tokens(haystacks, sample, exact)
    check_places(haystacks, sample, exact)
    check_answer(haystacks, sample)
    seen = sentences_in(haystack_of(sample), sample, chosen["numbered"], chosen["filler_mode"])
    assert set(seen.values()) == {1}
    assert haystacks.sample(**case) == sample


@settings(max_examples=40, deadline=None)
@given(case=cases, chosen=options)
def test_every_property_with_smollm2(case: dict, chosen: dict) -> None:
    check("smollm2", case, chosen)


@settings(max_examples=40, deadline=None)
@given(case=cases, chosen=options)
def test_every_property_with_gpt2(case: dict, chosen: dict) -> None:
    check("gpt2", case, chosen)


@settings(max_examples=40, deadline=None)
@given(case=cases, chosen=options)
def test_every_property_with_mistral(case: dict, chosen: dict) -> None:
    check("mistral", case, chosen)


@settings(max_examples=40, deadline=None)
@given(case=cases, chosen=options)
def test_every_property_with_cl100k_like(case: dict, chosen: dict) -> None:
    check("cl100k-like", case, chosen)


@settings(max_examples=40, deadline=None)
@given(case=cases, chosen=options)
def test_every_property_with_tokens_that_cross_borders(case: dict, chosen: dict) -> None:
    check("crossing", case, chosen)


@pytest.mark.parametrize("depth_asked", [0.0, 1.0])
def test_depth_is_exact_at_the_ends(tokenizer_name: str, depth_asked: float) -> None:
    sample = make_haystacks(tokenizer_name).sample(3, "train", "single", 2048, [depth_asked])
    if tokenizer_name == "crossing":
        assert abs(sample.needles[0].depth - depth_asked) < 0.01
    else:
        assert sample.needles[0].depth == depth_asked


def test_a_single_needle_fits_into_512(tokenizer_name: str) -> None:
    for seed in range(60):
        haystacks = make_haystacks(tokenizer_name, numbered=seed % 2 == 0, lexical_gap=seed % 3 == 0)
        assert haystacks.sample(seed, "train", "single", 512).length == 512


def test_consecutive_lengths_all_fit() -> None:
    haystacks = make_haystacks("gpt2", numbered=True)
    for length in range(700, 900):
        check_tokens(haystacks, haystacks.sample(5, "eval", "single", length), True)


# ---- rebuilding ----


@pytest.mark.parametrize("numbered", [False, True])
def test_rebuild_is_byte_identical(tokenizer_name: str, numbered: bool) -> None:
    tokenizer = build_tokenizer(tokenizer_name)
    fresh = Haystacks(tokenizer, Options(numbered=numbered, lexical_gap=numbered, **SMALL))
    sample = fresh.sample(7, "eval", "multi_query", 2048, [0, 0.3, 1])
    wire = json.dumps(sample.to_json(), sort_keys=True)
    recipe = json.loads(json.dumps(sample.recipe))
    for again in (rebuild(recipe, tokenizer), rebuild(sample.recipe, tokenizer)):
        assert again == sample and json.dumps(again.to_json(), sort_keys=True) == wire
    # Neither what else was built before nor sharing the pool changes anything.
    other = Haystacks(tokenizer, Options(numbered=numbered, lexical_gap=numbered, **SMALL))
    other.sample(8, "eval", "single", 1024)
    assert other.sample(7, "eval", "multi_query", 2048, [0, 0.3, 1]) == sample


def test_seeds_tasks_lengths_and_splits_differ() -> None:
    haystacks = make_haystacks("gpt2")
    base = {"seed": 0, "split": "train", "task": "multi_key", "length": 2048}
    changes: list[dict] = [{}, {"seed": 1}, {"seed": 2}, {"split": "eval"}, {"task": "multi_value"}, {"length": 2049}]
    texts = [haystack_of(haystacks.sample(**{**base, **change})) for change in changes]
    assert len(set(texts)) == len(texts)
    openings = {haystack_of(haystacks.sample(seed, "train", "single", 2048, [0.5]))[:200] for seed in range(60)}
    assert len(openings) > 40  # of 190 passages that can come first


def test_train_and_eval_share_no_entity_and_no_value() -> None:
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        facts = set()
        for seed in range(60):
            for gap in (False, True):
                sample = make_haystacks("gpt2", lexical_gap=gap).sample(seed, split, "multi_query", 1500)
                facts |= {part for e, _, v in parse(haystack_of(sample)) for part in (e.lower(), v.lower())}
        seen[split] = facts
    assert len(seen["train"]) > 500 and not seen["train"] & seen["eval"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"version": VERSION + 1}, f"version {VERSION + 1} is not {VERSION}"),
        ({"version": None}, "version None"),
        ({"tokenizer": "0" * 16}, "tokenizer 0000"),
        ({"filler": "f" * 16}, "filler has changed"),
    ],
)
def test_a_recipe_of_elsewhere_is_refused(change: dict, word: str) -> None:
    tokenizer = build_tokenizer("gpt2")
    recipe = Haystacks(tokenizer, Options(**SMALL)).sample(0, "train", "single", 1024).recipe
    with pytest.raises(ConfigError, match=word) as error:
        rebuild({**recipe, **change}, tokenizer)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="unknown options colour"):
        rebuild({**recipe, "options": {**recipe["options"], "colour": 1}}, tokenizer)
    with pytest.raises(ConfigError, match="is for tokenizer"):
        rebuild(recipe, build_tokenizer("mistral"))


# ---- a corpus of the user's ----


def write_corpus(folder: Any, characters: int = 120_000) -> None:
    """The beginning of Jane Austen's "Persuasion"."""
    book = gzip.decompress((Path(__file__).parents[2] / "data/persuasion.txt.gz").read_bytes()).decode()
    (folder / "book.txt").write_text(book[:characters])


def test_a_folder_of_text(tmp_path: Any, tokenizer_name: str) -> None:
    write_corpus(tmp_path)
    tokenizer = build_tokenizer(tokenizer_name)
    made = Options(filler="folder", filler_path=str(tmp_path), pool_tokens=4096, numbered=True)
    haystacks = Haystacks(tokenizer, made)
    sample = haystacks.sample(0, "train", "multi_key", 2000, [1.0])
    check_tokens(haystacks, sample, tokenizer_name != "crossing")
    check_answer(haystacks, sample)
    assert rebuild(sample.recipe, tokenizer) == sample


def test_a_changed_corpus_is_noticed(tmp_path: Any) -> None:
    write_corpus(tmp_path)
    tokenizer = build_tokenizer("gpt2")
    made = Options(filler="folder", filler_path=str(tmp_path), pool_tokens=4096)
    recipe = Haystacks(tokenizer, made).sample(0, "train", "single", 1024).recipe
    assert rebuild(recipe, tokenizer).length == 1024
    book = tmp_path / "book.txt"
    book.write_text(book.read_text().replace("Elliot", "Elliott"))
    from environments.haystack import sample as module

    module._haystacks.cache_clear()  # another process would see the change
    with pytest.raises(ConfigError, match="filler has changed") as error:
        rebuild(recipe, tokenizer)
    assert "\n" not in str(error.value)


def test_a_corpus_too_small_or_empty(tmp_path: Any) -> None:
    tokenizer = build_tokenizer("gpt2")
    made = Options(filler="folder", filler_path=str(tmp_path), pool_tokens=4096)
    with pytest.raises(DataError) as error:
        Haystacks(tokenizer, made).sample(0, "train", "single", 1024)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    write_corpus(tmp_path, 3000)
    with pytest.raises(ConfigError, match="fewer than the 4096 needed") as error:
        Haystacks(tokenizer, made).sample(0, "train", "single", 1024)
    assert "\n" not in str(error.value)


# ---- custom needles, and other errors ----

CUSTOM = {
    "needle": "The best thing to do in San Francisco is eat a sandwich, and sit in Dolores Park on a sunny day.",
    "question": "What is the best thing to do in San Francisco?",
    "expected": "eat a sandwich, and sit in Dolores Park",
}


@pytest.mark.parametrize("depth_asked", [0.0, 0.4, 1.0])
def test_custom(tokenizer_name: str, depth_asked: float) -> None:
    haystacks = make_haystacks(tokenizer_name, **CUSTOM)
    sample = haystacks.sample(0, "train", "custom", 1500, [depth_asked])
    check_tokens(haystacks, sample, tokenizer_name != "crossing")
    check_places(haystacks, sample, tokenizer_name != "crossing")
    assert sample.answer.values == (CUSTOM["expected"],) and sample.question == CUSTOM["question"]


def test_custom_value_in_the_filler() -> None:
    haystacks = make_haystacks("gpt2", needle="It was the end.", question="What?", expected="the")
    with pytest.raises(ConfigError, match="'the' stands in the filler") as error:
        haystacks.sample(0, "train", "custom", 1500)
    assert "\n" not in str(error.value) and "change the needle" in str(error.value)


def test_custom_without_a_question() -> None:
    with pytest.raises(ConfigError, match="question"):
        make_haystacks("gpt2", needle="It is 7.", expected="7").sample(0, "train", "custom", 1500)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"length": 20}, LayoutError, ("length 20 is too short", "lengths")),
        ({"length": 0}, LayoutError, ("length 0", "lengths")),
        ({"length": 90}, LayoutError, ("do not fit", "lengths")),
        ({"length": POOL}, ConfigError, (str(POOL), str(2 * POOL), "pool_tokens")),
        ({"depths": [1.2]}, ConfigError, ("1.2", "between 0 and 1")),
        ({"depths": [0.5, -0.1]}, ConfigError, ("-0.1", "between 0 and 1")),
        ({"depths": [float("nan")]}, ConfigError, ("nan",)),
        ({"task": "linked"}, ConfigError, ("'linked'", "multi_key")),
        ({"split": "test"}, ConfigError, ("'test'", "train, eval")),
    ],
)
def test_wrong_arguments(change: dict, kind: type[Exception], words: tuple[str, ...]) -> None:
    case: dict[str, Any] = {"seed": 0, "split": "train", "task": "single", "length": 1024, "depths": None}
    with pytest.raises(kind) as error:
        make_haystacks("gpt2").sample(**{**case, **change})
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_many_needles_in_a_short_prompt() -> None:
    for task in ("multi_key", "multi_value", "multi_query", "absent"):
        for length in (300, 2048):
            with pytest.raises(LayoutError, match="too short|do not fit") as error:
                make_haystacks("gpt2", distractors=256, values=64, queries=64).sample(0, "train", task, length)
            assert "\n" not in str(error.value)
    haystacks = make_haystacks("gpt2", distractors=256, values=64, numbered=True)
    check_tokens(haystacks, haystacks.sample(0, "train", "multi_value", 20_000), True)


@pytest.mark.parametrize(
    ("wrong", "kind", "word"),
    [
        ({"filler": "web"}, ConfigError, "'web'"),
        ({"filler_mode": "random"}, ConfigError, "'random'"),
        ({"answer_format": "xml"}, ConfigError, "'xml'"),
        ({"placement": "everywhere"}, ConfigError, "'everywhere'"),
        ({"filler": "folder"}, ConfigError, "filler_path"),
        ({"seeds_per_pool": 0}, ConfigError, "seeds_per_pool 0"),
        ({"value_kind": "colours"}, ConfigError, "'colours'"),
    ],
)
def test_wrong_options(wrong: dict, kind: type[Exception], word: str) -> None:
    with pytest.raises(kind) as error:
        replace(Options(), **wrong)
    assert "\n" not in str(error.value) and word in str(error.value)


def test_what_the_prompt_says() -> None:
    def prompt(task: str = "single", **chosen: Any) -> str:
        return make_haystacks("gpt2", **chosen).sample(0, "train", task, 1024).messages[0]["content"]

    assert f"<answer>{NONE}</answer>" in prompt() and "<answer>" not in prompt(answer_format="plain")
    assert "semicolons" in prompt("multi_value") and "semicolons" not in prompt()
    assert "<evidence>" in prompt(numbered=True) and "<evidence>" not in prompt()
    assert NONE in prompt(answer_format="plain")
    assert NONE not in prompt(answer_format="plain", may_abstain=False).rsplit("Question:", 1)[1]
