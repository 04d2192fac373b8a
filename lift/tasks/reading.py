"""Find the facts that a document states in the wordings of `environments.haystack`, and the names it uses, with their
spans."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache

from environments.haystack import facts
from environments.haystack.tasks.linked_wordings import readers
from lift.document.document import Document, Span
from lift.document.repeats import repeated

# A name or a title with a name: "Sir Walter", "Mr. Elliot".
NAME = re.compile(r"(?<![\w'’-])(?:(?:Mrs?|Dr|St)\.?\s)?[A-Z][a-z]+(?:\s[A-Z][a-z]+)*(?![\w-])")
_INSIDE = re.compile(r"[\w,;:)’']\s+$")  # before a capital letter that does not merely begin a sentence
LEAST_USES = 2  # of a name: a capital that comes once may be anything


@dataclass(frozen=True)
class StatedFact:
    """A fact in a document: a person, a relation or link, its value or other person, and the span of its sentence."""

    subject: str
    name: str
    value: str
    span: Span


@dataclass(frozen=True)
class Statements:
    """The facts and links that a document states.

    `facts` and `links` hold those with exactly one value for that person and relation, so that a question has one
    answer. `stated` holds every pair (person, relation or link) of which anything is stated, several and dated values
    too.
    """

    facts: tuple[StatedFact, ...]
    links: tuple[StatedFact, ...]
    stated: frozenset[tuple[str, str]]

    @property
    def people(self) -> list[str]:
        """Return the people of whom a fact or link is stated, and those they are linked to, in order of the text."""
        ends = [(link.span, person) for link in self.links for person in (link.subject, link.value)]
        return list(dict.fromkeys(person for _, person in sorted([*ends, *((f.span, f.subject) for f in self.facts)])))


_DATED, _LINKED = (
    [(name, pattern) for kind, name, pattern in readers() if kind == wanted] for wanted in ("change", "link")
)


@lru_cache(maxsize=8)
def read_statements(document: Document) -> Statements:
    """Return the facts and links that the document's sentences state, each sentence read by itself."""
    values, links, dated = [], [], set()
    for span in document.sentences:
        sentence = document.quote(span)
        values += [StatedFact(*fact, span) for fact in facts.parse(sentence)]
        for name, pattern in _LINKED:
            if match := pattern.fullmatch(sentence):
                links.append(StatedFact(match["e"], name, match["v"], span))
        for name, pattern in _DATED:
            if match := pattern.fullmatch(sentence):
                dated.add((match["e"], name))
    stated = dated | {(fact.subject, fact.name) for fact in (*values, *links)}
    return Statements(_single(values, dated), _single(links, dated), frozenset(stated))


def _single(stated: list[StatedFact], dated: set[tuple[str, str]]) -> tuple[StatedFact, ...]:
    """Return the facts of which a person has one value, each from the first sentence that states it."""
    by_key: dict[tuple[str, str], list[StatedFact]] = defaultdict(list)
    for fact in stated:
        by_key[fact.subject, fact.name].append(fact)
    return tuple(
        places[0] for key, places in by_key.items() if key not in dated and len({fact.value for fact in places}) == 1
    )


@lru_cache(maxsize=8)
def names(document: Document) -> tuple[tuple[str, Span], ...]:
    """Return every use of a name inside a sentence (not at its start), with its character span.

    A name must be used so at least `LEAST_USES` times.
    """
    lower = set(re.findall(r"\b[a-z]+\b", document.text))
    uses, again = [], repeated(document)
    for at, (start, end) in enumerate(document.sentences):
        if at in again:
            continue
        sentence = document.text[start:end]
        for match in NAME.finditer(sentence):
            if _INSIDE.search(sentence[: match.start()]):
                uses.append((" ".join(match[0].split()), (start + match.start(), start + match.end())))
    counts = Counter(name for name, _ in uses)
    # A single word that also stands in lower case ("Will", "Still") may not be a name.
    return tuple((name, span) for name, span in uses if counts[name] >= LEAST_USES and name.lower() not in lower)
