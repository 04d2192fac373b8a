"""The table that training starts with: what the plugin did, and the time and memory that a step can be expected to take."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from rich.table import Table

from longthread.counts import counted
from longthread.language_model import CausalLM
from longthread.model_shape import EAGER, FUSED, head_size, kept_numbers
from trainer_configs.longlora.attention.tail_global import tail_density
from trainer_configs.longlora.attention.transformers_hook import SparseAttention
from trainer_configs.longlora.axolotl_config import AxolotlConfig
from trainer_configs.longlora.config import LongLoRAError, model_config, section
from trainer_configs.longlora.pair_logits import PAIRED
from trainer_configs.longlora.rope.methods import Parameters
from trainer_configs.longlora.section import LongLoRA
from trainer_configs.longlora.trainable import counts

if TYPE_CHECKING:  # PEFT is imported where it is used
    from peft import PeftModel

LIGER = ("liger_rms_norm", "liger_rope", "liger_glu_activation", "liger_fused_linear_cross_entropy")
PEAK = {"H100": 790e12, "H200": 790e12}  # FLOP/s of large bf16 products, measured on an H200
# Shares of the peak that matrices and attention reach in a whole step. A step of Qwen2-1.5B at 131,072 tokens in full
# attention is then expected to take 17 s; benchmarks/longlora_step.py measured 16.2.
MATRICES, ATTENTION = 0.75, 0.55
PAIRS = (*PAIRED, "orpo", "simpo")  # of `rl`: a row is two sequences
ADAM_BYTES = 12  # of a trained parameter, in fp32: its gradient and two moments
LOGIT_BYTES = 10  # of a logit: bf16, fp32, and the gradient of the latter


@dataclass(frozen=True)
class Shape:
    """The sizes of a model.

    `weights` counts those that a token is multiplied with, the head among them. `width` is the number of attention
    heads times their dimension.
    """

    weights: int
    layers: int
    width: int
    hidden: int
    inner: int
    vocabulary: int


def shape_of(model: CausalLM) -> Shape:
    """Return the sizes of a built model."""
    text, head = model.config.get_text_config(), model.get_output_embeddings()
    vocabulary = head.weight.shape[0]
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    weights = sum(m.in_features * m.out_features for m in linear) + vocabulary * text.hidden_size
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    width = text.num_attention_heads * head_size(text)
    return Shape(weights, text.num_hidden_layers, width, text.hidden_size, inner, vocabulary)


def density(length: int, group_size: int) -> float:
    """Return how many pairs of tokens sparse attention computes, as a share of those of full causal attention.

    The share is 0.234 for four groups.
    """
    n = max(1.0, length / group_size)
    return (1 - 1 / (4 * n)) / n


# ---- a step's time and memory -----------------------------------------------------------------------------------


class Recomputed(NamedTuple):
    """What the backward pass computes again: the layers, and in them the attention."""

    layers: bool
    attention: bool


def recomputed(cfg: AxolotlConfig) -> Recomputed:
    """Return what the backward pass computes again under the config's checkpointing."""
    layers = bool(cfg.gradient_checkpointing or (cfg.fsdp_config or {}).get("activation_checkpointing"))
    return Recomputed(layers, layers and not cfg.selective_checkpointing)


def step_flops(shape: Shape, length: int, tokens: int, share: float, again: Recomputed) -> tuple[float, float]:
    """Return the FLOPs of a LoRA step in matrices and in attention, which computes `share` of its causal pairs.

    A weight takes 2 forward and 2 for the gradient of its input. Causal attention takes 2 and 5 a token, layer and
    width. What is recomputed takes its forward share once more.
    """
    matrices = (4 + 2 * again.layers) * shape.weights * tokens
    return matrices, (7 + 2 * again.attention) * length * shape.width * shape.layers * tokens * share


