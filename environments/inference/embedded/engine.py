"""Token ids in, token ids and log-probabilities out: a causal LM decoded for several requests at once.

    engine = Engine(model, eos_ids={2})
    [first, second] = engine.submit([1, 5, 9], Sampling(n=2, max_tokens=16)).result()

A request's n completions are branches of one sequence: they are n queries of one batch row, and a mask lets each see
the prompt and its own tokens. So the prompt's keys and values stand in memory once and are read once per step, whatever
n is. Different requests are different batch rows; they join after their prefill and leave when done, between steps.
"""

from __future__ import annotations

import os

# A torch thread that spins for a partner whose core another process holds stalls both. On two busy cores a 1024-token
# prefill fell from 800 to 20-120 tok/s; waiting passively it keeps 360-600. Read when torch is first loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import secrets  # noqa: E402
import threading  # noqa: E402
from collections import deque  # noqa: E402
from collections.abc import Callable, Collection, Sequence  # noqa: E402
from concurrent.futures import Future  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from transformers import AttentionInterface  # noqa: E402
from transformers.cache_utils import Cache, DynamicLayer  # noqa: E402
from transformers.integrations.sdpa_attention import sdpa_attention_forward  # noqa: E402
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask  # noqa: E402

ATTENTION = "longthread_grouped"  # the attn_implementation the engine's model must be loaded with
CHUNK = 512  # prompt tokens per prefill call: as fast as 1024 and 2048 here, and the masks stay small
MAX_COLUMNS = 65_536  # key/value columns of a batch, padding included: 3 GB for a 135M model in float32
SPARE = 256  # free columns a key/value buffer is enlarged by, and steps between two clean-ups of dead columns
FEW_QUERIES = 64
DEAD, SHARED = -1, 0  # owners of a column: nobody, every row of the group; row r owns with r + 1


@dataclass(frozen=True)
class Sampling:
    """What a request asks for. `stopped` sees a completion's ids after each token (stop strings live outside)."""

    n: int = 1
    max_tokens: int = 16
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    top_logprobs: int = 0
    stopped: Callable[[Sequence[int]], bool] | None = None


@dataclass
class Completion:
    """Generated ids, the end-of-text token included; log-probabilities are the model's own (temperature 1)."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # per token: the likeliest (id, logprob)
    finish_reason: str = ""  # "stop" or "length"; empty while it runs


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # B H Q D
    key: torch.Tensor,  # B H/share K D
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa, but a few masked queries read shared key/value heads in place instead of repeating them."""
    B, H, Q, D = query.shape
    if attention_mask is None or Q > FEW_QUERIES:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    share = H // key.shape[1]
    packed = query.reshape(B, H // share, share * Q, D)
    mask = attention_mask.repeat(1, 1, share, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, scale=options.get("scaling")
    )
    return out.reshape(B, H, Q, D).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Columns(DynamicLayer):
    """One layer's keys and values, B H K D, in buffers with room to spare, so that a step copies only its own."""

    def __init__(
        self,
        keys: torch.Tensor | None = None,
        values: torch.Tensor | None = None,
        used: int = 0,
        reserve: int = 0,  # columns known to come, so that they need no enlarging
    ) -> None:
        super().__init__()
        self.key_buffer, self.value_buffer, self.used, self.reserve = keys, values, used, reserve
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        end = self.used + key_states.shape[2]
        if self.key_buffer is None or end > self.key_buffer.shape[2]:
            width = max(end, self.reserve) + SPARE
            self.key_buffer = self._enlarged(self.key_buffer, key_states, width)
            self.value_buffer = self._enlarged(self.value_buffer, value_states, width)
        assert self.value_buffer is not None
        self.key_buffer[:, :, self.used : end] = key_states
        self.value_buffer[:, :, self.used : end] = value_states
        self.used = end
        return self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]

    def _enlarged(self, old: torch.Tensor | None, like: torch.Tensor, width: int) -> torch.Tensor:
        new = like.new_empty(like.shape[0], like.shape[1], width, like.shape[3])
        if old is not None:
            new[:, :, : self.used] = old[:, :, : self.used]
        return new

    def get_seq_length(self, *_: Any) -> int:
        return self.used


