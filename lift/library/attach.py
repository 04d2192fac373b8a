"""Attach documents of a library to their base model, and switch between them.

attached = Attached(Library(Path("books")), base_model, ["emma", "persuasion"])
attached.model                                           # a PEFT model, with the first document active
attached.switch("persuasion")                            # reads the disk only for a document not loaded yet
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from peft import PeftConfig, PeftModel, PromptLearningConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from peft.utils.other import AuxiliaryTrainingWrapper

from lift.library.base_model import check_recorded, fingerprint
from lift.library.compact_store import CompactStore, is_compact
from lift.library.files import CONFIG
from lift.library.library import Entry, Library, check_files
from lift.memory.tuner import METHOD, layers
from longthread.errors import ConfigError, DataError
from longthread.language_model import CausalLM

LOADED = 8  # adapters a model keeps; the least recently used goes


class Method(NamedTuple):
    """The PEFT method of a document's adapter. All documents attached to one model have the same method."""

    name: str  # PEFT's type, and the gate where there is one; or that it is a compact memory
    several: bool  # may be active at once
    compact: bool = False  # opened together, segment by segment


def method(library: Library, entry: Entry) -> Method:
    """Return the PEFT method of a document's adapter, from its config file. Raises `DataError`."""
    if is_compact(library.path(entry)):
        return Method(f"{METHOD.upper()}, compact", several=True, compact=True)
    with _stated_config(library, entry) as stated:
        kind = PeftType(stated["peft_type"])
        gate = str(stated["gate"]) if kind == METHOD.upper() else ""
    prompt = issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig)
    return Method(f"{kind.value} with gate {gate}" if gate else kind.value, several=not prompt and gate != "query")


def of_one_method(library: Library, names: Sequence[str]) -> list[Entry]:
    """Return the library entries of the named documents, whose adapters must be of one PEFT method.

    Reads files alone, no model. Raises `ConfigError` or `DataError` if the documents cannot share a model.
    """
    entries = [library.get(name) for name in dict.fromkeys(names)]
    if not entries:
        raise ConfigError(f"no document of {library.folder} was named: give at least one", setting="document")
    for entry in entries:
        check_files(library.path(entry), repr(entry.name))
    methods = [method(library, entry) for entry in entries]
    for entry, other in zip(entries, methods, strict=True):
        if other != methods[0]:
            raise ConfigError(
                f"{entry.name!r} is of type {other.name}, {entries[0].name!r} of {methods[0].name}: "
                "ask one at a time, or fit both with one recipe"
            )
    return entries


def slots(library: Library, entry: Entry) -> int:
    """Return how many positions of the context a document occupies: the slots of a cartridge, 0 for other methods."""
    with _stated_config(library, entry) as stated:
        return int(stated.get("num_virtual_tokens") or 0)


