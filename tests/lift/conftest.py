"""What the tests of lift share: a library of three adapters; tiny models are fastest on one thread, and do not wait for each
other there."""

from pathlib import Path

import pytest
import torch

from lift.library.base_model import fingerprint
from lift.library.library import Library
from tests.environments.tiny_model import tiny_model
from tests.lift.shelf import make_adapter, three

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_adapter(tmp_path_factory.mktemp("adapter"), seed) for seed in range(4)]


@pytest.fixture(scope="module")
def base() -> str:
    return fingerprint(tiny_model())


@pytest.fixture
def library(tmp_path: Path, adapters: list[Path], base: str) -> Library:
    return three(tmp_path / "books", adapters, base)
