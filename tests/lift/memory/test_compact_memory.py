"""The compact memory in whole models: against its reference, against the document in the prompt, saved, closed, composed."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel, get_peft_model
from torch import Tensor

from lift.memory import compact_memory
from lift.memory.compact_memory import CompactMemory, reference_recall, slots_at_hand
from lift.memory.document_cache import keys_and_values, shared_tokens
from lift.memory.log_sum_exp import NOTHING
from lift.memory.reference_queries import (
    ExactMemory,
    ReferenceRow,
    Shares,
    by_head,
    observe,
)
from lift.memory.tuner import GatedMemoryConfig, OpenMemory, gate, layers, open_rows
from longthread.errors import LongthreadError
from tests.lift.memory.test_tuner import FAMILIES, ids, logits, make

SLOTS = [[3, 0], [1, 5]]  # two segments, two key/value heads
CONFIG: dict[str, Any] = {"slots": {"0": SLOTS, "1": SLOTS}, "precision": "float32"}


def filled(model: Any, seed: int = 0) -> Any:
    g = torch.Generator().manual_seed(seed)
    for layer in layers(model):
        for memory in layer.gm_memory.values():
            for weight in memory.parameters():
                weight.data = torch.randn(weight.shape, generator=g, dtype=torch.float32).to(weight.dtype)
    return model


def adapted(family: str = "Llama", **changes: Any) -> Any:
    return get_peft_model(make(family, **changes), GatedMemoryConfig(**CONFIG)).eval()


def test_rows_that_open_more_choices_than_there_are_segments_are_computed_by_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As each row is by itself; a row that opens nothing is the base model's, bit for bit."""
    slots = [[3, 0], [1, 5], [2, 2], [4, 1]]
    model = make("Llama")
    batch = ids(9)
    with torch.no_grad():
        base = model(input_ids=batch).logits
    config: dict[str, Any] = {"slots": {"0": slots, "1": slots}, "precision": "float32"}
    model = filled(get_peft_model(model, GatedMemoryConfig(**config)).eval())
    gated, recalled = layers(model), []
    kept = type(gated[0])._recall
    monkeypatch.setattr(type(gated[0]), "_recall", lambda *given: recalled.append(given[1]) or kept(*given))
    choices = [*combinations(range(4), 2), (), (0, 1, 2, 3), ()]
    rows = [(OpenMemory("default", each),) if each else () for each in choices]
    rows[-1] = (OpenMemory("default", ()),)

    def asked(rows: list[tuple[OpenMemory, ...]], batch: Tensor) -> Tensor:
        with torch.no_grad(), open_rows(gated, rows):
            return model(input_ids=batch).logits

    together = asked(rows, batch)
    assert len(recalled) == 2 * 4, "once a segment and layer"
    for row, own in enumerate(rows):
        torch.testing.assert_close(together[[row]], asked([own], batch[[row]]), atol=1e-4, rtol=1e-4)
    assert torch.equal(together[6], base[6]) and torch.equal(together[8], base[8])
    assert not torch.allclose(together[0], base[0], atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(choices=st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_slots_at_hand_are_those_of_the_memory(choices: list[set[int]], seed: int) -> None:
    """Whichever were open before; none are kept behind the block, or with gradients."""
    g = torch.Generator().manual_seed(seed)
    memory = CompactMemory(4, 8, [[3, 0], [1, 5], [2, 2]], torch.float32)
    q_BLHD = torch.randn(2, 1, 4, 8, generator=g)

    def check() -> None:
        for segments in (tuple(sorted(chosen)) for chosen in choices):
            wanted = reference_recall(memory, q_BLHD, segments)
            for recalled in [memory(q_BLHD, segments) for _ in range(2)]:
                torch.testing.assert_close(recalled.memory_BLHD, wanted[0], atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(recalled.score_BLH, wanted[1].clamp(min=NOTHING), atol=1e-4, rtol=1e-4)

    for _ in range(2):  # behind a block the memory may change, whatever its storage and version say
        for weight in memory.parameters():
            weight.data.normal_(generator=g)
        with slots_at_hand(memory):
            check()
            assert memory._at_hand == {}
            with torch.no_grad():
                check()
            assert memory._at_hand.keys() == {tuple(sorted(chosen)) for chosen in choices}
        with torch.no_grad():
            check()


@settings(max_examples=10, deadline=None)
@given(
    slots=st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=3),
    group=st.integers(1, 3),
    data=st.data(),
)
def test_it_is_its_reference_head_by_head(slots: list[list[int]], group: int, data: st.DataObject) -> None:
    segments = data.draw(st.lists(st.sampled_from(range(len(slots))), unique=True, min_size=1))
    memory = CompactMemory(2 * group, 4, slots, torch.float32)
    for weight in memory.parameters():
        torch.nn.init.normal_(weight)
    memory.open(segments)
    q = torch.randn(2, 3, 2 * group, 4)
    found = memory(q)
    m, s = reference_recall(memory, q, segments)
    seen = s > -torch.inf
    torch.testing.assert_close(found.score_BLH[seen], s[seen], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.memory_BLHD[seen], m[seen], atol=1e-5, rtol=1e-5)
    assert (found.score_BLH[~seen] < NOTHING / 2).all() and found.memory_BLHD.isfinite().all()
    assert found.share_H.eq(1).all()


def test_pieces_of_the_queries_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = filled(adapted()).base_model.model.model.layers[0].self_attn.o_proj.gm_memory["default"]
    q = torch.randn(3, 7, 4, 8)
    whole = memory(q)
    monkeypatch.setattr(compact_memory, "SCORES", 20)
    for one, other in zip(whole, memory(q), strict=True):
        torch.testing.assert_close(one, other)


def exact(model: Any, document: list[int], prefix: list[int]) -> Any:
    """The model with every key and value of a document in its memories."""
    read = keys_and_values(model, [*prefix, *document], -len(prefix) - len(document))
    logits(model, input_ids=ids(1))  # the attention's scale is known then
    for layer, (k, v) in zip(layers(model), read, strict=True):
        k, v = k[:, len(prefix) :], v[:, len(prefix) :]
        memory = CompactMemory(layer.heads, k.shape[-1], [[k.shape[1]] * k.shape[0]], torch.float32)
        memory.keys.data, memory.values.data = (layer.probe.scale * k).flatten(0, 1), v.flatten(0, 1)
        memory.biases.data.zero_()
        layer.gm_memory["default"] = memory
    return model


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "theta": {"rope_type": "default", "rope_theta": 5e5},
    "yarn": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32},
}


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "SmolLM3", "Olmo2", *ROPES])
def test_with_a_slot_for_every_key_it_is_the_document_in_the_prompt(family: str) -> None:
    """But for the first token of the window, which sees itself alone. Padded rows and any RoPE too."""
    changes = {"rope_parameters": ROPES[family]} if family in ROPES else {}
    family = "Llama" if family in ROPES else family
    model = get_peft_model(make(family, **changes), GatedMemoryConfig(slots={}, precision="float32")).eval()
    document, question = ids(1, 20)[0].tolist(), ids(2, 9)
    mask = torch.ones_like(question)
    mask[0, :3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # as `generate` numbers them
    found = logits(exact(model, document, []), input_ids=question, attention_mask=mask, position_ids=positions)
    with torch.no_grad(), model.disable_adapter():
        for row, hidden in ((0, 3), (1, 0)):
            whole = torch.cat([torch.tensor([document]), question[row : row + 1, hidden:]], dim=1)
            n = whole.shape[1]
            sees = torch.ones(n, n, dtype=torch.bool).tril()
            sees[20, :20] = False
            right = model(input_ids=whole, attention_mask=sees[None, None]).logits[0, 20:]
            torch.testing.assert_close(found[row, hidden:], right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_disabled_and_with_nothing_open_it_is_the_base_bit_for_bit(family: str, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        base = logits(make(family).to(dtype))
        model = get_peft_model(make(family).to(dtype), GatedMemoryConfig(slots=CONFIG["slots"])).eval()
        assert torch.equal(logits(model), base)
        dtypes = {name.rpartition(".")[2]: w.dtype for name, w in model.named_parameters() if "gm_memory" in name}
        assert dtypes == {"keys": torch.bfloat16, "values": torch.bfloat16, "biases": torch.float32}
        told = logits(filled(model))
        assert (told - base)[1].abs().max() > 1e-3 and told.isfinite().all()
        with model.disable_adapter():
            assert torch.equal(logits(model), base)
        for layer in layers(model):
            layer.gm_memory["default"].open([])
        assert torch.equal(logits(model), base)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_reloaded_switched_and_written_with_a_cache(family: str, tmp_path: Path) -> None:
    first, second = filled(adapted(family)), filled(adapted(family), seed=2)
    wanted = [logits(first), logits(second)]
    first.save_pretrained(tmp_path / "a")
    second.save_pretrained(tmp_path / "b")
    assert {file.suffix for file in (tmp_path / "a").iterdir()} <= {".json", ".safetensors", ".md"}
    model = PeftModel.from_pretrained(make(family), str(tmp_path / "a"), adapter_name="a").eval()
    model.load_adapter(str(tmp_path / "b"), adapter_name="b")
    for name, right in (("a", wanted[0]), ("b", wanted[1]), ("a", wanted[0])):
        model.set_adapter(name)
        assert torch.equal(logits(model), right)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "input_ids": ids(), "attention_mask": mask}
    assert torch.equal(model.generate(**options), model.generate(**options, use_cache=False))


def test_several_compose_as_one_softmax_and_a_network_beside_them() -> None:
    model = filled(adapted())
    alone = logits(model)
    model.add_adapter("other", GatedMemoryConfig(**CONFIG))  # new, so closed
    model.add_adapter("network", GatedMemoryConfig())
    model.base_model.set_adapter(["default", "other", "network"])
    torch.testing.assert_close(logits(model), alone, atol=1e-6, rtol=1e-5)
    filled(model, seed=3)
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    for layer in layers(model):  # as one memory with the slots of both
        memories = [layer.gm_memory[name] for name in ("default", "other")]
        joined = CompactMemory(layer.heads, 8, 2 * SLOTS, torch.float32)
        for name in ("keys", "biases", "values"):
            getattr(joined, name).data = torch.cat([getattr(memory, name) for memory in memories]).data
        layer.gm_memory["default"] = joined
    model.set_adapter("default")
    torch.testing.assert_close(logits(model), both, atol=1e-5, rtol=1e-4)
    assert gate(model, ids()).shape == (2, 12)


def test_gradients_reach_its_slots_and_nothing_else() -> None:
    model = filled(adapted()).train()
    model(input_ids=ids(), labels=ids(), use_cache=False).loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all("gm_memory" in name and grad is not None and grad.any() for name, grad in grads.items())
    assert {name.rpartition(".")[2] for name in grads} == {"keys", "biases", "values"}


def reading() -> tuple[Any, list[ExactMemory], list[ReferenceRow]]:
    """A model, the exact memory of a document in each of its layers, and two rows that predict something."""
    model = get_peft_model(make("Llama"), GatedMemoryConfig(slots={}, precision="float32")).eval()
    document = keys_and_values(model, ids(1, 20)[0].tolist(), -20)
    rows = [ReferenceRow(ids(1, 9)[0].tolist(), [4, 6, 8]), ReferenceRow(ids(2, 6)[0].tolist(), [5])]
    return model, [ExactMemory(*each) for each in zip(document, layers(model), strict=True)], rows


def test_queries_are_those_of_the_model_that_reads_beside_the_document() -> None:
    """In any batches; the first token of a row is not among them, and without a document nothing is mixed in."""
    model, document, rows = reading()
    together, apart = (observe(model, batches, document, Shares(1, 1), 0) for batches in ([rows], [rows[:1], rows[1:]]))
    for one, other in zip(together, apart, strict=True):
        assert one.q_NHD.shape == (8 + 5, 4, 8) and one.weight_NH.eq(1).all()
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
    alone = observe(model, [rows], None, Shares(1, 1), 0)
    assert torch.equal(alone[0].q_NHD, together[0].q_NHD) and not torch.allclose(alone[1].q_NHD, together[1].q_NHD)
    reference = by_head([(together, True), (alone, False)], 2)
    assert reference.given and torch.equal(reference.given.known_N, reference.heard_N)
    assert torch.equal(reference.given.lse_GN[3, 26:39], together[1].lse_NH[:, 3])
    assert reference.q_GND.shape == (4, 2 * 26, 8) and reference.heard_N.tolist() == 2 * ([True] * 13 + [False] * 13)
    assert torch.equal(
        reference.q_GND[3, 26:39], together[1].q_NHD[:, 3]
    )  # layer 1, key/value head 1, its second query head
    assert torch.equal(reference.lse_window_GN[0, 13:26], alone[0].lse_window_NH[:, 0])
    assert 0 < len(observe(model, [rows], document, Shares(0.5, 0.5), 0)[0].q_NHD) < 13


def test_a_pass_that_is_only_read_gives_no_logits() -> None:
    model, recalls, rows = reading()
    predicted: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda head, given: predicted.append(given[0].shape[1]))
    keys_and_values(model, rows[0].ids)
    observe(model, [rows], recalls, Shares(1, 1), 0)
    assert len(predicted) >= 2 and not any(predicted)


def test_what_rows_begin_with_is_read_once_and_counts_once() -> None:
    """In any batches: the same tokens in the same places ask the same."""
    model, document, _ = reading()
    before = ids(1, 7)[0].tolist()
    rows = [ReferenceRow([*before, *range(first, first + n)], []) for first, n in ((10, 3), (20, 5), (30, 4))]
    assert shared_tokens([row.ids for row in rows]) == 7 and shared_tokens([before]) == 0
    assert shared_tokens([*(row.ids for row in rows), [*before, *range(90)]]) == 0  # it would save too little
    for recalls in (document, None):
        once, apart = (
            observe(model, batches, recalls, Shares(1, 1), 0) for batches in ([rows], [[row] for row in rows])
        )
        for one, other in zip(once, apart, strict=True):
            assert len(one.q_NHD) == len(other.q_NHD) == 6 + 12
            assert one.weight_NH.eq(1).all() and other.weight_NH.eq(1).all()
            for i in (0, 1, 2, 4, 5):  # all but the weights
                sums = [torch.einsum("nh,nh...->h...", each.weight_NH, each[i]) for each in (one, other)]
                torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-4)
    part = observe(model, [rows], None, Shares(0.5, 0.5), 0)[0].weight_NH
    assert part.eq(1).all() and 0 < len(part) < 6 + 12


