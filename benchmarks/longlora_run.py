"""SmolLM2-135M-Instruct from 8,192 to 32,768 tokens by Axolotl, three ways; then perplexity by position and needle grids.

    python -m benchmarks.longlora_run rows ROWS.parquet --model MODEL --texts FOLDER       # once, needs no GPU
    python -m benchmarks.longlora_run run OUT --model MODEL --rows ROWS.parquet --held-out NOVEL.txt

`rows`: a quarter plain text, the others a haystack of fiction or of the texts with 48 facts and 48 questions; loss on all
of the text, or on the answers alone: with as many tokens of the haystack beside them, full attention found 44 % of the
needles after 200 steps instead of 89 % after 300. `run`: the model as it is, with YaRN alone, and after
LongLoRA with full attention, with shifted sparse attention, and with a quarter of its steps full. Names, values and
novels of the evaluation are in no training row. While one training loads, the model before it is evaluated.
Every result is in OUT/results.json as soon as it is there; the same command goes on where it was cut.
"""

import gc
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer

from environments.haystack.facts import BY_KIND, parse
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks.task import Answer
from environments.haystack.tokens import Tokens, load_full_tokenizer
from environments.rollouts.scoring import score
from longthread.errors import LongthreadError
from trainer_configs.longlora.perplexity import Bucket, by_position, is_flat, mean_nll, read_text
from trainer_configs.longlora.perplexity import windows as cut_windows

RECIPE = Path(__file__).parent.parent / "trainer_configs" / "smollm2-135m-32k.yaml"
NATIVE, TARGET = 8192, 32_768
LENGTHS = (4096, 8192, 16_384, TARGET)
DEPTHS = tuple(round(0.05 + 0.1 * i, 2) for i in range(10))
UNTRAINED = ("before", "yarn")  # the model as it is, and with its RoPE extended
METHODS: dict[str, dict[str, Any]] = {  # of the recipe's `longlora` section; the one most is expected of comes first
    "full": {"attention": "full", "full_attention_steps": 1.0},
    "quarter": {"attention": "shifted", "full_attention_steps": 0.25},
    "shifted": {"attention": "shifted", "full_attention_steps": 0.0},
}
FILLERS = ("prose", "novel")  # of the grid's haystacks, in turn
QUESTIONS, TURN_TOKENS = 48, 96  # of a row; what a question, its answer and the chat's marks take on average
SPARE = 64  # tokens of a row left for turns that are longer than average
REPLY_TOKENS = 64  # an answer of a UUID, in tags, takes about 50
BATCH_TOKENS = 524_288  # of prompts read at a time: 12 GB of keys and values at 32k
CONFIRM_SEED = 1_000_000  # samples of the best model's second grid share nothing with the first


# ---- training rows ----------------------------------------------------------------------------------------------


def question_row(haystacks: Haystacks, seed: int, length: int, questions: int = QUESTIONS) -> dict[str, list[int]]:
    """One chat of nearly `length` tokens, never more: a haystack, and a question a turn about each of its facts."""
    kind = Random(f"longlora_run {seed}").choice(sorted(BY_KIND))
    options = Options(**{**asdict(haystacks.options), "queries": questions, "distractors": 0, "value_kind": kind})
    room, row = length - questions * TURN_TOKENS, {}
    for _ in range(2):  # the second time with what the first one's turns took
        rng = Random(f"longlora_run {seed} {room}")
        messages = _chat(haystacks.variant(options), haystacks, seed, room, rng)
        row = chat_row(haystacks.tokens, messages)
        room += length - SPARE - len(row["input_ids"])
    while len(row["input_ids"]) > length:
        del messages[-2:]
        row = chat_row(haystacks.tokens, messages)
    return row


def _chat(asking: Haystacks, haystacks: Haystacks, seed: int, room: int, rng: Random) -> list[dict[str, str]]:
    text = asking.sample(seed, "train", "multi_query", room).messages[0]["content"].rpartition("\n\nQuestion: ")[0]
    form = haystacks.sample(seed, "train", "single", 1024).messages[0]["content"].rpartition("\n")[2]
    facts = parse(text)
    rng.shuffle(facts)
    messages: list[dict[str, str]] = []
    for person, relation, value in facts:
        asked = f"Question: {_relation(relation).asked.format(e=person, s='', is_='is')}\n{form}"
        messages += [
            {"role": "user", "content": asked if messages else f"{text}\n\n{asked}"},
            {"role": "assistant", "content": f"<answer>{value}</answer>"},
        ]
    return messages


def _relation(name: str) -> Any:
    return next(relation for relation in BY_KIND.values() if relation.name == name)


