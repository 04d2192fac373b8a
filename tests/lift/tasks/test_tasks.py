"""Tasks made of documents whose facts are known: generated haystacks, a real novel, and a few lines by hand."""

import gzip
import re
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random

import pytest

from environments.haystack import question_wordings as wordings
from environments.haystack.facts import RELATION, VALUE_KINDS, parse
from environments.haystack.sample import Haystacks, Options, Sample
from environments.haystack.tasks.linked_wordings import LINK
from lift.document.document import Document
from lift.tasks import NO_ANSWER, TASKS, Item, cloze, coverage, make, order, recite, right
from lift.tasks.items import FACT_KINDS, rotate, sentences_of
from lift.tasks.linked import chains
from lift.tasks.reading import names, read_statements
from longthread.errors import LongthreadError
from tests.environments.tiny_model import tiny_tokenizer

ALL = 10**6
NOVEL = Path(__file__).parents[2] / "data" / "persuasion.txt.gz"
SPLITS = ("train", "eval")


@cache
def haystack(task: str, lexical_gap: bool = False) -> tuple[Sample, Document]:
    """A haystack of 20,000 bytes without the prompt around it."""
    options = Options(queries=16, values=3, hops="3", versions="3", lexical_gap=lexical_gap, decoys=20)
    sample = Haystacks(tiny_tokenizer(), options).sample(0, "train", task, 20_000)
    return sample, Document(task, sample.messages[0]["content"])


@cache
def novel() -> Document:
    return Document("Persuasion", gzip.decompress(NOVEL.read_bytes()).decode())


def documents() -> list[Document]:
    return [haystack("multi_query")[1], haystack("chain")[1], novel()]


@cache
def items(document: Document, kind: str, split: str, n: int = 400) -> list[Item]:
    return make(document, [kind], n, 0, split)


def flat(document: Document) -> str:
    return " ".join(document.text.split())


def said(document: Document, span: tuple[int, int]) -> str:
    return " ".join(document.text[slice(*span)].split())


# ---- wordings ----


def test_wordings_to_train_on_are_many_and_none_is_asked_with_later() -> None:
    tables = [*wordings.FACTS.values(), *wordings.REVERSED.values()]
    assert wordings.FACTS.keys() == wordings.REVERSED.keys() == RELATION.keys()
    assert wordings.LINKS.keys() == LINK.keys()
    assert all(len(table.train) >= 12 and len(table.eval) >= 3 for table in tables)
    assert all(len(table.of("train", described=True)) >= 19 for table in wordings.FACTS.values())
    tables += [*wordings.LINKS.values(), wordings.FRAMES, cloze.ASKED, order.NAMED, order.QUOTING, recite.ASKED]
    for table in tables:
        assert not set(table.train) & set(table.eval)
        assert len(set(table.train)) == len(table.train) and len(set(table.eval)) == len(table.eval)


def test_the_wordings_of_the_environments_are_held_out() -> None:
    for name, relation in RELATION.items():
        theirs = {text.format(e="{e}", s="", is_="is") for text in (relation.asked, relation.asked_gap)}
        assert theirs <= set(wordings.FACTS[name].eval)
    for name, link in LINK.items():
        assert {link.asked, link.asked_gap} <= set(wordings.LINKS[name].eval)


PLAIN = "does from person that under upon what when which whom whose will with"
NAMING = (  # the thing asked for itself; every other word of a held-out wording is new
    "agreed combination contract cousin craft date door election employer heir leaves letters money name next number "
    "password registration rent safe sign time vote"
)


def stems(*texts: str) -> set[str]:
    """First four letters of every longer word: "dials" and "dialled" are one."""
    return {word[:4] for word in re.findall("[a-z]{4,}", " ".join(texts).lower())}


def test_held_out_wordings_share_no_words_with_those_trained_on_but_the_names_of_things() -> None:
    tables = [*wordings.FACTS.values(), *wordings.REVERSED.values(), *wordings.LINKS.values(), wordings.FRAMES]
    shared = [stems(*table.train) & stems(*table.eval) for table in tables]
    assert set.union(*shared) - stems(PLAIN) == stems(NAMING)


@pytest.mark.parametrize("kind", TASKS)
def test_no_question_is_asked_in_both_splits(kind: str) -> None:
    for document in documents():
        asked = [{item.question for item in items(document, kind, split)} for split in SPLITS]
        assert not asked[0] & asked[1]


