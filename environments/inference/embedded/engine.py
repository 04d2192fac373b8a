"""Token ids in, token ids and log-probabilities out: a causal LM decoded for several requests at once.

    engine = Engine(model, eos_ids={2})
    [first, second] = engine.submit([1, 5, 9], Sampling(n=2, max_tokens=16)).result()

Requests join the batch after their prefill and leave it when done, between steps; `batch` has what a step does.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from environments.inference.embedded.batch import ATTENTION, GrowingDecoder
from environments.inference.embedded.decoder import Decoder
from environments.inference.embedded.demo_model import check_folder
from environments.inference.embedded.limits import Limits
from environments.inference.embedded.prefill import Prefill
from environments.inference.embedded.protocol import Generation, Sampling
from environments.inference.embedded.request import Branch, Request, advance
from environments.inference.embedded.slots import SlotDecoder
from environments.inference.embedded.variants import BASE, Forward
from longthread.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from longthread.language_model import ModelOutput

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Engine:
    """Owns the model in one worker thread; `submit` from any thread, cancel the future to drop a request.

    `forward` runs the model where rows are of different variants; a model without any is called itself. `slots`: whether
    requests keep rows of a static cache (`slots`), with steps captured as CUDA graphs on a GPU; None: on a GPU, for a model
    without variants.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Collection[int],
        limits: Limits | None = None,
        threads: int | None = None,
        forward: Forward | None = None,
        slots: bool | None = None,
    ) -> None:
        self.model, self.eos_ids, self.threads = model, frozenset(eos_ids), threads
        limits, cuda = limits or Limits(), model.device.type == "cuda"
        rope = getattr(model.config, "rope_parameters", None) or getattr(model.config, "rope_scaling", None) or {}
        # These turn keys by the length seen so far, so a key may be shared neither across requests nor across chunks.
        rope_by_length = rope.get("rope_type") in ("dynamic", "longrope")
        if rope_by_length:
            limits = replace(limits, requests=1, chunk=2**62)
        if slots is None:
            slots = cuda and forward is None
            if cuda and not slots:
                print("embedded server: variants of the model are decoded without CUDA graphs", file=sys.stderr)
        if rope_by_length:
            slots = False
        call = forward or self._call_model
        self.decoder: Decoder = (
            SlotDecoder(model, self.eos_ids, limits, capture=cuda)
            if slots
            else GrowingDecoder(model, call, self.eos_ids, limits)
        )
        limits = limits if slots else replace(limits, together=0)
        layers = model.config.num_hidden_layers
        self.prefill = Prefill(call, layers, model.device, limits, keep_prefix=not rope_by_length)
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
        decoder = self.decoder
        with torch.inference_mode():
            while self._wait():
                if self.swaps and not decoder.requests:
                    self._swap(*self.swaps.popleft())
                try:
                    if not self._admit():
                        decoder.step()
                    self._hand_over()
                except Exception as error:  # out of memory, say: these requests fail, the next need not
                    for request in decoder.requests:
                        request.fail(error)
                    self.prefill.prefix = None
                    decoder.clear()
        for future in [swap[2] for swap in self.swaps]:
            future.cancel()
        for request in [*self.waiting, *decoder.requests]:
            request.future.cancel()

    def _wait(self) -> bool:
        with self.wake:
            self.wake.wait_for(lambda: self.waiting or self.decoder.requests or self.swaps or self.closing)
            return not self.closing

    def _swap(self, weights: Mapping[str, torch.Tensor], version: int, future: Future[None]) -> None:
        parameters = dict(self.model.named_parameters())
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
        self.prefill.prefix, self.policy_version = None, version  # keys and values of the old weights
        future.set_result(None)

    def _admit(self) -> bool:
        """Read the prompts of waiting requests, in order, while there is room; return whether any joined."""
        joining: list[Request] = []
        while self.waiting and not self.swaps and self.decoder.has_room(joining, self.waiting[0]):
            joining.append(self.waiting.popleft())
        for prompt in self.prefill.read(joining, self._dropped):
            request = prompt.request
            branches = [Branch(request, index) for index in range(len(request.branches))]
            for branch in request.branches:
                branch.policy_version = self.policy_version
            try:
                advance(branches, prompt.logits_V.expand(len(branches), -1), self.eos_ids)
                if request.running:
                    self.decoder.add(prompt)
                else:
                    _deliver(request)
            except Exception as error:
                request.fail(error)
        return bool(joining)

    def _dropped(self, request: Request) -> bool:
        """Return whether nobody waits for a request any more."""
        if self.closing:
            request.future.cancel()
        return request.future.cancelled()

    def _hand_over(self) -> None:
        """Give finished requests to those who wait, and free what they held."""
        for request in self.decoder.requests:
            if not request.running:
                _deliver(request)
        self.decoder.settle()


def _deliver(request: Request) -> None:
    """Give a finished request's generations to whoever waits for them."""
    if request.future.set_running_or_notify_cancel():
        request.future.set_result(request.branches)


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
        if not isinstance(getattr(config, "max_position_embeddings", None), int):
            raise ConfigError(
                f"{model_dir} states no max_position_embeddings (ALiBi, or recurrent): serve it with vLLM"
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
