"""Which rows are made: of each kind its share, of each length on the ladder as many as of any other.

A row is filled: of a length below the longest it holds several pieces, which do not see each other. A step of training costs
a small model the same launches whatever its row's length, so a short row by itself would waste most of it.
"""

from dataclasses import dataclass, field
from random import Random

from environments.datasets.reader_rows.questions import GAP_KINDS, WEIGHTS, WORDINGS
from longthread.errors import ConfigError

FORMS = ("tags", "plain")  # of questions: the environments' and that of `lift ask`
LEAST = 512  # tokens of a row
MOST_QUESTIONS = 256
MOST_PIECES = 8  # of a row: each tail behind documents read apart is a call of attention in every layer
SHORT_TEXT = (2048, 8192)  # tokens of short texts, at most as many as the longest row has
CONVERSATION = 1024  # tokens of rows of conversations
POSE_LENGTH = 8192  # tokens of rows whose positions skip ahead: a small model's step costs hardly less below


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide what the rows are. Lengths in tokens; shares of all rows."""

    count: int
    shortest: int = 2048
    longest: int = 32_768
    parallel: float = 1 / 3  # rows of several documents read apart
    ordinary: float = 0.1  # rows of plain text
    questions: int = 96  # of a piece, at most
    kinds: tuple[str, ...] = field(default=tuple(WEIGHTS))
    forms: tuple[str, ...] = FORMS
    wordings: str = "train"
    seed: int = 0
    registers: float = 0.0  # rows of look-ups among entries of one form
    short_texts: int = 0  # further rows, of a short plain text each: rows as long as a new window teach no short text
    conversations: int = 0  # further rows, of conversations alone, which then stand in no other row
    pose: int = 0  # further rows of `pose_length` tokens whose positions skip ahead, as far as the longest reach
    pose_length: int = POSE_LENGTH
    lexical_gap: float = 0.0  # of the questions about facts and links: about people whom they describe in other words

    @property
    def rows(self) -> int:
        """Return how many rows there are in all."""
        return self.count + self.short_texts + self.conversations + self.pose

    @property
    def least(self) -> int:
        """Return the tokens of the shortest rows that hold questions."""
        return min([self.shortest] * bool(self.count) + [self.pose_length] * bool(self.pose))

    @property
    def most(self) -> int:
        """Return the tokens of the longest rows."""
        if self.count:
            return self.longest
        short = short_lengths(self.longest)[-1] if self.short_texts else 0
        return max(self.pose_length, short, self.conversation_length if self.conversations else 0)

    @property
    def conversation_length(self) -> int:
        """Return the tokens of rows of conversations alone, at most."""
        return min(CONVERSATION, self.longest)

    def check(self) -> None:
        """Raise `ConfigError` for settings that no rows can have."""
        for name, low, high in (
            ("count", 0 if self.pose else 1, None),
            ("shortest", LEAST if self.count else 0, None),
            ("pose", 0, None),
            ("pose_length", LEAST if self.pose else 0, None),
            ("questions", 1, MOST_QUESTIONS),
            ("parallel", 0, 1),
            ("ordinary", 0, 1),
            ("registers", 0, 1),
            ("lexical_gap", 0, 1),
            ("short_texts", 0, None),
            ("conversations", 0, None),
        ):
            value = getattr(self, name)
            if not low <= value or (high is not None and not value <= high):
                limit = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ConfigError(f"{name} must be {limit} (got {value})", setting=name)
        if self.count and self.longest < self.shortest:
            raise ConfigError(
                f"longest {self.longest} must be at least shortest, {self.shortest}", setting=("longest", "shortest")
            )
        shares = {name: share for name in ("parallel", "ordinary", "registers") if (share := getattr(self, name))}
        if sum(shares.values()) > 1:
            said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            raise ConfigError(f"{said} must not be more than 1 together", setting=tuple(shares))
        if self.pose and self.pose_length >= self.longest:
            raise ConfigError(
                f"pose_length {self.pose_length} must be below longest, {self.longest}, as far as positions skip ahead",
                setting=("pose_length", "longest"),
            )
        if self.pose and self.parallel:
            raise ConfigError(
                f"parallel {self.parallel:.3g} must be 0 with pose: both say by positions that skip what a row is",
                setting=("parallel", "pose"),
            )
        self._check_choices()

    def _check_choices(self) -> None:
        for name, choices in (("kinds", tuple(WEIGHTS)), ("forms", FORMS)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given) or set(given) - set(choices):
                got = ", ".join(given)
                raise ConfigError(f"{name} must be some of {', '.join(choices)}, each once (got {got!r})", setting=name)
        if self.lexical_gap and not set(self.kinds) & set(GAP_KINDS):
            raise ConfigError(
                f"lexical_gap {self.lexical_gap} needs one of the kinds {', '.join(GAP_KINDS)}: add one, or leave it out",
                setting=("lexical_gap", "kinds"),
            )
        if self.wordings not in WORDINGS:
            raise ConfigError(
                f"wordings must be one of {', '.join(WORDINGS)} (got {self.wordings!r})", setting="wordings"
            )


@dataclass(frozen=True)
class RowPlan:
    """One row to make. `kind`: "document", "parallel", "text", "register" or "chat"."""

    number: int
    kind: str
    length: int  # tokens of a piece: never more
    form: str
    pieces: int = 1
    reach: int = 0  # positions that a piece's skip stays below; 0: it has none


def ladder(shortest: int, longest: int) -> list[int]:
    """Return the lengths from the shortest to the longest, each twice the one before; the longest in any case."""
    lengths = []
    while shortest < longest:
        lengths.append(shortest)
        shortest *= 2
    return [*lengths, longest]


def short_lengths(longest: int) -> list[int]:
    """Return the lengths of short texts beside rows of up to `longest` tokens."""
    low, high = (min(length, longest) for length in SHORT_TEXT)
    return ladder(low, high)


def plan(settings: RowSettings) -> list[RowPlan]:
    """Return all rows in random order."""
    lengths, forms = ladder(settings.shortest, settings.longest), settings.forms
    rows = [
        (kind, length := lengths[i % len(lengths)], forms[i // len(lengths) % len(forms)], _pieces(settings, length), 0)
        for kind, count in _by_kind(settings, settings.count)
        for i in range(count)
    ]
    rows += [
        (kind, settings.pose_length, forms[i % len(forms)], 1, settings.longest)
        for kind, count in _by_kind(settings, settings.pose)
        for i in range(count)
    ]
    short = short_lengths(settings.longest)
    rows += [("text", short[i % len(short)], forms[0], 1, 0) for i in range(settings.short_texts)]
    rows += [("chat", settings.conversation_length, forms[0], 1, 0)] * settings.conversations
    Random(f"reader rows {settings.seed}").shuffle(rows)
    return [RowPlan(number, *row) for number, row in enumerate(rows)]


def _by_kind(settings: RowSettings, rows: int) -> list[tuple[str, int]]:
    """Return how many of so many rows are of each kind."""
    kinds, left = [], rows
    for kind, share in (("parallel", settings.parallel), ("text", settings.ordinary), ("register", settings.registers)):
        kinds.append((kind, min(left, round(rows * share))))
        left -= kinds[-1][1]
    return [("document", left), *kinds]


def _pieces(settings: RowSettings, length: int) -> int:
    return min(MOST_PIECES, settings.longest // length)
