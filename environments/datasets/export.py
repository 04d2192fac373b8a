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
strip it, and what is not found there, like an empty reply, silently becomes a wrong row.

Files are read twice: once for what decides, then row by row for what is written. Compact rows need the tokenizer that they
were made with, since their prompts are rebuilt. Nothing is written to OUT unless all of it is.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from environments.datasets.chat_text import in_template
from environments.datasets.process_rows import WANTED, ProcessRow, parse_row, right_reply
from environments.datasets.select import (
    REASONS,
    AskedSample,
    Pick,
    SelectionRules,
    asked_sample,
    best_completions,
    completion_candidates,
    preference_pairs,
    right_candidate,
    select,
)
from environments.haystack.sample import fingerprint, rebuild
from environments.haystack.tasks import TASKS
from environments.haystack.tokens import load_tokenizer
from longthread.command_line import App
from longthread.counts import counted
from longthread.errors import ConfigError, DataError, RunError, exit_on_error, option
from longthread.files import JsonLines, JsonObject, replacing
from longthread.language_model import PromptTokenizer

ROUND = 64  # a sequence_len is given as a multiple of this
TEMPLATE_TOKENS = 16  # at most, that a chat template writes behind a reply
MIN_SCORE = 1.0  # abstaining and half a chain earn something where the answer is there, but are nothing to imitate
MIN_MARGIN = 0.5
Message = JsonObject


class Kind(StrEnum):
    """What the rows are for."""

    SFT = "sft"
    DPO = "dpo"
    PRETRAIN = "pretrain"


# What reads the rows in Axolotl's YAML.
ENTRIES = {
    Kind.SFT: "datasets: [{{path: {out}, ds_type: json, type: chat_template}}]",
    Kind.DPO: "rl: dpo\n  datasets: [{{path: {out}, ds_type: json, split: train, type: chat_template.argilla_chat}}]",
    Kind.PRETRAIN: "datasets: [{{path: {out}, ds_type: json, type: completion, field: text}}]",
}


@dataclass(frozen=True)
class ExportJob:
    """The settings of one export: the kind of rows, the files to read, the file to write, and the rules of selection."""

    kind: Kind
    paths: tuple[Path, ...]
    out: Path
    rules: SelectionRules
    tokenizer: Any = None


# ---- reading ----------------------------------------------------------------------------------------------------


def read(job: ExportJob, progress: bool = False) -> tuple[dict[str, AskedSample], int]:
    """Return the samples by the digest of their recipe, with their completions, and the number of rows read.

    Raises `DataError`, with file and line, at the first bad row.
    """
    samples: dict[str, AskedSample] = {}
    rows = 0
    total = sum(path.stat().st_size for path in job.paths)
    with tqdm(total=total, unit="B", unit_scale=True, desc="read", disable=not progress) as bar:
        for file, path in enumerate(job.paths):
            for line in JsonLines(path, WANTED):
                row = parse_row(line.value, where := f"{path}:{line.number}")
                if row.reading and job.kind == Kind.DPO:
                    raise DataError(
                        f"{where}: a row of --env.reading, whose conversations part before their last reply: no pairs can "
                        "be made of it; use sft"
                    )
                _check_tokenizer(row, job.tokenizer, where)
                sample, place = asked_sample(row), (file, line.offset)
                pretrain = job.kind == Kind.PRETRAIN
                candidates = [right_candidate(row, place)] if pretrain else completion_candidates(row, place)
                samples.setdefault(sample.key, sample).candidates.extend(candidates)
                rows += 1
                bar.update(line.size)
    if not rows:
        raise DataError(f"{', '.join(map(str, job.paths))}: no complete row; {WANTED}")
    return samples, rows


def _check_tokenizer(row: ProcessRow, tokenizer: PromptTokenizer | None, where: str) -> None:
    if tokenizer is None:
        if row.store == "compact":
            raise DataError(
                f"{where}: a compact row, whose prompt has to be rebuilt: give the tokenizer of process",
                setting="tokenizer",
            )
    elif (given := fingerprint(tokenizer, row.recipe.model_dump())) != row.recipe.tokenizer:
        raise DataError(
            f"{where}: made with tokenizer {row.recipe.tokenizer}, not {given}: give that one",
            setting="tokenizer",
        )


# ---- writing ----------------------------------------------------------------------------------------------------


