"""The teacher against a model that has the document in its prompt, and memories that are regressed on what it saw."""

import math
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor

from lift.memory import distillation
from lift.memory.distillation import DocumentLayer, Observed, Regression, Teacher, distil, gap
from lift.memory.tuner import GatedMemoryConfig, layers
from tests.lift.memory.test_tuner import ids, make

FAMILIES = ("Llama", "Qwen3", "Gemma3Text", "SmolLM3", "Olmo2")


def adapted(family: str, **changes: Any) -> Any:
    return get_peft_model(make(family, **changes), GatedMemoryConfig()).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_the_model_with_the_document_in_its_prompt(family: str) -> None:
    """One piece, no prefix: exact attention over document and window is attention over both, but for the first token of
    the window, which sees itself."""
    model = adapted(family)
    document, question = ids(1, 20)[0].tolist(), ids(2, 9)
    mask = torch.ones_like(question)
    mask[0, 6:] = 0
    found, seen = Teacher.read(model, [], document, 20).logits(question, mask)
    with torch.no_grad(), model.disable_adapter():
        whole = torch.cat([torch.tensor([document] * 2), question], dim=1)
        sees = torch.ones(29, 29, dtype=torch.bool).tril()
        sees[20, :20] = False
        right = model(input_ids=whole, attention_mask=sees.expand(2, 1, 29, 29)).logits[:, 20:]
    if family == "Gemma3Text":  # its sliding layer has no memory, and sees the window alone
        assert found.isfinite().all()
    else:
        torch.testing.assert_close(found[1], right[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[0, :6], right[0, :6], atol=1e-4, rtol=1e-4)
    assert [each.q_HTD.shape[:2] for each in seen] == [(4, 13)] * len(layers(model))  # without the two first
    assert not any(isinstance(module, DocumentLayer) for module in model.modules())


def test_pieces_hold_every_token_once_and_their_prefix_never() -> None:
    for model in (adapted("Llama"), adapted("Mistral")):  # Mistral's window is shorter than these
        for length, piece in ((20, 20), (20, 7), (21, 7), (5, 9)):
            teacher = Teacher.read(model, [3, 4, 5], ids(1, length)[0].tolist(), piece)
            assert {k.shape[1] for k in (*teacher.keys, *teacher.values)} == {length}


def observed(heads: int = 6, tokens: int = 400, dim: int = 8, keys: int = 5) -> list[Observed]:
    """Two layers' heads over a document of a few keys."""
    made = []
    for layer in range(2):
        g = torch.Generator().manual_seed(layer)
        q = torch.randn(heads // 2, tokens, dim, generator=g)
        k, v, window = (torch.randn(heads // 2, n, dim, generator=g) for n in (keys, keys, tokens))
        scores = q @ k.transpose(1, 2)
        lse_window = torch.randn(heads // 2, tokens, generator=g)
        made.append(Observed(q, window, lse_window, scores.softmax(-1) @ v, scores.logsumexp(-1)))
    return made


def weights_of(model: Any) -> list[dict[str, Tensor]]:
    return [dict(layer.gm_memory["default"].named_parameters()) for layer in layers(model)]


def test_distillation_brings_every_layer_s_memory_nearer_and_opens_it() -> None:
    model = get_peft_model(
        make("Llama", num_attention_heads=3, hidden_size=24, num_key_value_heads=1), GatedMemoryConfig()
    )
    seen = observed()
    before = [gap(part, w).item() for part, w in zip(seen, weights_of(model), strict=True)]
    figures = distil(model, seen, "default", Regression(steps=300, rate=1e-2))
    after = [gap(part, w).item() for part, w in zip(seen, weights_of(model), strict=True)]
    assert all(b < 0.5 * a for a, b in zip(before, after, strict=True)), (before, after)
    assert figures["cosine"] > 0.8 and figures["lse_error"] < 1.0
    assert all(w["share"].eq(1).all() for w in weights_of(model))


def test_distillation_takes_all_there_is_where_it_is_less_than_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = get_peft_model(
        make("Llama", num_attention_heads=3, hidden_size=24, num_key_value_heads=1), GatedMemoryConfig()
    )
    sizes: list[int] = []

    def noted(part: Observed, weights: dict[str, Tensor]) -> Tensor:
        sizes.append(part.q_HTD.shape[1])
        return gap(part, weights)

    monkeypatch.setattr(distillation, "gap", noted)
    for tokens, used in ((40, 36), (1, 1)):
        sizes.clear()
        distil(model, observed(tokens=tokens), "default", Regression(steps=3, rate=1e-3))
        assert sizes == [used] * 3
    assert all(tensor.isfinite().all() for weights in weights_of(model) for tensor in weights.values())


def test_gap_is_nothing_only_for_what_is_exact() -> None:
    part = observed()[0]
    zero = {"w_in": torch.zeros(3, 8, 16), "w_out": torch.zeros(3, 16, 8), "gate_in": torch.zeros(3, 8, 2),
            "gate_out": torch.zeros(3, 2, 1), "slope": torch.zeros(3, 8), "level": torch.zeros(3)}  # fmt: skip
    nothing = part._replace(memory_HTD=torch.zeros_like(part.memory_HTD), lse_document_HT=torch.zeros(3, 400))
    assert gap(nothing, zero).item() == pytest.approx(0, abs=1e-5)
    assert gap(part, zero).item() > 0.05 and math.isfinite(gap(part, zero).item())
