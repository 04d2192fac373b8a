"""The model of `benchmarks.longlora_step`: random weights, trained as LongLoRA trains, each way of a step on a switch.

The base is bf16 and frozen. LoRA on q, k, v, o, the embedding and the norms are fp32 and cast where they are used. The LoRA
layer is the same on every side, and as lean as Axolotl's kernels, so no difference comes from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

RANK, ALPHA = 8, 16
LOGIT_BYTES = 14  # a logit of the usual loss: bf16, fp32, log-probability, gradients
LOGITS_FIT = 24e9  # bytes; above that the usual loss is computed in chunks
LOSS_CHUNK = 8192
aten = torch.ops.aten
_SDPA = "cudnn flash efficient flash_attention_for_cpu".split()
ATTENTION_OPS = {
    getattr(aten, name).default
    for kind in _SDPA
    if hasattr(aten, name := f"_scaled_dot_product_{kind if 'attention' in kind else kind + '_attention'}")
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    family: str  # llama or qwen2
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool

    @property
    def head_dim(self) -> int:
        """Dimensions of a head."""
        return self.hidden // self.heads

    def limit(self, length: int, sparse: bool, flops: float) -> float:
        """The least seconds of a step with checkpointing: 6 FLOPs a weight and token, 9 a pair of tokens and head element."""
        qkvo = self.hidden * (2 * self.hidden + 2 * self.kv_heads * self.head_dim)
        weights = self.layers * (qkvo + 3 * self.hidden * self.intermediate) + self.hidden * self.vocabulary
        seen = 15 / 64 if sparse else 1.0  # g = L/4, half groups at the ends
        return length * (6 * weights + 9 * length * self.hidden * self.layers * seen) / flops


SHAPES = {
    "qwen2-1.5b": Shape("qwen2", 1536, 8960, 28, 12, 2, 151936, True),
    "llama-8b": Shape("llama", 4096, 14336, 32, 32, 8, 128256, False),
    "qwen2.5-0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 151936, True),
    "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 49152, True),
}


# ---- layers with fp32 masters ----


class _LoRA(torch.autograd.Function):
    """x W' + bias + (alpha / rank) x A' B', with gradients of x, A and B alone; A and B are fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:  # noqa: PLR0913
        flat, a, b = x.flatten(0, -2), a.to(x.dtype), (b * (ALPHA / RANK)).to(x.dtype)
        low = flat @ a.T
        out = flat @ weight.T if bias is None else torch.addmm(bias, flat, weight.T)
        out.addmm_(low, b.T)
        ctx.save_for_backward(flat, weight, a, b, low)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        grad_low = grad @ b
        grad_x = (grad @ weight).addmm_(grad_low, a)
        grad_b = (grad.T @ low).float() * (ALPHA / RANK)
        return grad_x.view(*grads[0].shape[:-1], -1), None, None, (grad_low.T @ flat).float(), grad_b


class LoRA(nn.Module):
    """A frozen linear layer with LoRA."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.weight, self.bias = base.weight, base.bias
        device = base.weight.device
        self.a = nn.Parameter(torch.randn(RANK, base.in_features, device=device) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        out: Tensor = _LoRA.apply(x, self.weight, self.bias, self.a, self.b)
        return out


class Embedding(nn.Module):
    """An embedding in fp32; its output is cast."""

    def __init__(self, base: nn.Embedding, dtype: torch.dtype):
        super().__init__()
        self.weight, self.dtype = nn.Parameter(base.weight.detach().float()), dtype

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) to (B, L, hidden)."""
        return F.embedding(ids, self.weight).to(self.dtype)


class Head(nn.Module):
    """A head whose weight, which may be the embedding's, is cast."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """(…, hidden) to (…, vocabulary)."""
        return F.linear(x, self.weight.to(x.dtype))


class Norm(nn.Module):
    """RMSNorm in fp32, computed by the kernel that is in use."""

    def __init__(self, base: Any):
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach().float())
        self.epsilon, self.kernel = base.variance_epsilon, norm

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.kernel(x, self.weight.to(x.dtype), self.epsilon)


def build(shape: Shape, length: int, device: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The model in training mode, with gradients for its trainable weights alone."""
    kind = Qwen2Config if shape.family == "qwen2" else LlamaConfig
    config = kind(
        hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied, max_position_embeddings=length, use_cache=False,
    )  # fmt: skip
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(False)
    inner = model.model
    inner.embed_tokens = Embedding(inner.embed_tokens, dtype)
    model.lm_head = Head(inner.embed_tokens.weight if shape.tied else model.lm_head.weight)
    inner.norm = Norm(inner.norm)
    for layer in inner.layers:
        layer.input_layernorm = Norm(layer.input_layernorm)
        layer.post_attention_layernorm = Norm(layer.post_attention_layernorm)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, LoRA(getattr(layer.self_attn, name)))
    return model.train()


# ---- loss ----


def usual_loss(model: Any, ids: Tensor) -> tuple[Tensor, str]:
    """transformers' own loss and the name of how it was computed: in checkpointed chunks where its logits would not fit."""
    if ids.numel() * model.config.vocab_size * LOGIT_BYTES < LOGITS_FIT:
        return model(input_ids=ids, labels=ids).loss, "default"
    hidden, labels = model.model(input_ids=ids).last_hidden_state[0, :-1], ids[0, 1:]

    def part(hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model.lm_head(hidden).float(), labels, reduction="sum")

    pairs = zip(hidden.split(LOSS_CHUNK), labels.split(LOSS_CHUNK), strict=True)
    losses = [checkpoint(part, *pair, use_reentrant=False) for pair in pairs]
    return torch.stack(losses).sum() / labels.numel(), "chunked"


