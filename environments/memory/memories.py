"""The memories that a server offers: every document of a `lift serve` is a model, chosen by its name in each request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from environments.inference.preflight import served_models
from environments.memory.questions import Document
from longthread.errors import ConfigError
from longthread.files import JsonObject

NAMED = 5  # names that a refusal lists
QUESTION = "{question}"  # in the frame that a server states


@dataclass(frozen=True)
class Memory:
    """A document's memory as its server states it: the model's name, the frame of questions, and what it cost.

    The frame is the message that asks the memory a question; empty where the server states none.
    `digest`: SHA-256 of the text that was remembered. What the server does not state is empty or None.
    """

    name: str
    frame: str = ""
    digest: str = ""
    stored_bytes: int | None = None
    seconds: float | None = None  # to make it

    @classmethod
    def of(cls, card: JsonObject) -> "Memory":
        """Return the memory of a model's entry in the server's list."""

        def text(name: str, needed: str = "") -> str:
            value = card.get(name)
            return value if isinstance(value, str) and needed in value else ""

        size, seconds = card.get("bytes"), card.get("seconds")
        return cls(
            str(card.get("id")),
            text("ask_frame", QUESTION),
            text("digest"),
            size if isinstance(size, int) and size > 0 else None,
            float(seconds) if isinstance(seconds, int | float) else None,
        )

    def message(self, question: str) -> str:
        """Return the message that asks a question. Empty where there is no frame."""
        before, _, after = self.frame.rpartition(QUESTION)
        return f"{before}{question}{after}" if self.frame else ""


async def served_memories(url: str, api_key: str | None) -> dict[str, Memory]:
    """Return the memories of a server by name, its base model among them. Raises `ConfigError` where it cannot be asked."""
    cards = await served_models(url, api_key)
    return {memory.name: memory for memory in map(Memory.of, cards)}


def check_names(memories: Mapping[str, Memory], names: Iterable[str], url: str) -> None:
    """Raise `ConfigError` unless there is a memory of each document of these names."""
    missing = [name for name in dict.fromkeys(names) if name not in memories]
    if not missing:
        return
    known = ", ".join(map(repr, list(memories)[:NAMED])) or "none"
    more = f" and {len(memories) - NAMED} more" if len(memories) > NAMED else ""
    others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    raise ConfigError(
        f"{url} has no memory of document {missing[0]!r}{others}; its models are {known}{more}: write the documents with the "
        "command documents, have lift fit remember them, and lift serve their library",
        setting=("memory_url", "modes"),
    )


def check_text(memory: Memory, document: Document, url: str) -> None:
    """Raise `ConfigError` if the memory is of another text; a server that does not state which is taken at its word."""
    if memory.digest and memory.digest != document.digest:
        raise ConfigError(
            f"the memory {memory.name!r} at {url} is of another text ({memory.digest[:12]}, not {document.digest[:12]}): "
            "have lift fit remember the document as the command documents writes it",
            setting=("memory_url", "modes"),
        )
