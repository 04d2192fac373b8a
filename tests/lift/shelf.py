"""Adapters and entries for tests of what keeps them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lift.library.library import Entry, Library
from longthread.errors import LongthreadError
from tests.environments.tiny_model import tiny_model


def make_adapter(folder: Path, seed: int, config: Any = None) -> Path:
    """A LoRA that does something, as PEFT saves it."""
    model = tiny_model()
    torch.manual_seed(seed)  # behind the model, which sets its own
    config = config or LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def entry_for(base: str, name: str = "logbook", **changes: Any) -> Entry:
    fields = {"name": name, "digest": "d" * 64, "tokens": 900, "words": 600, "recipe": "lse", "base_model": "tiny"}
    return Entry(**fields | {"fingerprint": base, "constants": {"lr": 1e-3}, "losses": {"segments": 0.5}} | changes)


def three(folder: Path, adapters: list[Path], base: str) -> Library:
    """Three documents: a, b and c."""
    made = Library(folder)
    for name, adapter in zip("abc", adapters, strict=False):
        made.add(adapter, entry_for(base, name))
    return made


def refused(action: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(LongthreadError) as info:
        action()
    line = str(info.value)
    assert "\n" not in line and all(part in line for part in parts), line
