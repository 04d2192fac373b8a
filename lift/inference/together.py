"""Several compact memories asked together: what is open at a question, its answer, and where in which text that stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lift.inference import steps
from lift.inference.citation import Citation, check_sources, cite
from lift.inference.generate import answers
from lift.inference.hops import Answered
from lift.inference.routing import Place, Router, check_open
from lift.inference.switch import Switch
from lift.library.attach import Attached
from lift.library.compact_store import CompactStore
from lift.library.library import Library
from lift.library.tables import shown
from longthread.language_model import ChatTokenizer


@dataclass(frozen=True)
class Session:
    """A question with the model that answers it: the `Reader` of `hops`.

    `stepwise`: questions are asked step by step where a memory is open. Where none is, the prompt is the base model's own.
    """

    router: Router
    attached: Attached
    tokenizer: ChatTokenizer
    window: str
    stepwise: bool = False

    def search(self, question: str) -> list[Place]:
        """Return the segments that have something to say to the question, the best first."""
        return self.router.search(question)

    def answer(self, question: str, places: Sequence[Place]) -> str:
        """Return the reply with these segments open; with none it is the base model's own."""
        return self.answers([question], places)[0]

    def names(self, question: str, places: Sequence[Place]) -> str:
        """Return the reply to a question that asks for names alone, never step by step."""
        return self._replies(
            [self._asked(question, places, stepwise=False)], places, steps.reply_tokens(stepwise=False)
        )[0]

    def answers(self, questions: Sequence[str], places: Sequence[Place], new_tokens: int | None = None) -> list[str]:
        """Return the replies to several questions with the same segments open, of at most `new_tokens` tokens."""
        prompts = [self.prompt(question, places) for question in questions]
        return self._replies(prompts, places, new_tokens or steps.reply_tokens(self.in_steps(places)))

    def prompt(self, question: str, places: Sequence[Place]) -> list[int]:
        """Return the prompt: step by step, or with the names of the documents that are open."""
        return self._asked(question, places, self.in_steps(places))

    def in_steps(self, places: Sequence[Place]) -> bool:
        """Return whether a question is asked step by step with these segments open."""
        return self.stepwise and bool(places)

    def _asked(self, question: str, places: Sequence[Place], stepwise: bool) -> list[int]:
        names = dict.fromkeys(place.document for place in places)
        return steps.prompt(self.tokenizer, '" and "'.join(names), question, self.window, stepwise)

    def _replies(self, prompts: Sequence[list[int]], places: Sequence[Place], new_tokens: int) -> list[str]:
        model = self.attached.model
        if not places:
            with model.disable_adapter():
                return answers(model, self.tokenizer, prompts, new_tokens)
        by_document: dict[str, list[int]] = {}
        for place in places:
            by_document.setdefault(place.document, []).append(place.segment)
        self.attached.switch(list(by_document))
        for name, segments in by_document.items():
            self.attached.open_segments(name, segments)
        return answers(model, self.tokenizer, prompts, new_tokens)

    def cited(self, question: str, result: Answered) -> Citation | None:
        """Return the sentence that an answer stands on; None where nothing can be cited."""
        prompt = self.prompt(question, result.places)
        reply = self.tokenizer(result.reply, add_special_tokens=False)["input_ids"]
        return cite(self.attached, self.router.stores, result.places, prompt, reply)

    def citation(self, question: str, result: Answered) -> str:
        """Return the line that says where the answer stands; "" where nothing can be cited."""
        found = self.cited(question, result)
        if found is None:
            return ""
        name, segment = found.place
        start, end = found.characters
        return (
            f"[{shown(name)}: segment {segment + 1} of {self.router.stores[name].segments}, sentence {found.sentence + 1}, "
            f"characters {start:,} to {end:,}, {100 * found.share:.0f} % of what the answer attends to]"
        )


@dataclass(frozen=True)
class Together:
    """Documents of recipe `compact` that may be open together, at most `most` of them at a search.

    `always`: whatever their switches say.
    """

    stores: Mapping[str, CompactStore]
    switches: Mapping[str, Switch | None]
    most: int
    always: bool = False

    @classmethod
    def read(
        cls, shelf: Library, names: Sequence[str], most: int, cited: bool = False, chosen: bool = False
    ) -> "Together":
        """Return the documents of these names. Raises `ConfigError` where they cannot be asked like this, or cited.

        `chosen`: whoever asks named them, so they are open whatever their switches say, unless these are more than `most`.
        """
        folders = {name: shelf.path(shelf.get(name)) for name in names}
        stores = {name: CompactStore(folder) for name, folder in folders.items()}
        switches = {name: Switch.load(folder) for name, folder in folders.items()}
        check_open(switches, most)
        if cited:
            check_sources(stores)
        return cls(stores, switches, most, always=chosen and len(names) <= most)

    @property
    def segments(self) -> int:
        """Return how many segments all documents have together."""
        return sum(store.segments for store in self.stores.values())

    def session(
        self, attached: Attached, tokenizer: ChatTokenizer, window: str = "", stepwise: bool = False
    ) -> Session:
        """Return the documents with the model that they are attached to, and a text to put before each question."""
        router = Router(attached.model, tokenizer, self.stores, self.switches, self.most, always=self.always)
        return Session(router, attached, tokenizer, window, stepwise)
