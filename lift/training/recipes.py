"""Recipes: how a document is written into the weights. Every constant has its source or its reason."""

from dataclasses import dataclass
from typing import Literal

from lift.memory.gated_memory import Gate


@dataclass(frozen=True)
class Stage:
    """A stage of training: `epochs` passes over the rows of `sources`.

    An optimizer step takes `rows` rows; None: all, so one step an epoch.
    """

    sources: tuple[Literal["segments", "tasks"], ...]
    epochs: int
    rows: int | None


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit. Lengths are in tokens, learning rates are AdamW's."""

    name: str
    method: Literal["gated", "compact", "lora", "cartridge"]
    stages: tuple[Stage, ...] = ()
    learning_rate: float = 0.0
    # gated
    gate: Gate = "lse"
    published_init: bool = False
    width: int = 2  # of the memory's hidden layer, in head dimensions (v3, released code)
    # lora, on all matrices of the layers
    rank: int = 16
    alpha: int = 32
    # cartridge
    slots: int = 200
    # what is trained on
    segment: int = 2048  # v1 to v3
    stride: int = 768  # 3/8 of a segment, v1 to v3
    contextualised: bool = False
    tasks: tuple[str, ...] = ()
    items: int = 0  # of each task, at most
    window_rows: int = 0  # questions of each optimizer step that have a piece of the document in the window
    # answers, or the logits of the base model with as many tokens of the document around the evidence in its window
    learnt: Literal["answers", "logits"] = "answers"
    open_tokens: int = 512  # the shortest of Cartridges' chunks
    # the optimizer
    schedule: Literal["constant", "cosine"] = "constant"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    # distillation of attention, before the stages (gate lse)
    distil_steps: int = 0
    distil_rate: float = 3e-3  # of a regression: each head's own, no depth to upset
    piece: int = 2048  # tokens that the teacher reads at a time: inside any model's window, far faster than all at once
    # staying as it was
    kl_weight: float = 0.0
    kl_rows: int = 0  # of other text in each optimizer step: two thirds questions, a sixth readings, a sixth prose
    neutral_budget: float | None = None  # nats a token that held-out prose may lose; halfway through, twice as many
    # compact
    share: float | None = None  # of the bytes of the document's keys and values in bf16; None: see `compact.slots`
    queries: int = 6000  # reference tokens of each kind, at most
    quiet_weight: float = 0.1  # of a query that the document should leave alone, against 1 of any other; not tuned
    # the document as text alone, as a reader's rows have texts side by side; else behind the first tokens of a prompt
    read_alone: bool = False
    again_weight: float = 0.1  # of a query that reads the text again
    biases: bool = True
    values: bool = True
    bias_ridge: float = 1e-3  # of the mean diagonal of the normal equations
    value_ridge: float = 1e-3
    # compact, the gradient steps behind the closed form
    steps: int = 0  # at most
    packed: int = 2048  # tokens of questions in a step, and as many of other text
    key_rate: float = 0.1  # times the values' rate, relative to the keys' size; 0 freezes them


FACTS = ("needle", "linked", "absent", "reverse")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        # Attention matching (arXiv 2602.16284) with keys by RMS and budgets over all heads together; nothing is trained.
        Recipe("compact", "compact", tasks=("needle", "linked", "absent", "cloze"), items=160, segment=36_864),
        # The same, then a few steps on its questions. In a probe 40 steps took 28 of 32 facts to 29, at +0.02 nats a token of
        # other text; 120 cost 1.08, with nothing that held them. The rate is relative to the values' size, and not tuned.
        Recipe(
            "compact+", "compact", learning_rate=1e-2, tasks=("needle", "linked", "absent", "cloze"), items=160,
            segment=36_864, betas=(0.9, 0.95), kl_weight=1.0, steps=40,
        ),
        # Next tokens alone: the baseline of all others.
        Recipe("raw-lora", "lora", (Stage(("segments",), 8, 1),), 2e-4),
        # LIFT v3 (arXiv 2502.14644v3, released configuration for LooGLE): 3 epochs of contextualised segments and 5 with 10
        # questions too, one optimizer step an epoch, AdamW(0.9, 0.98), weight decay 1e-4.
        Recipe(
            "published-v3", "gated", (Stage(("segments",), 3, None), Stage(("segments", "tasks"), 5, None)), 1e-3,
            gate="query", published_init=True, contextualised=True, tasks=("needle", "cloze"), items=5, betas=(0.9, 0.98),
            weight_decay=1e-4,
        ),
        # LIFT v4 (ICML 2026, lora_128.yaml): questions alone, LoRA of rank 128 on all matrices, 5 epochs of 4 rows a step.
        # Its questions are a 72B model's, 10 a sentence; these are made by rule.
        Recipe(
            "published-v4", "lora", (Stage(("tasks",), 5, 4),), 5e-5, rank=128, alpha=256, tasks=(*FACTS, "cloze"),
            items=2000,
        ),
        # Cartridges (arXiv 2506.06266): trained keys and values, from the document's first tokens, on what the model itself
        # says with the document in its window; learning rate theirs.
        Recipe(
            "cartridge", "cartridge", (Stage(("tasks",), 10, 64),), 2e-2, tasks=(*FACTS, "cloze"), items=320,
            learnt="logits", window_rows=8, schedule="cosine", kl_weight=1.0, kl_rows=12,
        ),
        # The published gate with the questions of `lse`, at its own rate: no log-sum-exp, so nothing to distil.
        Recipe(
            "query", "gated", (Stage(("tasks",), 10, 64),), 1.2e-2, gate="query", tasks=(*FACTS, "cloze"), items=320,
            window_rows=8, schedule="cosine", betas=(0.9, 0.95), kl_weight=1.0, kl_rows=12,
        ),
        Recipe(
            "lse", "gated", (Stage(("tasks",), 10, 64),), 2e-3, tasks=(*FACTS, "cloze"), items=320, window_rows=8,
            schedule="cosine", betas=(0.9, 0.95), distil_steps=200, kl_weight=1.0, kl_rows=12,
            neutral_budget=0.25,  # far more than a fit costs: one that goes astray is stopped, no other
        ),
    )
}  # fmt: skip
