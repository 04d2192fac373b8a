"""The engine against transformers itself: alone, batched, branched and resumed, every token and logprob must agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import CancelledError
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from environments.inference.embedded.batch import ATTENTION, grouped_attention  # noqa: E402
from environments.inference.embedded.engine import Engine  # noqa: E402
from environments.inference.embedded.limits import Limits, whole_prompt  # noqa: E402
from environments.inference.embedded.prefill import common_prefix  # noqa: E402
from environments.inference.embedded.protocol import Sampling  # noqa: E402
from environments.inference.embedded.sampling import Choice, draw  # noqa: E402
from environments.inference.embedded.slots import SlotDecoder  # noqa: E402
from environments.inference.embedded.step import Cache  # noqa: E402
from tests.environments.patience import PATIENCE  # noqa: E402
from tests.environments.tiny_model import EOS, tiny_config, tiny_model  # noqa: E402

QWEN2_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
)
GREEDY = Sampling(temperature=0, max_tokens=24)


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(attn_implementation=ATTENTION)


@pytest.fixture(scope="module")
def reference() -> Any:
    """The same weights under transformers' eager attention: nothing of the engine's in it."""
    return tiny_model(attn_implementation="eager")


@pytest.fixture(params=[False, True], ids=["growing", "slots"])
def slots(request: pytest.FixtureRequest) -> bool:
    """Whether requests keep rows of a static cache, as they do on a GPU."""
    return bool(request.param)


@pytest.fixture
def engine(model: Any, slots: bool) -> Iterator[Engine]:
    engine = Engine(model, {EOS}, Limits(chunk=16), slots=slots)
    yield engine
    engine.close()


def generated(reference: Any, ids: list[int], max_tokens: int) -> list[int]:
    with torch.inference_mode():
        out = reference.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=max_tokens, do_sample=False
        )
    return out[0, len(ids) :].tolist()


def full_forward_logprobs(reference: Any, ids: list[int], completion: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        logits = reference(torch.tensor([ids + completion])).logits[0, len(ids) - 1 : -1]
    return logits.log_softmax(-1)  # T V


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
def test_greedy_is_transformers_generate(engine: Engine, reference: Any, length: int) -> None:
    [row] = engine.submit(prompt(length), GREEDY).result(PATIENCE)
    assert row.ids == generated(reference, prompt(length), 24)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_slots_are_transformers_generate_for_ragged_prompts(family: str) -> None:
    """Prompts read in one pass with padding, equal ones once; rows end at different steps and are used again."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    config: Any = tiny_config()
    if family == "qwen2":
        config = Qwen2Config(**{key: config.to_dict()[key] for key in QWEN2_KEYS}, initializer_range=0.3)
    models = []
    for attention in (ATTENTION, "eager"):
        torch.manual_seed(3)
        own = deepcopy(config)  # from_config writes the attention into it
        models.append(AutoModelForCausalLM.from_config(own, dtype=torch.float32, attn_implementation=attention).eval())
    engine = Engine(models[0], {EOS}, Limits(requests=4), slots=True)
    asked = [
        (prompt(length, length), tokens) for length, tokens in ((30, 4), (41, 24), (41, 9), (37, 24), (33, 3), (5, 24))
    ]
    with engine.wake:
        futures = [engine.submit(ids, Sampling(temperature=0, max_tokens=tokens)) for ids, tokens in asked]
    rows = [future.result(PATIENCE)[0] for future in futures]
    engine.close()
    for (ids, tokens), row in zip(asked, rows, strict=True):
        assert row.ids == generated(models[1], ids, tokens)
        want = full_forward_logprobs(models[1], ids, row.ids).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(row.logprobs), want, atol=1e-4, rtol=0)


def test_slots_refuse_a_model_with_another_attention(reference: Any) -> None:
    with pytest.raises(ValueError, match=r"attn_implementation must be 'longthread_grouped' \(got 'eager'\)"):
        Engine(reference, {EOS}, slots=True)


def requests() -> list[tuple[list[int], Sampling]]:
    return [
        (prompt(40, 1), Sampling(temperature=0, max_tokens=30)),
        (prompt(3, 2), Sampling(temperature=0, max_tokens=5, n=3)),
        (prompt(90, 3), Sampling(temperature=1, max_tokens=40, n=4, seed=5)),
        (prompt(90, 3), Sampling(temperature=0.7, max_tokens=12, n=2, seed=6, top_p=0.9, top_k=50)),
        (prompt(17, 4), Sampling(temperature=0, max_tokens=1)),
        (prompt(60, 5), Sampling(temperature=1.5, max_tokens=60, n=2, seed=-1)),
    ]


