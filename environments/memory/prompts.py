"""What the model is shown of a document in each single mode: the text, passages of it, or nothing beside a memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from environments.haystack.options import Options
from environments.haystack.prompt import Prompt
from environments.haystack.tokens import BREAK, Tokens
from environments.memory.config import CONTEXT, WEIGHTS
from environments.memory.memories import Memory
from environments.memory.questions import Document, Question
from environments.retrieval.chunking import Chunk, Span
from environments.retrieval.ordering import ordered
from environments.retrieval.ranking import Hit
from longthread.errors import ConfigError

LOOKED_UP_INSTRUCTION = (
    "The passages below were looked up in a longer text, for the question that follows them. Read them. Then answer it."
)
BETWEEN = f"{BREAK}* * *{BREAK}"  # two passages
CORRECTIONS = 8  # cuts tried, where the tokens of a cut text are not the sum of its parts'


@dataclass(frozen=True)
class Prepared:
    """A prompt in one mode: its messages and tokens, the passages in it, and how many tokens of the text were cut out.

    Of a text that was cut, the passages are the two ends that were kept.
    """

    messages: list[dict[str, str]]
    tokens: list[int]
    passages: tuple[Chunk, ...] = ()
    cut_tokens: int = 0


class Prompts:
    """Writes prompts for one tokenizer and one set of options.

    `reply`: tokens kept for it in the window. `order`: of passages, one of `retrieval.ordering.ORDERS`. `looked_up`: what
    stands before passages.
    """

    def __init__(
        self, tokens: Tokens, options: Options, reply: int, order: str, looked_up: str = LOOKED_UP_INSTRUCTION
    ):
        self.tokens, self.reply, self.order, self.looked_up = tokens, reply, order, looked_up
        self.instruction = Prompt(tokens, options).instruction

    def prepare(
        self, question: Question, mode: str, window: int, hits: Sequence[Hit] = (), memory: Memory | None = None
    ) -> Prepared:
        """Return the prompt of a question in a single mode. `window`: tokens of prompt and reply at most; 0: any number.

        A text that does not fit is cut in its middle, and the prompt says so. Of the hits, best first, those that do not fit
        are left out, the worst first. Raises `ConfigError` where not even the question fits.
        """
        if mode == CONTEXT:
            return self._context(question, window)
        if mode == WEIGHTS:
            return self._checked(self._encoded(self._remembered(question, memory)), window)
        kept = len(hits)
        while True:
            passages = tuple(hit.chunk for hit in ordered(hits[:kept], self.order))
            prepared = self._encoded(self._with_passages(question, passages))
            if not window or len(prepared.tokens) + self.reply <= window or not kept:
                return replace(self._checked(prepared, window), passages=passages)
            kept -= 1

    def _encoded(self, content: str) -> Prepared:
        messages = [{"role": "user", "content": content}]
        return Prepared(messages, self.tokens.encode(self.tokens.render(messages)))

    def _checked(self, prepared: Prepared, window: int) -> Prepared:
        if window and (needed := len(prepared.tokens) + self.reply) > window:
            raise ConfigError(
                f"a question and its reply take {needed:,} tokens, more than the window of {window:,}: serve the model "
                "with a longer one, or ask for shorter replies",
                setting=("window", "max_new_tokens"),
            )
        return prepared

    # ---- the text itself ----

    def _context(self, question: Question, window: int) -> Prepared:
        sample = question.sample
        rendered = self.tokens.render(sample.messages)
        exact = sample.recipe["version"] > 0  # a generated haystack, whose prompt has the length that was asked for
        ids = self.tokens.encode_prompt(rendered, sample.length) if exact else self.tokens.encode(rendered)
        if not window or len(ids) + self.reply <= window:
            return Prepared(sample.messages, ids)
        bare = self._checked(self._encoded(self._content(self._mark(0), question)), window)
        document = question.document
        offsets = self.tokens.offsets(document.text)[1]
        kept = window - self.reply - len(bare.tokens)
        for _ in range(CORRECTIONS):
            ends = _both_ends(document, offsets, max(0, kept))
            cut = len(offsets) - max(0, kept)
            texts = [*(end.text for end in ends[:1]), self._mark(cut), *(end.text for end in ends[1:])]
            prepared = replace(self._encoded(self._content(BREAK.join(texts), question)), passages=ends, cut_tokens=cut)
            excess = len(prepared.tokens) + self.reply - window
            if excess <= 0:
                break
            kept -= excess
        return self._checked(prepared, window)

    @staticmethod
    def _mark(cut: int) -> str:
        return f"[Here {cut:,} tokens of the text are left out.]"

    def _content(self, text: str, question: Question) -> str:
        return BREAK.join([self.instruction, text, question.asked])

    # ---- passages, and memories ----

    def _with_passages(self, question: Question, passages: Sequence[Chunk]) -> str:
        text = BETWEEN.join(chunk.text.strip() for chunk in passages) or "(No passage was found.)"
        return BREAK.join([self.looked_up, text, question.asked])

    @staticmethod
    def _remembered(question: Question, memory: Memory | None) -> str:
        return (memory and memory.message(_request(question))) or question.asked


def _both_ends(document: Document, offsets: Sequence[Span], kept: int) -> tuple[Chunk, ...]:
    """Return the beginning and the end of a document, half of `kept` tokens each; none where nothing is kept."""
    last = kept // 2
    first = kept - last
    spans = [(0, offsets[first - 1][1], first)] if first else []
    spans += [(offsets[len(offsets) - last][0], len(document.text), last)] if last else []
    return tuple(Chunk(document.text[start:end], start, end, n, document.name) for start, end, n in spans)


def _request(question: Question) -> str:
    """Return a question with the form of its reply in one line, as a memory's frame takes it."""
    return f"{question.sample.question} {question.form}".strip()
