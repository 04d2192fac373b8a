"""What the tests of environments share: a chat server, the tiny tokenizer's folder, and a clean place to work in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from longthread import secrets
from tests.environments.loopback import ChatServer, no_waiting, tokenizer_folder


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
