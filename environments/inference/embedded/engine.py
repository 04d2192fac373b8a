"""Token ids in, token ids and log-probabilities out: a causal LM decoded for several requests at once.

    engine = Engine(model, eos_ids={2})
    [first, second] = engine.submit([1, 5, 9], Sampling(n=2, max_tokens=16)).result()

Requests join the batch after their prefill and leave it when done, between steps; `batch` has what a step does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from environments.inference.embedded.batch import ATTENTION, SHARED, Batch, Columns, Request, as_cache, merge
from environments.inference.embedded.demo_model import check_folder
from environments.inference.embedded.protocol import Generation, Sampling
from environments.inference.embedded.variants import BASE, Forward
from longthread.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from longthread.language_model import ModelOutput

DTYPES = ("auto", "float32", "bfloat16", "float16")
CLEAN_UP_STEPS = 256  # steps between two clean-ups of dead columns


@dataclass(frozen=True)
class Limits:
    """Bounds of what is decoded at a time."""

    requests: int = 8
    chunk: int = 512  # prompt tokens per prefill call: as fast as 1024 and 2048, and the masks stay small
    columns: int = 65_536  # key/value columns of a batch, padding included: 3 GB for a 135M model in float32


@dataclass(frozen=True)
class Prefix:
    """The prompt read last: its variant, its token ids, and each layer's keys and values of it."""

    variant: Hashable
    ids_K: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]


class Engine:
    """Owns the model in one worker thread; `submit` from any thread, cancel the future to drop a request.

    `forward` runs the model where rows are of different variants; a model without any is called itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Collection[int],
        limits: Limits | None = None,
        threads: int | None = None,
        forward: Forward | None = None,
    ) -> None:
        self.model, self.eos_ids, self.limits, self.threads = model, frozenset(eos_ids), limits or Limits(), threads
        self.forward: Forward = forward or self._call_model
        rope = getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_scaling", None) or {}
        # These turn keys by the length seen so far, so a key may be shared neither across requests nor across chunks.
        self.rope_by_length = rope.get("rope_type") in ("dynamic", "longrope")
        if self.rope_by_length:
            self.limits = replace(self.limits, requests=1, chunk=2**62)
        self.prefix: Prefix | None = None
        self.batch: Batch | None = None
        self.waiting: deque[Request] = deque()
        self.policy_version = 0  # of the weights: 0 as loaded
        self.swaps: deque[tuple[Mapping[str, torch.Tensor], int, Future[None]]] = deque()
        self.wake, self.closing = threading.Condition(), False
        self.thread = threading.Thread(target=self._work, name="embedded-engine", daemon=True)
        self.thread.start()

    def submit(self, prompt: Sequence[int], sampling: Sampling, variant: Hashable = BASE) -> Future[list[Generation]]:
        """Queue a request; its future gives the n generations in order, or the error that ended it."""
        request = Request(prompt, sampling, variant)
        with self.wake:
            if self.closing:
                raise RuntimeError("the engine is closed: start a new one")
            self.waiting.append(request)
            self.wake.notify()
        return request.future

    def swap(self, weights: Mapping[str, torch.Tensor], version: int) -> Future[None]:
        """Queue new values of some parameters, by name: running requests end with the old ones, later ones get the new.

        No prefix survives. Names and shapes must be the model's.
        """
        future: Future[None] = Future()
        with self.wake:
            self.swaps.append((weights, version, future))
            self.wake.notify()
        return future

    def close(self) -> None:
        """Cancel what is waiting or running and end the worker."""
        with self.wake:
            self.closing = True
            self.wake.notify()
        self.thread.join()

    def _call_model(self, variants: Sequence[Hashable], **inputs: Any) -> ModelOutput:
        return self.model(**inputs)

    def _work(self) -> None:
        if self.threads:
            torch.set_num_threads(self.threads)  # counts for the thread that calls it
        steps = 0
        with torch.inference_mode():
            while self._wait():
                if self.swaps and self.batch is None:
                    self._swap(*self.swaps.popleft())
                batches = [self.batch] if self.batch else []
                batches += (joined := self._admit())
                try:
                    if not joined and self.batch is not None:
                        self.batch.step(self.model, self.forward, self.eos_ids)
                        steps += 1
                    self._settle(batches, clean_up=steps % CLEAN_UP_STEPS == 0)
                except Exception as error:  # out of memory, say: these requests fail, the next need not
                    for request in (request for batch in batches for request in batch.requests):
                        request.fail(error)
                    self.batch = self.prefix = None
        for future in [swap[2] for swap in self.swaps]:
            future.cancel()
        for request in [*self.waiting, *(self.batch.requests if self.batch else [])]:
            request.future.cancel()

    def _wait(self) -> bool:
        with self.wake:
            self.wake.wait_for(lambda: self.waiting or self.batch or self.swaps or self.closing)
            return not self.closing

    def _swap(self, weights: Mapping[str, torch.Tensor], version: int, future: Future[None]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
        self.prefix, self.policy_version = None, version  # keys and values of the old weights
        future.set_result(None)

    def _admit(self) -> list[Batch]:
        """Prefill waiting requests, in order, while the batch has room; an empty batch takes any one."""
        joined: list[Batch] = []
        while self.waiting and not self.swaps:
            batches = [*([self.batch] if self.batch else []), *joined]
            count = sum(len(batch.requests) for batch in batches)
            width = max([len(self.waiting[0].prompt), *(batch.owner_BK.shape[1] for batch in batches)])
            if count and (count >= self.limits.requests or (count + 1) * width > self.limits.columns):
                break
            request = self.waiting.popleft()
            try:
                if (batch := self._prefill(request)) is not None:
                    joined.append(batch)
            except Exception as error:
                request.fail(error)
        return joined

    def _prefill(self, request: Request) -> Batch | None:
        """Return the prompt's keys and values, with every branch's first token drawn; None when cancelled."""
        ids_K = torch.tensor(request.prompt)
        layers, start = self._layers(ids_K, request.variant)
        cache = as_cache(layers)
        while start < len(ids_K):
            if self.closing:
                request.future.cancel()
            if request.future.cancelled():
                return None
            chunk_1Q = ids_K[None, start : start + self.limits.chunk].to(self.model.device)
            inputs = {"input_ids": chunk_1Q, "past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            out = self.forward([request.variant], **inputs)
            start += self.limits.chunk
        if not self.rope_by_length:
            # Later columns are only ever written behind the prompt's, so views will do.
            self.prefix = Prefix(request.variant, ids_K, [layer.first(len(ids_K)) for layer in layers])
        logits_V = out.logits[0, -1].float().cpu()
        for branch in range(len(request.branches)):
            request.branches[branch].policy_version = self.policy_version
            request.advance(branch, logits_V, self.eos_ids)
        return Batch([request], layers, torch.full((1, len(ids_K)), SHARED))

    def _layers(self, ids_K: torch.Tensor, variant: Hashable) -> tuple[list[Columns], int]:
        """Return layers for a prompt, filled with what it shares with the prompt before, and how many columns that is.

        Two variants share nothing: each has keys and values of its own for the same tokens.
        """
        layers = [Columns(reserve=len(ids_K)) for _ in range(self.model.config.num_hidden_layers)]
        if self.prefix is None or self.prefix.variant != variant:
            return layers, 0
        start = common_prefix(self.prefix.ids_K, ids_K[:-1])  # the last token is run for its logits
        if start:
            for layer, (keys, values) in zip(layers, self.prefix.layers, strict=True):
                layer.update(keys[:, :, :start], values[:, :, :start])
        return layers, start

    def _settle(self, batches: Sequence[Batch], clean_up: bool) -> None:
        """Hand over finished requests and form the next step's batch."""
        requests = [request for batch in batches for request in batch.requests]
        for request in requests:
            if not request.running and request.future.set_running_or_notify_cancel():
                request.future.set_result(request.branches)
        if self.batch is None or len(batches) > 1 or clean_up or not all(request.running for request in requests):
            self.batch = merge(batches)