@pytest.mark.parametrize("spare", [4, 256])  # 4: buffers grow and dead columns are dropped all the time
def test_batched_equals_alone_and_logprobs_equal_a_full_forward(
    model: Any, reference: Any, spare: int, slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """unslothai/unsloth-zoo PR 832: at another temperature than 1, log-probabilities are still those before it."""
    monkeypatch.setattr("environments.inference.embedded.batch.SPARE", spare)
    monkeypatch.setattr("environments.inference.embedded.slots.SPARE", spare)
    monkeypatch.setattr("environments.inference.embedded.batch.CLEAN_UP_STEPS", spare)
    alone = []
    for ids, sampling in requests():
        solo = Engine(model, {EOS}, Limits(chunk=16))  # never in slots: both kinds of decoder draw the same
        alone.append(solo.submit(ids, sampling).result(PATIENCE))
        solo.close()
    engine = Engine(model, {EOS}, Limits(chunk=16), slots=slots)
    with engine.wake:  # the worker waits until all are in the queue
        futures = [engine.submit(*request) for request in requests()]
    together = [future.result(PATIENCE) for future in futures]
    engine.close()
    for (ids, sampling), rows, expected in zip(requests(), together, alone, strict=True):
        assert [row.ids for row in rows] == [row.ids for row in expected]
        for row in rows:
            want = full_forward_logprobs(reference, ids, row.ids).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(row.logprobs), want, atol=1e-4, rtol=0)
            if sampling.temperature == 0:
                assert row.ids == generated(reference, ids, sampling.max_tokens)


def test_a_request_joins_a_running_batch(engine: Engine, reference: Any) -> None:
    late: list[Any] = []

    def join_at_third_token(ids: Any) -> bool:
        if len(ids) == 3:
            late.append(engine.submit(prompt(70, 8), GREEDY))
        return False

    first = Sampling(temperature=0, max_tokens=24, stopped=join_at_third_token)
    [row] = engine.submit(prompt(20, 9), first).result(PATIENCE)
    [joined] = late[0].result(PATIENCE)
    assert row.ids == generated(reference, prompt(20, 9), 24)
    assert joined.ids == generated(reference, prompt(70, 8), 24)


def test_more_requests_than_the_batch_holds(model: Any, reference: Any, slots: bool) -> None:
    engine = Engine(model, {EOS}, Limits(requests=2, columns=150), slots=slots)
    futures = [engine.submit(prompt(10 * i + 1, i), GREEDY) for i in range(7)]
    for i, future in enumerate(futures):
        assert future.result(PATIENCE)[0].ids == generated(reference, prompt(10 * i + 1, i), 24)
    engine.close()


def test_an_empty_cache_that_is_far_too_wide_is_made_anew(model: Any, reference: Any) -> None:
    """After texts of 16k, steps over texts of 2k would read the columns of both."""
    engine, widths = Engine(model, {EOS}, Limits(), slots=True), []
    for length in (400, 300, 6):
        ids = prompt(length, seed=length)
        assert engine.submit(ids, GREEDY).result(PATIENCE)[0].ids == generated(reference, ids, 24)
        decoder = engine.decoder
        assert isinstance(decoder, SlotDecoder) and decoder.cache is not None
        widths.append(decoder.cache.owner_BK.shape[1])
    engine.close()
    assert widths == [448, 448, 64]


@given(lengths=st.lists(st.lists(st.integers(1, 700), min_size=1, max_size=8), min_size=1, max_size=3))
@example([[10] * 8, [400, 400]])  # rows of many short texts, then columns of long ones: a GPU had no memory for both
@example([[10, 600], [10] * 8])
@example([[1, 509, 1]])  # the third joins a row that has yet to write its last columns
@settings(deadline=None, max_examples=12)
def test_the_cache_is_never_larger_than_the_limit_or_what_one_request_needs(
    model: Any, lengths: list[list[int]]
) -> None:
    limits, resize, made = Limits(columns=2048), Cache.resize, []

    def watched(cache: Cache, rows: int, columns: int) -> None:
        resize(cache, rows, columns)
        made.append(cache.owner_BK.numel())

    with patch.object(Cache, "resize", watched):
        engine = Engine(model, {EOS}, limits, slots=True)
        few = Sampling(temperature=0, max_tokens=4)
        for together in lengths:
            with engine.wake:
                futures = [engine.submit(prompt(length, length), few) for length in together]
            for length, future in zip(together, futures, strict=True):
                alone = Engine(model, {EOS}, slots=False)
                assert (
                    future.result(PATIENCE)[0].ids == alone.submit(prompt(length, length), few).result(PATIENCE)[0].ids
                )
                alone.close()
        engine.close()
    assert made and max(made) <= limits.columns