class Group:
    """One request on its way: its rows, and the future its completions are promised to."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.prompt, self.sampling = list(prompt), sampling
        self.future: Future[list[Completion]] = Future()
        self.rows = [Completion() for _ in range(sampling.n)]
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        # One generator a row, on the CPU: what a row draws depends on nothing else in the batch.
        seeds = [(seed * 1_000_003 + i) % 2**63 for i in range(sampling.n)]
        self.generators = [torch.Generator().manual_seed(value) for value in seeds]

    @property
    def live(self) -> list[int]:
        """Indices of the rows still running; none once the client has gone."""
        return [] if self.future.cancelled() else [i for i, row in enumerate(self.rows) if not row.finish_reason]

    def advance(self, index: int, logits_V: torch.Tensor, eos_ids: Collection[int]) -> None:
        """Draw one row's next token from its logits and see whether the row ends with it."""
        row, sampling = self.rows[index], self.sampling
        token = choose(logits_V, sampling, self.generators[index])
        logprobs_V = torch.log_softmax(logits_V, dim=-1)
        row.ids.append(token)
        row.logprobs.append(float(logprobs_V[token]))
        if sampling.top_logprobs:
            values, ids = logprobs_V.topk(min(sampling.top_logprobs, len(logprobs_V)))
            row.top.append(list(zip(ids.tolist(), values.tolist(), strict=True)))
        if token in eos_ids or (sampling.stopped is not None and sampling.stopped(row.ids)):
            row.finish_reason = "stop"
        elif len(row.ids) >= sampling.max_tokens:
            row.finish_reason = "length"


