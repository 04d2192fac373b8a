"""`longthread longlora extend`: the command line."""

import os
from pathlib import Path
from typing import Annotated

import typer

from longthread.command_line import App
from longthread.errors import ConfigError, exit_on_error, option

app = App(no_args_is_help=True, help="LongLoRA: extend.")


@app.command()
def extend(  # noqa: PLR0913 - an option each
    out: Annotated[Path, typer.Argument(help="Folder of the run: new, or of the same command, which goes on.")],
    model: Annotated[str, typer.Option(help="Folder or name of the model.")],
    to: Annotated[int, typer.Option(help="Tokens of the new window.")],
    method: Annotated[str, typer.Option(help="linear, ntk, yarn or llama3.")] = "ntk",
    temperature: Annotated[
        float | None, typer.Option(help="Of ntk: logits times 1 + c ln(to / own window); 0.1, say.")
    ] = None,
    gradual: Annotated[bool, typer.Option(help="Double the window stage by stage; else one jump.")] = False,
    tokens: Annotated[int, typer.Option(help="To train on, in all stages together.")] = 13_107_200,
    attention: Annotated[str, typer.Option(help="shifted, tail_global or full; the recipe's when left out.")] = "",
    recipe: Annotated[Path | None, typer.Option(help="YAML of the trainings; smollm2-135m-32k.yaml.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Divided by √(window / model's own); the recipe's.")
    ] = None,
    texts: Annotated[str, typer.Option(help="Folder of .txt for half of the documents; fiction alone without.")] = "",
    ordinary: Annotated[float, typer.Option(help="Share of rows of plain text.")] = 0.25,
    registers: Annotated[float, typer.Option(help="Share of rows of look-ups among entries of one form.")] = 0.125,
    lexical_gap: Annotated[
        float, typer.Option(help="Share of questions about facts and links that describe people in other words.")
    ] = 0.0,
    pose: Annotated[
        float, typer.Option(help="Share of the tokens in short rows whose positions skip ahead: cheap steps.")
    ] = 0.0,
    questions: Annotated[int, typer.Option(help="Of a row, at most.")] = 48,
    sft: Annotated[int, typer.Option(help="Rows of a further stage of fine-tuning, of all kinds of questions.")] = 0,
    chats: Annotated[
        int, typer.Option(help="General questions that the model answers first, for rows of its own replies.")
    ] = 1000,
    chat_rows: Annotated[
        Path | None, typer.Option(help="File of conversations in their place, of the base model, say.")
    ] = None,
    dpo: Annotated[int, typer.Option(help="Groups of 8 rollouts for a further stage of DPO.")] = 0,
    dpo_recipe: Annotated[Path | None, typer.Option(help="YAML of DPO; smollm2-135m-32k-dpo.yaml.")] = None,
    held_out: Annotated[str, typer.Option(help="Folder of .txt that is not trained on, for the perplexity.")] = "",
    lengths: Annotated[str, typer.Option(help="Of evaluations; as windows that double up to TO hold.")] = "",
    depths: Annotated[int, typer.Option(help="Depths of the evaluation grid.")] = 11,
    repeats: Annotated[int, typer.Option(help="Questions a cell.")] = 3,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    untrained: Annotated[bool, typer.Option(help="Ask the model extended but not trained, too, last.")] = True,
    num_proc: Annotated[int, typer.Option(help="Processes that make rows.")] = 2,
) -> None:
    """Extend a model's window: data, training, merge, evaluation before and after, one report. Stages resume."""
    given = {name: value for name, value in locals().items() if name != "out"}  # the settings, by their names
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # processes are parallel here
    with exit_on_error(option):
        from trainer_configs.longlora.extend.plan import DPO_RECIPE, RECIPE, ExtendSettings, make_plan
        from trainer_configs.longlora.extend.run import ExtendRun

        try:
            asked = tuple(int(length) for length in lengths.split(",") if length)
        except ValueError:
            raise ConfigError(f"must be whole numbers with commas (got {lengths!r})", setting="lengths") from None
        given |= {"recipe": recipe or RECIPE, "dpo_recipe": dpo_recipe or DPO_RECIPE, "lengths": asked}
        plan = make_plan(ExtendSettings(**given))
        for note in plan.notes:
            print(f"note: {note}")
        for stage in plan.stages:
            print(f"{stage.name}: {plan.said(stage)}")
        merged = ExtendRun(plan, out).run()
    print(f"report  {out / 'report' / 'report.html'}\nmodel   {merged}")


@app.callback()
def main() -> None:
    """LongLoRA: extend."""