def common_prefix(a: torch.Tensor, b: torch.Tensor) -> int:
    """Return how many leading elements two 1-D tensors share."""
    shortest = min(len(a), len(b))
    differing = (a[:shortest] != b[:shortest]).nonzero()
    return int(differing[0]) if len(differing) else shortest


def load(model_dir: Path, dtype: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, set[int]]:
    """Return model, tokenizer and end-of-text ids of a local folder. Safetensors only, no remote code, no network.

    Raises `ConfigError` for a folder that cannot be served.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"must be one of {', '.join(DTYPES)} (got {dtype!r})", setting="dtype")
    check_folder(model_dir)
    cuda = torch.cuda.is_available()
    if dtype == "auto":
        dtype = "bfloat16" if cuda else "float32"  # a CPU without bfloat16 units is twice as slow in it
    try:
        config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
        if not any(str(name).endswith("ForCausalLM") for name in config.architectures or []):
            raise ConfigError(
                f"{model_dir} is not a causal LM (architectures {config.architectures}): give another folder"
            )
        if not _attends_fully(config):
            raise ConfigError(f"{model_dir} has layers that do not attend to the whole context: serve it with vLLM")
        tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            model_dir,
            dtype=getattr(torch, dtype),
            attn_implementation=ATTENTION,  # sdpa underneath
            local_files_only=True,
            use_safetensors=True,
        )
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"cannot load {model_dir} as a causal LM ({reason}): give a complete folder") from error
    model.eval().to("cuda" if cuda else "cpu")
    configured = model.generation_config.eos_token_id
    eos_ids = {configured} if isinstance(configured, int) else set(configured or [])
    return model, tokenizer, eos_ids | ({tokenizer.eos_token_id} - {None})


def _attends_fully(config: PretrainedConfig) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window is None or window >= config.max_position_embeddings
