"""DPO and IPO with the logits of completions alone: of a pair with a long prompt, nearly all of the memory.

TRL computes logits for every token of both sequences, and of the reference's too, and then masks out the prompt's: of a pair
of 32,768 tokens 3.2 billion numbers, 30 GiB with their gradients, for some forty that count (huggingface/trl 2452, 3701).
Here the model is asked for the logits from the first completion's first token on. The loss is the same.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

PAIRED = ("dpo", "ipo")
TRIMMED = ("input_ids", "attention_mask", "completion_mask")  # what goes with the logits, a column a token


def can_keep(trainer: Any) -> bool:
    """Return whether a trainer's loss is TRL's of whole pairs, and its model can compute the logits of a row's end."""
    args, base = trainer.args, trainer.model.get_base_model()
    fused = getattr(args, "use_liger_kernel", False) or getattr(args, "padding_free", False)
    takes = inspect.signature(base.forward).parameters
    return hasattr(trainer, "_compute_loss") and not fused and "logits_to_keep" in takes


def completions_alone(trainer: Any) -> Callable[..., Any]:
    """Return the trainer's `_compute_loss`, which asks its model for the logits of completions alone."""
    compute = trainer._compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        first = first_kept(inputs.get("completion_mask"))
        if not first:
            return compute(model, inputs, return_outputs)
        whole = {name: inputs[name] for name in TRIMMED if name != "completion_mask" and name in inputs}
        length = whole["input_ids"].shape[1]

        def give_whole_rows(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
            return args, kwargs | whole | {"logits_to_keep": length - first}

        hook = trainer.model.register_forward_pre_hook(give_whole_rows, with_kwargs=True)
        try:  # the loss takes what it is given for the whole row
            return compute(model, inputs | {n: inputs[n][:, first:] for n in TRIMMED if n in inputs}, return_outputs)
        finally:
            hook.remove()

    return compute_loss


def first_kept(completion_mask: Tensor | None) -> int:
    """Return the first position whose logits count: the one before the first token of any completion; 0 for all."""
    if completion_mask is None or completion_mask.dim() != 2:
        return 0
    within = completion_mask.bool().any(dim=0)
    return max(0, int(within.int().argmax()) - 1) if bool(within.any()) else 0
