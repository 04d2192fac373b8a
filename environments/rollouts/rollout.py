"""One item, its scored completions, and the shapes they are kept in: Atropos' group, a row of process, a record of
evaluate."""

import math
from dataclasses import dataclass
from typing import Any

from environments.curriculum.policy import Difficulty
from environments.haystack.sample import Sample
from environments.inference.completions import Completion
from environments.rollouts.scoring import Score

NOT_TRAINED = -100  # Atropos' mask for tokens of the prompt


@dataclass(frozen=True)
class RolloutRequest:
    """One unit of work: enough to build its sample anywhere, and short when logged."""

    index: int
    seed: int
    split: str
    task: str
    length: int
    depth: float | None = None
    repeat: int = 0
    difficulty: Difficulty | None = None  # under a curriculum, and the task it counts for
    counted_task: str = ""

    @property
    def key(self) -> str:
        return f"{self.task}/{self.length}/{self.depth}/{self.repeat}"


@dataclass(frozen=True)
class RolloutGroup:
    """One item's sample with its scored completions, and the shapes it is kept in."""

    request: RolloutRequest
    sample: Sample
    prompt: list[int]
    completions: list[Completion]
    scores: list[Score]

    def scored_data(self, with_prompt: bool = True) -> dict[str, Any]:
        """Atropos' ScoredDataGroup. Log-probabilities are 1.0 over the prompt, as its managed server has them.

        `with_prompt=False` leaves out the prompt's tokens, masks and log-probabilities, with which all sequences begin.
        """
        return self._scored_data(self.prompt if with_prompt else [], self.sample.messages)

    def _scored_data(self, prompt: list[int], messages: list[dict[str, str]]) -> dict[str, Any]:
        masked, certain = [NOT_TRAINED] * len(prompt), [1.0] * len(prompt)
        group: dict[str, Any] = {
            "tokens": [prompt + c.tokens for c in self.completions],
            "masks": [masked + c.tokens for c in self.completions],
            "scores": [finite(s.score) for s in self.scores],
            "messages": [[*messages, {"role": "assistant", "content": c.text}] for c in self.completions],
            # Nested keys are the only ones that the API passes on. Never None: atroposlib calls .get on it.
            "group_overrides": {"recipe": self.sample.recipe},
            "overrides": [{"details": s.to_json()} for s in self.scores],
        }
        if all(c.logprobs is not None for c in self.completions):
            group["inference_logprobs"] = [certain + (c.logprobs or []) for c in self.completions]
        return group

    def row(self, full: bool) -> dict[str, Any]:
        """A row of `process`: Atropos' keys and ours. Compact rows keep the completions' tokens alone, and the prompt
        shortened to the windows around the needles; `haystack.sample.rebuild(row["recipe"], …)` brings it back."""
        group = self.scored_data() if full else self._scored_data([], [{"role": "user", "content": self._windows()}])
        sample = self.sample.to_json()
        return {
            **group,
            "store": "full" if full else "compact",
            "length": self.sample.length,
            **{name: sample[name] for name in ("recipe", "question", "answer", "needles", "profile")},
            "completions": [c.text for c in self.completions],
            "finish_reasons": [c.finish_reason for c in self.completions],
            "details": [s.to_json() for s in self.scores],
        }

    def record(self) -> dict[str, Any]:
        """A line of samples.jsonl: the first completion, with what reports need."""
        sample, earned, completion = self.sample.to_json(), self.scores[0], self.completions[0]
        return {
            **{name: getattr(self.request, name) for name in ("task", "length", "depth", "repeat", "seed")},
            **earned.to_json(),
            "score": finite(earned.score),
            "answer_score": earned.answer,
            "wanted": len(self.sample.answer.values),
            "found_share": earned.found / len(self.sample.answer.values) if self.sample.answer.values else None,
            "present": self.sample.answer.kind != "absent",
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            **self.sample.profile,
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(completion.tokens),
            **{name: sample[name] for name in ("recipe", "question", "answer", "needles")},
            "error": None,
        }

    def _windows(self) -> str:
        content = self.sample.messages[0]["content"]
        question = content[content.rindex("\n\nQuestion: ") :]
        shown = [f"{n.before}{n.text}{n.after}" for n in sorted(self.sample.needles, key=lambda n: n.token_start)]
        return "\n[…]\n".join([f"[{self.sample.length} tokens]", *shown, question.strip()])


def finite(value: float) -> float:
    """The value; raises ValueError for NaN and infinity, which would make Atropos lose a whole batch."""
    if not math.isfinite(value):
        raise ValueError(f"score {value} is not finite")
    return value