def test_a_request_for_which_there_is_no_memory_fails_alone(model: Any, reference: Any) -> None:
    """It left layers of two widths behind, and the next step failed all that ran, by another error."""
    engine, calls, late, new_zeros = Engine(model, {EOS}, Limits(), slots=True), 0, [], torch.Tensor.new_zeros

    def short_of_memory(tensor: torch.Tensor, *shape: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:  # the second layer
            raise torch.OutOfMemoryError("CUDA out of memory")
        return new_zeros(tensor, *shape)

    def join_at_third_token(ids: Any) -> bool:
        if len(ids) == 3:
            late.append(engine.submit(prompt(400, 8), GREEDY))
            patched.start()
        return False

    patched = patch.object(torch.Tensor, "new_zeros", short_of_memory)
    first = Sampling(temperature=0, max_tokens=24, stopped=join_at_third_token)
    [row] = engine.submit(prompt(20, 9), first).result(PATIENCE)
    patched.stop()
    assert row.ids == generated(reference, prompt(20, 9), 24)
    with pytest.raises(torch.OutOfMemoryError):
        late[0].result(PATIENCE)
    assert isinstance(engine.decoder, SlotDecoder) and engine.decoder.cache is not None
    for buffer in itertools.chain(*engine.decoder.cache.layers):  # nothing is held beyond what is used
        assert buffer.untyped_storage().nbytes() == buffer.numel() * buffer.element_size()
    [again] = engine.submit(prompt(400, 8), GREEDY).result(PATIENCE)
    assert again.ids == generated(reference, prompt(400, 8), 24)
    engine.close()


def test_seed_decides_the_sample_and_rows_differ(engine: Engine) -> None:
    sampling = Sampling(n=4, max_tokens=12, temperature=2, seed=3)
    first, second = (engine.submit(prompt(9), sampling).result(PATIENCE) for _ in range(2))
    other = engine.submit(prompt(9), Sampling(n=4, max_tokens=12, temperature=2, seed=4)).result(PATIENCE)
    assert [row.ids for row in first] == [row.ids for row in second] != [row.ids for row in other]
    assert len({tuple(row.ids) for row in first}) == 4


def test_the_end_token_stops_a_row_and_is_kept(model: Any) -> None:
    plain = Engine(model, set())
    [row] = plain.submit(prompt(9), GREEDY).result(PATIENCE)
    plain.close()
    end = row.ids[5]
    engine = Engine(model, {end})
    [stopped] = engine.submit(prompt(9), GREEDY).result(PATIENCE)
    engine.close()
    assert stopped.ids == row.ids[: row.ids.index(end) + 1] and stopped.finish_reason == "stop"
    assert len(row.ids) == 24 and row.finish_reason == "length"


def test_a_stop_test_ends_only_its_own_row(engine: Engine) -> None:
    [free] = engine.submit(prompt(9), GREEDY).result(PATIENCE)
    stop = Sampling(temperature=0, max_tokens=24, stopped=lambda ids: len(ids) == 2)
    with engine.wake:
        futures = [engine.submit(prompt(9), sampling) for sampling in (stop, GREEDY)]
    [short], [long] = (future.result(PATIENCE) for future in futures)
    assert (short.ids, short.finish_reason) == (free.ids[:2], "stop")
    assert long.ids == free.ids


def test_top_logprobs_are_the_likeliest(engine: Engine, reference: Any) -> None:
    sampling = Sampling(temperature=0, max_tokens=3, top_logprobs=4)
    [row] = engine.submit(prompt(9), sampling).result(PATIENCE)
    want = full_forward_logprobs(reference, prompt(9), row.ids).topk(4)
    assert [[token for token, _ in top] for top in row.top] == want.indices.tolist()
    assert [top[0] for top in row.top] == list(zip(row.ids, row.logprobs, strict=True))


def test_a_cancelled_request_is_dropped_and_the_others_go_on(engine: Engine, reference: Any) -> None:
    seen: list[int] = []
    futures: list[Any] = []

    def cancel_at_second_token(ids: Any) -> bool:
        seen.append(len(ids))
        if len(ids) == 2:
            futures[0].cancel()
        return False

    with engine.wake:
        futures.append(engine.submit(prompt(9), Sampling(max_tokens=400, stopped=cancel_at_second_token)))
        futures.append(engine.submit(prompt(30), GREEDY))
    assert futures[1].result(PATIENCE)[0].ids == generated(reference, prompt(30), 24)
    assert futures[0].cancelled() and max(seen) == 2


def test_close_cancels_what_waits(model: Any) -> None:
    engine = Engine(model, {EOS})
    with engine.wake:
        future = engine.submit(prompt(9), Sampling(max_tokens=400))
        engine.closing = True
    engine.close()
    with pytest.raises(CancelledError):
        future.result(PATIENCE)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(prompt(9), GREEDY)


class Spy:
    """The model, counting the tokens run through it; `fail` makes the next call raise."""

    def __init__(self, model: Any) -> None:
        self.model, self.tokens, self.fail = model, 0, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, **inputs: Any) -> Any:
        if self.fail:
            self.fail = False
            raise MemoryError("no room")
        self.tokens += inputs["input_ids"].numel()
        return self.model(**inputs)