def written_rows(job: ExportJob, picks: Sequence[Pick], progress: bool = False) -> Iterator[JsonObject]:
    """Yield the training row of each pick; the rollouts are read from their files only then."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in job.paths]
        for pick in tqdm(picks, desc="write", unit="row", disable=not progress):
            yield _written_row(job, pick, files)


def _written_row(job: ExportJob, pick: Pick, files: Sequence[BinaryIO]) -> JsonObject:
    rows: dict[tuple[int, int], ProcessRow] = {}
    for file, offset in dict.fromkeys(candidate.place for candidate in pick.candidates):
        files[file].seek(offset)
        rows[file, offset] = parse_row(json.loads(files[file].readline()), str(job.paths[file]))
    row = rows[pick.candidates[0].place]
    facts = {"task": row.recipe.task, "prompt_tokens": row.recipe.length}
    if row.reading and job.kind == Kind.SFT:  # as it was said, and the text is not in it
        [candidate] = pick.candidates
        return {"messages": row.messages[candidate.index], "score": candidate.score, **facts}
    given = row.store == "full" and not row.reading
    prompt = row.messages[0][:-1] if given else rebuild(row.recipe.model_dump(), job.tokenizer).messages
    if job.kind == Kind.PRETRAIN:
        chat = [*prompt, _reply(right_reply(row))]
        return {"text": in_template(job.tokenizer, chat, row.recipe.template), **facts}
    chats = [[*prompt, _reply(rows[c.place].completions[c.index].strip())] for c in pick.candidates]
    scores = [candidate.score for candidate in pick.candidates]
    if job.kind == Kind.SFT:
        return {"messages": chats[0], "score": scores[0], **facts}
    return {"chosen": chats[0], "rejected": chats[1], "score_chosen": scores[0], "score_rejected": scores[1], **facts}


def _reply(text: str) -> Message:
    return {"role": "assistant", "content": text}


# ---- the run ----------------------------------------------------------------------------------------------------


def check(job: ExportJob) -> None:
    """Raise `ConfigError` for what cannot work, before anything is read."""
    for path in job.paths:
        if not path.is_file():
            raise ConfigError(f"{path} is not a file; {WANTED}")
    if job.out.exists():
        raise ConfigError(f"{job.out} exists: give another name for the output, or delete it")
    if job.out.suffix != ".jsonl":
        raise ConfigError(f"{job.out} must end with .jsonl, by which trainers know the format")
    _check_rules(job.rules)


def _check_rules(rules: SelectionRules) -> None:
    for task in rules.tasks:
        if task not in TASKS:
            raise ConfigError(f"task must be one of {', '.join(TASKS)} (got {task!r})", setting="tasks")
    for name in ("per_sample", "limit"):
        if (value := getattr(rules, name)) < 0:
            raise ConfigError(f"{name} {value} must be at least 0", setting=name)
    if not 0 <= rules.min_score <= 1:
        raise ConfigError(f"min_score {rules.min_score} must lie between 0 and 1", setting="min_score")
    if not 0 <= rules.min_margin < 1:
        raise ConfigError(f"min_margin {rules.min_margin} must be at least 0 and below 1", setting="min_margin")


@dataclass(frozen=True)
class Outcome:
    """Counts of one export: every completion read (for `pretrain`: every row) is kept, or in `dropped` by its reason."""

    rows: int
    samples: int
    read: int
    kept: int
    written: int
    dropped: dict[str, int]
    sequence_len: int


def export(job: ExportJob, progress: bool = False) -> Outcome:
    """Select the training rows, write them to the job's output file and return the counts.

    The file is written completely or not at all, and not if there is nothing to write. Raises `ConfigError` and
    `DataError`.
    """
    check(job)
    samples, rows = read(job, progress)
    choose = preference_pairs if job.kind == Kind.DPO else best_completions
    picks, dropped = select(samples.values(), job.rules, choose)
    if picks:
        with replacing(job.out) as file:
            for row in written_rows(job, picks, progress):
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    kept = [candidate for pick in picks for candidate in pick.candidates]
    read_completions = sum(len(sample.candidates) for sample in samples.values())
    # A byte is a token at worst.
    longest = max(
        ((0 if c.whole else p.asked.length) + c.size + TEMPLATE_TOKENS for p in picks for c in p.candidates), default=0
    )
    sequence_len = -(-longest // ROUND) * ROUND
    return Outcome(rows, len(samples), read_completions, len(kept), len(picks), dict(dropped), sequence_len)


def table(kind: Kind, outcome: Outcome) -> Table:
    """Return a table of how many completions were kept, and how many were dropped for each reason."""
    unit = "rows" if kind == Kind.PRETRAIN else "completions"
    grid = Table(unit, "count", "share", title=counted(outcome.written, f"{kind} row"), min_width=48)
    for name, count in (("kept", outcome.kept), *((reason, outcome.dropped.get(reason, 0)) for reason in REASONS)):
        if count or name == "kept":
            grid.add_row(name, f"{count:,}", f"{count / max(1, outcome.read):.1%}")
    grid.add_section()
    grid.add_row("read", f"{outcome.read:,}", "")
    grid.caption = f"{counted(outcome.rows, 'rollout row')} of {counted(outcome.samples, 'sample')}"
    return grid


# ---- the command ------------------------------------------------------------------------------------------------

app = App()


@app.command(no_args_is_help=True)
def main(  # noqa: PLR0913 - a parameter is an option of the command
    kind: Annotated[Kind, typer.Argument(help="What the rows are for.")],
    rollouts: Annotated[list[Path], typer.Argument(metavar="ROLLOUTS", help="One or more .jsonl files of process.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .jsonl file to write; it must not exist.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Of the model; needed for pretrain and for rows of --env.store compact.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="For sft: a completion's score, at least; 1 when left out: wholly right.")
    ] = None,
    min_margin: Annotated[
        float | None, typer.Option(help="For dpo: by more than this the two scores differ; 0.5 when left out.")
    ] = None,
    per_sample: Annotated[
        int, typer.Option(help="Rows of one sample at most; 0: all. Each repeats the whole haystack.")
    ] = 1,
    tasks: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    lengths: Annotated[str, typer.Option(help="Only these prompt lengths, separated by commas.")] = "",
    balance: Annotated[
        bool, typer.Option("--balance", help="As many rows of each task, length and fifth of the text.")
    ] = False,
    limit: Annotated[int, typer.Option(help="Rows at most, drawn evenly; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
) -> None:
    """Training rows out of the rollouts of process.

    sft: conversations to imitate, the best completions. dpo: pairs of a good and a bad completion of the same prompt, with
    different answers. pretrain: texts to read, each a prompt with its right answer.
    """
    with exit_on_error(_flag):
        for name, value, only in (("min_score", min_score, Kind.SFT), ("min_margin", min_margin, Kind.DPO)):
            if value is not None and kind != only:
                raise ConfigError(f"{name} is for {only}, not for {kind}", setting=name)
        rules = SelectionRules(
            tasks=_names(tasks),
            lengths=_numbers(lengths),
            per_sample=per_sample,
            balance=balance,
            limit=limit,
            seed=seed,
            min_score=MIN_SCORE if min_score is None else min_score,
            min_margin=MIN_MARGIN if min_margin is None else min_margin,
        )
        _run(ExportJob(kind, tuple(rollouts), out, rules), tokenizer)


def _flag(setting: str) -> str:
    return option("tokenizer" if setting == "tokenizer_name" else setting)


def _run(job: ExportJob, tokenizer: str | None) -> None:
    check(job)
    if tokenizer:
        job = replace(job, tokenizer=load_tokenizer(tokenizer))
    elif job.kind == Kind.PRETRAIN:
        raise ConfigError(
            "pretrain writes its text in the model's chat template: give the tokenizer", setting="tokenizer"
        )
    outcome = export(job, progress=True)
    Console().print(table(job.kind, outcome))
    if not outcome.written:
        most = max(outcome.dropped, key=lambda reason: outcome.dropped[reason])
        advice, setting = REASONS[most]
        raise RunError(f"nothing left to write; most was dropped by {most}: {advice}", setting=setting)
    entry = ENTRIES[job.kind].format(out=job.out)
    print(f"written: {job.out}; for Axolotl:\n  {entry}\n  sequence_len: {outcome.sequence_len}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise ConfigError(
            f"lengths {text!r} must be token counts separated by commas, like 1024,4096", setting="lengths"
        ) from None


if __name__ == "__main__":
    app()