@contextmanager
def _stated_config(library: Library, entry: Entry) -> Iterator[Mapping[str, Any]]:
    """Give the content of an adapter's config file.

    Raises `DataError` if it cannot be read, or lacks a key that the `with` block looks up.
    """
    try:
        yield json.loads((library.path(entry) / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"{entry.name!r} has no readable {CONFIG} in {library.path(entry)}: fit it again") from None


class Attached:
    """A base model with documents attached. `model` is a PEFT model in eval mode, with the first of `names` active.

    Keeps at most `loaded` adapters, or as many as are active at once. With `closed`, nothing of a compact memory is read
    before `open_segments` says what. Raises `ConfigError` for a document that does not fit the model, `DataError` for files
    that cannot be loaded.
    """

    def __init__(
        self, library: Library, model: CausalLM, names: Sequence[str], loaded: int = LOADED, closed: bool = False
    ):
        entries = [library.get(name) for name in names]
        if not entries:
            raise ConfigError(f"no document of {library.folder} was named: give at least one", setting="document")
        first = entries[0]
        self.library, self.capacity = library, loaded
        self._fingerprint, self._method = fingerprint(model), method(library, first)
        for entry in entries:
            self.check_fit(entry)
        self._closed = closed and self._method.compact
        with _loading(first):
            path, device = str(library.path(first)), str(model.device)
            base = cast(Any, model)
            self.model: Any = (
                get_peft_model(base, _empty_config(path), adapter_name=first.folder)
                if self._closed
                else PeftModel.from_pretrained(base, path, adapter_name=first.folder, torch_device=device)
            )
        self._loaded = {first.name: first.folder}  # which document is which PEFT adapter, longest unused first
        self._layers: list[Any] = []  # that an adapter has a part in
        for entry in entries[1:]:
            self.load(entry)
        self.switch(first.name)
        self.model.eval()

    def switch(self, names: str | Sequence[str]) -> None:
        """Make one document, or several at once, the active ones.

        Adapters that are loaded already are not read again.
        """
        wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
        if not wanted:
            raise ConfigError("no document was named: give one, or turn the memory off with model.disable_adapter()")
        if len(wanted) > 1 and not self._method.several:
            raise ConfigError(
                f"{len(wanted)} documents at once: adapters of type {self._method.name} take one, give one name"
            )
        for name in wanted:
            if name not in self._loaded:
                self.load(self.library.get(name))
            self._loaded[name] = self._loaded.pop(name)  # the most recently used stands last
        keys = [self._loaded[name] for name in wanted]
        if self.model.active_adapters != keys:
            self._activate(keys)
        while len(self._loaded) > max(self.capacity, len(wanted)):
            self.unload(self._loaded.pop(next(iter(self._loaded))))

    def open_segments(self, name: str, segments: Sequence[int]) -> None:
        """Let a document that is loaded show these of its segments alone, and no more of it be in memory.

        Its memory must be a compact one.
        """
        store = CompactStore(self.library.path(self.library.get(name)))
        for layer in layers(self.model):
            memory = store.memory(layer.heads, layer.index, segments)
            layer.gm_memory[self.key(name)] = memory.to(self.model.device)

    def key(self, name: str) -> str:
        """Return PEFT's name for the adapter of a document that is loaded."""
        return self._loaded[name]

    @property
    def several(self) -> bool:
        """Return whether several documents may be on at once."""
        return self._method.several

    def check_fit(self, entry: Entry) -> None:
        """Raise `ConfigError` or `DataError` unless the document is for this model, of its method, and has its files."""
        if entry.fingerprint != self._fingerprint:
            raise ConfigError(
                f"{entry.name!r} was fitted to {entry.base_model} ({entry.fingerprint[:12]}), "
                f"this is another model ({self._fingerprint[:12]}): load that one"
            )
        check_files(self.library.path(entry), repr(entry.name))
        check_recorded(self.library.path(entry), self._fingerprint, repr(entry.name))
        if (other := method(self.library, entry)) != self._method:
            raise ConfigError(
                f"{entry.name!r} is of type {other.name}, the model has {self._method.name}: attach it to another copy"
            )

    def _activate(self, keys: list[str]) -> None:
        """Set the active adapters: 6 ms for LoRA on all matrices of 30 layers. PEFT goes through all modules: 27 ms."""
        model = self.model
        if not self._layers:
            wanted = (BaseTunerLayer, AuxiliaryTrainingWrapper)
            self._layers = [module for module in model.modules() if isinstance(module, wanted)]
        if not self._layers or any(isinstance(layer, AuxiliaryTrainingWrapper) for layer in self._layers):
            model.set_adapter(keys[0], inference_mode=True)  # a prompt, or whole modules of the document's own
            if len(keys) > 1:
                model.base_model.set_adapter(keys, inference_mode=True)
            return
        for layer in self._layers:
            layer.set_adapter(keys, inference_mode=True)
        model.active_adapter, model.base_model.active_adapter = keys[0], keys

    def load(self, entry: Entry) -> None:
        """Load a document's adapter under the name of its folder, without making it active."""
        self.check_fit(entry)
        with _loading(entry):
            path, device = str(self.library.path(entry)), str(self.model.device)
            if self._closed:
                self.model.add_adapter(entry.folder, _empty_config(path))
            else:
                result = self.model.load_adapter(path, entry.folder, torch_device=device)
                if result.missing_keys:
                    raise ValueError(f"missing adapter keys, {result.missing_keys[0]} first")
        self._loaded[entry.name], self._layers = entry.folder, []  # it may reach layers that the others do not

    def unload(self, key: str) -> None:
        """Drop the adapter of that name."""
        model = self.model
        if not model.peft_config[key].is_prompt_learning:
            model.delete_adapter(key)
            return
        for parts in (
            model.peft_config,
            model.prompt_encoder,
            model.prompt_tokens,
        ):  # PEFT itself cannot delete a prompt
            if key in parts:
                del parts[key]


def _empty_config(folder: str) -> PeftConfig:
    """Return the config of a compact memory without any slots."""
    config: Any = PeftConfig.from_pretrained(folder)
    config.slots, config.inference_mode = {}, True
    return config


@contextmanager
def _loading(entry: Entry) -> Iterator[None]:
    """Turn PEFT's errors about an adapter that does not fit, and its warning of missing weights, into one line."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        if missing := [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]:
            raise ValueError(missing[0])
    except Exception as error:  # safetensors, torch and PEFT raise their own
        lines = [line.strip() for line in str(error).splitlines()] or [type(error).__name__]
        reason = next((line for line in lines if "size mismatch" in line), lines[0])[:200]
        raise DataError(f"{entry.name!r} cannot be loaded ({reason}): fit it again", setting="replace") from None
