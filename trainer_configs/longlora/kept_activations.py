"""Rows so short that nothing is won by computing their layers again keep their activations.

Checkpointing is set for the longest rows of a training. A short row beside them (PoSE, a conversation) is bound by the
launches of its kernels; checkpointing adds some, and selective checkpointing Python for each operation.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


class KeptActivations:
    """Switches the checkpointing of a model's layers off for each batch of at most `most` tokens, padding included.

    `model` is the one that the trainer calls, PEFT's or its own.
    """

    def __init__(self, model: nn.Module, most: int):
        self.most = most
        self._layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
        self._off: list[GradientCheckpointingLayer] = []
        self._hook = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def uninstall(self) -> None:
        """Leave the model as it was."""
        self._hook.remove()
        self._restore()

    def _restore(self) -> None:
        while self._off:
            self._off.pop().gradient_checkpointing = True

    def _look(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._restore()
        ids = kwargs.get("input_ids")
        if not isinstance(ids, Tensor) or not module.training or ids.numel() > self.most:
            return None
        self._off = [layer for layer in self._layers if layer.gradient_checkpointing]
        for layer in self._off:
            layer.gradient_checkpointing = False
        # Checkpointed layers keep no cache; without, the model would fill one.
        return args, kwargs | {"use_cache": False}