def step_bytes(shape: Shape, weights: int, trained: int, tokens: int, again: Recomputed, fused: bool) -> float:
    """Return the peak memory of a step in bytes.

    It adds the `weights` (bytes), gradients and moments of the `trained` parameters, activations, and logits.
    Activations are kept in bf16: all layers', or each layer's input and one layer's own when layers are recomputed.
    Logits come with their gradients unless the loss is `fused`.
    """
    layer = 2 * tokens * kept_numbers(shape.hidden, shape.inner, FUSED)
    inputs = 2 * tokens * (shape.hidden + (0 if again.attention else shape.width)) * shape.layers
    kept = inputs + layer if again.layers else layer * shape.layers
    return weights + ADAM_BYTES * trained + kept + (0 if fused else logit_bytes(tokens, shape.vocabulary))


def kept_tokens(cfg: AxolotlConfig, model: CausalLM) -> int:
    """Return the tokens of the largest batch whose activations, all kept, take about as much memory as the longest rows whose
    layers are computed again, by estimates that err towards less.

    It is 0 where nothing is computed again or activations leave the GPU, where GPUs share the weights, which all must ask for
    together, for pairs, and with dropout, whose masks are kept too.
    """
    selective = cfg.selective_checkpointing or {}
    if cfg.gradient_checkpointing is not True or cfg.activation_offloading or selective.get("offload"):
        return 0
    if cfg.fsdp_config or cfg.deepspeed or cfg.rl or cfg.lora_dropout:
        return 0
    shape, longest = shape_of(model), (cfg.micro_batch_size or 1) * cfg.sequence_len
    allowed = step_bytes(shape, 0, 0, longest, recomputed(cfg), fused=True)
    return int(allowed // (2 * kept_numbers(shape.hidden, shape.inner, EAGER) * shape.layers))


def logit_bytes(tokens: int, vocabulary: int) -> int:
    """Return the bytes of the logits of so many tokens, with gradients."""
    return LOGIT_BYTES * tokens * vocabulary


def check_logits(cfg: AxolotlConfig, model: CausalLM) -> None:
    """Raise `LongLoRAError` if the logits alone would not fit into the device's memory."""
    tokens, vocabulary = (cfg.micro_batch_size or 1) * cfg.sequence_len, shape_of(model).vocabulary
    needed, memory = logit_bytes(tokens, vocabulary), torch.cuda.get_device_properties().total_memory
    if needed > memory and not has_fused_loss(cfg):
        raise LongLoRAError(
            f"logits of {tokens:,} tokens x {vocabulary:,} words take {needed / 2**30:.0f} GiB, the device has "
            f"{memory / 2**30:.0f}: set liger_fused_linear_cross_entropy: true, with Axolotl's Liger plugin"
        )


def has_fused_loss(cfg: AxolotlConfig) -> bool:
    """Return True for a config whose loss never holds all logits."""
    return bool(cfg.liger_fused_linear_cross_entropy or cfg.cut_cross_entropy)


def expected(cfg: AxolotlConfig, settings: LongLoRA, model: CausalLM) -> str:
    """Return a line with a step's time, where the device's speed is known, and its memory.

    Rows are taken to have `sequence_len` tokens; a pair is two of them.
    """
    shape, length, rows = shape_of(model), cfg.sequence_len, (cfg.micro_batch_size or 1) * (2 if cfg.rl in PAIRS else 1)
    full = settings.full_attention_steps if settings.attention != "full" else 1.0
    group = settings.group(length)
    sparse = tail_density(length, 0, group) if settings.attention == "tail_global" else density(length, group)
    share = full + (1 - full) * sparse
    again, steps = recomputed(cfg), cfg.gradient_accumulation_steps or 1
    matrices, attention = step_flops(shape, length, rows * length * steps, share, again)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    few_logits = has_fused_loss(cfg) or cfg.rl in PAIRED  # of pairs those of completions alone
    memory = step_bytes(shape, weights, trained, rows * length, again, few_logits) / 2**30
    flops = f"{(matrices + attention) / 1e12:.3g} TFLOP, {attention / (matrices + attention):.0%} of them attention"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = next((speed for name, speed in PEAK.items() if name in device), None)
    seconds = f"{matrices / (peak * MATRICES) + attention / (peak * ATTENTION):.2f} s ({flops})" if peak else flops
    tails = ", tails not counted" if settings.attention == "tail_global" else ""
    return f"{seconds}{tails}; about {memory:.1f} GiB"


# ---- the table --------------------------------------------------------------------------------------------------


def table(cfg: AxolotlConfig, model: "PeftModel", attentions: list[SparseAttention]) -> Table:
    """Return a table with one row for each thing that the plugin did to the model and the training."""
    settings, text = section(cfg), model.config.get_text_config()
    grid = Table(title="longlora", show_header=False, title_justify="left", min_width=80)
    family = type(model.get_base_model()).__name__
    grid.add_row("model", f"{cfg.base_model} ({family}, {counted(text.num_hidden_layers, 'layer')})")
    for row in _attention_rows(cfg, settings, attentions, text.num_hidden_layers):
        grid.add_row(*row)
    kernels = [key.removeprefix("liger_") for key in LIGER if cfg.get(key)]
    kept = ", attention kept through checkpointing" if recomputed(cfg).layers and cfg.selective_checkpointing else ""
    grid.add_row("fused", f"{', '.join(kernels) or 'nothing'}{kept}")
    if short := kept_tokens(cfg, model):
        grid.add_row("short rows", f"of at most {short:,} tokens a batch: no layer is computed again")
    for count in counts(model):
        dtype = str(count.dtype).removeprefix("torch.")
        grid.add_row(f"trained: {count.kind}", f"{count.elements:,} in {counted(count.tensors, 'tensor')}, {dtype}")
    if settings.parallel_documents:
        grid.add_row("parallel documents", "read apart; tails see them all, in every kind of step")
    if cfg.get("use_pose"):
        grid.add_row("PoSE", f"positions skip as far as {cfg.get('pose_max_context_len'):,} tokens")
    for line in _rope_lines(cfg, settings):
        grid.add_row("RoPE", line)
    grid.add_row("step, expected", expected(cfg, settings, model))
    return grid


def _attention_rows(
    cfg: AxolotlConfig, settings: LongLoRA, attentions: list[SparseAttention], layers: int
) -> list[tuple[str, str]]:
    if not attentions:
        return [("attention", f"{cfg.attn_implementation}, full")]
    attention, length, share = attentions[0], cfg.sequence_len, settings.full_attention_steps
    groups = length / attention.group_size
    sinks = f", and the first {attention.sink_tokens} tokens" if attention.sink_tokens else ""
    rows = [
        ("attention", f"{attention.label} in training, {attention.base} in full steps and evaluation"),
        ("group size", f"{attention.group_size} tokens, {groups:.3g} groups a row{sinks}"),
        ("full steps", f"{share:.0%} of the steps, evenly spread"),
    ]
    if settings.attention == "shifted" and 2 * groups - 1 > layers and share == 0:
        warning = "the end of a row cannot learn from its start: too many groups for the layers"
        rows.append(("", f"[yellow]{warning}[/yellow]"))
    return rows


def _rope_lines(cfg: AxolotlConfig, settings: LongLoRA) -> list[str]:
    """Return lines about the RoPE before and after the extension, and its warnings."""
    config = model_config(cfg)
    extension = settings.extension(config)
    if extension is None:
        return ["the model's own"]

    def line(length: int, parameters: Parameters) -> str:
        parameters = parameters[extension.layer] if extension.layer else parameters
        values = (f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {str(v)[:40]}" for k, v in parameters.items())
        return f"{length} tokens: {', '.join(values)}"

    before, after = config.get_text_config().rope_parameters, extension.changes["rope_parameters"]
    warnings = [f"[yellow]{warning}[/yellow]" for warning in extension.warnings]
    return [line(extension.native, before), line(extension.target, after), *warnings]
