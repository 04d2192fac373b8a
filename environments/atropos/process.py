"""`process`: groups of rollouts to a JSON-lines file and a page, several at a time; continues where a killed run stopped."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from environments.atropos.environment import Environment
from environments.reports import report, wandb_run
from environments.rollouts.row_log import RowLog
from environments.rollouts.runner import Progress, Runner
from longthread.counts import counted
from longthread.files import read_jsonl

logger = logging.getLogger(__name__)


async def process(env: Environment) -> None:
    """Run `process` to its end. Raises SystemExit(1) if groups are missing then."""
    config = env.config
    with wandb_run.start_run(config, "process", env.model_name, env.wandb_project, env.wandb_group) as run:
        await env.setup()
        requests = [env.request(index) for index in range(env.n_groups_to_process)]
        runner = Runner(
            name=env.name,
            unit="groups",
            sample_group=env.rollout_log.counting(lambda r: env.rollout(r, env.group_size_to_process), run),
            to_row=lambda group: group.row(config.store == "full"),
            workers=env.max_num_workers,
            max_failures=config.max_failures,
        )
        out = Path(config.data_path_to_save_groups or f"data/{env.name}.jsonl")
        with RowLog(out, env.run_digest(), [request.index for request in requests]) as rows:
            try:
                progress = await runner.run(requests, lambda request: request.index, rows, signals=True)
            finally:  # whatever ended it: what is there is shown
                env.rollout_log.send(run, final=True)
                print(f"rollouts  {rows.path}")
                page = rows.path.with_suffix(".html")
                with skip_on_full_disk(page):
                    report.write_rollouts_html(read_jsonl(rows.path), page, title=f"{env.name}: rollouts")
                    print(f"viewer    {page}")
        whole = _counted(rows.path, progress.failed)
        print(f"{len(rows.done)} of {counted(len(requests), 'group')}; {whole.summary()}")
        exit_if_unfinished(progress, len(requests), len(rows.done))


def _counted(path: Path, failed: int) -> Progress:
    """Return the counts of a file of rollouts, over all the runs that wrote it, with the failures of this one."""
    whole = Progress(failed=failed)
    for row in read_jsonl(path):
        whole.completions += len(row["scores"])
        whole.score += sum(row["scores"])
        whole.missing += sum(map(bool, row.get("missing") or ()))
    return whole


@contextlib.contextmanager
def skip_on_full_disk(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a warning: pictures and pages can be made again from the rows."""
    try:
        yield
    except OSError as error:
        logger.warning("cannot write %s (%s); longthread report makes it from the rows", path, error.strerror)


def exit_if_unfinished(progress: Progress, wanted: int, done: int) -> None:
    """Print how many are done and exit with code 1, if the run was stopped or fewer than `wanted` are done."""
    if not progress.finished or done < wanted:
        print(f"{done} of {wanted} done, {progress.failed} failed; the same command continues where this one stopped")
        raise SystemExit(1)
