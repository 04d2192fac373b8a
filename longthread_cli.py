"""The `longthread` command: one thin module that mounts the rooms' own commands, each imported when it is called."""

from pathlib import Path
from typing import Annotated

import typer

from longthread.command_line import App

app = App(no_args_is_help=True, help="Small language models as long-term memory.")
longlora = App(no_args_is_help=True, help="LongLoRA: longer windows by training.")
app.add_typer(longlora, name="longlora")
AS_IT_IS = {"allow_extra_args": True, "ignore_unknown_options": True}  # the room's own app reads the arguments


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
) -> None:
    """A real small model, served here, asked about needles; rollouts, heatmap and report to look at."""
    from environments import demo

    demo.demo(out)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="samples.jsonl of evaluations, or rollouts.")],
    out: Annotated[Path, typer.Option(help="The folder to write into; made when missing.")] = Path("report"),
    title: Annotated[str | None, typer.Option(help="Title of the pages; the file's name when left out.")] = None,
) -> None:
    """Heatmaps, curves and self-contained pages from results; several files also side by side."""
    from environments.reports import report

    report.report(paths, out, title)


@app.command(context_settings=AS_IT_IS, add_help_option=False)
def export(context: typer.Context) -> None:
    """Rows to train on from rollouts: sft, dpo, pretrain."""
    from environments.datasets import export

    export.app(context.args, prog_name="longthread export")


@app.command(context_settings=AS_IT_IS, add_help_option=False)
def collect(context: typer.Context) -> None:
    """Rows to train on through Atropos' own run-api and generators: sft, dpo."""
    from environments.datasets import collect

    collect.app(context.args, prog_name="longthread collect")


@app.command(context_settings=AS_IT_IS, add_help_option=False)
def rows(context: typer.Context) -> None:
    """Rows of the environments' tasks for other frameworks: trl, nemo_gym, skyrl."""
    from environments.tasksets import write

    write.app(context.args, prog_name="longthread rows")


@app.command(context_settings=AS_IT_IS, add_help_option=False)
def rl(context: typer.Context) -> None:
    """Reinforcement from served environments: a whole run from one YAML, or its curves."""
    from trainer_configs.atropos_rl import command

    command.main(context.args)


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def data(context: typer.Context) -> None:
    """Pretraining rows of an exact token length, checked as they are made."""
    from trainer_configs.longlora.data import command

    command.app(["data", *context.args], prog_name="longthread longlora")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def reader_rows(context: typer.Context) -> None:
    """Rows that make a model a reader: documents with many questions, and other text."""
    from trainer_configs.longlora.data import reader_command

    reader_command.app(context.args, prog_name="longthread longlora reader-rows")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def rope(context: typer.Context) -> None:
    """What a context extension would set, from the model's config alone."""
    from trainer_configs.longlora.rope import preview

    preview.app(["rope", *context.args], prog_name="longthread longlora")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def merge(context: typer.Context) -> None:
    """An adapter and its base model into one, checked."""
    from trainer_configs.longlora import merge

    merge.app(["merge", *context.args], prog_name="longthread longlora")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def extend(context: typer.Context) -> None:
    """A model to a longer window: data, training, merge, evaluation before and after."""
    from trainer_configs.longlora.extend import command

    command.app(["extend", *context.args], prog_name="longthread longlora")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def publish(context: typer.Context) -> None:
    """The model of a run of extend with its card, and on request to the hub."""
    from trainer_configs.longlora import publish

    publish.app(["publish", *context.args], prog_name="longthread longlora")


@longlora.command(context_settings=AS_IT_IS, add_help_option=False)
def perplexity(context: typer.Context) -> None:
    """Perplexity by position and by sliding window, and what the long context adds."""
    from trainer_configs.longlora import perplexity

    perplexity.app(["perplexity", *context.args], prog_name="longthread longlora")


def main() -> None:
    """Run the `longthread` command."""
    app()


if __name__ == "__main__":
    main()
