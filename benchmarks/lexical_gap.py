"""Does a model that was taught one half of the pairs of words of lexical gaps find needles by the other half?

    python -m benchmarks.lexical_gap rows ROWS --tokenizer MODEL --texts NOVELS --chat-rows CHATS
    python -m benchmarks.longlora_patterns run OUT --model MODEL --rows LONG --short-rows ROWS --prompts PROMPTS \\
           --methods pose --train-seconds 600 --equal seconds --keep
    python -m benchmarks.lexical_gap ask RESULTS OUT/models/pose-seconds-1

A text describes a person by a trait, a trade and a place, each the one word of a pair ("the shy cobbler by the harbour"),
and a question by the others ("the timid mender of shoes by the port"). Rows take every second pair of each kind. Asked are
needles of people of either half, of the evaluation split, in the wordings of the rows, by our exact score: single ones, which
the relation alone tells from all other text, and those among three others of which one word in three is another.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.longlora_grid import GridPrompt, evaluate, load, prompt_of
from environments.datasets.reader_rows.plan import RowSettings
from environments.haystack import facts
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import load_full_tokenizer
from longthread.command_line import App
from longthread.errors import exit_on_error, option
from longthread.files import write_json
from longthread.statistics import estimate
from trainer_configs.longlora.data.reader_build import Build
from trainer_configs.longlora.data.reader_build import build as build_rows

TABLES = ("TRAITS", "TRADES", "PLACES")
HALVES = ("taught", "other")
BATCH_TOKENS = 65_536  # of prompts read at a time
TASKS = ("single", "multi_key")


@contextmanager
def only_half(half: str) -> Iterator[None]:
    """Describe people by the pairs of this half alone: every second one of each kind."""
    whole = {name: getattr(facts, name) for name in TABLES}
    for name, pairs in whole.items():
        setattr(facts, name, pairs[HALVES.index(half) :: 2])
    try:
        yield
    finally:
        for name, pairs in whole.items():
            setattr(facts, name, pairs)


def prompts(haystacks: Haystacks, task: str, half: str, length: int, count: int) -> list[GridPrompt]:
    """Return so many prompts of exactly `length` tokens, with people of this half."""
    with only_half(half):
        return [prompt_of(haystacks, number, task, length) for number in range(count)]


app = App(no_args_is_help=True)


@app.command()
def rows(
    out: Annotated[Path, typer.Argument(help="Folder for the rows.")],
    tokenizer: Annotated[str, typer.Option(help="Folder or name of the model's tokenizer.")],
    texts: Annotated[str, typer.Option(help="Folder of .txt for half of the documents.")] = "",
    chat_rows: Annotated[Path | None, typer.Option(help="File of conversations.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Rows of 1,024 tokens.")] = 300,
    longest: Annotated[int, typer.Option(help="The model's window, as far as their positions skip.")] = 40_960,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
) -> None:
    """Make rows whose lexical gaps are those of one half of the pairs."""
    settings = RowSettings(
        0, longest=longest, parallel=0.0, ordinary=0.05, registers=0.2, questions=24, forms=("tags",), seed=seed, pose=count,
        kinds=("single", "multi_key", "linked", "absent"), wordings="environments", pose_length=1024, lexical_gap=1.0,
        conversations=count // 6 if chat_rows else 0,
    )  # fmt: skip
    with exit_on_error(option), only_half(HALVES[0]):
        build_rows(Build(settings, out, tokenizer, texts, chat_rows, 1), progress=True)


@app.command()
def ask(
    results: Annotated[Path, typer.Argument(help="File to write: .json.")],
    model: Annotated[str, typer.Argument(help="Folder of the model.")],
    length: Annotated[int, typer.Option(min=512, help="Tokens of every prompt.")] = 1024,
    count: Annotated[int, typer.Option(min=2, help="Needles of either half, of each kind.")] = 30,
) -> None:
    """Ask a model for needles of either half; print the shares."""
    with exit_on_error(option):
        tokenizer = load_full_tokenizer(model)
        haystacks, loaded = Haystacks(tokenizer, Options(lexical_gap=True)), load(model, extend=False)
        found = {
            f"{task}, {half}": evaluate(loaded, tokenizer, prompts(haystacks, task, half, length, count), BATCH_TOKENS)
            for task in TASKS
            for half in HALVES
        }
    write_json(results, found)
    for name, records in found.items():
        share = estimate(100 * record["score"] for record in records)
        print(f"{name:20}{share.mean:4.0f} ± {share.stderr:.0f} % of {share.n}")


if __name__ == "__main__":
    app()
