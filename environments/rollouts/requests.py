"""Which samples are asked for: the n-th of a run, and all of an evaluation."""

from collections.abc import Collection
from random import Random

from environments.config import SEEDS, HaystackEnvConfig, SampleSettings
from environments.config_checks import Grid
from environments.haystack.layout import LayoutError
from environments.haystack.sample import Haystacks
from environments.haystack.tasks import absent_twin
from environments.presets import haystacks_of, task_of
from environments.rollouts.rollout import RolloutRequest
from longthread.errors import ConfigError


def probe(haystacks: Haystacks, grid: Grid, split: str, given: Collection[str] = ()) -> None:
    """Build a sample of every task at the shortest and the longest length, so that what cannot work fails at once.

    `given`: names of the options that the user set (`presets.haystacks_of`). Raises `ConfigError`.
    """
    twins = [absent_twin(task_of(task).name) for task in grid.tasks if haystacks.options.may_abstain]
    for task in dict.fromkeys([*grid.tasks, *twins]):
        for length in {min(grid.lengths), max(grid.lengths)}:
            try:
                haystacks_of(haystacks, task, given).sample(0, split, task_of(task).name, length)
            except LayoutError as error:
                message = f"task {task} at {length} tokens: {error.message}"
                raise ConfigError(message, setting=error.settings) from None


def training_request(config: SampleSettings, grid: Grid, index: int, split: str = "train") -> RolloutRequest:
    """Return request number `index` of a run: the tasks take turns, and the length is drawn by the seed and the index."""
    task = training_task(grid.tasks, config.absent_share, index)
    length = Random(f"{config.seed} {split} {index}").choice(grid.lengths)
    return RolloutRequest(index, config.seed * SEEDS + index, split, task, length)


def training_task(tasks: list[str], absent_share: float, index: int) -> str:
    """Return the task of request `index`: of the first n, round(n x absent_share) ask for a fact that is not in the text.

    They are spread evenly, so that a short run has its share too, and an index is one of them where that rounded number
    rises. Present and absent requests go round the tasks each by a count of their own: over one index the two would fall
    into step, and at a share of 0.5 only every other task would be drawn.
    """
    absent_before, absent_with_it = (int(n * absent_share + 0.5) for n in (index, index + 1))
    if absent_with_it > absent_before:
        return absent_twin(task_of(tasks[absent_before % len(tasks)]).name)
    return tasks[(index - absent_before) % len(tasks)]


def evaluation_requests(config: HaystackEnvConfig, grid: Grid) -> list[RolloutRequest]:
    """Return a request for every task, length, depth and repeat, and for each length its share of absent facts.

    A task whose facts fill the whole text has no depth; it has as many requests as the others.
    """
    depths = list(dict.fromkeys(grid.depths))
    requests: list[RolloutRequest] = []
    for length in grid.lengths:
        cells: list[tuple[str, float | None, int]] = [
            (task, None, repeat * len(depths) + i) if task_of(task).items else (task, depth, repeat)
            for repeat in range(config.repeats)
            for task in dict.fromkeys(grid.tasks)
            if not task_of(task).absent
            for i, depth in enumerate(depths)
        ]
        absent = round(len(cells) * config.absent_share / (1 - config.absent_share))
        twins = list(dict.fromkeys(absent_twin(task_of(task).name) for task in grid.tasks))
        if any(task_of(task).absent for task in grid.tasks):
            absent = max(absent, config.repeats * len(twins))
        cells += [(twins[i % len(twins)], None, i // len(twins)) for i in range(absent)]
        for task, depth, repeat in cells:
            index = len(requests)
            seed = config.seed * SEEDS + index
            requests.append(RolloutRequest(index, seed, "eval", task, length, depth, repeat))
    return requests