def chat_row(tokens: Tokens, messages: list[dict[str, str]]) -> dict[str, list[int]]:
    """Labels on the answers, with the mark that ends each."""
    chat = tokens.tokenizer.apply_chat_template(messages, tokenize=False)
    ids, offsets = tokens.offsets(chat)
    labels = [-100] * len(ids)
    at = position = 0
    for message in messages:
        at = chat.index(message["content"], at)
        end = at + len(message["content"])
        while offsets[position][0] < at:
            position += 1
        begin = position
        while offsets[position][0] < end:
            position += 1
        if message["role"] == "assistant":
            labels[begin : position + 1] = ids[begin : position + 1]
        at = end
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def text_rows(texts: Path, model: str, length: int, rows: int, scratch: Path) -> list[dict[str, list[int]]]:
    """Rows of `longthread longlora data`. Without its position_ids: these restart with each document, and no position
    beyond a document's length would be trained."""
    import pyarrow.parquet as pq

    from trainer_configs.longlora.data.build import Settings, build
    from trainer_configs.longlora.data.sources import Source

    build(Settings(Source(str(texts)), scratch, model, length, limit=rows))
    files = sorted((scratch / "data").glob("*.parquet"))
    columns = ["input_ids", "labels", "attention_mask"]
    return [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]


def write_rows(rows: Sequence[dict[str, list[int]]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"input_ids": pa.int32(), "labels": pa.int32(), "attention_mask": pa.int8()}
    columns = {name: pa.array([row[name] for row in rows], pa.list_(kind)) for name, kind in kinds.items()}
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19, row_group_size=16)


# ---- evaluation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A prompt of the grid: `ids` are exactly `length` tokens."""

    length: int
    depth: float
    filler: str
    ids: list[int]
    answer: Answer
    answer_format: str


class Grid:
    """The same questions for every model: half in fiction, half in the held-out novels."""

    def __init__(self, model: str, held_out: Path, lengths: Sequence[int] = LENGTHS, depths: Sequence[float] = DEPTHS):
        tokenizer = load_full_tokenizer(model)
        size = 2 * max(lengths)
        prose = Haystacks(tokenizer, Options(may_abstain=False, pool_tokens=max(size, Options.pool_tokens)))
        novel = Options(may_abstain=False, filler="folder", filler_path=str(held_out), pool_tokens=size)
        self.haystacks = {"prose": prose, "novel": Haystacks(tokenizer, novel)}
        self.lengths, self.depths, self.tokenizer = lengths, depths, tokenizer

    def asked(self, length: int, samples: int, first_seed: int = 0, answer_format: str = "tags") -> list[Asked]:
        """`samples` at every depth."""
        found = []
        for number in range(samples):
            filler = FILLERS[number % 2]
            haystacks = self.haystacks[filler]
            haystacks = haystacks.variant(replace(haystacks.options, answer_format=answer_format))
            for i, depth in enumerate(self.depths):
                seed = first_seed + number * len(self.depths) + i
                sample = haystacks.sample(seed, "eval", "single", length, [depth])
                ids = haystacks.tokens.encode_prompt(haystacks.tokens.render(sample.messages), length)
                found.append(Asked(length, depth, filler, ids, sample.answer, answer_format))
        return found


def replies(model: Any, tokenizer: Any, prompts: Sequence[list[int]]) -> Iterator[str]:
    """Greedy. All prompts have the same length, so nothing is padded."""
    import torch

    size = max(1, BATCH_TOKENS // len(prompts[0]))
    for at in range(0, len(prompts), size):
        ids = torch.tensor(prompts[at : at + size], device=model.device)
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=REPLY_TOKENS, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        yield from tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)


def load(model: str, extend: bool) -> Any:
    """For evaluation, on the GPU where there is one; `extend`: with YaRN, untrained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    if extend:
        from trainer_configs.longlora.rope.extension import extended

        for name, value in extended(config, "yarn", TARGET).items():
            setattr(config, name, value)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    built: Any = AutoModelForCausalLM.from_pretrained(model, config=config, dtype=dtype)
    return built.to(device).eval()


def evaluate(model: Any, grid: Grid, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """A record for each prompt, as `environments.reports.metrics` takes them."""
    records = []
    for one, said in zip(asked, replies(model, grid.tokenizer, [one.ids for one in asked]), strict=True):
        correct = score(said, one.answer, one.answer_format).correct
        kind = one.answer.value_kind
        records.append(
            {"length": one.length, "depth": one.depth, "filler": one.filler, "kind": kind, "score": float(correct),
             "said": said[:120], "expected": one.answer.values[0]}
        )  # fmt: skip
    return records


# ---- training ---------------------------------------------------------------------------------------------------


def write_config(method: str, out: Path, model: Path, rows: Path, changes: dict[str, Any]) -> Path:
    """The recipe with this method's attention, below `out`."""
    import yaml

    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["longlora"] |= METHODS[method] | changes.pop("longlora", {})
    recipe["datasets"][0]["path"] = str(rows.resolve())
    recipe |= {"base_model": str(model.resolve()), "output_dir": str((out / method).resolve())}
    recipe |= {"dataset_prepared_path": str((out / "prepared").resolve()), **changes}
    path = out / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


