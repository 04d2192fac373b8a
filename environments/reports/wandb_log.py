"""Weights & Biases: off unless `--env.use_wandb true`, complete when on.

`RolloutLog` counts finished rollouts and needs no W&B; `start_run` opens a run for `process` and `evaluate`, and shuts it
whatever happens (`serve` has Atropos' own). Sent are settings, numbers, pictures, questions, gold answers and clipped
completions. Never sent: an API key, a haystack, the terminal's output, or the state of the user's git repository.
"""

from __future__ import annotations

import asyncio
import io
import math
import os
import statistics
import uuid
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from environments.reports import html
from environments.reports.figures import heatmap, png
from environments.reports.metrics import Record, depth_of, grid, is_failure
from environments.reports.report import write_report
from environments.rollouts.rollout import RolloutGroup, RolloutRequest, finite
from longthread.errors import ConfigError, RunError
from longthread.secrets import redact, redact_text

PROJECT = "longthread"  # where neither the trainer nor WANDB_PROJECT names one
CLIPPED = 2_000  # characters of a completion in a table: its head and its tail. A model may repeat its whole prompt
MOST_ROWS = 10_000  # of a table and of a picture: as many as W&B shows
PICTURE_GROUPS = 100  # groups of rollouts that are enough for a heatmap while training
COLUMNS: list[Any] = (
    "task length depth question answer completion score correct finish_reason completion_tokens seed".split()
)
_ADVICE = "run `wandb login` or set WANDB_API_KEY, or keep the run on this disk with WANDB_MODE=offline"


# ---- rollouts ---------------------------------------------------------------------------------------------------


class RolloutLog:
    """Finished rollouts as numbers, a table and a heatmap, in bounded memory: prompts are never kept.

    `config` gives atroposlib's `num_rollouts_to_keep` (groups in a table, the latest), and, for each,
    `num_rollouts_per_group_for_logging` (-1: the whole group) and `min_items_sent_before_logging`.
    """

    def __init__(self, config: Any):
        self.every = max(1, config.min_items_sent_before_logging)
        each = config.num_rollouts_per_group_for_logging
        self.each = each if each >= 0 else None
        self.total = 0  # groups since the start
        self._clear()
        self._shown: deque[list[list[Any]]] = deque(maxlen=max(0, config.num_rollouts_to_keep))
        self._scores: deque[dict[str, Any]] = deque(maxlen=MOST_ROWS)  # one a completion
        self._undrawn = 0

    def _clear(self) -> None:
        self.groups = self.failures = 0  # since the last `metrics`
        self._sums: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
        self._longest = 0

    def _observe(self, name: str, value: float) -> None:
        n, total = self._sums[name]
        self._sums[name] = n + 1, total + value

    def add(self, rollout: RolloutGroup) -> None:
        """Count one finished group. Raises ValueError for a score that is not finite."""
        shown = [_completion(rollout, i) for i in range(len(rollout.scores))]
        scores = [one["score"] for one in shown]
        for one, earned in zip(shown, rollout.scores, strict=True):
            self._observe("score", one["score"])
            self._observe(f"score_by_task/{one['task']}", one["score"])
            self._observe(f"score_by_length/{one['length']}", one["score"])
            self._observe("exact", one["correct"])
            self._observe("truncated", one["finish_reason"] == "length")
            self._observe("completion_tokens_mean", one["completion_tokens"])
            self._longest = max(self._longest, one["completion_tokens"])
            if one["present"]:
                self._observe("false_silence", earned.abstained)
                self._scores.append({name: one[name] for name in ("depth", "length", "score")})
            else:
                self._observe("false_answers", not earned.abstained)
        self._observe("group_score_std", statistics.pstdev(scores))
        self._observe("flat_groups", min(scores) == max(scores))
        self._shown.append([[one[name] for name in COLUMNS] for one in shown[: self.each]])
        self.groups, self.total, self._undrawn = self.groups + 1, self.total + 1, self._undrawn + 1

    def fail(self) -> None:
        """Count one item that came to nothing."""
        self.failures += 1

    def counting(
        self, sample_group: Callable[[RolloutRequest], Awaitable[RolloutGroup]], run: Any | None
    ) -> Callable[[RolloutRequest], Any]:
        """`sample_group`, with every rollout and every failure counted here and, now and then, sent to the run."""

        async def counted(item: RolloutRequest) -> RolloutGroup:
            try:
                self.add(rollout := await sample_group(item))
            except Exception:
                self.fail()
                raise
            self.send(run)
            return rollout

        return counted

    def metrics(self) -> dict[str, float]:
        """Numbers of the rollouts since the last call (README: W&B); a mean of nothing is left out."""
        found = {f"train/{name}": total / n for name, (n, total) in self._sums.items()}
        if self.groups:
            found["train/completion_tokens_max"] = self._longest
        found |= {"train/groups": self.groups, "train/failures": self.failures}
        self._clear()
        return found

    def media(self, final: bool = False) -> dict[str, Any]:
        """The table of rollouts since the last call, and a heatmap of all since the last heatmap: when there are enough
        groups for one, or at the end. Only with W&B on."""
        import wandb

        found: dict[str, Any] = {}
        groups, self._shown = self._shown, deque(maxlen=self._shown.maxlen)
        if rows := [row for group in groups for row in group]:
            found["train/rollouts"] = wandb.Table(columns=COLUMNS, data=rows)
        if self._scores and (final or self._undrawn >= PICTURE_GROUPS):
            scores, self._scores, self._undrawn = self._scores, deque(maxlen=MOST_ROWS), 0
            found["train/heatmap"] = _picture(scores)
        return found

    def send(self, run: Any | None, final: bool = False) -> None:
        """Log to a run of `process`: numbers every few groups, the table and the heatmap at the end. Without a run: not."""
        if run is not None and (final or self.groups >= self.every):
            values = {**self.metrics(), **(self.media(final) if final else {})}
            run.log(values, step=self.total + final)  # the same step again would overwrite the last numbers


