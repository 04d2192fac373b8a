"""What the plugin says at start: a table of what it did, with the time and memory that a step can be expected to take."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from rich.table import Table

from trainer_configs.longlora import config as args
from trainer_configs.longlora.attention.transformers_hook import ShiftedSparse
from trainer_configs.longlora.config import LongLoRAError
from trainer_configs.longlora.trainable import counts

LIGER = ("liger_rms_norm", "liger_rope", "liger_glu_activation", "liger_fused_linear_cross_entropy")
# FLOP/s reached on large bf16 matrices, and the shares of it that whole steps reach in matrices and in attention.
PEAK, MATRICES, ATTENTION = {"H100": 790e12, "H200": 790e12}, 0.75, 0.55


@dataclass(frozen=True)
class Shape:
    """`weights`: those that a token is multiplied with, the head among them. `width`: heads times their dimension."""

    weights: int
    layers: int
    width: int
    hidden: int
    inner: int
    vocabulary: int


def shape_of(model: Any) -> Shape:
    text, head = model.config.get_text_config(), model.get_output_embeddings()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    vocabulary = head.weight.shape[0]
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    weights = sum(m.in_features * m.out_features for m in linear) + vocabulary * text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return Shape(weights, text.num_hidden_layers, text.num_attention_heads * size, text.hidden_size, inner, vocabulary)


def density(length: int, group_size: int) -> float:
    """Pairs of tokens that sparse attention computes, as a share of the causal ones: 0.234 for four groups."""
    n = max(1.0, length / group_size)
    return (1 - 1 / (4 * n)) / n


class Recomputed(NamedTuple):
    """What the backward pass computes again: the layers, and in them the attention."""

    layers: bool
    attention: bool


def recomputed(cfg: Any) -> Recomputed:
    layers = bool(cfg.gradient_checkpointing or (cfg.fsdp_config or {}).get("activation_checkpointing"))
    return Recomputed(layers, layers and not cfg.selective_checkpointing)


def step_flops(shape: Shape, length: int, tokens: int, share: float, again: Recomputed) -> tuple[float, float]:
    """FLOPs of a LoRA step in matrices and in attention, `share` of its causal pairs. Forward 2 and gradients of the
    inputs 2 a weight, causal attention 2 and 5 a token, layer and width; what is recomputed, forward once more."""
    matrices = (4 + 2 * again.layers) * shape.weights * tokens
    return matrices, (7 + 2 * again.attention) * length * shape.width * shape.layers * tokens * share


def step_bytes(shape: Shape, weights: int, trained: int, tokens: int, again: Recomputed, fused: bool) -> float:
    """Peak memory: the weights as they are, gradients and Adam's two moments in fp32 for the trained, kept activations in
    bf16 (a layer's input each, one layer's own when recomputed), logits in fp32 with gradients unless they are fused."""
    layer = 2 * tokens * (8 * shape.hidden + 4 * shape.inner)
    inputs = 2 * tokens * (shape.hidden + (0 if again.attention else shape.width)) * shape.layers
    kept = inputs + layer if again.layers else layer * shape.layers
    return weights + 12 * trained + kept + (0 if fused else logit_bytes(tokens, shape.vocabulary))


def logit_bytes(tokens: int, vocabulary: int) -> int:
    """bf16, fp32 and the gradient of the latter."""
    return 10 * tokens * vocabulary


def check_logits(cfg: Any, model: Any) -> None:
    """Raises `LongLoRAError` where the logits alone would not fit."""
    tokens, vocabulary = (cfg.micro_batch_size or 1) * cfg.sequence_len, shape_of(model).vocabulary
    needed, memory = logit_bytes(tokens, vocabulary), torch.cuda.get_device_properties().total_memory
    if needed > memory and not fused_loss(cfg):
        raise LongLoRAError(
            f"logits of {tokens:,} tokens x {vocabulary:,} words take {needed / 2**30:.0f} GiB, the device has "
            f"{memory / 2**30:.0f}: set liger_fused_linear_cross_entropy: true, with Axolotl's Liger plugin"
        )


def fused_loss(cfg: Any) -> bool:
    return bool(cfg.liger_fused_linear_cross_entropy or cfg.cut_cross_entropy)


def expected(cfg: Any, model: Any) -> str:
    """A step's time, where the device's speed is known, and memory, for full rows."""
    shape, length, settings = shape_of(model), cfg.sequence_len, cfg.longlora
    rows = cfg.micro_batch_size or 1
    full = settings["full_attention_steps"] if settings["attention"] == "shifted" else 1.0
    share = full + (1 - full) * density(length, settings.get("group_size") or length)
    again, steps = recomputed(cfg), cfg.gradient_accumulation_steps or 1
    matrices, attention = step_flops(shape, length, rows * length * steps, share, again)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = step_bytes(shape, weights, trained, rows * length, again, fused_loss(cfg)) / 2**30
    flops = f"{(matrices + attention) / 1e12:.3g} TFLOP, {attention / (matrices + attention):.0%} of them attention"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((speed for name, speed in PEAK.items() if name in device), None)
    seconds = f"{matrices / (peak * MATRICES) + attention / (peak * ATTENTION):.2f} s ({flops})" if peak else flops
    return f"{seconds}; about {memory:.1f} GiB"


def table(cfg: Any, model: Any, attentions: list[ShiftedSparse]) -> Table:
    """What was done."""
    settings, text = cfg.longlora, model.config.get_text_config()
    grid = Table(title="longlora", show_header=False, title_justify="left", min_width=80)
    grid.add_row(
        "model", f"{cfg.base_model} ({type(model.get_base_model()).__name__}, {text.num_hidden_layers} layers)"
    )
    for attention in attentions[:1]:
        group, length = attention.group_size, cfg.sequence_len
        grid.add_row("attention", f"shifted sparse in training, {attention.base} in full steps and evaluation")
        sinks = f", and the first {attention.sink_tokens} tokens" if attention.sink_tokens else ""
        grid.add_row("group size", f"{group} tokens, {length / group:.3g} groups a row{sinks}")
        grid.add_row("full steps", f"{settings['full_attention_steps']:.0%} of the steps, evenly spread")
        if 2 * length / group - 1 > text.num_hidden_layers and settings["full_attention_steps"] == 0:
            grid.add_row(
                "", "[yellow]the end of a row cannot learn from its start: too many groups for the layers[/yellow]"
            )
    if not attentions:
        grid.add_row("attention", f"{cfg.attn_implementation}, full")
    kernels = [key.removeprefix("liger_") for key in LIGER if cfg.get(key)]
    kept = ", attention kept through checkpointing" if recomputed(cfg).layers and cfg.selective_checkpointing else ""
    grid.add_row("fused", f"{', '.join(kernels) or 'nothing'}{kept}")
    for count in counts(model):
        dtype = str(count.dtype).removeprefix("torch.")
        grid.add_row(f"trained: {count.kind}", f"{count.elements:,} in {count.tensors} tensors, {dtype}")
    for line in rope_lines(cfg):
        grid.add_row("RoPE", line)
    grid.add_row("step, expected", expected(cfg, model))
    return grid


def rope_lines(cfg: Any) -> list[str]:
    """Before, after, and what to know about it."""
    config = args.model_config(cfg)
    extension = args.extension_of(cfg, config)
    if extension is None:
        return ["the model's own"]

    def said(parameters: dict[str, Any]) -> str:
        parameters = parameters[extension.layer] if extension.layer else parameters
        return ", ".join(
            f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {str(v)[:40]}" for k, v in parameters.items()
        )

    before, after = config.get_text_config().rope_parameters, extension.changes["rope_parameters"]
    warnings = [f"[yellow]{warning}[/yellow]" for warning in extension.warnings]
    return [f"{extension.native} tokens: {said(before)}", f"{extension.target} tokens: {said(after)}", *warnings]