def test_described_people_get_no_genitive() -> None:
    document = haystack("multi_query", True)[1]
    made = items(document, "needle", "train") + items(document, "absent", "train")
    assert len(made) > 100
    assert not [item.question for item in made if "'s " in item.question.replace("soldiers' quarters", "")]


# ---- all kinds alike ----


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_same_again_from_the_same_arguments(kind: str, split: str) -> None:
    for document in documents():
        again = Document(document.name, document.text)
        assert make(again, [kind], 30, 5, split) == make(document, [kind], 30, 5, split)
        few = make(document, [kind], 7, 5, split)
        assert len(few) == min(7, len(items(document, kind, split))) or kind == "absent"
        assert make(document, [kind], 0, 5, split) == []
        if len(items(document, kind, split)) > 30:
            assert make(document, [kind], 30, 6, split) != make(document, [kind], 30, 5, split)


@pytest.mark.parametrize("kind", TASKS)
def test_no_question_twice_one_answer_each_and_it_counts_as_right(kind: str) -> None:
    for document in documents():
        made = items(document, kind, "train") + items(document, kind, "eval")
        assert len({item.question for item in made}) == len(made)
        assert all(item.kind == kind and right(item, item.answer) for item in made)
        assert not any("{" in item.question or "}" in item.question for item in made)


def test_answers_stand_in_their_evidence_and_evidence_in_sentences() -> None:
    for document in documents():
        for kind in set(TASKS) - {"absent", "order"}:
            for item in items(document, kind, "train"):
                assert item.answer in said(document, item.evidence[-1])
                assert all(span in document.sentences for span in item.evidence)


def test_each_kind_yields_what_the_documents_hold() -> None:
    counts = {document.name: Counter() for document in documents()}
    for document in documents():
        for kind in TASKS:
            counts[document.name][kind] = len(items(document, kind, "train"))
    assert all(counts["chain"].values())
    assert not counts["multi_query"]["linked"] and counts["multi_query"]["needle"] >= 16 * 6
    assert not counts["Persuasion"]["needle"] and counts["Persuasion"]["cloze"] == 400


def test_what_is_unknown_is_refused_in_one_line() -> None:
    with pytest.raises(LongthreadError, match=r"task must be one of needle, linked.* \(got 'riddle'\)"):
        make(novel(), ["cloze", "riddle"], 1, 0, "train")
    with pytest.raises(LongthreadError, match=r"split must be one of train, eval \(got 'test'\)"):
        make(novel(), ["cloze"], 1, 0, "test")
    with pytest.raises(LongthreadError, match="-1 items"):
        make(novel(), ["cloze"], -1, 0, "train")


def test_rotation_takes_every_cell_before_any_twice() -> None:
    seen = list(rotate("abcde", 3, Random(0)))
    assert len(set(seen)) == 15
    assert all({cell for cell, _ in seen[at : at + 5]} == set("abcde") for at in (0, 5, 10))


# ---- facts ----


def test_needles_are_the_facts_of_the_haystack() -> None:
    sample, document = haystack("multi_query")
    answers = {item.answer for item in items(document, "needle", "eval")}
    assert set(sample.answer.values) <= answers
    stated = {value for needle in sample.needles for _, _, value in parse(needle.text)}
    assert answers == stated
    first = make(document, ["needle"], len(stated), 0, "train")
    assert {item.answer for item in first} == stated  # each fact once before any a second time
    assert coverage(document, first).covered == len(stated)


def test_reversed_items_ask_for_the_person() -> None:
    document = haystack("multi_query")[1]
    for item in items(document, "reverse", "train"):
        ((person, _, value),) = parse(said(document, item.evidence[0]))
        assert item.answer == person and value in item.question


def test_chains_lead_from_the_person_asked_about_to_the_answer() -> None:
    sample, document = haystack("chain")
    reading = read_statements(document)
    leads = {(link.subject, link.span): link.value for link in reading.links}
    values = {(fact.subject, fact.span): fact.value for fact in reading.facts}
    lengths = Counter()
    for item in items(document, "linked", "train", ALL) + items(document, "linked", "eval", ALL):
        at = next(person for person, span in leads if span == item.evidence[0] and person in item.question)
        for span in item.evidence[:-1]:
            at = leads[at, span]
            assert at not in item.question
        assert item.answer == (leads | values)[at, item.evidence[-1]]
        lengths[len(item.evidence)] += 1
    assert min(lengths[1], lengths[2], lengths[3]) > 10
    whole = [path for path in chains(reading) if path[-1].value == sample.answer.values[0]]
    assert sample.answer.steps in [tuple(link.value for link in path[:-1]) for path in whole]
    assert all(len(item.evidence) > 1 for item in items(document, "linked", "eval"))


