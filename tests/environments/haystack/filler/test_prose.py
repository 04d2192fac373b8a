"""The generated filler: its rules hold for every sentence, and its richness is near that of a novel."""

import gzip
import re
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.haystack.filler import prose
from environments.haystack.filler.grammar import inflect, parse
from environments.haystack.filler.prose import is_name, join, passages, sample, statistics
from environments.haystack.filler.prose_grammar import GRAMMAR, ONSETS, PLANS
from environments.haystack.filler.prose_topics import TOPICS

REPOSITORY = Path(__file__).parents[4]
NOVEL = Path(__file__).parents[3] / "data" / "persuasion.txt.gz"
SPLITS = ("train", "eval")
FORBIDDEN = re.compile(
    r"password|passcode|combination|registration|ledger number|account|\bcod(e|ed|es|ing)\b|\bkey|\bheir|secret|uuid"
    r"|signed|guardian|vault|safe|strongbox",
    re.IGNORECASE,
)
KINDS = ("opening", "scene", "intro", "deed", "brief", "talk", "snag", "ask", "thought", "close")
seeds = st.integers(0, 2**31)


def sentences(seed, split, count, mode="coherent"):
    stream = passages(seed, split, mode)
    return [s for passage in islice(stream, count) for paragraph in passage for s in paragraph]


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(prose.MODES))
@settings(max_examples=20, deadline=None)
def test_every_sentence_keeps_the_rules(seed, split, mode):
    for sentence in sentences(seed, split, 32, mode):
        assert re.fullmatch(r"[A-Z][A-Za-z ,;?!.'-]*[.?!]", sentence), sentence
        assert not re.search(r"  | [,.?!;]|[,.?!;]{2}|[.?!] |\ba [aeio]|\ba u[^n]|\ban [^aeiouh]", sentence), sentence
        assert not FORBIDDEN.search(sentence), sentence
        assert 2 <= len(sentence.split()) <= 80


@given(seeds, st.sampled_from(SPLITS))
@settings(max_examples=20, deadline=None)
def test_passages_have_the_promised_shape(seed, split):
    for passage in islice(passages(seed, split), 20):
        assert 3 <= len(passage) <= 5
        assert all(3 <= len(paragraph) <= 7 for paragraph in passage)
        assert 150 <= len(join(passage).split()) <= 500


def test_passages_are_about_200_to_350_words():
    words = sorted(len(join(passage).split()) for passage in islice(passages(0, "train"), 1000))
    assert words[50] >= 200 and words[950] <= 370


@pytest.mark.parametrize("split", SPLITS)
def test_no_sentence_comes_twice_in_a_million_words(split):
    seen, words = set(), 0
    for passage in passages(7, split):
        for sentence in (s for paragraph in passage for s in paragraph):
            assert sentence not in seen, sentence
            seen.add(sentence)
            words += len(sentence.split())
        if words >= 1_000_000:
            break


def test_the_million_words_are_any_million(monkeypatch):
    monkeypatch.setattr(prose, "NO_REPEAT_WORDS", 5_000)
    stream = sentences(3, "train", 150)
    assert sum(len(s.split()) for s in stream) > 40_000  # several turns of the two sets
    last, position = {}, 0
    for sentence in stream:
        assert position - last.get(sentence, -5_000) >= 5_000, sentence
        last[sentence] = position
        position += len(sentence.split())


def test_a_repeat_is_drawn_again(monkeypatch):
    """With a checksum that lumps sentences together, only those with a new checksum come out."""
    monkeypatch.setattr(prose.zlib, "crc32", lambda text: len(text) * 1000 + text[0])
    marks = [len(s) * 1000 + ord(s[0]) for s in sentences(1, "train", 10)]
    assert len(set(marks)) == len(marks)


def test_lengths_from_4_to_40_words_are_all_frequent():
    counts = [len(s.split()) for s in sentences(0, "train", 2000)]
    shares = {length: counts.count(length) / len(counts) for length in range(4, 41)}
    assert min(shares.values()) > 0.002, shares
    assert min(shares[length] for length in range(4, 31)) > 0.005, shares


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(prose.MODES))
@settings(max_examples=5, deadline=None)
def test_the_same_arguments_give_the_same_stream(seed, split, mode):
    first, second = passages(seed, split, mode), passages(seed, split, mode)
    assert [next(first) for _ in range(20)] == [next(second) for _ in range(20)]


