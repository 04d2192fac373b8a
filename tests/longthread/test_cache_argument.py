"""Which name a model's cache has, in any transformers that the package runs on."""

from __future__ import annotations

import logging
import warnings

import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from longthread.cache_argument import CACHE  # noqa: E402
from tests.environments.tiny_model import tiny_model  # noqa: E402


def test_models_take_and_return_their_cache_by_this_name_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "warning_once", lambda _, message, *args: said.append(message))
    model, cache = tiny_model(), DynamicCache()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        out = model(input_ids=torch.arange(10)[None], **{CACHE: cache}, use_cache=True)
        assert getattr(out, CACHE) is cache and cache.get_seq_length() == 10
        ids = model.generate(torch.arange(12)[None], **{CACHE: cache}, max_new_tokens=2)
    assert ids.shape[1] > 12 and not any("deprecated" in message for message in said)
