"""TRL's `GRPOTrainer`, and Axolotl's `rl: grpo`: rows as a dataset, and the reward.

    GRPOTrainer(model, reward_funcs=longthread_reward, train_dataset=rows(config), args=GRPOConfig(max_steps=…))

TRL passes prompts on whole, whatever their length: the model's window must hold `lengths` and `max_completion_length`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from environments.tasksets import core
from longthread.files import Json, JsonObject

if TYPE_CHECKING:  # takes a second
    from datasets import IterableDataset

Metric = Callable[[str, float], None]


def dataset_row(row: core.Row) -> JsonObject:
    """Return the columns of a row: the prompt as messages; the target as JSON text, since a column has one type for all."""
    return {"prompt": row["messages"], "target": json.dumps(core.target_of(row))}


def rows(config: core.TasksetConfig) -> "IterableDataset":
    """Return the config's rows as a dataset without end; `GRPOConfig` then needs `max_steps`. Raises `ConfigError`."""
    from datasets import IterableDataset

    core.Rows(config)  # says here what is wrong, not in the trainer's first step
    return IterableDataset.from_generator(_generate, gen_kwargs={"settings": config.model_dump()})


def _generate(settings: JsonObject) -> Iterator[JsonObject]:
    return map(dataset_row, core.samples(core.TasksetConfig(**settings)))


def longthread_reward(
    prompts: Sequence[Json],
    completions: Sequence[Json],
    target: Sequence[str],
    log_metric: Metric | None = None,
    **columns: Json,
) -> list[float]:
    """Return the score of each completion, 0 to 1, never None: an empty one, or a call of a tool, earns 0.

    `prompts` and `completions`: as TRL has them, texts or conversations; `target`: the column of `dataset_row`. Logs the
    shares of exact and of abstaining replies. Raises `DataError` for rows that are not `dataset_row`'s.
    """
    scores = [core.score_completion(c, json.loads(t)) for c, t in zip(completions, target, strict=True)]
    if log_metric and scores:
        log_metric("longthread/exact", sum(s.correct for s in scores) / len(scores))
        log_metric("longthread/abstained", sum(s.abstained for s in scores) / len(scores))
    return [s.score for s in scores]