LINES = (
    "One password that Ann Bore agreed upon is a-b-c-d.\nOne password that Ann Bore agreed upon is e-f-g-h. "
    "The password that Cid Dorn agreed upon\nis i-j-k-l. On 3 May 1700 the password of Eve Farr became m-n-o-p. "
    "For the safe, Eve Farr always sets the combination 1234567890. From 4 May 1700 on Eve Farr used the combination "
    "2234567890. The only cousin of Cid Dorn is Ann Bore. "
    "The registration number of Eve Farr is 11111111-1111-4111-8111-111111111111."
)


def test_people_with_several_or_dated_values_are_not_asked_about_and_not_denied() -> None:
    document = Document("lines", LINES)
    assert {item.answer for item in make(document, ["needle"], ALL, 0, "train")} == {
        "i-j-k-l", "11111111-1111-4111-8111-111111111111"}  # fmt: skip
    assert not [i for i in make(document, ["linked"], ALL, 0, "train") if "a-b-c-d" in i.answer or "e-f" in i.answer]
    assert "Ann Bore" in read_statements(document).people  # whom a link leads to, though she has no fact of her own
    denied = [item.question for item in make(document, ["absent"], 500, 0, "eval")]
    secret = re.compile("password|secret|phrase|words does one make")
    assert any(secret.search(question) for question in denied)
    assert not [q for q in denied if secret.search(q) and re.search("Ann Bore|Cid Dorn|Eve Farr", q)]


def test_rings_of_people_lead_nowhere_twice_and_shared_values_to_nobody() -> None:
    text = (
        "The only cousin of Ann Bore is Cid Dorn. The only cousin of Cid Dorn is Ann Bore. The password chosen by Ann Bore "
        "remains a-b-c-d. The password chosen by Cid Dorn remains a-b-c-d. The password chosen by Eve Farr remains i-j-k-l."
    )
    document = Document("ring", text)
    met = [[path[0].subject, *(link.value for link in path[:-1])] for path in chains(read_statements(document))]
    assert sorted(met) == [["Ann Bore", "Cid Dorn"], ["Cid Dorn", "Ann Bore"]]
    assert {item.answer for item in make(document, ["reverse"], ALL, 0, "train")} == {"Eve Farr"}


def test_sentences_that_begin_or_are_alike_are_no_places() -> None:
    text = (
        "She did not go to the fair. He bought a brown cow there. She did not go to the well. He bought two jars of ink. "
        "He bought a brown cow there. They all came home after dark."
    )
    document = Document("alike", text)
    assert [said(document, document.sentences[at]) for at in order.telling(document)] == [
        "He bought two jars of ink.", "They all came home after dark."]  # fmt: skip
    given = "".join(item.question for item in make(document, ["recite"], ALL, 0, "train"))
    assert "jars of ink" in given and "brown cow" not in given


def test_facts_are_read_across_a_line_break() -> None:
    document = Document("lines", LINES)
    item = next(i for i in make(document, ["needle"], ALL, 0, "train") if i.answer == "i-j-k-l")
    assert document.text[slice(*item.evidence[0])] == "The password that Cid Dorn agreed upon\nis i-j-k-l."


def test_half_of_what_is_absent_is_about_people_of_the_document() -> None:
    for document in documents():
        for split in SPLITS:
            made = make(document, ["absent"], 40, 0, split)
            assert len(made) == 40 and all(item.answer == NO_ANSWER and item.evidence == () for item in made)
            people = set(read_statements(document).people) or {name for name, _ in names(document)}
            inside = [item for item in made if any(person in item.question for person in people)]
            assert len(inside) == 20


def test_what_is_denied_of_people_is_not_in_the_document() -> None:
    document = haystack("chain")[1]
    facts = {(fact.subject, fact.name) for fact in (*read_statements(document).facts, *read_statements(document).links)}
    checked = 0
    for item in make(document, ["absent"], 300, 0, "eval"):
        for person, name in facts:
            if person in item.question:
                table = wordings.FACTS.get(name) or wordings.LINKS[name]
                phrases = [phrase.format(e=person, x=person).lower() for phrase in table.eval]
                assert not any(phrase in item.question.lower() for phrase in phrases)
                checked += 1
    assert checked > 100