def test_a_shared_prefix_is_prefilled_once(model: Any, reference: Any) -> None:
    spy = Spy(model)
    engine = Engine(spy, {EOS}, Limits(chunk=16))
    one = Sampling(temperature=0, max_tokens=1)
    counts = []
    for ids in (prompt(50), prompt(50), prompt(50)[:40] + prompt(20, 1), prompt(30, 2)):
        spy.tokens = 0
        assert engine.submit(ids, one).result(PATIENCE)[0].ids == generated(reference, ids, 1)
        counts.append(spy.tokens)
    engine.close()
    assert counts == [50, 1, 20, 30]


def test_variants_share_a_batch_and_no_prefix(model: Any, reference: Any) -> None:
    """Each pass is told the variant of each row; a prompt's keys and values are used again for its own variant alone."""
    passes: list[tuple[list[Any], int]] = []

    def forward(variants: Any, **inputs: Any) -> Any:
        passes.append((list(variants), inputs["input_ids"].shape[1]))
        return model(**inputs)

    engine = Engine(model, {EOS}, Limits(chunk=64), forward=forward)
    ids, sampling = prompt(50), Sampling(temperature=0, max_tokens=4)
    with engine.wake:
        futures = [engine.submit(ids, sampling, variant) for variant in ("one", None, "two", "two")]
    rows = [future.result(PATIENCE)[0].ids for future in futures]
    engine.close()
    assert rows == [generated(reference, ids, 4)] * 4
    assert passes[:4] == [(["one"], 50), ([None], 50), (["two"], 50), (["two"], 1)]
    assert passes[4] == (["one", None, "two", "two"], 1)


def test_n_completions_take_one_prefill_and_only_the_last_logits(model: Any) -> None:
    spy, shapes = Spy(model), []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape[1]))
    engine = Engine(spy, {EOS}, Limits(chunk=16))
    engine.submit(prompt(50), Sampling(n=5, max_tokens=1)).result(PATIENCE)
    engine.close()
    hook.remove()
    assert spy.tokens == 50 and shapes == [1, 1, 1, 1]


def test_a_prompt_within_the_limit_is_read_in_one_pass_unless_a_prefix_has_most_of_it(
    model: Any, reference: Any
) -> None:
    widths: list[int] = []

    def forward(variants: Any, **inputs: Any) -> Any:
        widths.append(inputs["input_ids"].shape[1])
        return model(**inputs)

    engine = Engine(model, {EOS}, Limits(chunk=16, whole=50), forward=forward)
    for ids, passes in (
        (prompt(50), [50]),
        (prompt(51, 1), [16, 16, 16, 3]),
        (prompt(51, 1)[:20] + prompt(20, 2), [40]),
        (prompt(51, 1)[:20] + prompt(20, 2)[:10] + prompt(19, 3), [16, 3]),
        (prompt(51, 1)[:20] + prompt(31, 4), [16, 15]),
    ):
        widths.clear()
        one = Sampling(temperature=0, max_tokens=1)
        assert engine.submit(ids, one).result(PATIENCE)[0].ids == generated(reference, ids, 1)
        assert widths == passes
    engine.close()


