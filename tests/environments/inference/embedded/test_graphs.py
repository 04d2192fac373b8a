"""Steps as captured CUDA graphs: the same tokens as without, and new weights are seen. Needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from environments.inference.embedded.batch import ATTENTION  # noqa: E402
from environments.inference.embedded.engine import Engine  # noqa: E402
from environments.inference.embedded.limits import Limits  # noqa: E402
from environments.inference.embedded.protocol import Sampling  # noqa: E402
from environments.inference.embedded.slots import SlotDecoder  # noqa: E402
from tests.environments.patience import PATIENCE  # noqa: E402
from tests.environments.tiny_model import tiny_model  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


def greedy(engine: Engine) -> list[list[int]]:
    sampling = Sampling(temperature=0, max_tokens=40, n=2)
    with engine.wake:
        futures = [engine.submit([i + 1] * (20 * i + 3), sampling) for i in range(5)]
    return [row.ids for future in futures for row in future.result(PATIENCE)]


def engine_of(model: Any, slots: bool) -> Engine:
    return Engine(model, set(), Limits(), slots=slots)


def test_greedy_tokens_with_graphs_equal_those_without_before_and_after_new_weights() -> None:
    model = tiny_model(attn_implementation=ATTENTION).cuda()
    # Other weights, in the same tensors: a graph that held copies would go on with the old ones.
    changed = {name: tensor.detach().clone().flip(0) for name, tensor in model.named_parameters()}
    captured, plain = engine_of(model, True), engine_of(model, False)
    before = greedy(captured)
    assert before == greedy(plain)
    assert isinstance(captured.decoder, SlotDecoder) and captured.decoder.capture
    assert any(step.graph is not None for step in captured.decoder.steps.values())
    captured.swap(changed, 1).result(PATIENCE)
    after = greedy(captured)
    assert after == greedy(plain) != before
    for engine in (captured, plain):
        engine.close()