def test_streams_do_not_disturb_one_another():
    alone = list(islice(passages(5, "train"), 6))
    one, other = passages(5, "train"), passages(6, "eval")
    mixed = []
    for _ in range(6):
        mixed.append(next(one))
        next(other)
    assert mixed == alone and next(other) != alone[0]


def test_the_stream_does_not_depend_on_the_hash_seed():
    script = "from environments.haystack.filler.prose import sample; print(sample(3000, 11, 'eval', 'shuffled'))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=REPOSITORY,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert texts == {sample(3000, 11, "eval", "shuffled") + "\n"}


def test_seeds_and_splits_differ():
    texts = [sample(500, seed, split) for seed in (0, 1) for split in SPLITS]
    assert len(set(texts)) == 4


@pytest.mark.parametrize("split", SPLITS)
def test_shuffled_holds_the_sentences_of_coherent_in_the_same_shapes(split):
    coherent, shuffled = (list(islice(passages(2, split, mode), 32)) for mode in prose.MODES)
    assert [[len(q) for q in p] for p in coherent] == [[len(q) for q in p] for p in shuffled]
    for window in (slice(0, 16), slice(16, 32)):
        before, after = ([s for p in stream[window] for q in p for s in q] for stream in (coherent, shuffled))
        assert sorted(before) == sorted(after)
        neighbours = set(pairwise(before))
        assert sum(pair in neighbours for pair in pairwise(after)) < len(before) / 20


@given(st.lists(st.lists(st.lists(st.text("ab", max_size=3), min_size=1, max_size=4), min_size=1, max_size=4)), seeds)
def test_a_finite_source_is_shuffled_to_its_end(source, seed):
    mixed = list(prose.shuffled(source, seed))
    assert [[len(q) for q in p] for p in mixed] == [[len(q) for q in p] for p in source]
    assert sorted(s for p in mixed for q in p for s in q) == sorted(s for p in source for q in p for s in q)