def choose(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token: the likeliest at temperature 0, else drawn after top_k and top_p (in this order, as vLLM)."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled_V = (logits_V - logits_V.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        scaled_V = scaled_V.masked_fill(scaled_V < scaled_V.topk(sampling.top_k).values[-1], float("-inf"))
    probs_V = scaled_V.softmax(dim=-1)
    if sampling.top_p < 1:
        sorted_V, order_V = probs_V.topk(min(1024, len(probs_V)))  # a sort of the whole vocabulary takes 4 ms a row
        if sorted_V.sum() < sampling.top_p:
            sorted_V, order_V = probs_V.sort(descending=True)
        beyond_V = sorted_V.cumsum(dim=-1) - sorted_V >= sampling.top_p  # the token that crosses top_p stays
        beyond_V[0] = False
        kept_V = torch.zeros_like(probs_V)
        kept_V[order_V[~beyond_V]] = sorted_V[~beyond_V]
        probs_V = kept_V
    return int(torch.multinomial(probs_V, 1, generator=generator))


@dataclass
class Batch:
    """Groups decoded together: group g's keys and values are row g of every layer; owner_GK says who reads a column."""

    groups: list[Group]
    cache: Any  # a Cache of Columns
    owner_GK: torch.Tensor

    def step(self, model: Any, eos_ids: Collection[int]) -> None:
        """One more token for every live row of every group."""
        live = [group.live for group in self.groups]
        if not any(live):  # every client has gone since the batch was formed
            return
        shape = (len(self.groups), max(map(len, live)))  # G Q: a group with fewer live rows is padded with dead queries
        tokens_GQ, positions_GQ = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        owner_GQ = torch.full(shape, DEAD)
        for g, (group, rows) in enumerate(zip(self.groups, live, strict=True)):
            for q, r in enumerate(rows):
                tokens_GQ[g, q], owner_GQ[g, q] = group.rows[r].ids[-1], r + 1
                positions_GQ[g, q] = len(group.prompt) + len(group.rows[r].ids) - 1
        self.owner_GK = torch.cat([self.owner_GK, owner_GQ], dim=1)
        # A dead query sees the prompt as well: softmax over nothing would be NaN.
        owner_G1K, query_GQ1 = self.owner_GK[:, None], owner_GQ[:, :, None]
        visible_GQK = (owner_G1K == SHARED) | ((owner_G1K == query_GQ1) & (query_GQ1 != DEAD))
        mask_GQK = torch.zeros(visible_GQK.shape, dtype=model.dtype).masked_fill(~visible_GQK, float("-inf"))
        logits_GQV = model(
            input_ids=tokens_GQ.to(model.device),
            position_ids=positions_GQ.to(model.device),
            attention_mask=mask_GQK[:, None].to(model.device),
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        for g, (group, rows) in enumerate(zip(self.groups, live, strict=True)):
            logits_QV = logits_GQV[g, : len(rows)].float().cpu()
            for q, r in enumerate(rows):
                group.advance(r, logits_QV[q], eos_ids)

    @staticmethod
    def merge(batches: Sequence[Batch]) -> Batch | None:
        """The live groups of all batches in one, without the columns nobody reads any more; None when none lives."""
        live = [(b, g, group) for b in batches for g, group in enumerate(b.groups) if group.live]
        if not live:
            return None
        if len(live) == 1 and len(live[0][0].groups) == 1 and live[0][0].owner_GK.eq(SHARED).all():
            return live[0][0]  # fresh from its prefill: nothing to move
        kept = []
        for batch, g, group in live:
            owners = torch.tensor([SHARED] + [r + 1 for r in group.live])
            kept.append(torch.isin(batch.owner_GK[g], owners).nonzero().squeeze(1))
        width = max(map(len, kept))
        owner_GK = torch.full((len(live), width), DEAD)
        for row, ((batch, g, _), columns) in enumerate(zip(live, kept, strict=True)):
            owner_GK[row, : len(columns)] = batch.owner_GK[g, columns]

        def gathered(layer: int, name: str) -> torch.Tensor:
            first = getattr(live[0][0].cache.layers[layer], name)
            out = first.new_zeros(len(live), first.shape[1], width + SPARE, first.shape[3])
            for row, ((batch, g, _), columns) in enumerate(zip(live, kept, strict=True)):
                source = getattr(batch.cache.layers[layer], name)[g]
                out[row, :, : len(columns)] = source.index_select(1, columns.to(source.device))
            return out

        count = len(live[0][0].cache.layers)
        layers: Any = [Columns(gathered(i, "key_buffer"), gathered(i, "value_buffer"), width) for i in range(count)]
        return Batch([group for _, _, group in live], Cache(layers=layers), owner_GK)


class Engine:
    """Owns the model in one worker thread; `submit` from any thread, cancel the future to drop a request."""

    def __init__(
        self,
        model: Any,
        eos_ids: Collection[int],
        *,
        max_batch: int = 8,
        chunk: int = CHUNK,
        max_columns: int = MAX_COLUMNS,
        threads: int | None = None,
    ) -> None:
        self.model, self.eos_ids, self.threads = model, frozenset(eos_ids), threads
        self.max_batch, self.chunk, self.max_columns = max_batch, chunk, max_columns
        rope = getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_scaling", None) or {}
        # These turn keys by the length seen so far, so a key may be shared neither across requests nor across chunks.
        self.rope_by_length = rope.get("rope_type") in ("dynamic", "longrope")
        if self.rope_by_length:
            self.max_batch, self.chunk = 1, 2**62
        self.prefix: tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]] | None = None
        self.batch: Batch | None = None
        self.waiting: deque[Group] = deque()
        self.wake, self.closing = threading.Condition(), False
        self.thread = threading.Thread(target=self._work, name="embedded-engine", daemon=True)
        self.thread.start()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Future[list[Completion]]:
        """Queue a request; its future gives the n completions in order, or the error that ended it."""
        group = Group(prompt, sampling)
        with self.wake:
            if self.closing:
                raise RuntimeError("the engine is closed: start a new one")
            self.waiting.append(group)
            self.wake.notify()
        return group.future

    def close(self) -> None:
        """Cancel what is waiting or running and end the worker."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    def _work(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)  # counts for the thread that calls it
        steps = 0
        with torch.inference_mode():
            while self._wait():
                batches = [self.batch] if self.batch else []
                batches += (joined := self._admit())
                try:
                    if not joined and self.batch is not None:
                        self.batch.step(self.model, self.eos_ids)
                        steps += 1
                    self._settle(batches, clean_up=steps % SPARE == 0)
                except Exception as error:  # out of memory, say: these requests fail, the next need not
                    for group in (group for batch in batches for group in batch.groups):
                        _fail(group, error)
                    self.batch = self.prefix = None
        for group in [*self.waiting, *(self.batch.groups if self.batch else [])]:
            group.future.cancel()

    def _wait(self) -> bool:
        with self.wake:
            self.wake.wait_for(lambda: self.waiting or self.batch or self.closing)
            return not self.closing

    def _admit(self) -> list[Batch]:
        """Prefill waiting requests, in order, while the batch has room; an empty batch takes any one."""
        joined: list[Batch] = []
        while self.waiting:
            batches = [*([self.batch] if self.batch else []), *joined]
            count = sum(len(batch.groups) for batch in batches)
            width = max([len(self.waiting[0].prompt), *(batch.owner_GK.shape[1] for batch in batches)])
            if count and (count >= self.max_batch or (count + 1) * width > self.max_columns):
                break
            group = self.waiting.popleft()
            try:
                if (batch := self._prefill(group)) is not None:
                    joined.append(batch)
            except Exception as error:
                _fail(group, error)
        return joined

    def _prefill(self, group: Group) -> Batch | None:
        """The prompt's keys and values, and every row's first token from its last logits; None when cancelled."""
        ids_K = torch.tensor(group.prompt)
        layers: Any = [Columns(reserve=len(ids_K)) for _ in range(self.model.config.num_hidden_layers)]
        cache = Cache(layers=layers)
        start = 0
        if self.prefix is not None:
            start = common_prefix(self.prefix[0], ids_K[:-1])  # the last token is run for its logits
            for layer, (keys, values) in zip(layers, self.prefix[1], strict=True):
                if start:
                    layer.update(keys[:, :, :start], values[:, :, :start])
        while start < len(ids_K):
            if self.closing:
                group.future.cancel()
            if group.future.cancelled():
                return None
            chunk_1Q = ids_K[None, start : start + self.chunk].to(self.model.device)
            out = self.model(input_ids=chunk_1Q, past_key_values=cache, use_cache=True, logits_to_keep=1)
            start += self.chunk
        if not self.rope_by_length:
            # Later columns are only ever written behind the prompt's, so views will do.
            K = len(ids_K)
            views = [(layer.key_buffer[:, :, :K], layer.value_buffer[:, :, :K]) for layer in layers]
            self.prefix = (ids_K, views)
        logits_V = out.logits[0, -1].float().cpu()
        for index in range(len(group.rows)):
            group.advance(index, logits_V, self.eos_ids)
        return Batch([group], cache, torch.full((1, len(ids_K)), SHARED))

    def _settle(self, batches: Sequence[Batch], clean_up: bool) -> None:
        """Hand over finished groups and form the next step's batch."""
        groups = [group for batch in batches for group in batch.groups]
        for group in groups:
            if not group.live and group.future.set_running_or_notify_cancel():
                group.future.set_result(group.rows)
        if self.batch is None or len(batches) > 1 or clean_up or not all(group.live for group in groups):
            self.batch = Batch.merge(batches)


def common_prefix(a: torch.Tensor, b: torch.Tensor) -> int:
    """How many leading elements two 1-D tensors share."""
    shortest = min(len(a), len(b))
    differing = (a[:shortest] != b[:shortest]).nonzero()
    return int(differing[0]) if len(differing) else shortest


def _fail(group: Group, error: Exception) -> None:
    if not group.future.done() and group.future.set_running_or_notify_cancel():
        group.future.set_exception(error)