def _completion(rollout: RolloutGroup, i: int) -> dict[str, Any]:
    """One completion of a group under the names of `COLUMNS`, and `present`."""
    item, sample, earned, completion = rollout.request, rollout.sample, rollout.scores[i], rollout.completions[i]
    needles = [{"role": needle.role, "depth": needle.depth} for needle in sample.needles]
    return {
        "task": item.task,
        "length": item.length,
        "depth": depth_of({"depth": item.depth, "needles": needles}),
        "question": _text(sample.question),
        "answer": _text(html.answer_text(asdict(sample.answer))),
        "completion": _text(completion.text),
        "score": finite(earned.score),
        "correct": earned.correct,
        "finish_reason": completion.finish_reason,
        "completion_tokens": len(completion.tokens),
        "seed": item.seed,
        "present": sample.answer.kind != "absent",
    }


def _text(text: str) -> str:
    """Text of a table: no key, nothing that cannot be encoded, head and tail where it is long."""
    text = html.visible(redact_text(text))
    half = CLIPPED // 2
    return text if len(text) <= CLIPPED else f"{text[:half]} […] {text[-half:]}"


def _picture(scores: Collection[Record]) -> Any:
    import wandb
    from PIL import Image

    drawn = png(heatmap(grid(scores), f"Score of {len(scores):,} rollouts by needle depth and context length"))
    return wandb.Image(Image.open(io.BytesIO(drawn)).convert("RGB"))


# ---- runs -------------------------------------------------------------------------------------------------------


def check_login(config: Any) -> None:
    """Raises `ConfigError`, one line, if W&B is on and lacks a login that works. Never asks at the terminal."""
    if not config.use_wandb:
        return
    import wandb

    if wandb.run is not None:
        return
    # Neither the terminal's output, where a library may log a prompt, nor a diff of the user's repository is sent. Set
    # for the process, so that it also holds for the run that Atropos starts in `serve`.
    quiet = wandb.Settings(console="off", disable_git=True, save_code=False)
    try:
        if wandb.setup(quiet).settings.mode in ("offline", "dryrun", "disabled"):
            return
        known = wandb.login(prompt=False)
    except (wandb.Error, ValueError) as error:
        raise ConfigError(f"W&B refuses to start ({_line(error)}); {_ADVICE}") from None
    if not known:
        raise ConfigError(f"--env.use_wandb true, but there is no W&B login here: {_ADVICE}")