LOSS = re.compile(r"'loss': '?([\d.]+)")


@dataclass
class Training:
    """`axolotl train` in a process of its own; its output goes to a file, and the time of each step's loss is kept."""

    config: Path
    log: Path
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def start(self) -> "Training":
        self.begun = time.monotonic()
        quiet = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "axolotl.cli.main", "train", str(self.config), "--launcher", "python"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, **quiet, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if match := LOSS.search(line):
                    self.losses.append(float(match[1]))
                    self.times.append(time.monotonic())

    def wait(self, seconds: float) -> str:
        """Empty when it ended well, else why not; it is killed after `seconds`."""
        try:
            code: int | str = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            code = "killed: out of time"
        self.reader.join(10)
        return "" if code == 0 else f"training ended with {code} after {len(self.losses)} steps, see {self.log}"

    def figures(self) -> dict[str, Any]:
        """Seconds a step: the median of the last half, as an evaluation may run beside the first."""
        gaps = [b - a for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        step = statistics.median(gaps[len(gaps) // 2 :]) if gaps else None
        whole = time.monotonic() - self.begun
        return {"steps": len(self.losses), "seconds_a_step": step, "seconds": whole, "losses": self.losses}


# ---- the run ----------------------------------------------------------------------------------------------------


class Cut(Exception):
    """The time is up; what is done is in the file."""


@dataclass
class Run:
    """Results are written whenever something was added to them."""

    out: Path
    model: Path
    grid: Grid
    rows_NL: Any
    samples: int
    deadline: float
    results: dict[str, Any] = field(default_factory=dict)

    def left(self, needed: float = 0.0) -> float:
        """Seconds left. Raises `Cut` when there are fewer than `needed`."""
        if (seconds := self.deadline - time.monotonic()) < needed:
            raise Cut
        return seconds

    def of(self, name: str) -> dict[str, Any]:
        return self.results.setdefault(name, {"perplexity": [], "records": [], "confirm": []})

    def save(self) -> None:
        scratch = self.out / "results.json.tmp"
        scratch.write_text(json.dumps(self.results, indent=1))
        scratch.replace(self.out / "results.json")

    def evaluate(self, name: str, key: str = "records", samples: int = 0) -> None:
        """What is missing of a model's perplexity and grid; a length at a time, the shortest first."""
        import torch

        mine, samples = self.of(name), samples or self.samples
        wanted = samples * len(self.grid.depths)
        todo = [n for n in self.grid.lengths if sum(r["length"] == n for r in mine[key]) < wanted]
        if mine["perplexity"] and not todo:
            return
        folder = self.model if name in UNTRAINED else self.out / f"{name}-merged"
        if not (folder / "config.json").exists():
            return  # its training failed, which is in the results
        self.left(15)
        model = load(str(folder), extend=name == "yarn")
        if not mine["perplexity"]:
            mine["perplexity"] = [asdict(bucket) for bucket in by_position(model, self.rows_NL)]
            self.save()
        for length in todo:
            self.left(15)
            began = time.monotonic()
            # A model that was never shown the tags is asked for none: what it finds counts, not the form it knows.
            answer_format = "plain" if name in UNTRAINED else "tags"
            asked = self.grid.asked(length, samples, CONFIRM_SEED if key == "confirm" else 0, answer_format)
            mine[key] = [r for r in mine[key] if r["length"] != length] + evaluate(model, self.grid, asked)
            found = [r["score"] for r in mine[key] if r["length"] == length]
            print(
                f"{name} {key} {length}: {sum(found):.0f} of {len(found)} found, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            self.save()
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def train(self, method: str, rows: Path, changes: dict[str, Any], meanwhile: Sequence[str]) -> None:
        """Trains and merges one method, unless it is merged already; evaluates others while it loads."""
        from trainer_configs.longlora.merge import merge

        mine = self.of(method)
        if (self.out / f"{method}-merged" / "config.json").exists():
            return
        mine.pop("error", None)
        took = [result["training"]["seconds"] for result in self.results.values() if "training" in result]
        self.left(max(took, default=60.0))  # one that will be cut is not begun
        print(f"{method}: training", flush=True)
        config = write_config(method, self.out, self.model, rows, dict(changes))
        training = Training(config, self.out / f"{method}.log").start()
        try:
            for name in meanwhile:
                self.evaluate(name)
        finally:
            error = training.wait(max(1.0, self.deadline - time.monotonic()))
            mine["training"] = training.figures()
            self.save()
        if "out of time" in error:
            raise Cut
        if not error:
            try:
                merged = merge(self.out / method, self.out / f"{method}-merged", base=str(self.model))
                mine["merge_difference"] = merged.difference
            except LongthreadError as problem:
                error = f"merge: {problem}"
        if error:
            mine["error"] = error
            print(f"{method}: {error}", *training.log.read_text().splitlines()[-25:], sep="\n", flush=True)
        self.save()


def best(results: dict[str, Any]) -> str | None:
    """The trained method that finds most; None before any has a grid."""
    graded = {name: results[name]["records"] for name in METHODS if results.get(name, {}).get("records")}
    return max(graded, key=lambda name: statistics.mean(r["score"] for r in graded[name]), default=None)


def line(*cells: Any) -> None:
    print("  ".join(f"{cell:>11}" for cell in cells))


def percent(records: Sequence[dict[str, Any]], form: str = ".1f") -> str:
    return format(100 * statistics.mean(r["score"] for r in records), form) if records else "–"


def report(results: dict[str, Any]) -> None:
    """The tables, and what was to be reached."""
    results = {name: results[name] for name in (*UNTRAINED, *METHODS) if name in results}
    print("\nneedles found, %, by length; seconds a step; loss of the last ten steps")
    lengths = sorted({r["length"] for result in results.values() for r in result["records"]})
    line("", *lengths, *FILLERS, "s/step", "loss")
    for name, result in results.items():
        training = result.get("training", {})
        step, losses = training.get("seconds_a_step"), training.get("losses", [])[-10:]
        ends = format(step, ".3f") if step else "–", format(statistics.mean(losses), ".2f") if losses else "–"
        for label, records in ((name, result["records"]), (f"{name}, anew", result["confirm"])):
            if records:
                parts = [("length", length) for length in lengths] + [("filler", filler) for filler in FILLERS]
                line(label, *(percent([r for r in records if r[key] == value]) for key, value in parts), *ends)
    buckets = {name: [Bucket(**b) for b in result["perplexity"]] for name, result in results.items()}
    print("\nperplexity by position")
    line("", *(f"{b.start // 1024}-{b.end // 1024}k" for b in next(filter(None, buckets.values()), [])), "flat")
    for name, mine in buckets.items():
        line(name, *(f"{b.perplexity:,.1f}" for b in mine), "yes" if is_flat(mine, NATIVE) else "no")
    if (winner := best(results)) is None:
        return
    records = results[winner]["confirm"] or results[winner]["records"]
    lengths, depths = (sorted({r[key] for r in records}) for key in ("length", "depth"))
    print(
        f"\nbest: {winner}; % found of {len(records) // len(lengths) // len(depths)} questions at each depth and length"
    )
    line("depth", *lengths, "all")
    for depth in depths:
        here = [r for r in records if r["depth"] == depth]
        line(depth, *(percent([r for r in here if r["length"] == n], ".0f") for n in lengths), percent(here))
    if buckets[winner] and buckets.get("before"):
        now, before = (mean_nll(buckets[n], 0, 4096) for n in (winner, "before"))
        print(f"perplexity of 0-4k: {math.exp(now):.2f}, of the model as it was: {math.exp(before):.2f}")


def draw(results: dict[str, Any], out: Path) -> None:
    """A heatmap a model, and the perplexity of all."""
    from matplotlib.figure import Figure

    from environments.reports.figures import side_by_side
    from environments.reports.metrics import grid

    results = {name: results[name] for name in (*UNTRAINED, *METHODS) if name in results}
    if grids := {name: grid(r["confirm"] or r["records"]) for name, r in results.items() if r["records"]}:
        side_by_side(grids).savefig(out / "needles.png", dpi=110)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, result in results.items():
        middles = [(b["start"] + b["end"]) / 2 for b in result["perplexity"]]
        axes.plot(middles, [math.exp(min(b["nll"], 20)) for b in result["perplexity"]], marker="o", label=name)
    axes.set(xlabel="position (tokens)", ylabel="perplexity", yscale="log", title="Held-out novels")
    axes.legend()
    figure.savefig(out / "perplexity.png", dpi=110)


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.command()
def rows(
    out: Annotated[Path, typer.Argument(help="The .parquet to write.")],
    model: Annotated[Path, typer.Option(help="Folder of the model, for its tokenizer.")],
    texts: Annotated[Path, typer.Option(help="Folder of .txt to train on; not the held-out ones.")],
    count: Annotated[int, typer.Option(min=4, help="Rows.")] = 480,
    length: Annotated[int, typer.Option(min=1024, help="Tokens of a row.")] = TARGET,
    questions: Annotated[int, typer.Option(min=1, max=64, help="Of a row that asks.")] = QUESTIONS,
    pool: Annotated[int, typer.Option(help="Tokens of the texts that haystacks are cut from.")] = 1_500_000,
) -> None:
    """Write the training rows."""
    import tempfile

    tokenizer = load_full_tokenizer(str(model))
    prose = Haystacks(
        tokenizer, Options(may_abstain=False, pool_tokens=max(2 * length, Options.pool_tokens), seeds_per_pool=32)
    )
    folder = Options(may_abstain=False, filler="folder", filler_path=str(texts), pool_tokens=max(2 * length, pool))
    sources = [prose, Haystacks(tokenizer, folder)]
    with tempfile.TemporaryDirectory() as scratch:
        made = text_rows(texts, str(model), length, count // 4, Path(scratch) / "text")
    plain = len(made)
    made += [question_row(sources[seed % 2], seed, length, questions) for seed in range(count - plain)]
    Random(0).shuffle(made)
    write_rows(made, out)
    labels = sum(label != -100 for row in made for label in row["labels"])
    print(f"{len(made)} rows ({plain} of text), {labels:,} labels, {out.stat().st_size / 1e6:.1f} MB: {out}")


@app.command()
def run(
    out: Annotated[Path, typer.Argument(help="Folder for configs, adapters, merged models and results.")],
    model: Annotated[Path, typer.Option(help="Folder of SmolLM2-135M-Instruct.")],
    rows: Annotated[Path, typer.Option(help="Training rows of `rows`.")],
    held_out: Annotated[Path, typer.Option(help="Folder of .txt that no row was made of.")],
    methods: Annotated[
        str, typer.Option(help="Which of full, quarter, shifted; empty: only the untrained.")
    ] = ",".join(METHODS),
    samples: Annotated[int, typer.Option(min=1, help="Questions a cell of the grid.")] = 4,
    confirm: Annotated[int, typer.Option(help="Other questions a cell for the best; 0: none.")] = 20,
    steps: Annotated[int, typer.Option(min=1)] = 400,
    seconds: Annotated[float, typer.Option(help="Stop in time, to go on with the same command later.")] = 1e9,
    set_: Annotated[str, typer.Option("--set", help="JSON merged into the recipe.")] = "{}",
    lengths: Annotated[str, typer.Option(help="Of the grid.")] = ",".join(map(str, LENGTHS)),
    windows: Annotated[int, typer.Option(min=1, help="Windows for the perplexity.")] = 8,
) -> None:
    """Train, merge, evaluate; print the tables."""
    chosen = [name for name in methods.split(",") if name]
    if unknown := set(chosen) - set(METHODS):
        raise SystemExit(f"error: methods {', '.join(sorted(unknown))} unknown: use {', '.join(METHODS)}")
    deadline = time.monotonic() + seconds
    out.mkdir(parents=True, exist_ok=True)
    grid = Grid(str(model), held_out, [int(n) for n in lengths.split(",")])
    texts = [read_text(path) for path in sorted(held_out.glob("*.txt"))]
    documents = [grid.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    work = Run(out, model, grid, cut_windows(documents, max(grid.lengths), windows), samples, deadline)
    if (out / "results.json").exists():
        work.results = json.loads((out / "results.json").read_text())
    # No recomputing: what the recipe saves in memory a large GPU has.
    changes = {
        "max_steps": steps,
        "gradient_checkpointing": False,
        "selective_checkpointing": None,
        "lr_scheduler_kwargs": {"num_decay_steps": max(1, steps // 5)},
    }
    changes |= {"dataset_num_proc": 4} | json.loads(set_)
    waiting, cut = list(UNTRAINED), False
    try:
        for method in chosen:
            work.train(method, rows, changes, waiting)
            waiting.append(method)
    except Cut:
        cut = True
    try:
        for name in waiting:
            work.evaluate(name)
        if confirm and not cut and (winner := best(work.results)):
            work.evaluate(winner, "confirm", confirm)
    except Cut:
        cut = True
    if cut:
        print(f"time is up: run the same command again to go on from {out / 'results.json'}")
    report(work.results)
    draw(work.results, out)


if __name__ == "__main__":
    app()
