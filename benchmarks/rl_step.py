"""How many tokens/s the RL trainer learns from, a group's prompt forwarded once, against each rollout by itself.

    python -m benchmarks.rl_step --model MODEL [--prompt 8192] [--groups 8] [--group-size 8] [--completion 64]

Random tokens, the recipe's adapter, forward and backward pass of one step without the optimizer. Tokens are those of all
rollouts, prompts counted for each, so both roads are paid for the same work; the ratio is of their seconds in the same run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import exit_on_error
from trainer_configs.atropos_rl.config import Batch, Environment, Lora, RLConfig
from trainer_configs.atropos_rl.groups import Group
from trainer_configs.atropos_rl.loss import Clip
from trainer_configs.atropos_rl.policy import Policy
from trainer_configs.atropos_rl.trainer import backward, passes

ADAPTER = Lora(r=32, alpha=64, train_embeddings=False)  # as in trainer_configs/smollm2-135m-rl.yaml

app = App()


def random_groups(count: int, size: int, prompt: int, completion: int, words: int) -> list[Group]:
    """Groups of `size` completions of random tokens; half of each scores 1."""
    rng = Random(0)

    def draw(tokens: int) -> list[int]:
        return [rng.randrange(words) for _ in range(tokens)]

    return [
        Group(
            str(number), "random", prompt, draw(prompt), [draw(completion) for _ in range(size)],
            [[True] * completion] * size, [[-5.0] * completion] * size, [float(i % 2) for i in range(size)], 0,
        )
        for number in range(count)
    ]  # fmt: skip


def alone(groups: Sequence[Group]) -> list[Group]:
    """Each rollout as a group by itself, with its prompt."""
    return [
        replace(
            group, completions=[one], trained=[group.trained[i]], old_logprobs=[group.old_logprobs[i]],
            scores=[group.scores[i]],
        )
        for group in groups
        for i, one in enumerate(group.completions)
    ]  # fmt: skip


def learn(policy: Policy, groups: Sequence[Group], pass_tokens: int) -> None:
    """Add the gradients of a step's groups, in passes of at most so many tokens."""
    tokens = sum(group.trained_tokens for group in groups)
    for together in passes(groups, pass_tokens):
        backward(policy, together, Clip(), "none", tokens)
    policy.optimizer.zero_grad(set_to_none=True)
    if policy.device.type == "cuda":
        torch.cuda.synchronize()


def seconds(run: Callable[[], None], times: int) -> float:
    """Return the median of the seconds of several runs."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return median(taken)


@app.command()
@exit_on_error()
def main(  # noqa: PLR0913
    model: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the model.")],
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 8192,
    groups: Annotated[int, typer.Option(min=1, help="Groups of a step.")] = 8,
    group_size: Annotated[int, typer.Option(min=2, help="Completions of a prompt.")] = 8,
    completion: Annotated[int, typer.Option(min=1, help="Tokens of a completion.")] = 64,
    pass_tokens: Annotated[int, typer.Option(min=1, help="Tokens forwarded together, prompts counted once.")] = 16_384,
    times: Annotated[int, typer.Option(min=1, help="Steps of each road, of which the median counts.")] = 3,
) -> None:
    """Time both roads, and print the table."""
    batch = Batch(group_size=group_size, max_tokens=prompt + completion + 1, pass_tokens=pass_tokens)
    needed = [Environment(program="needle")]  # a run has one; none is asked here
    policy = Policy(RLConfig(model=str(model), run=Path("unused"), environments=needed, batch=batch, lora=ADAPTER))
    made = random_groups(groups, group_size, prompt, completion, policy.model.config.vocab_size)
    roads = {"a group's prompt once": (made, pass_tokens), "each rollout by itself": (alone(made), 1)}
    tokens = sum(group.all_tokens for group in made)
    learn(policy, made[:1], pass_tokens)  # warm
    taken = {name: seconds(lambda road=road: learn(policy, *road), times) for name, road in roads.items()}  # type: ignore[misc]
    title = f"{counted(groups, 'group')} of {group_size} x {prompt:,} tokens"
    table = Table("step", "seconds", "tokens/s", "times", title=title)
    slowest = max(taken.values())
    for name, each in taken.items():
        table.add_row(name, f"{each:.2f}", f"{tokens / each:,.0f}", f"{slowest / each:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    app()
