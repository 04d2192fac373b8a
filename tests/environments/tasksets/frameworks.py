"""What tests of adapters share: small rows of the tiny byte-level tokenizer, and replies to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from environments.tasksets.core import Row, TasksetConfig
from tests.environments.loopback import SHORT


def config(folder: Path, **changes: Any) -> TasksetConfig:
    return TasksetConfig(**{"tokenizer": str(folder), "lengths": SHORT, "decoys": 1, **changes})


def right(row: Row) -> str:
    return f"<answer>{'; '.join(row['answer']['values']) or 'none'}</answer>"
