"""The documents of a library as models of a server: a request's model name says which memories its row of a batch has on.

    served = ServedDocuments(Library(Path("books")), model, "SmolLM2", ["emma", "persuasion"])
    engine = Engine(model, eos_ids, forward=served.forward)
    engine.submit(prompt, sampling, served.variant(["emma"], question))

"emma+persuasion", or both names in a list, opens two documents at once. Rows of different documents, and of none, run in one
batch: gated memories are mixed row by row, LoRA adapters by PEFT's own mixed batches.
"""

from collections.abc import Hashable, Sequence
from typing import Any, cast

import torch
from peft.utils import PeftType

from environments.haystack import document_prompt
from environments.inference.embedded.protocol import RequestError
from lift.library import segment_terms
from lift.library.attach import Attached, method
from lift.library.library import Entry, Library
from lift.memory.tuner import METHOD, OpenMemory, layers, open_rows
from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.language_model import CausalLM, ModelOutput

LOADED = 64  # documents whose adapters stay in memory; the least recently used goes
LISTED = 5  # names that a refusal lists
JOIN = "+"
BASE_ROW = "__base__"  # PEFT's name for a row without an adapter

Memories = tuple[OpenMemory, ...]


def served_method(library: Library, entries: Sequence[Entry]) -> str:
    """Return the PEFT method of all these documents. Raises `ConfigError` where one batch cannot hold them."""
    methods = {entry.name: method(library, entry).name for entry in entries}
    kinds = sorted(set(methods.values()))
    if len(kinds) > 1:
        raise ConfigError(
            f"{library.folder} has memories of types {' and '.join(kinds)}, which do not share a batch: "
            "name documents of one type",
            setting="document",
        )
    if kinds[0] != PeftType.LORA.value and not kinds[0].startswith(METHOD.upper()):
        raise ConfigError(
            f"{library.folder} has memories of type {kinds[0]}, which no mixed batch takes: ask them with lift ask, "
            "or name documents of another type",
            setting="document",
        )
    return kinds[0]


class ServedDocuments:
    """The variants of a base model that a library's documents are (`environments.inference.embedded.variants`).

    `names` are the documents that are served, all of the library's where it is None; then those added later are served as
    well. `model` gets their adapters. Raises `ConfigError` and `DataError` as `Attached` does.
    """

    def __init__(self, library: Library, model: CausalLM, base_name: str, names: Sequence[str] | None = None):
        self.library, self.base_name, self.names = library, base_name, names
        entries = self.entries()
        self._lora = served_method(library, entries) == PeftType.LORA.value
        self.attached = Attached(library, model, [entries[0].name])
        self._layers = layers(self.attached.model)
        self._entries = {entry.folder: entry for entry in entries}
        self._recent = [entries[0].folder]  # adapters that are loaded, the longest unused first

    def entries(self) -> list[Entry]:
        """Return the documents that are served, as the library has them now."""
        return [entry for entry in self.library.entries() if self.names is None or entry.name in self.names]

    def cards(self) -> list[JsonObject]:
        """Return for each document its name, what it was fitted from and what that cost, and the frames of `lift ask`."""
        return [
            {
                "id": entry.name, "parent": self.base_name, "recipe": entry.recipe, "tokens": entry.tokens,
                "ask_frame": (frame := document_prompt.request(entry.name, "{question}")),
                "ask_frame_with_text": document_prompt.behind_text("{text}", frame),
                "digest": entry.digest, "bytes": entry.bytes, "seconds": entry.seconds,
            }
            for entry in self.entries()
        ]  # fmt: skip

    def variant(self, names: Sequence[str], text: str) -> Hashable:
        """Return the memories that these names open for a question in `text`; the same choice gives equal ones.

        Of a document with several segments those are open that BM25 ranks highest for the question alone, whatever passages
        or frame the text has around it. Raises `RequestError`.
        """
        known = {entry.name: entry for entry in self.entries()}
        # A name with a "+" of its own is that document's, before it can be two.
        wanted = [part for name in names for part in ([name] if name in known else name.split(JOIN))]
        wanted = list(dict.fromkeys(wanted))
        if unknown := [name for name in wanted if name not in known]:
            raise RequestError(self._no_model(unknown[0], list(known)), 404, "model_not_found")
        if len(wanted) > 1 and (self._lora or not self.attached.several):
            raise RequestError(f"{JOIN.join(wanted)}: memories of this type are asked one at a time, name one document")
        try:
            return tuple(self._opened(known[name], document_prompt.question_in(text)) for name in wanted)
        except ConfigError as error:
            raise RequestError(error.line()) from None

    def _no_model(self, name: str, known: list[str]) -> str:
        shown = ", ".join(map(repr, [self.base_name, *known][:LISTED]))
        more = f" and {len(known) + 1 - LISTED} more" if len(known) >= LISTED else ""
        return (
            f"there is no model {name!r} here: it must be one of {shown}{more}, or several documents joined by {JOIN}"
        )

    def _opened(self, entry: Entry, question: str) -> OpenMemory:
        self.attached.check_fit(entry)
        self._entries[entry.folder] = entry
        best = segment_terms.best(self.library.path(entry), question, segment_terms.OPENED)
        return OpenMemory(entry.folder, None if best is None else tuple(best))

    def forward(self, variants: Sequence[Hashable], **inputs: Any) -> ModelOutput:
        """Run the model with each row's own memories on; a row of the base model (None) has none."""
        rows = [cast(Memories, variant or ()) for variant in variants]
        self._load([memory.adapter for row in rows for memory in row])
        model = cast(CausalLM, self.attached.model)
        if self._lora:
            return model(**inputs, adapter_names=[row[0].adapter if row else BASE_ROW for row in rows])
        with open_rows(self._layers, rows):
            return model(**inputs)

    def _load(self, adapters: Sequence[str]) -> None:
        """Load what is not loaded of these adapters, and drop the longest unused beyond `LOADED`."""
        for adapter in dict.fromkeys(adapters):
            if adapter in self._recent:
                self._recent.remove(adapter)
            else:
                with torch.inference_mode(False):
                    self.attached.load(self._entries[adapter])
            self._recent.append(adapter)
        while len(self._recent) > max(LOADED, len(set(adapters))):
            self.attached.unload(self._recent.pop(0))
