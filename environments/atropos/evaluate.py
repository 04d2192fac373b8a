"""`evaluate`: the grid of depths and lengths to samples.jsonl, metrics.json, grid.csv, a heatmap and a report."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from environments.atropos.environment import Environment
from environments.atropos.process import exit_if_unfinished, skip_on_full_disk
from environments.reports import metrics as report_metrics
from environments.reports import report, wandb_log, wandb_run
from environments.rollouts.row_log import RowLog
from environments.rollouts.runner import Runner
from longthread.files import read_jsonl


async def evaluate(env: Environment, write: Callable[[Environment, Path, Path, Any], None] | None = None) -> None:
    """Run one evaluation to its end. Raises SystemExit(1) if samples are missing then, but not while serving.

    `write` is given the samples' path, the folder and the W&B run to report to, if any; `write_report` where it is None.
    """
    config = env.config
    with wandb_run.start_run(config, "evaluate", env.model_name, env.wandb_project, env.wandb_group) as run:
        requests = env.evaluation_requests()
        base = Path(config.data_dir_to_save_evals or Path("data") / f"{env.name}_evaluation")
        if env.serving:  # one folder a step
            base = base / f"step-{env.curr_step}"
        runner = Runner(
            name=env.name,
            unit="samples",
            sample_group=lambda request: env.rollout(request, 1),
            to_row=lambda group: group.record(),
            workers=config.max_eval_workers,
            max_failures=config.max_failures,
        )
        with RowLog(base / "samples.jsonl", env.run_digest(), [request.key for request in requests]) as rows:
            try:
                progress = await runner.run(requests, lambda request: request.key, rows, signals=not env.serving)
            finally:
                # Beside the samples, or in a folder of their own if the name of the samples was taken.
                out = base if rows.path.stem == "samples" else base / rows.path.stem
                with skip_on_full_disk(out):
                    await asyncio.to_thread(write or write_report, env, rows.path, out, run)
        if not env.serving:  # an evaluation that lacks a sample does not end the training
            exit_if_unfinished(progress, len(requests), len(rows.done))


def write_report(env: Environment, samples: Path, out: Path, run: Any) -> None:
    """Write tables, pictures and pages of an evaluation's samples to `out`, and log them to W&B if there is a run."""
    if records := list(read_jsonl(samples)):
        drawn = report_records(env, records, out, run)
        print(report_metrics.summary_table(records))
        print(f"samples  {samples}\nmetrics  {out / 'metrics.json'}")
        print(f"heatmap  {drawn.pictures['heatmap']}\nreport   {drawn.html}")


def report_records(
    env: Environment, records: Sequence[report_metrics.Record], out: Path, run: Any, name: str = ""
) -> report.ReportPaths:
    """Write what `write_report` does of some records, which have a `name` among others; return the paths."""
    model = env.model_name
    sampling = env.sampling_in_force(env.config.eval_temperature)
    settings = {**env.config.model_dump(mode="json"), "model": model, "sampling": sampling}
    drawn = report.draw_report(records, f"{env.name}{f' ({name})' if name else ''}: {model}", settings)
    paths = drawn.write(out)
    general = {"model_name": model, "sampling": sampling}
    metrics = report_metrics.write_metrics(out / "metrics.json", records, general, env.config.wandb_name or env.name)
    prefix, step = (env.wandb_prepend, env.curr_step) if env.serving else (None, None)
    if name:
        prefix = f"{prefix}_{name}" if prefix else name
    wandb_log.log_evaluation(run, drawn, metrics, prefix, step)
    return paths
