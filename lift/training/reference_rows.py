"""What the queries are read from that a compact memory is fitted to: token rows about one segment of a document.

- Asked: questions of tasks with their answers, whose evidence stands in the segment, or that have none.
- Again: the segment itself, as the reply to "Repeat the text.", piece by piece.
- Quiet: fiction, other prompts, and questions of other segments; the segment should not change what is said of these.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from random import Random

from lift import tasks
from lift.document.document import Span
from lift.inference.generate import chat
from lift.tasks import Item
from lift.training.batches import AnswerEncoder
from lift.training.job import FitJob
from lift.training.regularization import other_prompts, prose_rows
from longthread.language_model import CausalLM

PROPORTIONS = {"needle": 4, "linked": 2, "absent": 1}  # of the questions; any other task has 3
AGAIN = "Repeat the text."
PIECE = 1024  # tokens of the segment that are read again at a time
PROSE_TOKENS, PROMPT_TOKENS = 640, 96  # of a row, about


class ReferenceRows:
    """Makes reference rows for the segments of one document. `segments` is their number."""

    def __init__(self, job: FitJob, model: CausalLM, encoder: AnswerEncoder, segments: int):
        self.job, self.encoder = job, encoder
        recipe, seed = job.recipe, job.options.seed
        made = tasks.make(job.document, recipe.tasks, segments * recipe.items, seed, "train")
        self.items = in_proportion([*made, *job.options.questions])
        self.spans = [[encoder.spans.span(span) for span in item.evidence] for item in self.items]
        prose = prose_rows(job.tokenizer, 1 + recipe.queries // (3 * PROSE_TOKENS), seed)
        self.prose = [list(row.ids) for row in prose]
        self.prompts = other_prompts(job.tokenizer, 1 + recipe.queries // (3 * PROMPT_TOKENS), seed)

    def asked(self, segment: range, tokens: int) -> list[list[int]]:
        """Return rows of questions about the segment, of at least `tokens` tokens if there are so many."""
        return self._rows((i for i, spans in enumerate(self.spans) if _within(spans, segment)), tokens)

    def again(self, segment: range) -> list[list[int]]:
        """Return rows of the whole segment behind a request to repeat it."""
        prompt = chat(self.job.tokenizer, self.job.document.name, AGAIN)
        starts = range(segment.start, segment.stop, PIECE)
        return [[*prompt, *self.job.ids[start : min(start + PIECE, segment.stop)]] for start in starts]

    def quiet(self, segment: range, tokens: int) -> list[list[int]]:
        """Return rows of other things, of each kind in turn, of at least `tokens` tokens if there are so many."""
        elsewhere = [i for i, spans in enumerate(self.spans) if spans and not _touches(spans, segment)]
        Random(f"elsewhere {self.job.options.seed} {segment}").shuffle(elsewhere)
        kinds = (self.prose, self.prompts, self._rows(elsewhere, tokens // 3))
        return _up_to(tokens, (row for row in chain.from_iterable(zip_longest(*kinds)) if row))

    def questions(self, segment: range) -> list[Item]:
        """Return the questions whose evidence stands in the segment, or that have none."""
        return [item for item, spans in zip(self.items, self.spans, strict=True) if _within(spans, segment)]

    def _rows(self, numbers: Iterable[int], tokens: int) -> list[list[int]]:
        return _up_to(tokens, (list(self.encoder.row(self.items[i]).ids) for i in numbers))


def in_proportion(items: Sequence[Item]) -> list[Item]:
    """Return the items interleaved, so that the first of them hold each kind in its proportion and in its own order."""
    counts: Counter[str] = Counter()
    keys = []
    for item in items:
        keys.append(counts[item.kind] / PROPORTIONS.get(item.kind, 3))
        counts[item.kind] += 1
    return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i])]


def _up_to(tokens: int, rows: Iterable[list[int]]) -> list[list[int]]:
    """Return the first rows that have `tokens` tokens together, or all."""
    taken: list[list[int]] = []
    total = 0
    for row in rows:
        if total >= tokens:
            break
        taken.append(row)
        total += len(row)
    return taken


def _within(spans: Sequence[Span], segment: range) -> bool:
    return all(segment.start <= first and behind <= segment.stop for first, behind in spans)


def _touches(spans: Sequence[Span], segment: range) -> bool:
    return any(first < segment.stop and segment.start < behind for first, behind in spans)
