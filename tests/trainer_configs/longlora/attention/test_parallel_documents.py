"""Parallel documents are read apart and their tail sees them all, in sparse steps, full steps and evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from longthread.errors import ConfigError
from tests.trainer_configs.longlora.attention.test_documents import STEPS, eager
from tests.trainer_configs.longlora.attention.test_shifted_sparse import HEADS, assert_same, qkv
from tests.trainer_configs.longlora.attention.test_transformers_hook import FAMILIES, GROUP, ids, logits, make
from trainer_configs.longlora.attention.documents import DocumentAttention, DocumentMask, keep_documents_apart
from trainer_configs.longlora.attention.kernels import by_segment
from trainer_configs.longlora.attention.parallel_documents import borders, parallel_mask, see_all, tails, visible
from trainer_configs.longlora.attention.segments import documents, segments
from trainer_configs.longlora.attention.shifted_sparse import masked_attention, shifted_sparse_attention
from trainer_configs.longlora.attention.transformers_hook import install

WINDOW = 6  # of sliding layers, tokens
HEADS_OF_MODEL = 4, 2


def row(lengths: list[int], tail: int, padding: int = 0) -> list[int]:
    """The positions of a row by the encoding: documents end at one position, the tail begins two behind it."""
    longest = max(lengths)
    made = [at for n in lengths for at in range(longest - n, longest)]
    return made + list(range(longest + 1, longest + 1 + tail)) + list(range(padding))


ROW = torch.tensor([row([9, 13, 5], 8, 5)])  # 40 tokens
SECOND, TAIL, END = 9, 27, 35  # where the second document, the tail and the padding begin
BATCH = torch.tensor([row([9, 13, 5], 8, 5), row([4, 6], 30), list(range(40))])


def slow_mask(positions: list[int], window: int | None = None) -> list[list[bool]]:
    """Who sees whom, a token at a time; in a window tokens are counted as if each document stood before the tail."""
    mask, group, document, tail = [], 0, 0, None
    for q, position in enumerate(positions):
        before = positions[q - 1] if q else position
        if q and position <= before:
            document, group = q, (q if tail is not None else group)
            tail = None
        elif position > before + 1:
            tail = q
        first = document if tail is None else group
        distance = [position - p - (tail is not None and k < tail) for k, p in enumerate(positions)]
        mask.append([first <= k <= q and (window is None or distance[k] < window) for k in range(len(positions))])
    return mask


lengths = st.lists(st.integers(1, 20), min_size=1, max_size=8)
rows = st.tuples(lengths, st.integers(0, 12), st.integers(0, 6)).map(lambda given: row(*given))


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(1, 9) | st.none())
def test_the_rule_written_out_a_token_at_a_time(positions: list[int], window: int | None) -> None:
    batch = torch.tensor([positions])
    index = torch.arange(len(positions))
    seen = visible(batch).mask_function(window)(torch.tensor(0), torch.tensor(0), index[:, None], index[None])
    assert (seen & (index[:, None] >= index)).tolist() == slow_mask(positions, window)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(HEADS),
    st.lists(rows, min_size=1, max_size=3),
    st.integers(1, 8).map(lambda n: 2 * n),
    st.booleans(),
)
def test_fast_equals_the_specification_with_gradients(
    heads: tuple[int, int], batch: list[list[int]], size: int, sparse: bool
) -> None:
    longest = max(map(len, batch))
    positions = torch.tensor([at + list(range(longest - len(at))) for at in batch])
    found = tails(positions)
    cuts = documents(positions, borders(found))

    def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masked_attention(q, k, v, parallel_mask(positions, *heads, size if sparse else None))

    def fast(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if sparse:
            apart = shifted_sparse_attention(q, k, v, segments(positions, size, borders(found)), size)
        else:
            whole = torch.arange(len(batch) + 1).int() * longest
            apart = by_segment(q, k, v, whole if cuts is None else cuts, longest, None, 0.0)
        return see_all(apart, q, k, v, found, None, 0.0)

    assert_same(expected, fast, lambda: qkv(*heads, *positions.shape, torch.float64), 1e-11)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the variable-length and flash kernels")
@pytest.mark.parametrize("heads", HEADS)
def test_on_a_gpu(heads: tuple[int, int]) -> None:
    """With the strides that a model gives the gradient, and the error of a whole mask in bf16 as the measure."""
    positions = torch.tensor([row([700, 1500, 64], 301, 36), row([1201, 900], 500)]).cuda()
    found, gradient = tails(positions), torch.randn(2, positions.shape[1], heads[0], 64, device="cuda").transpose(1, 2)
    cuts = documents(positions, borders(found))
    assert cuts is not None
    given = [
        torch.randn(2, n, positions.shape[1], 64, device="cuda").bfloat16() for n in (heads[0], heads[1], heads[1])
    ]
    outs = []
    for dtype, fast in ((torch.float32, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        tensors = [x.to(dtype, copy=True).requires_grad_() for x in given]
        if fast:
            out = see_all(by_segment(*tensors, cuts, positions.shape[1], None, 0.0), *tensors, found, None, 0.0)
        else:
            out = masked_attention(*tensors, parallel_mask(positions, *heads))
        out.backward(gradient.to(dtype))
        outs.append([out, *(x.grad for x in tensors)])
    for exact, allowed, ours in zip(*outs, strict=True):
        errors = [(x.float() - exact).double().square().mean().sqrt() for x in (ours, allowed)]
        assert errors[0] <= 1.5 * errors[1]


# ---- whole models -----------------------------------------------------------------------------------------------


def expected(model: Any, tokens: Tensor, positions: Tensor, sparse: bool) -> Tensor:
    """What the model itself says, given the whole mask."""
    full = torch.tensor([[slow_mask(at)] for at in positions.tolist()])
    mask = {"full_attention": parallel_mask(positions, *HEADS_OF_MODEL, GROUP) if sparse else full}
    mask["sliding_attention"] = torch.tensor([[slow_mask(at, WINDOW)] for at in positions.tolist()])
    if model.config._attn_implementation == "eager":  # which adds its mask
        mask = {kind: torch.zeros(seen.shape).masked_fill(~seen, -torch.inf) for kind, seen in mask.items()}
    kinds = set(getattr(model.config, "layer_types", None) or ())
    by_kind = {kind: mask[kind] for kind in kinds} if kinds else mask["full_attention"]
    return logits(model, tokens, position_ids=positions, attention_mask=by_kind)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_s_logits_are_those_under_the_whole_mask(family: str, step: str) -> None:
    """Rows of a batch with documents of their own, padding behind a tail, and a row of one document."""
    model, tokens = make(family), ids(3)
    training, sparse = STEPS[step]
    model.train(training)
    wanted = expected(model, tokens, BATCH, training and sparse)
    mask = torch.ones_like(BATCH)
    mask[0, END:] = 0
    hook = install(model, GROUP, parallel=True)
    hook.sparse = sparse
    for padding in (None, torch.ones_like(BATCH), mask):
        found = logits(model, tokens, position_ids=BATCH, attention_mask=padding)
        torch.testing.assert_close(found[0, :END], wanted[0, :END], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[1:], wanted[1:], atol=1e-5, rtol=1e-4)


ATTENTIONS: dict[str, tuple[Callable[[], Any], type]] = {
    "sdpa": (lambda: make("Llama"), DocumentAttention),
    "sliding": (lambda: make("Gemma3Text"), DocumentAttention),
    "eager": (eager, DocumentMask),
    "softcapping": (lambda: make("Gemma2", head_dim=8, sliding_window=WINDOW), DocumentMask),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_so_they_are_with_attention_full(attention: str, training: bool) -> None:
    build, kind = ATTENTIONS[attention]
    model, tokens = build().train(training), ids(3)
    wanted = expected(model, tokens, BATCH, False)
    hook = keep_documents_apart(model, parallel=True)
    assert type(hook) is kind
    found = logits(model, tokens, position_ids=BATCH)
    torch.testing.assert_close(found[0, :END], wanted[0, :END], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1:], wanted[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_token_of_one_document_moves_the_tail_and_no_other_document(attention: str, step: str) -> None:
    model = ATTENTIONS[attention][0]()
    training, sparse = STEPS[step]
    if attention in ("sdpa", "sliding"):
        install(model, GROUP, parallel=True).sparse = sparse
    else:
        keep_documents_apart(model, parallel=True)
    model.train(training)
    tokens = ids(1)
    for at in (0, SECOND - 1, SECOND, TAIL - 1):
        other = tokens.clone()
        other[0, at] = (other[0, at] - 2) % 61 + 3
        moved = [logits(model, x, position_ids=ROW, attention_mask=torch.ones_like(x))[0] for x in (tokens, other)]
        unmoved = (moved[0] == moved[1]).all(-1)
        starts = (0, SECOND, 22, TAIL)
        for start, end in zip(starts, starts[1:], strict=False):
            assert unmoved[start:end].all() == (not start <= at < end)
        assert not unmoved[TAIL:END].any() and unmoved[END:].all()


@pytest.mark.parametrize("step", STEPS)
def test_gradients_are_exact_with_and_without_checkpoints(step: str) -> None:
    training, sparse = STEPS[step]
    tokens, found = ids(3), []
    for side in ("mask", "ours", "checkpoints"):
        model = make("Llama").double().train(training)
        if side == "checkpoints":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if side == "mask":
            out = expected(model, tokens, BATCH, training and sparse)
        else:
            install(model, GROUP, parallel=True).sparse = sparse
            out = logits(model, tokens, position_ids=BATCH)
            with torch.no_grad():  # another pass before the backward one, as preference trainers make
                logits(model, ids(1, 24))
        out[:, TAIL:END].square().mean().backward()
        found.append([p.grad for p in model.parameters()])
    for by_mask, *ours in zip(*found, strict=True):
        for grad in ours:
            torch.testing.assert_close(grad, by_mask, atol=1e-11, rtol=1e-9)


def test_under_torch_compile() -> None:
    model, tokens = make("Gemma3Text").train(), ids(3)  # a layer with a window, and one without
    sparse = install(model, GROUP, parallel=True)
    compiled = torch.compile(model, backend="aot_eager")
    for sparse.sparse in (True, False):
        wanted = logits(model, tokens, position_ids=BATCH)
        torch.testing.assert_close(logits(compiled, tokens, position_ids=BATCH), wanted, atol=1e-5, rtol=1e-4)


def test_one_row_of_positions_serves_all_rows() -> None:
    model, tokens = make("Llama").train(), ids(3)
    sparse = install(model, GROUP, parallel=True)
    for sparse.sparse in (True, False):
        wanted = logits(model, tokens, position_ids=ROW.expand(3, -1).contiguous())
        assert torch.equal(logits(model, tokens, position_ids=ROW), wanted)


ORDINARY = {
    "one": torch.arange(40)[None],
    "packed": torch.cat([torch.arange(13), torch.arange(27)])[None],
    "padded": torch.cat([torch.arange(31), torch.arange(9)])[None],
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ORDINARY)
@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_rows_without_a_tail_are_ordinary_bit_for_bit(family: str, kind: str, step: str) -> None:
    found = []
    for parallel in (False, True):
        model = make(family)
        training, sparse = STEPS[step]
        model.train(training)
        install(model, GROUP, parallel=parallel).sparse = sparse
        mask = torch.ones_like(ORDINARY[kind])
        mask[:, 31:] = kind != "padded"
        found.append(logits(model, ids(1), position_ids=ORDINARY[kind], attention_mask=mask))
    assert torch.equal(*found)


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text"])
def test_one_document_and_its_tail_run_in_the_model_s_own_full_attention(family: str) -> None:
    model, tokens, positions = make(family), ids(1), torch.tensor([row([27], 13)])
    own = logits(model, tokens, position_ids=positions, attention_mask=torch.ones_like(positions))
    hook = install(model, GROUP, parallel=True)
    hook.sparse = False
    for training in (True, False):
        assert torch.equal(logits(model.train(training), tokens, position_ids=positions), own)
    hook.sparse = True
    found = logits(model.train(), tokens, position_ids=positions)
    hook.uninstall()
    torch.testing.assert_close(found, expected(model, tokens, positions, True), atol=1e-5, rtol=1e-4)


# ---- what is refused --------------------------------------------------------------------------------------------

MALFORMED = {
    "documents begin at zero": [0, 1, 2, 3, 0, 1, 5, 6],
    "an ordinary document before": [0, 1, 2, 3, 4, 0, 1, 2, 1, 2, 4, 5],
    "tail too far": [0, 1, 2, 1, 2, 5, 6],
    "two jumps": [0, 1, 2, 1, 2, 4, 5, 8],
    "skipped positions": [0, 1, 2, 40, 41],
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_that_are_not_parallel_documents_are_refused(attention: str, name: str) -> None:
    model = ATTENTIONS[attention][0]()
    keep_documents_apart(model, parallel=True)
    positions = torch.tensor([MALFORMED[name]])
    with pytest.raises(
        ConfigError, match=r"row 0: documents end at .* or leave out longlora.parallel_documents"
    ) as caught:
        model(ids(1, positions.shape[1]), position_ids=positions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_is_refused(attention: str) -> None:
    model = ATTENTIONS[attention][0]()
    keep_documents_apart(model, parallel=True)
    positions = torch.tensor([[0, 1, 2, *row([5, 7], 4)]])
    mask = torch.ones_like(positions)
    mask[0, :3] = 0
    with pytest.raises(ConfigError, match="parallel documents take rows padded on the right"):
        model(ids(1, positions.shape[1]), position_ids=positions, attention_mask=mask)


@pytest.mark.parametrize("attention", ["sliding", "softcapping"])
def test_layers_of_chunks_are_refused(attention: str) -> None:
    model = ATTENTIONS[attention][0]()
    model.config.attention_chunk_size = 8
    keep_documents_apart(model, parallel=True)
    with pytest.raises(ConfigError, match="ForCausalLM has layers of chunks, where no tail sees every document"):
        model(ids(1), position_ids=ROW)


def test_a_model_that_hands_on_no_positions_is_refused() -> None:
    model = make("Llama")
    hook = install(model, GROUP, parallel=True)
    with pytest.raises(ConfigError, match="does not hand position_ids .*: leave out longlora.parallel_documents"):
        hook.positions({})
