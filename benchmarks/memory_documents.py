"""Made-up documents with many questions each, for `benchmarks.memory` and `benchmarks.retrieval`.

    made = generate(tokens, 8192, seed=0)

Fiction by `environments.haystack.filler.prose` with the facts of the environments in it: of single people, of people whose
names are easily mistaken for one another's, and chains of two facts. Questions are in wordings that no memory is fitted to
(split "eval" of `question_wordings`); their kinds have the names of the environments' tasks:

    single      one fact of a person
    multi_key   the same, where three people of nearly the same name have other values
    chain       a value of the person to whom the one named is linked
    absent      what the text does not say, of someone in it or of someone with nearly the same name

People, values and prose are those of the split "eval", which no reader has seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from random import Random

from environments.haystack import question_wordings as wordings
from environments.haystack.facts import BY_KIND, RELATION, Entity, Fact, state
from environments.haystack.filler import prose
from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, lay_out
from environments.haystack.options import Options
from environments.haystack.tasks.linked_wordings import LINKS, Link
from environments.haystack.tasks.task import Answer, Draw
from environments.haystack.tokens import Tokens
from environments.haystack.wording import sentence
from environments.retrieval.chunking import Span
from longthread.errors import ConfigError

SPLIT = "eval"
KINDS = ("single", "multi_key", "chain", "absent")
VALUES = ("numbers", "words") * 3 + ("names", "dates")  # mostly short: the replies of a small model
TWINS = 3  # people of nearly the same name as another's
TRIES = 40


@dataclass(frozen=True)
class Counts:
    """How many facts a document states, and how many questions of each kind are asked about it."""

    singles: int = 16
    groups: int = 8  # of people of nearly the same name: each has 1 + `TWINS` facts
    chains: int = 8  # each has two facts
    asked: tuple[int, int, int, int] = (32, 32, 32, 32)  # in the order of `KINDS`


LONG = 65_536  # tokens, from which on one document has all the questions of a cell
MANY = Counts(singles=64, groups=16, chains=64, asked=(200, 200, 200, 200))


def counts_of(length: int) -> Counts:
    """Return the facts and questions of a document of so many tokens."""
    return MANY if length >= LONG else Counts()


@dataclass(frozen=True)
class MadeQuestion:
    """A question with its answer, and the characters of the sentences that it rests on; none where it is absent.

    `passed`: the people between the one who is named and the value.
    """

    kind: str
    text: str
    answer: Answer
    evidence: tuple[Span, ...]
    passed: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeDocument:
    """A document and the questions about it."""

    name: str
    text: str
    questions: tuple[MadeQuestion, ...]


@dataclass(frozen=True)
class _Told:
    """A value as the text gives it: the sentences that lead to it, the people in them, the link between them if any."""

    kind: str
    sentences: tuple[str, ...]
    people: tuple[Entity, ...]
    relation: str
    value: str
    link: Link | None = None

    def ask(self, rng: Random) -> str:
        person = self.people[0].told
        if self.link:
            person = rng.choice(wordings.LINKS[self.link.name].of(SPLIT)).format(x=person)
        return wordings.ask(person, self.relation, SPLIT, rng)


def generate(tokens: Tokens, length: int, seed: int, counts: Counts | None = None) -> MadeDocument:
    """Return the document of a seed, of about `length` tokens. The same arguments give the same one.

    Raises `ConfigError` where the facts do not fit into the length.
    """
    counts = counts or Counts()
    pool = Pool(tokens, prose.passages(seed, SPLIT), 2 * length)
    for attempt in range(TRIES):
        rng = Random(f"memory document {length} {seed} {attempt}")
        draw = Draw(Options(), SPLIT, rng)
        told = _told(draw, counts)
        texts = [text for each in told for text in each.sentences]
        laid = lay_out(pool, Hidden(texts, _depths(len(texts), rng)), length, rng)
        nearly = [(draw.twin(each.people[0]).told, each.relation) for each in told]
        if not _stand(laid.text, texts, told, [name for name, _ in nearly]):
            continue
        spans = iter([(int(at), int(at) + len(text)) for at, text in zip(laid.chars, texts, strict=True)])
        places = [tuple(islice(spans, len(each.sentences))) for each in told]
        questions = [*_answered(told, places, counts, rng), *_absent(told, nearly, counts.asked[-1], rng)]
        return MadeDocument(f"chronicle-{length}-{seed}", laid.text, tuple(questions))
    raise ConfigError(
        f"no document of {length} tokens came out in {TRIES} tries: ask for a longer one", setting="lengths"
    )


# ---- what the text says ----


def _told(draw: Draw, counts: Counts) -> list[_Told]:
    told = [_fact(draw, "single", draw.person(), _relation(draw)) for _ in range(counts.singles)]
    for _ in range(counts.groups):
        relation, person = _relation(draw), draw.person()
        people = [person, *(draw.twin(person) for _ in range(TWINS))]
        told += [_fact(draw, "multi_key", each, relation) for each in people]
    for _ in range(counts.chains):
        link, first, second = draw.rng.choice(LINKS), draw.person(), draw.person()
        fact = _fact(draw, "chain", second, _relation(draw))
        leads = sentence(draw.rng.choice(link.told), e=first.told, v=second.told)
        told.append(_Told("chain", (leads, *fact.sentences), (first, second), fact.relation, fact.value, link))
    return told


def _relation(draw: Draw) -> str:
    return BY_KIND[draw.rng.choice(VALUES)].name


def _fact(draw: Draw, kind: str, person: Entity, relation: str) -> _Told:
    [value] = draw.values(relation, 1)
    return _Told(kind, (state(Fact(person, relation, value), False, draw.rng),), (person,), relation, value)


def _depths(count: int, rng: Random) -> list[float]:
    """Return a depth in each of `count` equal parts of the text, in random order."""
    return [(part + rng.random()) / count for part in rng.sample(range(count), count)]


def _stand(text: str, sentences: Sequence[str], told: Sequence[_Told], elsewhere: Sequence[str]) -> bool:
    """Return whether each sentence and value stands once, people stand nowhere else, and those `elsewhere` not at all."""
    stated = "\n".join(sentences)
    return (
        all(text.count(each) == 1 for each in (*sentences, *(one.value for one in told)))
        and all(text.count(person.told) == stated.count(person.told) for one in told for person in one.people)
        and not any(name in text for name in elsewhere)
    )


# ---- what is asked ----


def _answered(
    told: Sequence[_Told], places: Sequence[tuple[Span, ...]], counts: Counts, rng: Random
) -> Iterator[MadeQuestion]:
    """Yield the questions of each kind, every value as often as any other of its kind."""
    for kind, wanted in zip(KINDS[:-1], counts.asked, strict=False):
        of_kind = [(one, place) for one, place in zip(told, places, strict=True) if one.kind == kind]
        rng.shuffle(of_kind)
        asked = set[str]()
        for number in range(wanted if of_kind else 0):
            one, place = of_kind[number % len(of_kind)]
            if (text := _new(partial(one.ask, rng), asked)) is not None:
                answer = Answer("one", (one.value,), RELATION[one.relation].kind)
                yield MadeQuestion(kind, text, answer, place, tuple(each.told for each in one.people[1:]))


def _absent(
    told: Sequence[_Told], nearly: Sequence[tuple[str, str]], wanted: int, rng: Random
) -> Iterator[MadeQuestion]:
    """Yield questions in turn about people of the text, another relation, and about those of nearly the same name."""
    asked, order = set[str](), rng.sample(range(len(told)), len(told))
    for number in range(wanted):
        at = order[number // 2 % len(order)]
        name, relation = nearly[at]
        if number % 2 == 0:
            name = told[at].people[-1].told  # of whom the text gives one value
            relation = rng.choice([other for other in wordings.FACTS if other != relation])
        if (text := _new(partial(wordings.ask, name, relation, SPLIT, rng), asked)) is not None:
            yield MadeQuestion("absent", text, Answer("absent", (), RELATION[relation].kind), ())


def _new(ask: Callable[[], str], asked: set[str]) -> str | None:
    """Return a question that is not among those asked, and add it to them; None where its wordings are used up."""
    for _ in range(TRIES):
        if (text := ask()) not in asked:
            asked.add(text)
            return text
    return None