def test_no_whole_prompt_is_read_where_attention_wants_a_mask_for_it() -> None:
    sizes = {kind: whole_prompt(tiny_model(attn_implementation=kind), 2**30) for kind in ("sdpa", "eager")}
    assert sizes == {"sdpa": 2**28 // (4 * (18 * 64 + 4 * 128)), "eager": 0}  # a quarter of it, fp32
    model = tiny_model()
    model.config.sliding_window = 32
    assert whole_prompt(model, 2**30) == 0


def test_a_failing_model_fails_the_request_and_not_the_engine(model: Any) -> None:
    spy = Spy(model)
    engine = Engine(spy, {EOS})
    spy.fail = True
    with pytest.raises(MemoryError):
        engine.submit(prompt(9), GREEDY).result(PATIENCE)

    def fail_in_the_batch(ids: Any) -> bool:
        spy.fail = len(ids) == 2
        return False

    with pytest.raises(MemoryError):
        engine.submit(prompt(9), Sampling(max_tokens=9, stopped=fail_in_the_batch)).result(PATIENCE)
    assert engine.submit(prompt(9), GREEDY).result(PATIENCE)[0].finish_reason
    engine.close()


def test_rope_that_depends_on_the_length_is_decoded_alone(reference: Any) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    key = "rope_parameters" if hasattr(reference.config, "rope_parameters") else "rope_scaling"
    shape = {"max_position_embeddings": 64, key: rope}
    engine = Engine(tiny_model(attn_implementation=ATTENTION, **shape), {EOS}, Limits(chunk=16))
    with engine.wake:
        futures = [engine.submit(prompt(length), GREEDY) for length in (20, 200)]
    rows = [future.result(PATIENCE)[0] for future in futures]
    engine.close()
    for length, row in zip((20, 200), rows, strict=True):
        assert row.ids == generated(tiny_model(attn_implementation="eager", **shape), prompt(length), 24)


def test_grouped_attention_is_attention_over_repeated_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator)
    key, value = (torch.randn(2, 2, 11, 8, generator=generator) for _ in range(2))
    mask = torch.zeros(2, 1, 5, 11).masked_fill(torch.rand(2, 1, 5, 11, generator=generator) < 0.4, float("-inf"))
    mask[..., 0] = 0
    out, _ = grouped_attention(torch.nn.Module(), query, key, value, mask, scaling=0.3)
    scores = query @ key.repeat_interleave(3, 1).transpose(2, 3) * 0.3 + mask
    want = (scores.softmax(-1) @ value.repeat_interleave(3, 1)).transpose(1, 2)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5)


def drawn(logits: torch.Tensor, sampling: Sampling, count: int) -> list[int]:
    """`count` draws from the same logits, all rows of one call."""
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = [torch.full((count,), float(value)) for value in (sampling.temperature, sampling.top_k, sampling.top_p)]
    tokens, logprobs = draw(logits.expand(count, -1), Choice(*rows, uniform), filtered=True)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens])
    return tokens.tolist()


def test_draw_respects_top_k_top_p_and_temperature() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    probs = logits.softmax(-1)  # .64 .24 .09 .03

    def kinds(sampling: Sampling) -> set[int]:
        return set(drawn(logits, sampling, 300))

    assert kinds(Sampling()) == {0, 1, 2, 3}
    assert kinds(Sampling(top_k=2)) == {0, 1}
    assert kinds(Sampling(top_p=0.7)) == {0, 1}  # the token that crosses 0.7 stays
    assert kinds(Sampling(top_k=2, top_p=0.7)) == {0}  # of what top_k leaves, 0.73 is the first token's
    assert kinds(Sampling(top_p=1e-6)) == kinds(Sampling(temperature=0)) == kinds(Sampling(temperature=1e-30)) == {0}
    counts = torch.bincount(torch.tensor(drawn(logits, Sampling(), 4000)))
    torch.testing.assert_close(counts / 4000, probs, atol=0.03, rtol=0)


def test_a_branch_draws_the_same_beside_others_with_filters() -> None:
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(1))
    uniform = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = Choice(torch.ones(5), torch.zeros(5), torch.ones(5), uniform)
    mixed = plain._replace(top_k=torch.tensor([0.0, 0, 3, 0, 0]), top_p=torch.tensor([1.0, 1, 1, 0.2, 1]))
    alone, beside = draw(logits, plain, filtered=False)[0], draw(logits, mixed, filtered=True)[0]
    assert alone[[0, 1, 4]].tolist() == beside[[0, 1, 4]].tolist()


def test_top_p_over_a_large_vocabulary_falls_back_to_the_full_sort() -> None:
    flat = torch.zeros(5000)  # the likeliest 1024 hold a fifth of the mass
    assert 1024 < len(set(drawn(flat, Sampling(top_p=0.5), 3000))) <= 2501


def test_common_prefix() -> None:
    a = torch.tensor([1, 2, 3])
    assert [common_prefix(a, torch.tensor(b)) for b in ([1, 2, 3, 4], [1, 9], [9], [], [1, 2])] == [3, 1, 0, 0, 2]