def _line(error: Exception) -> str:
    return redact_text(" ".join(str(error).split()).rstrip("."))


@contextmanager
def start_run(
    config: Any, job: str, model: str, project: str | None = None, group: str | None = None
) -> Iterator[Any | None]:
    """A W&B run around `process` or `evaluate`: None when W&B is off; a run that is on already (`serve`'s) as it is.

    `job`, the command, is W&B's job type; `project` and `group` are those of atroposlib's environment, if it has any.
    Raises `ConfigError` for a missing login and `RunError` when W&B cannot be reached, both before anything is asked.
    """
    if not config.use_wandb:
        yield None
        return
    import wandb

    if wandb.run is not None:
        yield wandb.run
        return
    check_login(config)
    try:
        wandb.init(
            project=project or os.environ.get("WANDB_PROJECT") or PROJECT,
            name=f"{config.wandb_name}-{datetime.now():%Y-%m-%d}-{uuid.uuid4().hex[:6]}",
            group=group,
            job_type=job,
            config={**safe_settings(config), "model": model},
        )
    except wandb.Error as error:
        raise RunError(f"no W&B run ({_line(error)}); {_ADVICE}") from None
    with finishing(config):
        yield wandb.run


@contextmanager
def finishing(config: Any) -> Iterator[None]:
    """Finishes the W&B run that is on when the block ends, with what it ended in: 0, 1 for a failure, 255 for Ctrl-C."""
    code = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        raise
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 255
        raise
    finally:
        if config.use_wandb:
            import wandb

            wandb.finish(exit_code=code)


def safe_settings(config: Any) -> dict[str, Any]:
    """The settings of an environment without anything that is, or looks like, a secret."""
    settings: dict[str, Any] = redact(config.model_dump(mode="json"))
    return settings


# ---- evaluations ------------------------------------------------------------------------------------------------


def log_evaluation(
    run: Any | None,
    records: Sequence[Record],
    metrics: Mapping[str, float],
    config: Any,
    model: str,
    prepend: str | None = None,
    step: int | None = None,
) -> None:
    """Log one evaluation: the numbers of metrics.json, the samples, the heatmap and the report. Without a run: nothing.

    `prepend` and `step` are, in `serve`, those that atroposlib puts its own keys under: `{prepend}_{key}` at `step`.
    """
    if run is None:
        return
    import wandb

    scored = [record for record in records if not is_failure(record)]
    if len(scored) > MOST_ROWS:  # the worst are what one looks for
        scored = sorted(scored, key=lambda record: record["score"])[:MOST_ROWS]
    values: dict[str, Any] = {name: value for name, value in metrics.items() if math.isfinite(value)}
    values["eval/samples"] = wandb.Table(columns=COLUMNS, data=[_sample(record) for record in scored])
    with TemporaryDirectory() as folder:
        # Again, without the windows of text around the needles.
        plain, title = [_without_windows(record) for record in records], f"{config.wandb_name}: {model}"
        paths = write_report(plain, Path(folder), title, {**safe_settings(config), "model": model})
        values["eval/heatmap"] = wandb.Image(str(paths.heatmap))
        values["eval/report"] = wandb.Html(str(paths.html), inject=False)
        run.log({f"{prepend}_{name}" if prepend else name: value for name, value in values.items()}, step=step)


def _sample(record: Record) -> list[Any]:
    texts = {name: _text(record[name]) for name in ("question", "completion")}
    texts["answer"] = _text(html.answer_text(record["answer"]))
    row = {**record, **texts, "depth": depth_of(record)}
    return [row[name] for name in COLUMNS]


def _without_windows(record: Record) -> dict[str, Any]:
    completion = _text(record["completion"])
    needles = [{**needle, "before": "", "after": ""} for needle in record["needles"]]
    return {**record, "completion": completion, "needles": needles}
