"""How many facts of one very long text a compact memory still says, and cites, and in how many seconds.

    python -m benchmarks.lift_novels OUT --model READER --texts NOVELS --tokens 32768,262144 --each 6 --seconds 240

64 single facts and 16 chains of two, whose sentences stand half of the text apart, are planted among passages of novels. The
text is fitted in segments and asked as `lift ask --hops 2 --cite` asks, step by step unless --no-steps: the segments to open
are searched, names in replies are followed, the answer is cited. `facts`, `chains`: right answers; `opened`: questions for
which all their evidence stood in the segments that were open (`silent` in the file: nothing was); `cited`: questions whose
citation is a sentence of their evidence. Seconds a question are the median of the first questions, which have the device
alone.

With --each, so many processes on each GPU fit segments, and then ask. What is there is in OUT/novels.json as soon as it is
there, and the same command goes on. A new version of lift's code, another base model or other texts begin anew.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lift_measure import free, load
from benchmarks.lift_novel_text import READ, PlantedText, planted_text
from benchmarks.lift_options import EACH, MODEL, OUT, SECONDS, known, numbers
from benchmarks.lift_store import code
from benchmarks.lift_table import percent
from benchmarks.segment_fits import LongFit, fit_segments, processes
from benchmarks.spread import checked, spread
from lift.inference import steps as stepwise
from lift.inference.capacity import synchronize
from lift.inference.hops import answered
from lift.inference.together import Session, Together
from lift.library.attach import Attached
from lift.library.base_model import fingerprint
from lift.library.library import Entry, Library
from lift.tasks import Item, right
from lift.tasks.synthetic_document import PlantedFact
from lift.training.fit import FitOptions, fit
from lift.training.recipes import RECIPES, Recipe
from longthread.command_line import App
from longthread.errors import exit_on_error
from longthread.files import text_digest, write_json
from longthread.statistics import Share

RECIPES_HERE = ("compact", "compact+")
STEPS, PLAIN = "steps", "plain"
TIMED = 8  # questions that are asked one at a time, before the others
SHOWN = ("right", "opened", "cited")
KINDS = {"facts": "single", "chains": "two-hop"}


@dataclass(frozen=True)
class Cell:
    """A text and how it is fitted and asked. `novels` is the folder of texts; None: all is generated.

    `form`: of questions, "steps" or "plain".
    """

    model: Path
    novels: Path | None
    tokens: int
    recipe: str
    segment: int
    facts: int
    chains: int
    seed: int
    hops: int
    form: str

    @property
    def given(self) -> Recipe:
        """The recipe, with segments of this length."""
        return replace(RECIPES[self.recipe], segment=self.segment)

    def digest(self, base: str) -> str:
        """What identifies the fit: settings, recipe, base model, lift's code and the novels; not how it is asked."""
        files = sorted(path for path in self.novels.rglob("*") if path.is_file()) if self.novels else []
        read = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        settings = asdict(self) | {"model": base, "novels": read, "recipe": asdict(self.given)}
        del settings["form"]
        return text_digest(json.dumps([settings, code()], sort_keys=True))


# ---- fit --------------------------------------------------------------------------------------------------------


def fitted(cell: Cell, folder: Path, base: str, each: int, ends: float) -> dict[str, Any] | None:
    """Fit the text, put it into a library of its own, and return the cost; None where the time was too short."""
    stored = folder / "fitted.json"
    if stored.exists():
        return json.loads(stored.read_text())
    text = PlantedText.load(folder)
    model, tokenizer = load(cell.model)
    given = LongFit(cell.model, folder / READ, cell.given, folder / "fit", cell.seed)
    began = time.perf_counter()
    took = fit_segments(given, each, ends - time.monotonic())
    if took is None:
        return None
    done = fit(text.document, model, tokenizer, cell.given, FitOptions(folder / "fit", cell.seed))
    synchronize(model.device)
    cost = {
        "tokens": done.tokens, "fit_seconds": time.perf_counter() - began, "bytes": done.bytes, "kv": done.kv_bytes,
        "segment_seconds": median(took) if took else None, "processes": processes(each),
    }  # fmt: skip
    Library(folder / "books").add(done.folder, Entry(
        name=text.document.name, digest=text.document.digest, tokens=done.tokens, words=text.document.words,
        recipe=cell.recipe, base_model=str(cell.model), fingerprint=base,
    ))  # fmt: skip
    write_json(stored, cost)
    return cost