@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=6),
    shared=st.integers(0, 9),
    most=st.integers(1, 200),
)
@settings(max_examples=100, deadline=None)
def test_what_predicts_something_is_kept_first(sizes: list[tuple[int, int]], shared: int, most: int) -> None:
    rows = []
    for number, (length, predicted) in enumerate(sizes):
        own = [100 * (number + 1) + i for i in range(length)]
        rows.append(
            ReferenceRow([*range(shared), *own], range(shared + length - min(length, predicted), shared + length))
        )
    share = Shares.of(rows, most)
    predicted = sum(len(row.predicted) for row in rows)
    others = shared + sum(length for length, _ in sizes) - predicted
    assert 0 <= share.predicted <= 1 and 0 <= share.others <= 1
    assert share.predicted == 1 or share.others == 0 or not predicted
    kept = share.predicted * predicted + share.others * others
    assert kept == pytest.approx(min(most, predicted + others))


@pytest.mark.parametrize(
    ("wrong", "line"), [({"precision": "int8"}, "precision must be one of"), ({"gate": "query"}, "gate lse")]
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(LongthreadError, match=line):
        GatedMemoryConfig(**CONFIG | wrong)


def test_the_tensors_of_a_new_memory_are_finite() -> None:
    assert isinstance(CompactMemory(2, 4, SLOTS).biases, Tensor) and CompactMemory(2, 4, []).keys.numel() == 0
