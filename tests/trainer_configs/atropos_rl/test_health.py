"""A run's numbers: computed, kept, shown on a screen and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from longthread.errors import ConfigError
from longthread.statistics import Z95
from trainer_configs.atropos_rl import comparison, conduct, health
from trainer_configs.atropos_rl.groups import Flat, Group
from trainer_configs.atropos_rl.health import HealthLog, Sums, Timing
from trainer_configs.atropos_rl.plot import plot
from trainer_configs.atropos_rl.screen import curve, line, screen

TIMING = Timing(waited=1.0, trained=2.0, published=1.0, completion_tokens=40)


def make_group(task: str, scores: list[float], flat: list[Flat] | None = None) -> Group:
    completions = [[1, 2, 3]] * len(scores)
    trained = [[True] * 3] * len(scores)
    return Group(
        task, task, 10, [0] * 7, completions, trained, [[-1.0] * 3] * len(scores), scores, 0, flat or [], {task: 0.5}
    )


def make_row(step: int = 1, **changes: Any) -> dict[str, Any]:
    sums = Sums(tokens=10, ratio=10.5, ratio_max=1.4, clipped_low=1, clipped_high=2, moved=0.1, entropy=20, loss=-1)
    groups = [
        make_group("a", [1.0, 0.0]),
        make_group("b", [0.6, 0.2], [Flat("b", 10, 3, 3.0, 3), Flat("c", 5, 1, 0.0, 0)]),
    ]
    return health.row(step, groups, {"stale": 2}, [0, 1], sums, TIMING) | {"grad_norm": 1.0} | changes


def test_numbers_of_a_step() -> None:
    row = make_row()
    # Groups that all pass or all fail are not trained on, and count all the same: 12 completions, 1 + 1 + 6 passed.
    assert row["completions"] == 12 and row["pass_rate"] == pytest.approx(8 / 12)
    assert row["reward"] == pytest.approx((1 + 0.8 + 2 * 3.0) / 12)
    assert row["tasks"]["b"]["10"] == {"reward": pytest.approx(6.8 / 8), "pass_rate": 7 / 8, "completions": 8}
    assert row["tasks"]["c"] == {"5": {"reward": 0, "pass_rate": 0, "completions": 2}}
    assert row["groups"] == {"trained": 2, "flat": 4, "stale": 2, "repeated": 0, "unknown": 0}
    assert row["staleness"] == {"mean": 0.5, "max": 1} and row["clip"] == {"low": 0.1, "high": 0.2}
    assert (row["ratio"]["mean"], row["entropy"], row["loss"]) == (1.05, 2, -0.1)
    assert row["tokens_per_second"] == {"trainer": 13, "trainer_row_by_row": 20, "sampler": 10}


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = HealthLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.add(make_row(step))
    with log.path.open("a") as file:
        file.write('{"step": 4, "rew')  # killed while it was written
    again = HealthLog(tmp_path, 2)
    again.add(make_row(3, reward=0.9))
    assert [(row["step"], row["reward"] == 0.9) for row in health.rows(tmp_path)] == [(1, False), (2, False), (3, True)]


def test_one_screen_and_one_line() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen([make_row(step) for step in range(1, 200)], 300, {"server": 1}))
    text = console.export_text()
    assert len(text.splitlines()) <= 24 and "199 of 300" in text and "server 1 x" in text and "2 stale" in text
    assert "waiting" in str(screen([], 3, {}).renderables[0])
    assert "\n" not in line(make_row()) and "clip 30.0%" in line(make_row())


def test_curve() -> None:
    assert curve([0, 1]) == "▁█" and curve([2, 2]) == "▁▁" and len(curve([float(i) for i in range(1000)])) <= 60


def test_plot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no steps.jsonl"):
        plot(tmp_path)
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(make_row(step)) + "\n" for step in (1, 2, 3)))
    assert plot(tmp_path).read_bytes()[:4] == b"\x89PNG"
    assert plot(tmp_path, tmp_path / "a.svg").read_text().startswith("<?xml")


def test_before_and_after_are_compared_sample_by_sample(tmp_path: Path) -> None:
    for when, scores in {"before": [0, 0, 1, 0], "after": [1, 1, 1, 0]}.items():
        folder = tmp_path / when / "needle"
        folder.mkdir(parents=True)
        samples = [
            {"task": "single", "length": 9 - i // 3, "depth": i, "repeat": 0, "score": score}
            for i, score in enumerate(scores)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    whole, shorter, longer = comparison.differences(tmp_path, ["needle", "none"])
    assert (whole.environment, whole.task, whole.length) == ("needle", "single", None)
    assert (whole.before.mean, whole.after.mean, whole.before.n) == (0.25, 0.75, 4)
    assert whole.reach == pytest.approx(Z95 * (1 / 3 / 4) ** 0.5)  # of the differences 1, 1, 0, 0
    assert [(one.length, one.before.n, one.after.mean) for one in (shorter, longer)] == [(8, 1, 0), (9, 3, 1)]
    shown = comparison.table(tmp_path, ["needle"])
    assert shown is not None and shown.row_count == 3 and comparison.table(tmp_path, ["none"]) is None


def reply(completion: str, present: bool = True, **changes: Any) -> dict[str, Any]:
    scored = {"present": present, "abstained": False, "predicted": 1, "wanted": int(present), "well_formed": True}
    needles = [{"text": "The code of Ann is 7."}, {"text": ""}]
    return scored | {"completion": completion, "needles": needles, "finish_reason": "stop", "error": None} | changes


REPLIES = {
    "abstains": reply("<answer>none</answer>", abstained=True, predicted=0),
    "dumps": reply("<answer>7; 8</answer>", predicted=2),
    "echoes": reply("<answer>The code of Ann is 7.</answer>"),
    "drafts": reply("<answer>8</answer> no, <answer>7</answer>", well_formed=False),
    "has no form": reply("7", well_formed=False, predicted=0),
    "is cut off": reply("<answer>7</answer>", finish_reason="length"),
}


@pytest.mark.parametrize("strategy", REPLIES)
def test_what_a_reply_does_is_told_from_what_others_do(strategy: str) -> None:
    found = conduct.shares([REPLIES[strategy]])
    others = {"has no form"} if strategy == "drafts" else set()
    assert {name for name, share in found.items() if share.mean == 1} == {strategy} | others
    assert all(share.mean == 0 for share in conduct.shares([reply("<answer>7</answer>")]).values() if share.n)


def test_naming_what_is_absent_counts_apart() -> None:
    records = [reply("<answer>7</answer>", present=False), reply("<answer>none</answer>", False, abstained=True)]
    found = conduct.shares(records)
    assert found[conduct.INVENTED].mean == 0.5 and found["abstains"].n == 0


def test_conduct_is_shown_for_runs_that_are_done(tmp_path: Path) -> None:
    for when in ("before", "after"):
        assert conduct.table(tmp_path, ["needle"]) is None
        (tmp_path / when / "needle").mkdir(parents=True)
        lines = "".join(json.dumps(one) + "\n" for one in [*REPLIES.values(), reply("x", error="lost")])
        (tmp_path / when / "needle" / "samples.jsonl").write_text(lines)
    shown = conduct.table(tmp_path, ["needle"])
    assert shown is not None and shown.row_count == len(REPLIES)  # nothing absent was asked