# ---- ask --------------------------------------------------------------------------------------------------------


@cache
def session_of(cell: Cell, folder: Path) -> tuple[Session, list[PlantedFact]]:
    """Load model, library and questions, once a process."""
    torch.set_num_threads(1)
    model, tokenizer = load(cell.model)
    text, library = PlantedText.load(folder), Library(folder / "books")
    names = [text.document.name]
    together = Together.read(library, names, 1, cited=True)
    attached = Attached(library, model, names, closed=True)
    return together.session(attached, tokenizer, stepwise=cell.form == STEPS), text.facts


def asked(cell: Cell, folder: Path, number: int) -> dict[str, Any]:
    """Ask about one fact as `lift ask` does, and return what came of it."""
    session, facts = session_of(cell, folder)
    fact, [store] = facts[number], session.router.stores.values()
    synchronize(session.attached.model.device)
    began = time.perf_counter()
    result = answered(session, fact.question, cell.hops if store.segments > 1 else 0)
    seconds = time.perf_counter() - began
    citation = session.cited(fact.question, result)
    opened = {place.segment for place in result.places}
    kind = "needle" if fact.kind == "single" else "linked"
    return {
        "kind": fact.kind, "question": fact.question, "answer": fact.answer, "reply": result.reply,
        "followed": result.followed, "segments": sorted(opened), "seconds": seconds,
        "right": right(Item(kind, fact.question, fact.answer, fact.spans), stepwise.value(result.reply)),
        "opened": all(opened & holding(session, span) for span in fact.spans),
        "apart": len(fact.spans) > 1 and not set.intersection(*(holding(session, span) for span in fact.spans)),
        "cited": citation is not None and citation.characters in fact.spans,
    }  # fmt: skip


def holding(session: Session, span: tuple[int, int]) -> set[int]:
    """Return the segments in which the characters stand whole."""
    [store] = session.router.stores.values()
    assert store.sources is not None
    starts = store.sources.token_starts.numpy()
    first, last = (int(starts.searchsorted(at, "right")) - 1 for at in (span[0], span[1] - 1))
    return {i for i, each in enumerate(store.sources.segments) if each.start <= first and last < each.stop}


def ask(cell: Cell, folder: Path, cost: dict[str, Any], out: Path, key: str, each: int, ends: float) -> None:
    """Ask what was not asked yet, single facts and chains in turn, and write the figures after each answer."""
    lines = folder / f"asked-{cell.form}.json"
    replies: dict[str, Any] = json.loads(lines.read_text()) if lines.exists() else {}
    order = sorted(range(cell.facts + cell.chains), key=lambda n: turn(cell, n))
    jobs = {str(n): (cell, folder, n) for n in order if str(n) not in replies}
    timed = {number: job for number, job in jobs.items() if len(replies) + list(jobs).index(number) < TIMED}
    others = {number: job for number, job in jobs.items() if number not in timed}
    if others or timed:
        free()
    if timed:
        session_of(cell, folder)[0].answer("Who?", ())  # loads kernels
    for part, devices, at_once in ((timed, 1, 1), (others, torch.cuda.device_count(), each)):
        for number, found in spread(asked, part, devices, ends - time.monotonic(), at_once):
            replies[number] = checked(found) | {"timed": number in timed}
            write_json(lines, replies)
            results = json.loads(out.read_text()) if out.exists() else {}
            write_json(out, results | {key: cost | figures(replies)}, indent=1)