# ---- kernels ----


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """RMSNorm as transformers writes it."""
    exact = x.float()
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * exact.to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The MLP's activation."""
    return F.silu(gate) * up


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    """Rotary positions as transformers writes them."""

    def turned(x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=-1)
        return x * cos.unsqueeze(1) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(1)

    return turned(q), turned(k)


@dataclass(frozen=True)
class Kernels:
    """One way to compute norms, MLPs, positions and the loss."""

    name: str
    norm: Callable[..., Tensor]
    swiglu: Callable[..., Tensor]
    rotary: Callable[..., tuple[Tensor, Tensor]]
    loss: Callable[..., tuple[Tensor, str]]  # of a model and its tokens, with its name


EAGER = Kernels("off", norm, swiglu, rotary, usual_loss)


def _liger() -> Kernels:
    ops = import_module("liger_kernel.transformers.functional")

    def liger_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out: Tensor = ops.liger_rms_norm(x, weight, epsilon, in_place=False)  # the gradient is the residual's too
        return out

    def liger_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = ops.liger_rope(q, k, cos, sin)
        return out

    def liger_loss(model: Any, ids: Tensor) -> tuple[Tensor, str]:
        """Without logits. The weight is fp32, under autocast: as in a trainer."""
        hidden = model.model(input_ids=ids).last_hidden_state[0, :-1]
        with torch.autocast(ids.device.type, hidden.dtype):
            return ops.liger_fused_linear_cross_entropy(hidden, model.lm_head.weight, ids[0, 1:]), "fused"

    return Kernels("liger", liger_norm, ops.liger_swiglu, liger_rotary, liger_loss)


def _compiled() -> Kernels:
    torch._dynamo.config.cache_size_limit = 64  # four shapes, several lengths
    fast = partial(torch.compile, dynamic=None)
    return Kernels("compile", fast(norm), fast(swiglu), fast(rotary), usual_loss)


def kernels(wanted: str, device: str, dtype: torch.dtype = torch.bfloat16) -> Kernels:
    """The first installed kernels that agree with plain torch on this device; `wanted`: auto, liger, compile or off."""
    makers = {"auto": (_liger, _compiled), "liger": (_liger,), "compile": (_compiled,), "off": ()}[wanted]
    for make in makers if device != "cpu" or wanted != "auto" else ():
        try:
            fused = make()
            _check(fused, device, dtype)
            return fused
        except Exception as error:  # of a missing package or a compiler: the next will do
            print(f"fused kernels {make.__name__.strip('_')}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    return EAGER


def _check(fused: Kernels, device: str, dtype: torch.dtype) -> None:
    """Raises RuntimeError unless outputs and gradients are plain torch's, as far as bf16 goes."""

    def results(side: Kernels) -> list[Tensor]:
        random = torch.Generator(device).manual_seed(0)
        new = partial(torch.randn, generator=random, device=device)
        x, gate, up = (new(1, 256, 128).to(dtype).requires_grad_() for _ in range(3))
        weight = new(128).to(dtype).requires_grad_()
        q, k = (new(1, 256, n, 64).to(dtype).requires_grad_() for n in (2, 1))
        angle = new(1, 256, 32).repeat(1, 1, 2)
        turned = side.rotary(
            (q * 1).transpose(1, 2), (k * 1).transpose(1, 2), angle.cos().to(dtype), angle.sin().to(dtype)
        )
        outs = [side.norm(x, weight, 1e-6), side.swiglu(gate * 1, up * 1), *turned]
        copies = [out.detach().clone() for out in outs]
        grads = torch.autograd.grad(outs, [x, weight, gate, up, q, k], [new(out.shape).to(dtype) for out in outs])
        return copies + list(grads)

    for ours, plain in zip(results(fused), results(EAGER), strict=True):
        error = ((ours.float() - plain.float()).norm() / plain.float().norm()).item()
        if not error < 2e-2:
            raise RuntimeError(f"off by {error:.2g}")


def use(model: Any, wanted: Kernels) -> None:
    """Put these kernels into the model; `EAGER` puts the model's own back."""
    source = import_module(type(model).__module__)
    own = source.__dict__.setdefault("_own_rotary", source.apply_rotary_pos_emb)
    source.__dict__["apply_rotary_pos_emb"] = own if wanted is EAGER else wanted.rotary
    for module in model.modules():
        if isinstance(module, Norm):
            module.kernel = wanted.norm
        elif all(hasattr(module, name) for name in ("gate_proj", "up_proj", "down_proj")):
            module.__dict__.pop("forward", None)
            if wanted is not EAGER:
                module.forward = partial(_mlp, module, wanted.swiglu)


def _mlp(mlp: Any, act: Callable[..., Tensor], x: Tensor) -> Tensor:
    out: Tensor = mlp.down_proj(act(mlp.gate_proj(x), mlp.up_proj(x)))
    return out


# ---- checkpointing ----


def checkpointing(model: Any, attention: bool = False, wide_layers: int = 0) -> None:
    """Recompute every layer in the backward pass, exactly.

    `attention`: keep attention outputs. `wide_layers`: in so many of the first layers keep the largest products too, those
    before the activation.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if attention or wide_layers:
        layers, width, calls = model.config.num_hidden_layers, model.config.intermediate_size, 0

        def contexts() -> Any:
            nonlocal calls
            wide, calls = calls % layers < wide_layers, calls + 1

            def policy(_: Any, op: Any, *args: Any, **__: Any) -> CheckpointPolicy:
                keep = attention and op in ATTENTION_OPS
                keep |= wide and op is aten.mm.default and args[1].shape[-1] == width
                return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

            return create_selective_checkpoint_contexts(policy)

        options["context_fn"] = contexts
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
