"""What the tests of environments share: a chat server, the tiny tokenizer's folder, and a clean place to work in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from environments.haystack.filler.pool import Pool
from environments.haystack.filler.sources import SOURCES
from environments.haystack.listing import Items
from environments.haystack.pools import Pools
from longthread import secrets
from tests.environments.loopback import ChatServer, no_waiting, tokenizer_folder


@pytest.fixture(scope="session", autouse=True)
def _endless_text_is_written_once() -> Iterator[None]:
    """Environments of one process share their pools of endless text: writing one is most of what a new environment costs."""
    kept: dict[tuple[object, ...], Pool] = {}
    banks: dict[tuple[object, ...], Items] = {}
    make_pool, make_items = Pools._make_pool, Pools._make_items

    def shared(self: Pools, source: Any) -> Pool:
        if not SOURCES[source.filler].endless:  # its folder may have changed
            return make_pool(self, source)
        key = (self.tokens.fingerprint, source)
        if key not in kept:
            kept[key] = make_pool(self, source)
        return kept[key]

    def shared_items(self: Pools, *which: Any) -> Items:
        key = (self.tokens.fingerprint, *which)
        if key not in banks:
            banks[key] = make_items(self, *which)
        return banks[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pools, "_make_pool", shared)
        patch.setattr(Pools, "_make_items", shared_items)
        yield


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer().running() as running:
        yield running


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder to work in, no keys in the environment, and no pauses."""
    no_waiting(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(secrets, "_keys", {})
    for name in (*secrets.KEY_VARIABLES, "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
