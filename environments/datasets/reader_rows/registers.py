"""Registers: entries of one form, in a list or among other text, and look-ups in them.

In fiction a fact stands out by its words; in a register the key alone tells its entry from hundreds beside it. Rows of keys
and values teach to look up at any distance, and no facts (Artificial Needles, arXiv 2406.19292). An entry may refer to
another one, whose value is then its own.

    lookup    the value of a key
    follow    the value of a key that refers to another, over one to four entries
    names     all keys that come to a value, in the order in which they refer to each other
    absent    a key that is not in the register

Some stand behind a short one with a question that is answered already: of two texts the later one is asked about. In some
every reply's beginning is given, as by a client that has the model go on from its own words. Of some the entries lie
scattered in other text.
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from environments.datasets.reader_rows.questions import SPLIT, ReaderQuestion
from environments.haystack.facts import VALUE_KINDS, WORDS, first_drawn, in_split
from environments.haystack.tasks.task import NONE

LOOKUP, FOLLOW, NAMES, ABSENT = "lookup", "follow", "names", "absent"
# Of the kinds in a register. From a value back to its keys is what a small model learns last, and only from many of them.
WEIGHTS = {LOOKUP: 8, FOLLOW: 3, NAMES: 9, ABSENT: 2}
LONGEST_CHAIN = 7  # entries that refer to another, one behind the other: of at most 4, lists of keys ended too early
LINKS = {LOOKUP: (0, 0), FOLLOW: (1, 4), NAMES: (0, LONGEST_CHAIN)}  # of these, the fewest and the most for a question
IN_ORDER = 0.5  # of the registers have every chain in the order of its references: the entry referred to stands above
CHAINED = 0.25  # of what a register with references holds beside what is asked for, chains
PLAIN = 0.35  # of the registers have no entry that refers to another
BREAKS = ("\n", " ")  # between entries
EXAMPLE = 0.5  # of the registers stand behind a short one with a question and its answer, as few-shot prompts have
EXAMPLE_ENTRIES = (2, 6)  # or chains, beside that of its question
SCATTERED = 0.4  # of the registers have their entries among sentences of other text
BEGUN = 0.5  # of the registers have sentences for replies, whose beginnings are given
SEPARATORS = ("; ", ", ", " ")  # between several keys in such a sentence

# An entry with its value, and one that refers to another key.
FORMS = (
    ("{k}: {v}", "{k}: see {t}"),
    ("{k} = {v}", "{k} = {t}"),
    ("The entry of {k} is {v}.", "The entry of {k} is that of {t}."),
    ("Under {k} stands {v}.", "Under {k} stands what stands under {t}."),
    ("{k} was given {v}.", "{k} was given whatever {t} has."),
    ("Locker {k} takes the key {v}.", "Locker {k} takes the key of locker {t}."),
    ("For {k}, write down {v}.", "For {k}, write down the same as for {t}."),
    ("| {k} | {v} |", "| {k} | as {t} |"),
    # A word before the key, as in a line of a program or of a table.
    ("let {k} = {v}", "let {k} = {t}"),
    ("ITEM {k} := {v}", "ITEM {k} := ITEM {t}"),
    ("Row {k} holds {v}.", "Row {k} holds what row {t} holds."),
)
VALUE_OF = (
    "What is the entry of {k}?",
    "Which value does {k} have?",
    "What does the text have for {k}?",
    "Look up {k}: what does it come to?",
    "Give the value that belongs to {k}.",
)
ALL_OF = (
    "Which keys come to {v}, by themselves or over others?",
    "List every key whose value is {v}, also those that refer to another key.",
    "Name all that have {v} in the end.",
)
# How a sentence goes that ends with the value of a key, or with the `n` keys that come to a value.
VALUE_BEGUN = (
    "The entry of {k} is",
    "In the text above {k} has",
    "Answer: {k} comes to",
    "What stands in the text for {k} is",
    "Answer: by the text, the value that belongs to {k} is",
)
ALL_BEGUN = (
    "The keys that come to {v} are",
    "{v} is what {n} of them come to:",
    "Answer: by the text, {n} have the value {v}, namely",
    "Answer: as the text above refers from one to another, those with {v} in the end, {n} in all, are:",
)


def _words(rng: Random) -> str:
    return "-".join(rng.sample(WORDS, 2))


def _code(rng: Random) -> str:
    return f"{''.join(rng.choices('ABCDEFGHJKLMNPRSTUVWXYZ', k=3))}{rng.randrange(10_000):04}"


def _letters(rng: Random) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))


def _digits(rng: Random) -> str:
    return str(rng.randrange(1_000_000, 10_000_000))  # of one length: none begins as another


# Of keys and values. Identifiers twice: they have the most tokens to tell apart, and to copy.
KINDS: tuple[Callable[[Random], str], ...] = (_words, _code, _letters, _digits, *[VALUE_KINDS["uuids"].draw] * 2)


class Wording(NamedTuple):
    """A question, and how a sentence begins that ends with its answer, "" for none."""

    asked: str
    begun: str


class Register:
    """Draws one register: its form, kinds of keys and values, questions, and entries beside these.

    Keys and values are all different, and of the training split. `entries`: those that questions rest on. `example`: what
    stands before the register, "" for nothing. `scattered`: whether other text stands between entries.
    """

    def __init__(self, rng: Random):
        self.rng, self.form, self.between = rng, rng.choice(FORMS), rng.choice(BREAKS)
        self.keys, self.values = (rng.choice(KINDS) for _ in range(2))
        self.refers, self.begun = rng.random() >= PLAIN, rng.random() < BEGUN
        self.in_order, self.scattered = rng.random() < IN_ORDER, rng.random() < SCATTERED
        self.separator = rng.choice(SEPARATORS) if self.begun else SEPARATORS[0]
        # Of each one throughout, in the example too: a model that goes on in an example's words repeats its answer.
        self.value_of, self.all_of = (
            Wording(rng.choice(asked), rng.choice(begun) if self.begun else "")
            for asked, begun in ((VALUE_OF, VALUE_BEGUN), (ALL_OF, ALL_BEGUN))
        )
        self.entries: list[str] = []
        self._places: dict[str, float] = {}  # of each entry, by which they are sorted
        self._used: set[str] = set()
        self.example = self._example()

    def questions(self, count: int, may_abstain: bool, steps: bool) -> list[ReaderQuestion]:
        """Return `count` questions in random order, and add the entries that they rest on.

        `steps`: replies name the entries on the way, without which a value behind several would be a guess.
        """
        kinds = [kind for kind in WEIGHTS if self._asks(kind, may_abstain, steps and not self.begun)]
        drawn = self.rng.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=count)
        return [self._question(kind) for kind in drawn]

    def _asks(self, kind: str, may_abstain: bool, steps: bool) -> bool:
        return {
            LOOKUP: True,
            FOLLOW: self.refers and steps,
            NAMES: self.refers,
            ABSENT: may_abstain and not self.begun,
        }[kind]

    def more(self) -> list[str]:
        """Return an entry, or a chain of them, that nothing asks for."""
        links = self.rng.randint(1, LONGEST_CHAIN) if self.refers and self.rng.random() < CHAINED else 0
        return self._chain(links)[2]

    def text(self, filler: list[str]) -> str:
        """Return all entries at their places, those of the questions among `filler`, behind the example if there is one."""
        return self.example + self._listed([*self.entries, *filler])

    def depths(self, entries: list[str]) -> list[float]:
        """Return where each entry stands, from 0, the beginning, to 1."""
        return [self._places[entry] for entry in entries]

    def _listed(self, entries: list[str]) -> str:
        return self.between.join(sorted(entries, key=self._places.__getitem__))

    def _example(self) -> str:
        """Return a short register of the same form with a question and its answer. Its keys stand nowhere else."""
        if self.rng.random() >= EXAMPLE:
            return ""
        [question] = self.questions(1, may_abstain=False, steps=False)
        others = [entry for _ in range(self.rng.randint(*EXAMPLE_ENTRIES)) for entry in self.more()]
        text, self.entries = self._listed([*self.entries, *others]), []
        answer = question.begun + question.ending if question.begun else question.answer
        return f"{text}\n{question.text} {answer}\n\n"

    def _question(self, kind: str) -> ReaderQuestion:
        if kind == ABSENT:
            return ReaderQuestion(kind, self.value_of.asked.format(k=self._new(self.keys)), NONE, 0)
        links = self.rng.randint(*LINKS[kind])
        keys, value, entries = self._chain(links)
        self.entries += entries
        if kind == NAMES:
            text, begun = (wording.format(v=value, n=len(keys)) for wording in self.all_of)
            return ReaderQuestion(kind, text, self.separator.join(keys), 0, several=True, begun=begun)
        text, begun = (wording.format(k=keys[-1]) for wording in self.value_of)
        return ReaderQuestion(kind, text, value, 0, 1 + links, tuple(reversed(keys[:-1])), begun=begun)

    def _chain(self, links: int) -> tuple[list[str], str, list[str]]:
        """Return keys, each of which refers to the one before it, the value of the first, and their entries."""
        keys, value = [self._new(self.keys) for _ in range(links + 1)], self._new(self.values)
        told, refers = self.form
        pairs = zip(keys[1:], keys, strict=False)
        entries = [told.format(k=keys[0], v=value), *(refers.format(k=k, t=t) for k, t in pairs)]
        places = [self.rng.random() for _ in entries]
        self._places |= zip(entries, sorted(places) if self.in_order else places, strict=True)
        return keys, value, entries

    def _new(self, draw: Callable[[Random], str]) -> str:
        """Draw a name that is not in the register yet."""
        name = first_drawn(lambda: draw(self.rng), self._is_new, "an entry of a register")
        self._used.add(name)
        return name

    def _is_new(self, name: str) -> bool:
        return name not in self._used and in_split(name, SPLIT)
