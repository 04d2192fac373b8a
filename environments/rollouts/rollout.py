"""One request, its scored completions, and the forms they are kept in: Atropos' group, a row of process, a record of
evaluate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from environments.curriculum.ladder import Difficulty
from environments.haystack.sample import Sample
from environments.inference.contracts import Completion
from environments.rollouts.scoring import Score
from environments.rollouts.transcript import Transcript
from longthread.files import JsonObject

NOT_TRAINED = -100  # Atropos' mask for tokens of the prompt
PASS = 0.5  # least score of a right answer; less is paid for its form


@dataclass(frozen=True)
class RolloutRequest:
    """What to ask once: enough to build its sample anywhere, and short when logged."""

    index: int
    seed: int
    split: str
    task: str
    length: int
    depth: float | None = None
    repeat: int = 0
    difficulty: Difficulty | None = None  # under a curriculum
    counted_task: str = ""  # the task of the curriculum that the scores count for

    @property
    def key(self) -> str:
        """Name of the request's cell in the evaluation grid, with its repeat: unique in a grid."""
        return f"{self.task}/{self.length}/{self.depth}/{self.repeat}"


@dataclass(frozen=True)
class RolloutGroup:
    """One request's sample with its n scored completions.

    Where the text was looked up instead of given there is a transcript for each completion, which is the episode's last,
    with the tokens of all that the model wrote; `prompt` is then that of the episodes, empty where no tokens of it are known.
    """

    request: RolloutRequest
    sample: Sample
    prompt: list[int]
    completions: list[Completion]
    scores: list[Score]
    transcripts: list[Transcript] = field(default_factory=list)

    def scored_data(self, with_prompt: bool = True) -> JsonObject:
        """Return Atropos' ScoredDataGroup. Log-probabilities are 1.0 over the prompt, as its managed server has them.

        `with_prompt=False` leaves out the prompt's tokens, masks and log-probabilities, with which all sequences begin.
        """
        return self._scored_data(self.prompt if with_prompt else [], self.sample.messages)

    def _scored_data(self, prompt: list[int], messages: Sequence[Mapping[str, str]]) -> JsonObject:
        prompt_mask, prompt_logprobs = [NOT_TRAINED] * len(prompt), [1.0] * len(prompt)
        said = self.transcripts or self.completions
        if self.transcripts:
            masks, chats = [t.mask for t in self.transcripts], [list(t.messages) for t in self.transcripts]
            readings: list[JsonObject] = [{"reading": t.reading.to_json()} for t in self.transcripts]
        else:
            masks, readings = [c.tokens for c in self.completions], [{} for _ in self.completions]
            chats = [[*map(dict, messages), {"role": "assistant", "content": c.text}] for c in self.completions]
        group: JsonObject = {
            "tokens": [prompt + one.tokens for one in said],
            "masks": [prompt_mask + mask for mask in masks],
            "scores": [finite(s.score) for s in self.scores],
            "messages": chats,
            # Nested keys are the only ones that the API passes on. Never None: atroposlib calls .get on it.
            "group_overrides": {"recipe": self.sample.recipe},
            "overrides": [{"details": s.to_json()} | more for s, more in zip(self.scores, readings, strict=True)],
        }
        if all(one.logprobs is not None for one in said):
            group["inference_logprobs"] = [prompt_logprobs + (one.logprobs or []) for one in said]
        return group

    def row(self, full: bool) -> JsonObject:
        """Return the group as a row of `process`: Atropos' keys and this project's, for all completions.

        A compact row keeps the completions' tokens alone, and the prompt shortened to the windows around the needles;
        `haystack.sample.rebuild(row["recipe"], …)` brings it back. Conversations of several turns are kept whole.
        """
        return {
            **(self.scored_data() if full else self._compact_data()),
            "store": "full" if full else "compact",
            # A benchmark's own name for the task, where it has one.
            **({"task": self.request.task} if self.request.task != self.sample.recipe["task"] else {}),
            **self._sample_fields(),
            "profile": self.sample.to_json()["profile"],
            "completions": [c.text for c in self.completions],
            "finish_reasons": [c.finish_reason for c in self.completions],
            **({"missing": missing} if any(missing := [c.missing for c in self.completions]) else {}),
            "details": [s.to_json() for s in self.scores],
            **({"reading": [t.reading.to_json() for t in self.transcripts]} if self.transcripts else {}),
        }

    def _compact_data(self) -> JsonObject:
        return self._scored_data([], [{"role": "user", "content": self._windows()}])

    def record(self) -> JsonObject:
        """Return a line of samples.jsonl: the first completion and its score, with what reports need of the sample."""
        score, completion, answer = self.scores[0], self.completions[0], self.sample.answer
        return {
            **{name: getattr(self.request, name) for name in ("task", "depth", "repeat", "seed")},
            **score.to_json(),
            "score": finite(score.score),
            "answer_score": score.answer,
            "wanted": len(answer.values),
            "found_share": score.found / len(answer.values) if answer.values else None,
            "present": answer.kind != "absent",
            "completion": completion.text,
            "finish_reason": completion.finish_reason,
            **({"missing": completion.missing} if completion.missing else {}),
            **self.sample.profile,
            "prompt_tokens": len(self.prompt) if self.prompt else None,
            "completion_tokens": len(completion.tokens),
            **(self.transcripts[0].reading.to_json() | self._conversation() if self.transcripts else {}),
            **self._sample_fields(),
            "error": None,
        }

    def _conversation(self) -> JsonObject:
        """Return the first episode's messages behind the question, for reports."""
        return {"messages": list(self.transcripts[0].messages[1:])}

    def _sample_fields(self) -> JsonObject:
        """Return the fields of the sample that rows and records both have. `length` is that of the text asked about."""
        sample = self.sample.to_json() | {"length": self.sample.recipe["length"]}
        marked = {"no_context": True} if self.sample.no_context else {}
        return {**{name: sample[name] for name in ("length", "recipe", "question", "answer", "needles")}, **marked}

    def _windows(self) -> str:
        content = self.sample.messages[0]["content"]
        question = content[content.rindex("\n\nQuestion: ") :]
        windows = [f"{n.before}{n.text}{n.after}" for n in sorted(self.sample.needles, key=lambda n: n.token_start)]
        return "\n[…]\n".join([f"[{self.sample.length} tokens]", *windows, question.strip()])


def finite(value: float) -> float:
    """Return the value; raise ValueError for NaN and infinity, which would make Atropos lose a whole batch."""
    if not math.isfinite(value):
        raise ValueError(f"score {value} is not finite")
    return value
