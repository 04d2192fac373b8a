"""What the queries are read from that a compact memory is fitted to: rows about one segment of a document.

- Asked: questions of tasks with their answers, whose evidence stands in the segment, or that have none.
- Again: the segment itself, as the reply to "Repeat the text.", piece by piece.
- Quiet: fiction, other prompts, and questions of the segment before; the segment should not change what is said of these.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from random import Random

from lift import tasks
from lift.document.document import Document, Span
from lift.inference.generate import chat
from lift.memory.reference_queries import ReferenceRow
from lift.tasks import Item
from lift.training.batches import AnswerEncoder
from lift.training.job import FitJob
from lift.training.regularization import other_prompts, prose_rows

PROPORTIONS = {"needle": 4, "linked": 2, "absent": 1}  # of the questions; any other task has 3
AGAIN = "Repeat the text."
PIECE = 1024  # tokens of the segment that are read again at a time
PROSE_TOKENS, PROMPT_TOKENS = 640, 96  # of a row, about


class ReferenceRows:
    """Makes reference rows for the segments of one document, with questions made of one segment at a time.

    A segment's rows depend on its own text and on that of the segment before it alone.
    """

    def __init__(self, job: FitJob, encoder: AnswerEncoder, segments: Sequence[range]):
        self.job, self.encoder, self.segments = job, encoder, list(segments)
        recipe, seed = job.recipe, job.options.seed
        self._made: dict[range, list[Item]] = {}  # of the last two segments
        prose = prose_rows(job.tokenizer, 1 + recipe.queries // (3 * PROSE_TOKENS), seed)
        self.prose = [ReferenceRow(row.ids, row.predicted_at) for row in prose]
        prompts = other_prompts(job.tokenizer, 1 + recipe.queries // (3 * PROMPT_TOKENS), seed)
        self.prompts = [ReferenceRow(ids, range(1, len(ids))) for ids in prompts]

    def questions(self, segment: range) -> list[Item]:
        """Return the questions of a segment, with characters of the whole document as evidence."""
        if segment not in self._made:
            document, first = self.job.document, 0
            if len(self.segments) > 1:
                first, behind = self.encoder.spans.characters((segment.start, segment.stop))
                document = Document(document.name, document.text[first:behind])
            recipe = self.job.recipe
            made = tasks.make(document, recipe.tasks, recipe.items, self.job.options.seed, "train")
            moved = [replace(item, evidence=tuple((first + a, first + b) for a, b in item.evidence)) for item in made]
            self._made = dict([*self._made.items()][-1:])
            self._made[segment] = in_proportion([*moved, *self.studied(segment)])
        return self._made[segment]

    def studied(self, segment: range) -> list[Item]:
        """Return the questions of self-study whose evidence stands in the segment."""
        return [item for item in self.job.options.questions if _within(self._spans(item), segment)]

    def asked(self, segment: range, tokens: int) -> list[ReferenceRow]:
        """Return rows of questions about the segment, of at least `tokens` tokens if there are so many; answers matter."""
        return self._rows((item for item in self.questions(segment) if _within(self._spans(item), segment)), tokens)

    def again(self, segment: range) -> list[ReferenceRow]:
        """Return rows of the whole segment behind a request to repeat it; all that is repeated matters."""
        prompt = chat(self.job.tokenizer, self.job.document.name, AGAIN)
        starts = range(segment.start, segment.stop, PIECE)
        pieces = [self.job.ids[start : min(start + PIECE, segment.stop)] for start in starts]
        first = len(prompt) - 1
        return [ReferenceRow([*prompt, *piece], range(first, first + len(piece))) for piece in pieces]

    def quiet(self, segment: range, tokens: int) -> list[ReferenceRow]:
        """Return rows of other things, of each kind in turn, of at least `tokens` tokens if there are so many."""
        number = self.segments.index(segment)
        before = self.questions(self.segments[number - 1]) if number else []
        elsewhere = [item for item in before if item.evidence and not _touches(self._spans(item), segment)]
        Random(f"elsewhere {self.job.options.seed} {segment}").shuffle(elsewhere)
        kinds = (self.prose, self.prompts, self._rows(elsewhere, tokens // 3))
        return _up_to(tokens, (row for row in chain.from_iterable(zip_longest(*kinds)) if row))

    def _rows(self, items: Iterable[Item], tokens: int) -> list[ReferenceRow]:
        rows = (self.encoder.row(item) for item in items)
        return _up_to(tokens, (ReferenceRow(row.ids, row.predicted_at) for row in rows))

    def _spans(self, item: Item) -> list[Span]:
        return [self.encoder.spans.span(span) for span in item.evidence]


def in_proportion(items: Sequence[Item]) -> list[Item]:
    """Return the items interleaved, so that the first of them hold each kind in its proportion and in its own order."""
    counts: Counter[str] = Counter()
    keys = []
    for item in items:
        keys.append(counts[item.kind] / PROPORTIONS.get(item.kind, 3))
        counts[item.kind] += 1
    return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i])]


def _up_to(tokens: int, rows: Iterable[ReferenceRow]) -> list[ReferenceRow]:
    """Return the first rows that have `tokens` tokens together, or all."""
    taken: list[ReferenceRow] = []
    total = 0
    for row in rows:
        if total >= tokens:
            break
        taken.append(row)
        total += len(row.ids)
    return taken


def _within(spans: Sequence[Span], segment: range) -> bool:
    return all(segment.start <= first and behind <= segment.stop for first, behind in spans)


def _touches(spans: Sequence[Span], segment: range) -> bool:
    return any(first < segment.stop and segment.start < behind for first, behind in spans)
