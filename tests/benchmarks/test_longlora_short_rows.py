"""The benchmark of short rows, at its own toy size: every way has the same gradients, and one is not computed again."""

import pytest
import torch
from transformers import set_seed

from benchmarks.longlora_short_rows import KEPT, LAYERS, NARROW, PLAIN, SELECTIVE, build, run, step

WAYS = (PLAIN, LAYERS, SELECTIVE, KEPT)
torch.set_num_threads(1)  # narrow layers are fastest so, beside other work


def test_the_ways_differ_in_what_is_computed_again_alone() -> None:
    ids, gradients, passes = torch.arange(16)[None], [], []
    for way in WAYS:
        set_seed(0)
        model, calls = build(NARROW, way, 16, "cpu"), list[int]()
        layer = model.get_base_model().model.layers[3].mlp
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        step(model, ids)
        passes.append(len(calls))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert passes == [1, 2, 2, 1]
    for found in gradients[1:]:
        for a, b in zip(gradients[0], found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_command_prints_every_way_beside_its_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    run(None, 4, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:28].strip() for line in lines] == list(WAYS) and lines[0].endswith(" 1.0 times")