def turn(cell: Cell, number: int) -> float:
    """Where a question stands among all, so that the first of them hold facts and chains in their proportion."""
    of_kind, at = (cell.facts, number) if number < cell.facts else (cell.chains, number - cell.facts)
    return (at + 0.5) / of_kind


def figures(replies: dict[str, Any]) -> dict[str, Any]:
    """Return right answers, open evidence and citations of each kind, as [right, asked], and the seconds a question."""
    found: dict[str, Any] = {}
    for name, kind in KINDS.items():
        of_kind = [reply for reply in replies.values() if reply["kind"] == kind]
        found[name] = {what: [sum(reply[what] for reply in of_kind), len(of_kind)] for what in SHOWN}
    chains = [reply for reply in replies.values() if reply["kind"] == KINDS["chains"]]
    cited = [reply["cited"] for reply in replies.values() if reply["right"]]
    return found | {
        "apart": [sum(reply["apart"] for reply in chains), len(chains)],
        "cited_if_right": [sum(cited), len(cited)],
        "silent": [sum(not reply["segments"] for reply in replies.values()), len(replies)],
        "ask_seconds": median(reply["seconds"] for reply in replies.values() if reply["timed"]),
    }


# ---- the command ------------------------------------------------------------------------------------------------

app = App()


@app.command()
@exit_on_error()
def main(
    out: OUT,
    model: MODEL,
    texts: Annotated[
        Path | None, typer.Option(help="Folder of novels as text files; all is generated otherwise.")
    ] = None,
    tokens: Annotated[str, typer.Option(help="Lengths of texts.")] = "32768,262144",
    segments: Annotated[str, typer.Option(help="Tokens of a segment, each at most what the window leaves.")] = "8192",
    recipes: Annotated[str, typer.Option(help="compact, compact+.")] = "compact",
    facts: Annotated[int, typer.Option(min=1, help="Single facts.")] = 64,
    chains: Annotated[int, typer.Option(min=1, help="Chains of two.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of text, facts and fit.")] = 0,
    hops: Annotated[int, typer.Option(min=0, help="Searches for names that replies name, at most.")] = 2,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Ask step by step.")] = True,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Fit, ask, print the table."""
    ends, base = time.monotonic() + seconds, fingerprint(model)
    chosen = known("recipes", recipes.split(","), RECIPES_HERE)
    sizes, lengths = numbers("tokens", tokens), numbers("segments", segments)
    form = STEPS if steps else PLAIN
    cells = [
        Cell(model, texts, size, recipe, length, facts, chains, seed, hops, form)
        for size in sizes for recipe in chosen for length in lengths
    ]  # fmt: skip
    results = out / "novels.json"
    for cell in cells:
        fit_of, digest = f"{cell.tokens} {cell.recipe} {cell.segment}", cell.digest(base)
        folder = out / f"{fit_of.replace(' ', '-')}-{digest[:8]}"
        if time.monotonic() > ends:
            break
        if not (folder / "facts.json").exists():
            planted_text(load(model)[1], cell.tokens, texts, facts, chains, seed).save(folder)
        cost = fitted(cell, folder, base, each, ends)
        if cost is None:
            break
        ask(cell, folder, cost, results, f"{fit_of} {form}", each, ends)
    if results.exists():
        Console(width=140).print(table(json.loads(results.read_text())))


def table(results: dict[str, Any]) -> Table:
    """A row for each length, recipe, length of a segment and way of asking."""
    heads = "facts,_% opened cited chains,_% opened cited ask,_s fit,_s processes MB 1/KV"
    report = Table("tokens", "recipe", "segment", "form", *(head.replace("_", " ") for head in heads.split()))
    for key, found in results.items():
        shares = [percent(Share(*found[name][what])) for name in KINDS for what in SHOWN]
        report.add_row(
            *key.split(), *shares, f"{found['ask_seconds']:.1f}", f"{found['fit_seconds']:.0f}", f"{found['processes']}",
            f"{found['bytes'] / 1e6:.1f}", f"{found['kv'] / found['bytes']:.0f}",
        )  # fmt: skip
    return report


if __name__ == "__main__":
    app()