# ---- text ----


@pytest.mark.parametrize("split", SPLITS)
def test_a_gap_filled_gives_a_sentence_that_stands_once_in_the_text(split: str) -> None:
    for document in (haystack("chain")[1], novel()):
        text = flat(document)
        sentences = [said(document, span) for span in document.sentences]
        for item in items(document, "cloze", split, 150):
            sentence = said(document, item.evidence[0])
            places = [at.span() for at in re.finditer(re.escape(item.answer), sentence)]
            gaps = [sentence[:start] + cloze.GAP + sentence[end:] for start, end in places]
            (gapped,) = (gap for gap in gaps if gap in item.question)
            assert gapped.replace(cloze.GAP, item.answer) in text
            fits = [other for other in sentences if fitting(gapped, other)]
            assert set(fits) == {sentence}
            assert not re.search(rf"(?<!\w){re.escape(item.answer)}(?!\w)", gapped)


def fitting(gapped: str, sentence: str) -> bool:
    """Whether a sentence is the one with the gap, with something in it."""
    before, after = gapped.split(cloze.GAP)
    return len(sentence) > len(before + after) and sentence.startswith(before) and sentence.endswith(after)


CLOZE = (
    "Old Anne walked with Anne Elliot to the house of Harriet. Then Harriet gave 12 pence to the boy at the gate. "
    "Then the lady gave 30 coins to the boy at the door. Then the lady gave 40 coins to the boy at the door. "
    "On the morning of 4 June 1814 the coach came to Bath. The weather at Bath was cold on June 5 and later. "
    "All who knew Will had thought that he will go. All who knew Will had thought he will come. It was 7 miles."
)


def test_gaps_are_names_numbers_and_dates_that_the_rest_determines() -> None:
    document = Document("d", CLOZE)
    answers = {document.text[slice(*span)] for _, _, span in cloze.gaps(document)}
    assert {"12", "4 June 1814", "June 5", "Bath", "Harriet"} >= answers >= {"12", "4 June 1814", "June 5", "Bath"}
    # 30 and 40 fit the same sentence; Will also stands in lower case; "It was 7 miles." does not say where.


def test_order_is_right_and_balanced() -> None:
    for document in documents():
        for split in SPLITS:
            made = items(document, "order", split)
            named = [item for item in made if item.answer in ("first", "second")]
            assert len(named) == len(made) / 2 == 200
            assert Counter(item.answer for item in named) == {"first": 100, "second": 100}
            for item in made:
                first, second = re.findall("“(.*?)”", item.question)
                assert item.evidence[0][0] < item.evidence[1][0]
                opening = [said(document, span) for span in item.evidence]
                at = [[begins.startswith(part) for part in (first, second)].index(True) for begins in opening]
                assert sorted(at) == [0, 1]
                expected = ("first", "second")[at[0]] if item in named else " ".join(opening[0].split()[:4])
                assert item.answer == expected


def test_no_pair_of_sentences_is_put_in_order_in_both_splits() -> None:
    for document in documents():
        pairs = [{item.evidence for item in items(document, "order", split)} for split in SPLITS]
        assert not pairs[0] & pairs[1]


def test_recitation_goes_on_where_the_given_sentence_ends() -> None:
    for document in (haystack("chain")[1], novel()):
        for item in items(document, "recite", "train"):
            at = document.sentences.index(item.evidence[0])
            assert item.answer == said(document, item.evidence[0])
            given = " ".join(said(document, document.sentences[at - 1]).split()[-recite.QUOTED :])
            assert given in item.question
            assert flat(document).count(f"{given} {item.answer}") == 1


# ---- coverage ----


def test_coverage_counts_sentences_that_evidence_touches() -> None:
    document = Document("d", "One is here. Two is here. Three is here. Four is here.")
    spans = document.sentences
    assert sentences_of(document, (spans[1][1] - 1, spans[2][0] + 1)) == [1, 2]
    assert sentences_of(document, (spans[0][1], spans[1][0])) == []
    made = [Item("a", "?", "x", (spans[0], spans[3])), Item("b", "?", "x", (spans[0],)), Item("b", "?", "none", ())]
    report = coverage(document, made)
    assert (report.sentences, report.covered, report.share) == (4, 2, 0.5)
    assert report.kinds == {"a": 1, "b": 2}
    assert coverage(Document("d", ""), []).share == 0


