"""Rows that a trainer reads, out of the rollouts of `process`: `longthread export sft|dpo|pretrain ROLLOUTS... OUT`.

    python -m environments.datasets.export sft rollouts.jsonl sft.jsonl --tokenizer MODEL
    python -m environments.datasets.export dpo rollouts.jsonl more.jsonl dpo.jsonl --tokenizer MODEL --per-sample 2 --balance
    python -m environments.datasets.export pretrain rollouts.jsonl text.jsonl --tokenizer MODEL --limit 500

One JSON object a line, every row with the same columns and types; `task` and `prompt_tokens` (the sample's length) stand
in each. What reads them, in Axolotl 0.19 to 0.21 (TRL and datasets take all three as they are):

    sft       {"messages": [user, assistant], "score"}
              datasets: [{path: OUT, ds_type: json, type: chat_template}]
    dpo       {"chosen": [user, assistant], "rejected": [user, assistant], "score_chosen", "score_rejected"}
              rl: dpo
              datasets: [{path: OUT, ds_type: json, split: train, type: chat_template.argilla_chat}]
              Whole conversations: `chat_template.default` wants the prompt in a column of its own, and TRL would take
              a row with that column and whole conversations as a prompt asked twice.
    pretrain  {"text"}: prompt and right answer in the chat template
              datasets: [{path: OUT, ds_type: json, type: completion, field: text}]
              The right answer, not a completion: a model has most to learn from what it cannot do yet, and text that is
              trained on whole must be right. In the chat template, because that is where the question will be asked.

Replies are stripped of blanks at their ends: Axolotl looks for the reply in what the template made of it, some templates
strip it, and what is not found there, like an empty reply, becomes a wrong row without a word.

Files are read twice: once for what decides, then row by row for what is written. Compact rows need the tokenizer that they
were made with, since their prompts are rebuilt. Nothing is written to OUT unless all of it is.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from environments.datasets.select import (
    REASONS,
    Asked,
    Chooser,
    Pick,
    Row,
    Rules,
    asked_of,
    best,
    candidates,
    gold,
    pairs,
    right_reply,
    select,
)
from environments.haystack.facts import FactError
from environments.haystack.filler.corpora import CorpusError
from environments.haystack.filler.pool import FillerError
from environments.haystack.layout import LayoutError
from environments.haystack.sample import ALL_TASKS, RecipeError, rebuild
from environments.haystack.tokens import TokenizerError, Tokens, load_tokenizer
from longthread.files import replacing

WANTED = "give the .jsonl of process"
ROUND = 64  # a sequence_len is given as a multiple of this
TEMPLATE_TOKENS = 16  # at most, that a chat template writes behind a reply
Kind = Literal["sft", "dpo", "pretrain"]
Message = dict[str, str]
ENTRIES = {
    "sft": "datasets: [{{path: {out}, ds_type: json, type: chat_template}}]",
    "dpo": "rl: dpo\n  datasets: [{{path: {out}, ds_type: json, split: train, type: chat_template.argilla_chat}}]",
    "pretrain": "datasets: [{{path: {out}, ds_type: json, type: completion, field: text}}]",
}


class ExportError(ValueError):
    """The rows cannot be made: one line that names the value, the limit and the fix."""


# ---- reading ----------------------------------------------------------------------------------------------------


def lines(path: Path, bar: Any) -> Iterator[tuple[int, int, bytes]]:
    """(number, byte offset, line) of whole lines; a last line without its end is passed over, as a crash leaves it."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and line.strip():
                yield number, offset, line
            offset += len(line)
            bar.update(len(line))


