"""Settings of a gated memory, stored in its adapter_config.json."""

from dataclasses import dataclass, field

from peft import PeftConfig
from peft.utils import PeftType

from longthread.errors import ConfigError

METHOD = "gated_memory"  # on disk in upper case, as `peft_type`
GATES = ("lse", "query")
PRECISIONS = ("float32", "bfloat16", "float16")


def _add_peft_type(name: str) -> None:
    """Add a member to the enum `PeftType`. PEFT registers methods of its enum alone, and offers no way to extend it."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    type.__setattr__(PeftType, name, member)


_add_peft_type(METHOD.upper())


@dataclass
class GatedMemoryConfig(PeftConfig):
    """Settings of a gated memory.

    `width` is the size of the memory's hidden layer, in head dimensions. `published_init` takes the authors' initial
    weights. With `slots` the memories are no networks but compact (`CompactMemory`): slots of each key/value head, for
    each segment of the document, by the number of the layer. `precision` is the dtype of their keys and values.
    """

    target_modules: list[str] | str | None = None
    gate: str = field(default="lse", metadata={"help": "lse, or query as published"})
    width: int = field(default=2, metadata={"help": "hidden layer of the memory, in head dimensions"})
    published_init: bool = field(default=False, metadata={"help": "the initial weights of the published code"})
    slots: dict[str, list[list[int]]] | None = field(default=None, metadata={"help": "of a compact memory"})
    precision: str = field(default="bfloat16", metadata={"help": "of a compact memory's keys and values"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType(METHOD.upper())
        if self.gate not in GATES:
            raise ConfigError(f"gate must be one of {', '.join(GATES)} (got {self.gate!r})")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)} (got {self.precision!r})")
        if self.slots is not None and self.gate != "lse":
            raise ConfigError(f"a compact memory has gate lse (got {self.gate!r})")
        if self.target_modules is None:
            self.target_modules = ["o_proj"]
