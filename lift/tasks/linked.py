"""Ask for facts over links between people: the password of the person who pays the wages of X.

A chain has one to `MOST_LINKS` links and a value at its end. Training also asks for single links.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, zip_longest
from random import Random

from environments.haystack import question_wordings as wordings
from environments.haystack.tasks.linked_wordings import LINK
from lift.document.document import Document
from lift.tasks.items import Item, Task
from lift.tasks.reading import StatedFact, Statements, read_statements

MOST_LINKS = 3
ROUNDS = {"train": 20, "eval": 3}  # questions a chain, each in other words
TRIES = 20  # to find words not used yet

Path = tuple[StatedFact, ...]


class Linked(Task):
    """Makes questions that follow a chain of links to a value, with chains of all lengths in turn.

    No question comes twice.
    """

    kind = "linked"

    def draw(self, document: Document, n: int, split: str, rng: Random) -> Iterator[Item]:
        """Yield questions about chains, and in split "train" about single links.

        Each chain comes several times, in other words.
        """
        paths = in_turn(read_statements(document), split, rng)
        questions: set[str] = set()
        for path in chain.from_iterable(paths for _ in range(ROUNDS[split])):
            for _ in range(TRIES):
                if (question := ask(path, split, rng)) not in questions:
                    questions.add(question)
                    yield Item(self.kind, question, path[-1].value, tuple(fact.span for fact in path))
                    break


def ask(path: Path, split: str, rng: Random) -> str:
    """Return the question that names the first person of a chain and asks for the value of its last fact."""
    person = path[0].subject
    for fact in path[:-1]:
        person = rng.choice(wordings.LINKS[fact.name].of(split)).format(x=person)
    return wordings.ask(person, path[-1].name, split, rng)


def in_turn(statements: Statements, split: str, rng: Random) -> list[Path]:
    """Return the chains shuffled, one of each number of links in turn; for training, single links too."""
    kinds: dict[int, list[Path]] = defaultdict(list)
    for path in chains(statements):
        kinds[len(path)].append(path)
    if split == "train":
        kinds[1] = [(link,) for link in statements.links]
    for paths in kinds.values():
        rng.shuffle(paths)
    turns = zip_longest(*(kinds[length] for length in sorted(kinds)))
    return [path for turn in turns for path in turn if path is not None]


def chains(statements: Statements) -> Iterator[Path]:
    """Yield every path from a person over one to `MOST_LINKS` links to a value that meets no person twice.

    No mutual link follows itself: it would lead back as well as on.
    """
    leads, values = defaultdict(list), defaultdict(list)
    for link in statements.links:
        leads[link.subject].append(link)
    for fact in statements.facts:
        values[fact.subject].append(fact)

    def onwards(path: Path) -> Iterator[Path]:
        met = {fact.subject for fact in path} | {path[-1].value}
        for fact in values[path[-1].value]:
            yield (*path, fact)
        if len(path) < MOST_LINKS:
            for link in leads[path[-1].value]:
                back = link.name == path[-1].name and LINK[link.name].mutual
                if link.value not in met and not back:
                    yield from onwards((*path, link))

    for link in statements.links:
        if link.value != link.subject:
            yield from onwards((link,))