def parse(line: bytes, where: str) -> Row:
    """Raises `ExportError` for what is no row to train on."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{where}: not JSON ({str(error)[:100]}); {WANTED}") from None
    recipe = row.get("recipe") if isinstance(row, dict) else None
    if isinstance(recipe, dict) and recipe.get("split") != "train":
        raise ExportError(
            f"{where}: a row of the split {recipe.get('split')!r}; what is evaluated on must not be trained on: {WANTED}"
        )
    try:
        return Row.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])) or "row"
        raise ExportError(f"{where}: no row of process ({name}: {first['msg']}); {WANTED}") from None


@dataclass(frozen=True)
class Job:
    """One run: what is read, what becomes of it, where it goes."""

    kind: Kind
    paths: tuple[Path, ...]
    out: Path
    rules: Rules
    tokenizer: Any = None

    @property
    def choose(self) -> Chooser:
        return pairs if self.kind == "dpo" else best


def read(job: Job, progress: bool = False) -> tuple[dict[str, Asked], int]:
    """Samples by recipe, and the number of rows. Raises `ExportError`, with file and line, at the first bad row."""
    samples: dict[str, Asked] = {}
    rows = 0
    fingerprint = None if job.tokenizer is None else Tokens(job.tokenizer).fingerprint
    total = sum(path.stat().st_size for path in job.paths)
    with tqdm(total=total, unit="B", unit_scale=True, desc="read", disable=not progress) as bar:
        for file, path in enumerate(job.paths):
            for number, offset, line in lines(path, bar):
                row = parse(line, where := f"{path}:{number}")
                _check_tokenizer(row, fingerprint, where)
                asked = asked_of(row)
                place = (file, offset)
                new = [gold(row, place)] if job.kind == "pretrain" else candidates(row, place)
                samples.setdefault(asked.key, asked).candidates.extend(new)
                rows += 1
    if not rows:
        raise ExportError(f"{', '.join(map(str, job.paths))}: no complete row; {WANTED}")
    return samples, rows


def _check_tokenizer(row: Row, fingerprint: str | None, where: str) -> None:
    if fingerprint is None and row.store == "compact":
        raise ExportError(
            f"{where}: a compact row, whose prompt has to be rebuilt: give --tokenizer, the one of --env.tokenizer_name"
        )
    if fingerprint not in (None, row.recipe.tokenizer):
        raise ExportError(
            f"{where}: made with tokenizer {row.recipe.tokenizer}, not {fingerprint}: give --tokenizer that one"
        )


# ---- writing ----------------------------------------------------------------------------------------------------


def written(job: Job, picks: Sequence[Pick], progress: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of `picks`, each as it is needed."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in job.paths]
        for pick in tqdm(picks, desc="write", unit="row", disable=not progress):
            yield _written(job, pick, files)


def _written(job: Job, pick: Pick, files: Sequence[BinaryIO]) -> dict[str, Any]:
    rows: dict[tuple[int, int], Row] = {}
    for place in dict.fromkeys(c.place for c in pick.candidates):
        files[place[0]].seek(place[1])
        rows[place] = parse(files[place[0]].readline(), str(job.paths[place[0]]))
    row = rows[pick.candidates[0].place]
    prompt = row.messages[0][:-1] if row.store == "full" else rebuild(row.recipe.model_dump(), job.tokenizer).messages
    facts = {"task": row.recipe.task, "prompt_tokens": row.recipe.length}
    if job.kind == "pretrain":
        return {"text": in_template(job.tokenizer, [*prompt, _reply(right_reply(row))]), **facts}
    said = [[*prompt, _reply(rows[c.place].completions[c.index].strip())] for c in pick.candidates]
    scores = [c.score for c in pick.candidates]
    if job.kind == "sft":
        return {"messages": said[0], "score": scores[0], **facts}
    return {"chosen": said[0], "rejected": said[1], "score_chosen": scores[0], "score_rejected": scores[1], **facts}


def _reply(text: str) -> Message:
    return {"role": "assistant", "content": text}


def in_template(tokenizer: Any, messages: list[Message]) -> str:
    """The conversation as text that, tokenised with special tokens, is what the model reads: it ends at the end of the
    turn, and does not begin with a token that the tokenizer will write before it anyway."""
    text: str = tokenizer.apply_chat_template(messages, tokenize=False).strip()
    bos = tokenizer.bos_token
    doubled = bos and text.startswith(bos) and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if doubled else text


# ---- the run ----------------------------------------------------------------------------------------------------


def check(job: Job) -> None:
    """Raises `ExportError` for what cannot work, before anything is read."""
    rules = job.rules
    for path in job.paths:
        if not path.is_file():
            raise ExportError(f"{path} is not a file; {WANTED}")
    if job.out.exists():
        raise ExportError(f"{job.out} exists: give another name for the output, or delete it")
    if job.out.suffix != ".jsonl":
        raise ExportError(f"{job.out} must end with .jsonl, by which trainers know the format")
    if unknown := [task for task in rules.tasks if task not in ALL_TASKS]:
        raise ExportError(f"unknown task {unknown[0]!r}; --tasks takes {', '.join(ALL_TASKS)}")
    for name in ("per_sample", "limit"):
        if (value := getattr(rules, name)) < 0:
            raise ExportError(f"{name} {value} must be at least 0: set --{name.replace('_', '-')}")
    if not 0 <= rules.min_score <= 1:
        raise ExportError(f"min_score {rules.min_score} must lie between 0 and 1: set --min-score")
    if not 0 <= rules.min_margin < 1:
        raise ExportError(f"min_margin {rules.min_margin} must be at least 0 and below 1: set --min-margin")


@dataclass(frozen=True)
class Outcome:
    """Every completion read (for `pretrain`: every row) is kept or counted under its reason."""

    rows: int
    samples: int
    read: int
    kept: int
    written: int
    dropped: dict[str, int]
    sequence_len: int


def export(job: Job, progress: bool = False) -> Outcome:
    """Writes OUT, whole, unless there is nothing to write. Raises `ExportError`."""
    check(job)
    samples, rows = read(job, progress)
    picks, dropped = select(samples.values(), job.rules, job.choose)
    if picks:
        try:
            with replacing(job.out) as file:
                for row in written(job, picks, progress):
                    file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except (RecipeError, FactError, FillerError, LayoutError, CorpusError) as error:
            raise ExportError(str(error)) from None
    kept = [candidate for pick in picks for candidate in pick.candidates]
    total = sum(len(asked.candidates) for asked in samples.values())
    # A byte is a token at worst.
    longest = max((p.asked.length + c.size + TEMPLATE_TOKENS for p in picks for c in p.candidates), default=0)
    room = -(-longest // ROUND) * ROUND
    return Outcome(rows, len(samples), total, len(kept), len(picks), dict(dropped), room)


def table(job: Job, outcome: Outcome) -> Table:
    """Kept and dropped by reason."""
    unit = "rows" if job.kind == "pretrain" else "completions"
    grid = Table(unit, "count", "share", title=f"{outcome.written:,} {job.kind} rows", min_width=48)
    for name, count in (("kept", outcome.kept), *((reason, outcome.dropped.get(reason, 0)) for reason in REASONS)):
        if count or name == "kept":
            grid.add_row(name, f"{count:,}", f"{count / max(1, outcome.read):.1%}")
    grid.add_section()
    grid.add_row("read", f"{outcome.read:,}", "")
    grid.caption = f"{outcome.rows:,} rollout rows of {outcome.samples:,} samples"
    return grid


def _run(kind: Kind, rollouts: list[Path], out: Path, tokenizer: str | None, rules: Rules) -> None:
    try:
        check(Job(kind, tuple(rollouts), out, rules))
        job = Job(kind, tuple(rollouts), out, rules, load_tokenizer(tokenizer) if tokenizer else None)
        outcome = export(job, progress=True)
    except TokenizerError as error:
        _stop(str(error).replace("--env.tokenizer_name", "--tokenizer"))
    except ExportError as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error.filename or out}: {error.strerror}; check the paths and the room on the disk")
    Console().print(table(job, outcome))
    if not outcome.written:
        most = max(outcome.dropped, key=lambda reason: outcome.dropped[reason])
        typer.echo(f"error: nothing left to write; most was dropped by {most}: {REASONS[most]}", err=True)
        raise typer.Exit(1)
    print(f"written: {out}; for Axolotl:\n  {ENTRIES[kind].format(out=out)}\n  sequence_len: {outcome.sequence_len}")


def _stop(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(2) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        _stop(f"lengths {text!r} must be token counts separated by commas, like 1024,4096: set --lengths")


# ---- the commands -----------------------------------------------------------------------------------------------

Rollouts = Annotated[list[Path], typer.Argument(metavar="ROLLOUTS", help="One or more .jsonl files of process.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write; it must not exist.")]
Tokenizer = Annotated[str | None, typer.Option(help="Of the model; needed for rows of --env.store compact.")]
PerSample = Annotated[int, typer.Option(help="Rows of one sample at most; 0: all. Each repeats the whole haystack.")]
Tasks = Annotated[str, typer.Option(help="Only these, separated by commas.")]
Lengths = Annotated[str, typer.Option(help="Only these prompt lengths, separated by commas.")]
Balance = Annotated[bool, typer.Option("--balance", help="As many rows of each task, length and fifth of the text.")]
Limit = Annotated[int, typer.Option(help="Rows at most, drawn evenly; 0: all.")]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.")]
app = typer.Typer(no_args_is_help=True, add_completion=False, help="Training rows out of the rollouts of process.")


@app.command()
def sft(
    rollouts: Rollouts,
    out: Out,
    tokenizer: Tokenizer = None,
    # Abstaining and half a chain earn something where the answer is there, but are nothing to imitate.
    min_score: Annotated[float, typer.Option(help="A completion's, at least; 1: only what is wholly right.")] = 1.0,
    per_sample: PerSample = 1,
    tasks: Tasks = "",
    lengths: Lengths = "",
    balance: Balance = False,
    limit: Limit = 0,
    seed: Seed = 0,
) -> None:
    """Conversations to imitate: the best completions."""
    rules = Rules(_names(tasks), _numbers(lengths), per_sample, balance, limit, seed, min_score=min_score)
    _run("sft", rollouts, out, tokenizer, rules)


@app.command()
def dpo(
    rollouts: Rollouts,
    out: Out,
    tokenizer: Tokenizer = None,
    min_margin: Annotated[float, typer.Option(help="By more than this the two scores differ.")] = 0.5,
    per_sample: PerSample = 1,
    tasks: Tasks = "",
    lengths: Lengths = "",
    balance: Balance = False,
    limit: Limit = 0,
    seed: Seed = 0,
) -> None:
    """Pairs to prefer by: a good and a bad completion of the same prompt, with different answers."""
    rules = Rules(_names(tasks), _numbers(lengths), per_sample, balance, limit, seed, min_margin=min_margin)
    _run("dpo", rollouts, out, tokenizer, rules)


@app.command()
def pretrain(
    rollouts: Rollouts,
    out: Out,
    tokenizer: Annotated[str, typer.Option(help="Of the model; its chat template writes the text.")],
    tasks: Tasks = "",
    lengths: Lengths = "",
    balance: Balance = False,
    limit: Limit = 0,
    seed: Seed = 0,
) -> None:
    """Texts to read: each sample's prompt with its right answer."""
    _run("pretrain", rollouts, out, tokenizer, Rules(_names(tasks), _numbers(lengths), 1, balance, limit, seed))


if __name__ == "__main__":
    app()
