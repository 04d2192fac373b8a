"""Registers: texts of nothing but entries of one form, and look-ups in them.

In fiction a fact stands out by its words; in a register the key alone tells its entry from hundreds beside it. Rows of keys
and values teach to look up at any distance, and no facts (Artificial Needles, arXiv 2406.19292). An entry may refer to
another one, whose value is then its own.

    lookup    the value of a key
    follow    the value of a key that refers to another, over one to four entries
    names     all keys that come to a value, in the order in which they refer to each other
    absent    a key that is not in the register

Some stand behind a short one with a question that is answered already: of two texts the later one is asked about.
"""

from collections.abc import Callable
from random import Random

from environments.datasets.reader_rows.questions import SPLIT, ReaderQuestion
from environments.haystack.facts import VALUE_KINDS, WORDS, first_drawn, in_split
from environments.haystack.tasks.task import NONE

LOOKUP, FOLLOW, NAMES, ABSENT = "lookup", "follow", "names", "absent"
WEIGHTS = {LOOKUP: 5, FOLLOW: 2, NAMES: 2, ABSENT: 2}
LONGEST_CHAIN = 4  # entries that refer to another, one behind the other
CHAINED = 0.25  # of what a register with references holds beside what is asked for, chains
PLAIN = 0.5  # of the registers have no entry that refers to another
BREAKS = ("\n", " ")  # between entries
EXAMPLE = 0.25  # of the registers stand behind a short one with a question and its answer, as few-shot prompts have
EXAMPLE_ENTRIES = (2, 6)  # or chains, beside that of its question

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
)
VALUE_OF = (
    "What is the entry of {k}?",
    "Which value does {k} have?",
    "What stands in the list for {k}?",
    "Look up {k}: what does it come to?",
    "Give the value that belongs to {k}.",
)
ALL_OF = (
    "Which keys come to {v}, by themselves or over others?",
    "List every key whose value is {v}, also those that refer to another key.",
    "Name all that have {v} in the end.",
)


def _words(rng: Random) -> str:
    return "-".join(rng.sample(WORDS, 2))


def _code(rng: Random) -> str:
    return f"{''.join(rng.choices('ABCDEFGHJKLMNPRSTUVWXYZ', k=3))}{rng.randrange(10_000):04}"


def _letters(rng: Random) -> str:
    return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5))


def _digits(rng: Random) -> str:
    return str(rng.randrange(1_000_000, 10_000_000))  # of one length: none begins as another


KINDS: dict[str, Callable[[Random], str]] = {
    "words": _words,
    "codes": _code,
    "letters": _letters,
    "numbers": _digits,
    "identifiers": VALUE_KINDS["uuids"].draw,
}


class Register:
    """Draws one register: its form, kinds of keys and values, questions, and entries beside these.

    Keys and values are all different, and of the training split. `entries`: those that questions rest on. `example`: what
    stands before the register, "" for nothing.
    """

    def __init__(self, rng: Random):
        self.rng, self.form, self.between = rng, rng.choice(FORMS), rng.choice(BREAKS)
        self.keys, self.values = (rng.choice([*KINDS.values()]) for _ in range(2))
        self.refers = rng.random() >= PLAIN
        self.entries: list[str] = []
        self._used: set[str] = set()
        self.example = self._example()

    def questions(self, count: int, may_abstain: bool) -> list[ReaderQuestion]:
        """Return `count` questions in random order, and add the entries that they rest on."""
        kinds = [kind for kind in WEIGHTS if self._asks(kind, may_abstain)]
        drawn = self.rng.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=count)
        return [self._question(kind) for kind in drawn]

    def _asks(self, kind: str, may_abstain: bool) -> bool:
        return may_abstain if kind == ABSENT else self.refers or kind == LOOKUP

    def more(self) -> list[str]:
        """Return an entry, or a chain of them, that nothing asks for."""
        links = self.rng.randint(1, LONGEST_CHAIN) if self.refers and self.rng.random() < CHAINED else 0
        return self._chain(links)[2]

    def text(self, filler: list[str]) -> str:
        """Return all entries in random order, those of the questions among `filler`, behind the example if there is one."""
        return self.example + self._listed([*self.entries, *filler])

    def _listed(self, entries: list[str]) -> str:
        return self.between.join(self.rng.sample(entries, len(entries)))

    def _example(self) -> str:
        """Return a short register of the same form with a question and its answer. Its keys stand nowhere else."""
        if self.rng.random() >= EXAMPLE:
            return ""
        [question] = self.questions(1, may_abstain=False)
        others = [entry for _ in range(self.rng.randint(*EXAMPLE_ENTRIES)) for entry in self.more()]
        text, self.entries = self._listed([*self.entries, *others]), []
        return f"{text}\n{question.text} {question.answer}\n\n"

    def _question(self, kind: str) -> ReaderQuestion:
        if kind == ABSENT:
            return ReaderQuestion(kind, self._ask(VALUE_OF, self._new(self.keys)), NONE, 0)
        links = 0 if kind == LOOKUP else self.rng.randint(1, LONGEST_CHAIN)
        keys, value, entries = self._chain(links)
        self.entries += entries
        if kind == NAMES:
            text = self.rng.choice(ALL_OF).format(v=value)
            return ReaderQuestion(kind, text, "; ".join(keys), 0, several=True)
        steps = tuple(reversed(keys[:-1]))
        return ReaderQuestion(kind, self._ask(VALUE_OF, keys[-1]), value, 0, 1 + links, steps)

    def _ask(self, wordings: tuple[str, ...], key: str) -> str:
        return self.rng.choice(wordings).format(k=key)

    def _chain(self, links: int) -> tuple[list[str], str, list[str]]:
        """Return keys, each of which refers to the one before it, the value of the first, and their entries."""
        keys, value = [self._new(self.keys) for _ in range(links + 1)], self._new(self.values)
        told, refers = self.form
        pairs = zip(keys[1:], keys, strict=False)
        return keys, value, [told.format(k=keys[0], v=value), *(refers.format(k=k, t=t) for k, t in pairs)]

    def _new(self, draw: Callable[[Random], str]) -> str:
        """Draw a name that is not in the register yet."""
        name = first_drawn(lambda: draw(self.rng), self._is_new, "an entry of a register")
        self._used.add(name)
        return name

    def _is_new(self, name: str) -> bool:
        return name not in self._used and in_split(name, SPLIT)
