"""The words around a haystack: the instruction before it, the question and the form of the reply behind it."""

from collections.abc import Sequence

from environments.haystack.exact_fit import Frame
from environments.haystack.layout import LayoutError
from environments.haystack.options import Options
from environments.haystack.tasks.task import NONE, Quiz
from environments.haystack.tokens import BREAK, PLACEHOLDER, Tokens


class Prompt:
    """Writes prompts for one tokenizer and one set of options."""

    def __init__(self, tokens: Tokens, options: Options):
        self._tokens, self._options = tokens, options
        self._head_tokens: dict[str, int] = {}
        self.instruction = instruction(options)

    def question(self, quiz: Quiz) -> str:
        """Return the quiz's question, followed by the format in which to reply."""
        return with_reply_form(quiz, self._options)

    def content(self, haystack: str, question: str) -> str:
        """Return the user's message: instruction, haystack and question, with blank lines between them."""
        return BREAK.join([self.instruction, haystack, question])

    def bare_content(self, question: str) -> str:
        """Return the user's message without a text: instruction and question."""
        return BREAK.join([self.instruction, question])

    def frame(self, question: str, length: int) -> Frame:
        """Return what surrounds the haystack in a rendered prompt of `length` tokens, and how many of them are left for it.

        Raises `LayoutError` if none is left.
        """
        before, after = self._tokens.frame(self.content(PLACEHOLDER, question))
        before, after = before.removesuffix(BREAK), after.removeprefix(BREAK)
        if before not in self._head_tokens:
            self._head_tokens[before] = self._tokens.head(before)
        head = self._head_tokens[before]
        room = length - head - self._tokens.tail(after)
        if room <= 0:
            raise LayoutError(
                f"length {length} is too short: instructions and question alone take {length - room} tokens; "
                "ask for a longer prompt",
                setting="lengths",
            )
        return Frame(before, after, head, room, length)


def instruction(options: Options) -> str:
    """Return the sentences that stand before a haystack."""
    if options.no_context:
        return "The text that the question below is about is not given. Answer it all the same, by a guess."
    numbered = " Its passages are numbered." if options.numbered else ""
    return f"Read the text below.{numbered} Then answer the question that follows it."


def with_reply_form(quiz: Quiz, options: Options) -> str:
    """Return the quiz's question, followed by the format in which to reply."""
    tags = options.answer_format == "tags"
    form = "Reply with one line of this form and nothing else: <answer>...</answer>." if tags else ""
    if options.may_abstain:
        reply = f"reply <answer>{NONE}</answer>." if tags else f"reply: {NONE}."
        form += f" If the text does not say, {reply}"
    if quiz.hops > 1 and quiz.passed and not quiz.several and tags:
        form += (
            f" Before it, name the {quiz.passed} you passed on the way, in order and without the first, like this: "
            "<steps>...; ...</steps>."
        )
    if quiz.several:
        form = f"Separate the values by semicolons. {form}"
    if options.numbered:
        form += " Before it, cite the numbers of the passages you used, like this: <evidence>2, 7</evidence>."
    return f"Question: {quiz.question}\n{form.strip()}".strip()


def tagged_reply(answer: str, steps: Sequence[str] = ()) -> str:
    """Return a reply in tags: the people passed on the way, if any, then the answer."""
    tagged = f"<answer>{answer}</answer>"
    return f"<steps>{'; '.join(steps)}</steps> {tagged}" if steps else tagged
