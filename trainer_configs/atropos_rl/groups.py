"""A group of rollouts as the trainer needs it, from what run-api hands out, with group-normalised advantages.

    advantage_i = (score_i - mean(scores)) / (std(scores) + 1e-4)        DeepSeekMath (GRPO), arXiv 2402.03300, section 4.1.2

`std` is that of the group as a population; `scale="none"` leaves the division out.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from environments.rollouts.rollout import NOT_TRAINED
from longthread.errors import RunError
from longthread.files import JsonObject

EPSILON = 1e-4


@dataclass(frozen=True)
class Flat:
    """Groups of one task and length that were not sent, since all their scores were the same."""

    task: str
    length: int
    groups: int
    score: float  # summed over the groups
    passed: int  # groups


@dataclass(frozen=True)
class Group:
    """Completions of one prompt. Lists of a completion have a value for each of its tokens."""

    key: str  # names the sample
    task: str
    length: int
    prompt: list[int]
    completions: list[list[int]]
    trained: list[list[bool]]
    old_logprobs: list[list[float]]
    scores: list[float]
    policy_version: int
    flat: list[Flat] = field(default_factory=list)  # groups before this one with nothing to learn
    levels: dict[str, float] = field(default_factory=dict)  # of the curriculum, by task

    @property
    def trained_tokens(self) -> int:
        """Tokens that the loss is summed over."""
        return sum(map(sum, self.trained))

    @property
    def unique_tokens(self) -> int:
        """Tokens of one forward pass: the prompt counts once."""
        return len(self.prompt) + sum(map(len, self.completions))

    @property
    def all_tokens(self) -> int:
        """Tokens of the sequences forwarded one by one."""
        return len(self.prompt) * len(self.completions) + sum(map(len, self.completions))


def advantages(scores: Sequence[float], scale: str = "std") -> list[float]:
    """Return each score's distance from the mean, in standard deviations for `scale` std; zeros where all are equal."""
    mean = math.fsum(scores) / len(scores)
    differences = [score - mean for score in scores]
    deviation = math.sqrt(math.fsum(difference**2 for difference in differences) / len(scores))
    return [difference / (deviation + EPSILON) if scale == "std" else difference for difference in differences]


def read_group(given: JsonObject, max_tokens: int) -> Group:
    """Return a group of a batch of run-api. Raises `RunError`, one line, for one that cannot be trained on.

    `max_tokens`: sequences must be shorter.
    """
    tokens, masks, logprobs = given["tokens"], given["masks"], given.get("inference_logprobs")
    if logprobs is None:
        raise RunError(
            "a group has no log-probabilities of its tokens: serve the environment with --openai.server_type vllm, from "
            "the embedded server or vLLM"
        )
    longest = max(map(len, tokens))
    if longest >= max_tokens:
        raise RunError(
            f"a sequence of {longest} tokens, and the trainer takes fewer than {max_tokens}: raise it to {longest + 1}, or "
            "ask for shorter texts",
            setting=("batch.max_tokens",),
        )
    origin, overrides = given.get("generation_params") or {}, given.get("group_overrides") or {}
    if origin.get("policy_version") is None:
        raise RunError(
            "a group does not say which weights wrote it (no policy_version): use the embedded server, which says it"
        )
    recipe = overrides.get("recipe")
    if recipe is None:
        raise RunError("a group does not say which sample it is (no recipe): serve an environment of longthread")
    shared = _shared(tokens, masks)
    kept = [mask[shared:] for mask in masks]
    return Group(
        key=hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:24],
        task=overrides.get("counted_task") or recipe["task"],
        length=overrides.get("length") or recipe["length"],
        prompt=tokens[0][:shared],
        completions=[sequence[shared:] for sequence in tokens],
        trained=[[one != NOT_TRAINED for one in mask] for mask in kept],
        old_logprobs=[sequence[shared:] for sequence in logprobs],
        scores=given["scores"],
        policy_version=origin["policy_version"],
        flat=[Flat(*one) for one in origin.get("flat") or ()],
        levels=origin.get("levels") or {},
    )


def _shared(tokens: Sequence[list[int]], masks: Sequence[list[int]]) -> int:
    """Return how many tokens all sequences begin with and none trains; at least one token of each stays outside."""
    first, limit = tokens[0], min(map(len, tokens)) - 1
    for mask in masks:
        limit = min(limit, next((i for i, one in enumerate(mask) if one != NOT_TRAINED), len(mask)))
    while limit and any(sequence[:limit] != first[:limit] for sequence in tokens):
        limit -= 1  # only where prompts differ, which environments of ours never send
    if not limit:
        raise RunError("the sequences of a group share no prompt: serve an environment of longthread")
    return limit