def test_tasks_together_reach_nearly_every_sentence() -> None:
    for document in documents():
        made = make(document, ["cloze", "order", "recite"], ALL // 500, 0, "train")
        assert coverage(document, made).share > 0.9


# ---- right and wrong ----

VALUE = Item("needle", "What is the password of Ann Bore?", "acorn-badge-cedar-dune", ((0, 1),))
PERSON = Item("linked", "Who is the boss of Ann Bore?", "Cid Dorn", ((0, 1),))
EITHER = Item("linked", "Name a cousin of Ann Bore.", "Cid Dorn", ((0, 1),), ("Eve Farr",))
HEIR = Item("needle", "Who is the heir of Ann Bore?", "Vost Garn Telm", ((0, 1),))
NUMBER = Item("needle", "Which number is the safe of Ann Bore locked with?", "1234567890", ((0, 1),))
ABSENT = Item("absent", "What is the password of Ann Bore?", NO_ANSWER, ())
TEXT = Item("cloze", "In d, complete: ____ went.", "Sir Walter Elliot", ((0, 1),), ("Sir Walter",))
FIRST = Item("order", "First or second?", "first", ((0, 1), (2, 3)))
DUMP = "acorn-badge-cedar-dune, mint-moon-moss-moth; Cid Dorn, Eve Farr, Vost Garn Telm, 1234567890, 9876543210, none"

RIGHT = (
    (VALUE, "The password of Ann Bore is acorn-badge-cedar-dune."),
    (VALUE, "**Acorn-Badge-Cedar-Dune**"),
    (VALUE, "<think>mint-moon-moss-moth?</think>acorn-badge-cedar-dune"),
    (PERSON, "Ann Bore takes orders from Cid Dorn."),
    (PERSON, "cid dorn"),
    (EITHER, "Eve Farr"),
    (HEIR, "Ann Bore leaves it to Vost Garn Telm."),
    (NUMBER, "1,234,567,890"),
    (ABSENT, "None."),
    (ABSENT, "The text does not say what the password of Ann Bore is."),
    (TEXT, '"Sir Walter Elliot."\nAnd so on.'),
    (TEXT, "Sir Walter"),
    (FIRST, "The first."),
)
WRONG = (
    *((item, DUMP) for item in (VALUE, PERSON, HEIR, NUMBER, ABSENT, TEXT, FIRST)),
    *((item, "") for item in (VALUE, PERSON, ABSENT, TEXT, FIRST)),
    *((item, item.question) for item in (VALUE, PERSON, HEIR, NUMBER, ABSENT, TEXT, FIRST)),
    *((item, "none") for item in (VALUE, PERSON, TEXT)),
    (VALUE, "acorn-badge-cedar-dune or mint-moon-moss-moth"),
    (VALUE, "acorn-badge-cedar-dune, or none"),
    (VALUE, "acorn-badge-cedar"),
    (VALUE, "acorn-badge-cedar-dune-oak"),
    (NUMBER, "12345678901"),
    (NUMBER, "1234567890\n2234567890"),
    (PERSON, "Ann Bore"),
    (PERSON, "Cid Dorn or Eve Farr"),
    (EITHER, "Cid Dorn or Eve Farr"),
    (ABSENT, "None, or acorn-badge-cedar-dune"),
    (ABSENT, "acorn-badge-cedar-dune"),
    (TEXT, "Sir Walter Elliot, Anne, Bath"),
    (TEXT, "Walter"),
    (FIRST, "first or second"),
    (FIRST, "second"),
    (VALUE, "<think>acorn-badge-cedar-dune"),
)


@pytest.mark.parametrize(("item", "completion"), RIGHT)
def test_right(item: Item, completion: str) -> None:
    assert right(item, completion)


@pytest.mark.parametrize(("item", "completion"), WRONG)
def test_wrong(item: Item, completion: str) -> None:
    assert not right(item, completion)


def test_neither_the_document_nor_all_its_values_are_an_answer() -> None:
    for document in documents():
        values = [found[0] for kind in VALUE_KINDS.values() for found in kind.pattern.finditer(document.text)]
        everything = "\n".join(dict.fromkeys([*values, *read_statements(document).people]))
        for item in make(document, list(TASKS), 10, 0, "eval"):
            assert not right(item, document.text)
            if item.kind in FACT_KINDS:
                assert not right(item, everything)