def test_the_splits_share_no_name():
    train, evaluation = (ONSETS[split].split() for split in SPLITS)
    for one in train:
        for other in evaluation:
            assert not one.startswith(other) and not other.startswith(one)
    assert is_name("Calenbin", "train") and not is_name("Calenbin", "eval")
    for split in SPLITS:
        assert not [name for name in prose._names(split) if FORBIDDEN.search(name)]
    words = {split: set(re.findall(r"[A-Za-z]+", " ".join(sentences(0, split, 500)))) for split in SPLITS}
    names = {split: {word for word in words[split] if is_name(word, split)} for split in SPLITS}
    assert all(len(found) > 2000 for found in names.values())
    assert not names["train"] & words["eval"] and not names["eval"] & words["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_capital_words_within_a_sentence_are_names_or_known(split):
    """So that no fictional person is called like a word of the vocabulary, and no real name comes in."""
    known = """October February November March April Easter Christmas Michaelmas Lent Twelfth Night Sunday Sundays
        Saturday Saturdays Monday Tuesday Thursdays Friday French Japanese India"""
    inside = {w for s in sentences(4, split, 300) for w in re.findall(r"(?<= )[A-Z][a-z]+", s)}
    assert {word for word in inside if not is_name(word, split)} <= set(known.split())


@pytest.mark.parametrize("arguments", [(0, "test"), (0, "train", "random"), (0, "", "coherent")])
def test_an_unknown_split_or_mode_is_refused_at_once(arguments):
    with pytest.raises(ValueError, match="unknown prose (split|mode) '.*': use one of ") as error:
        passages(*arguments)
    assert "\n" not in str(error.value)


def test_characters_are_introduced_once_and_pronouns_agree():
    female, male = re.compile(r"\b(?:she|herself)\b", re.I), re.compile(r"\b(?:he|himself)\b", re.I)
    pronouns = 0
    for passage in islice(passages(8, "train"), 200):
        for paragraph in passage:
            assert not re.match(r"(He|She)\b", paragraph[0]), paragraph[0]
            pronouns += sum(bool(female.search(s) or male.search(s)) for s in paragraph)
        introduced = re.findall(r"([A-Z]\w+ [A-Z]\w+), the ", join(passage))
        assert len(introduced) == len(set(introduced))
    assert pronouns > 500


def test_a_pronoun_means_the_last_subject():
    """He or she at the start of a sentence: the one before names somebody of that sex, or has the same pronoun."""
    women = tuple(prose.WOMEN.split())
    for passage in islice(passages(9, "eval"), 200):
        for paragraph in passage:
            for before, sentence in pairwise(paragraph):
                if start := re.match(r"(He|She)\b", sentence):
                    named = [w for w in re.findall(r"[A-Z]\w+", before) if is_name(w, "eval")]
                    sexes = {"She" if name.endswith(women) else "He" for name in named}
                    also = re.search(rf"\b{start[1]}\b", before, re.IGNORECASE)
                    assert start[1] in sexes or also, (before, sentence)


@pytest.mark.parametrize(
    ("phrase", "did", "done", "doing"),
    [
        ("haul the net", "hauled the net", "hauled the net", "hauling the net"),
        ("set out", "set out", "set out", "setting out"),
        ("drive", "drove", "driven", "driving"),
        ("drag", "dragged", "dragged", "dragging"),
        ("carry", "carried", "carried", "carrying"),
        ("survey", "surveyed", "surveyed", "surveying"),
        ("free", "freed", "freed", "freeing"),
        ("shoe", "shod", "shod", "shoeing"),
        ("label", "labelled", "labelled", "labelling"),
        ("oil", "oiled", "oiled", "oiling"),
        ("fix", "fixed", "fixed", "fixing"),
        ("retie", "retied", "retied", "retying"),
        ("quit", "quitted", "quitted", "quitting"),
    ],
)
def test_inflection(phrase, did, done, doing):
    assert [inflect(phrase, form) for form in ("do", "did", "done", "doing")] == [phrase, did, done, doing]


def test_every_topic_fills_the_same_symbols():
    assert len(TOPICS) >= 24
    symbols = {frozenset(topic) for topic in TOPICS.values()}
    assert len(symbols) == 1
    given_by_writer = {"S", "N", "O", "he", "him", "his", "himself", "town", "elsewhere", "absent"}
    known = given_by_writer | set(GRAMMAR) | set(PLANS) | set(*symbols) | {"do", "did", "done", "doing"}
    used = {name for text in GRAMMAR.values() for name in re.findall(r"\{(\w+)\}", text)}
    assert used <= known
    assert set(GRAMMAR) <= used | set(KINDS)


def test_the_grammar_has_many_frames():
    assert sum(len(parse(GRAMMAR[kind]).options) for kind in (*KINDS, "clause")) >= 150


def test_statistics_of_known_texts():
    same = statistics("One two three four five. " * 10)
    assert same["words"] == 50 and same["type_token_ratio"] == 0.1 and same["sentence_words"] == 5
    assert same["repeated_5grams"] == pytest.approx(41 / 46)
    random = Random(0)
    letters = " ".join("".join(random.choice("abcdefghij") for _ in range(8)) for _ in range(500)) + "."
    assert statistics(letters)["repeated_5grams"] == 0 and statistics(letters)["gzip_ratio"] > 2 * same["gzip_ratio"]
    with pytest.raises(ValueError, match="without a word"):
        statistics("12 !")


def test_the_prose_is_nearly_as_rich_as_a_novel(capsys):
    """The table of the README. 20,000 words each, because all four figures depend on the length."""
    novel = " ".join(gzip.decompress(NOVEL.read_bytes()).decode().split()[:20_000])
    rows = {"Persuasion": statistics(novel)}
    rows |= {f"{split}, {mode}": statistics(sample(20_000, 0, split, mode)) for split in SPLITS for mode in prose.MODES}
    with capsys.disabled():
        print("\n\n| 20,000 words    |" + "|".join(f" {name} " for name in rows["Persuasion"]) + "|")
        for name, row in rows.items():
            print(f"| {name:15} |" + "|".join(f"{row[key]:{len(key) + 1}.3f} " for key in row) + "|")
    for name, row in list(rows.items())[1:]:
        assert row["type_token_ratio"] >= 0.8 * rows["Persuasion"]["type_token_ratio"], name
        assert row["gzip_ratio"] >= 0.8 * rows["Persuasion"]["gzip_ratio"], name
        assert row["repeated_5grams"] < 0.10, name
        assert 12 <= row["sentence_words"] <= 25, name


def test_the_command_line_prints_a_passage_and_the_table(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prose", "--seed", "3", "--split", "eval"])
    prose.main()
    printed = capsys.readouterr().out
    assert join(next(passages(3, "eval"))) in printed and "type_token_ratio" in printed
