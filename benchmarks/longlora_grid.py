"""The needle grid of `benchmarks.longlora_run`: the same exact prompts for every model, answered greedily and scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks.task import Answer
from environments.haystack.tokens import load_full_tokenizer
from environments.rollouts.scoring import score

NATIVE, TARGET = 8192, 32_768
LENGTHS = (4096, 8192, 16_384, TARGET)
DEPTHS = tuple(round(0.05 + 0.1 * i, 2) for i in range(10))
FILLERS = ("prose", "novel")  # of the grid's haystacks, in turn
REPLY_TOKENS = 64  # an answer of a UUID, in tags, takes about 50
STEPS_TOKENS = 32  # the steps that stand before an answer reached over links
BATCH_TOKENS = 524_288  # of prompts read at a time: 12 GB of keys and values at 32k


@dataclass(frozen=True)
class GridPrompt:
    """A prompt of the grid: `ids` are exactly `length` tokens."""

    length: int
    depth: float
    filler: str
    ids: list[int]
    answer: Answer
    answer_format: str
    task: str = "single"


def prompt_of(  # noqa: PLR0913 - what a sample is made of
    haystacks: Haystacks, seed: int, task: str, length: int, filler: str = "prose", depth: float | None = None
) -> GridPrompt:
    """Return a prompt of the evaluation split; its depth is that asked for, or that of the fact that holds the answer."""
    sample = haystacks.sample(seed, "eval", task, length, None if depth is None else [depth])
    if depth is None:
        depth = next(needle.depth for needle in sample.needles if needle.role == "answer")
    ids = haystacks.tokens.encode_prompt(haystacks.tokens.render(sample.messages), length)
    return GridPrompt(length, depth, filler, ids, sample.answer, haystacks.options.answer_format, task)


class Grid:
    """The same questions for every model: half in fiction, half in the held-out novels."""

    def __init__(self, model: str, held_out: Path, lengths: Sequence[int] = LENGTHS, depths: Sequence[float] = DEPTHS):
        tokenizer = load_full_tokenizer(model)
        size = 2 * max(lengths)
        prose = Haystacks(tokenizer, Options(may_abstain=False, pool_tokens=max(size, Options.pool_tokens)))
        novel = Options(may_abstain=False, filler="folder", filler_path=str(held_out), pool_tokens=size)
        self.haystacks = {"prose": prose, "novel": Haystacks(tokenizer, novel)}
        self.lengths, self.depths, self.tokenizer = lengths, depths, tokenizer

    def prompts(self, length: int, samples: int, first_seed: int = 0, answer_format: str = "tags") -> list[GridPrompt]:
        """`samples` at every depth."""
        prompts = []
        for number in range(samples):
            filler = FILLERS[number % 2]
            haystacks = self.haystacks[filler]
            haystacks = haystacks.variant(replace(haystacks.options, answer_format=answer_format))
            for i, depth in enumerate(self.depths):
                seed = first_seed + number * len(self.depths) + i
                prompts.append(prompt_of(haystacks, seed, "single", length, filler, depth))
        return prompts

    def two_hops(self, length: int, count: int, first_seed: int = 0) -> list[GridPrompt]:
        """`count` questions over one link, both facts anywhere; near-duplicates and detours, but no decoy chains.

        Their depth is that of the fact that holds the answer.
        """
        prompts = []
        for number in range(count):
            filler = FILLERS[number % 2]
            haystacks = self.haystacks[filler]
            haystacks = haystacks.variant(replace(haystacks.options, hops="2", decoys=0))
            prompts.append(prompt_of(haystacks, first_seed + number, "chain", length, filler))
        return prompts


def load(model: str, extend: bool) -> Any:
    """A model for evaluation, on the GPU where there is one; `extend`: with YaRN, untrained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    if extend:
        from trainer_configs.longlora.rope.extension import extended

        for name, value in extended(config, "yarn", TARGET).items():
            setattr(config, name, value)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    built: Any = AutoModelForCausalLM.from_pretrained(model, config=config, dtype=dtype)
    return built.to(device).eval()


def replies(
    model: Any, tokenizer: Any, prompts: Sequence[list[int]], new_tokens: int, batch_tokens: int
) -> Iterator[str]:
    """Greedy completions. All prompts have the same length, so nothing is padded."""
    import torch

    size = max(1, batch_tokens // len(prompts[0]))
    for start in range(0, len(prompts), size):
        ids = torch.tensor(prompts[start : start + size], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        yield from tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def evaluate(
    model: Any, tokenizer: Any, prompts: Sequence[GridPrompt], batch_tokens: int | None = None
) -> list[dict[str, Any]]:
    """A record for each prompt, as `environments.reports.metrics` takes them. `batch_tokens`: read at a time."""
    records = []
    new_tokens = REPLY_TOKENS + STEPS_TOKENS * any(prompt.task == "chain" for prompt in prompts)
    texts = replies(model, tokenizer, [prompt.ids for prompt in prompts], new_tokens, batch_tokens or BATCH_TOKENS)
    for prompt, text in zip(prompts, texts, strict=True):
        correct = score(text, prompt.answer, prompt.answer_format).correct
        where = {"task": prompt.task, "length": prompt.length, "depth": prompt.depth, "filler": prompt.filler}
        said = {"said": text[:120], "expected": prompt.answer.values[0]}
        records.append(where | {"kind": prompt.answer.value_kind, "score": float(correct)} | said)
    return records
