"""Several documents of recipe `compact` behind the calibrated switch, asked as `lift ask --open` asks.

    python -m benchmarks.lift_switched OUT --model READER --documents 3,8 --open 2 --each 6 --seconds 240

OUT is a folder of `benchmarks.lift run`, whose fits to this model are taken; those that it does not hold are made, beside
those to another model. `alone`: facts asked in
wordings not trained on, with the document's own memory on; `switched`: the switch opens what answers, out of all of them;
`own open`: questions at which the document that they are about was open. `closed`: general questions, and questions about a
document that is not there, at which none was; `base`: general questions of these at which the logits are the base model's,
bit for bit.
"""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.lift_measure import NEEDLES, OTHER_TOKENS, OTHERS, REPLY, free, load
from benchmarks.lift_options import EACH, LENGTH, MODEL, OUT, SECONDS, known, numbers
from benchmarks.lift_table import percent, pooled
from benchmarks.lift_together import shelf
from benchmarks.spread import spread
from lift import tasks
from lift.document.document import Document
from lift.inference.generate import chat
from lift.inference.routing import Place
from lift.inference.together import Session, Together
from lift.library.attach import Attached
from lift.library.base_model import fingerprint, recorded
from lift.library.files import WEIGHTS
from lift.library.library import Library
from lift.tasks import Item, right, synthetic_document
from lift.training.fit import FitOptions, fit
from lift.training.recipes import RECIPES
from longthread.command_line import App
from longthread.errors import exit_on_error
from longthread.files import write_json
from longthread.language_model import CausalLM
from longthread.statistics import Share

STRANGER = 999  # seed of a document that is in no library
METHODS = ("compact", "compact+")
HOWS = ("alone", "switched", "own open")

app = App()


def behind_switch(
    library: Library, model: CausalLM, tokenizer: Any, documents: Mapping[int, Document], most: int
) -> dict[str, Any]:
    """Return the figures of the documents, given by their seeds, with at most so many of them open at a question.

    `alone` and `switched` are [right, asked] of each document, `own open` [open, asked]; `closed` is [closed, asked] of
    general questions and of those about a stranger, `base` how many of the closed ones have the base model's own logits.
    """
    general = [item.question for item in synthetic_document.unrelated()]
    other, _ = synthetic_document.generate(tokenizer, OTHER_TOKENS, STRANGER)
    strange = [item.question for item in tasks.make(other, ("needle",), OTHERS, STRANGER, "eval")]
    before = [logits(model, chat(tokenizer, "", question)) for question in general]
    names = [document.name for document in documents.values()]
    together = Together.read(library, names, most)
    session = together.session(Attached(library, model, names, loaded=len(names), closed=True), tokenizer)
    found: dict[str, Any] = {"documents": names, "open": most}
    found |= {how: [] for how in HOWS}
    for seed, document in documents.items():
        items = tasks.make(document, ("needle",), NEEDLES, seed, "eval")
        own = Together({document.name: together.stores[document.name]}, {document.name: None}, 1)
        alone = own.session(session.attached, tokenizer)
        found["alone"].append([share(alone, items, [alone.search(item.question) for item in items]), len(items)])
        places = [session.search(item.question) for item in items]
        found["switched"].append([share(session, items, places), len(items)])
        found["own open"].append([sum(document.name in {p.document for p in each} for each in places), len(items)])
    shut = [not session.search(question) for question in [*general, *strange]]
    with session.attached.model.disable_adapter():
        same = [
            torch.equal(base, logits(session.attached.model, chat(tokenizer, "", question)))
            for question, base, closed in zip(general, before, shut, strict=False)
            if closed
        ]
    return found | {"closed": [sum(shut), len(shut)], "base": [sum(same), len(same)]}


def share(session: Session, items: Sequence[Item], places: Sequence[Sequence[Place]]) -> int:
    """Return how many questions are answered right with these segments open; those with the same ones make a batch."""
    batches: dict[tuple[Place, ...], list[Item]] = defaultdict(list)
    for item, opened in zip(items, places, strict=True):
        batches[tuple(opened)].append(item)
    return sum(
        sum(map(right, part, session.answers([item.question for item in part], opened, REPLY)))
        for opened, part in batches.items()
    )


@torch.no_grad()
def logits(model: CausalLM, ids: Sequence[int]) -> torch.Tensor:
    """Return the logits of the token behind a prompt."""
    return model(
        input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False, logits_to_keep=1
    ).logits.cpu()


def fit_of(out: Path, tokens: int, method: str, seed: int, base: str) -> Path:
    """Return the folder of a document's fit to the base model of this fingerprint, made or to be made."""
    name = re.compile(rf"{tokens}-{re.escape(method)}(@[^-]+)?-{seed}")
    made = [
        folder for folder in sorted(out.glob(f"{tokens}-*-{seed}")) if name.fullmatch(folder.name) and fitted(folder)
    ]
    for folder in made:
        if recorded(folder) == base:
            return folder
    plain = out / f"{tokens}-{method}-{seed}"
    return out / f"{tokens}-{method}@{base[:12]}-{seed}" if plain in made else plain


def fitted(folder: Path) -> bool:
    """Return whether a fit has ended there."""
    return (folder / WEIGHTS).exists()


def fit_one(model: Path, tokens: int, method: str, seed: int, out: Path) -> float:
    """Fit the document of a seed into the folder `out`, and return the seconds."""
    free()
    loaded, tokenizer = load(model)
    document, _ = synthetic_document.generate(tokenizer, tokens, seed)
    return fit(document, loaded, tokenizer, RECIPES[method], FitOptions(out, seed, progress=False)).seconds


@app.command()
@exit_on_error()
def main(
    out: OUT,
    model: MODEL,
    tokens: LENGTH = 8192,
    method: Annotated[str, typer.Option(help="compact, compact+.")] = "compact",
    documents: Annotated[str, typer.Option(help="How many there are, such as 3,8.")] = "3,8",
    most: Annotated[int, typer.Option("--open", min=1, help="Documents that the switch opens, at most.")] = 2,
    seconds: SECONDS = 1e9,
    each: EACH = 1,
) -> None:
    """Fit what is missing, ask behind the switch, print the table."""
    ends = time.monotonic() + seconds
    known("method", [method], METHODS)
    rows, of_model = {}, fingerprint(model)
    for count in numbers("documents", documents):
        folders = [fit_of(out, tokens, method, seed, of_model) for seed in range(count)]
        missing = {
            str(seed): (model, tokens, method, seed, folder)
            for seed, folder in enumerate(folders) if not fitted(folder)
        }  # fmt: skip
        for _, result in spread(fit_one, missing, torch.cuda.device_count(), ends - time.monotonic(), each):
            if isinstance(result, Exception):
                raise result
        if time.monotonic() > ends:
            break
        free()
        base, tokenizer = load(model)
        with shelf(model, tokenizer, tokens, method, folders) as (library, made):
            rows[count] = behind_switch(library, base, tokenizer, made, most)
        write_json(out / f"switched-{tokens}-{method}-{count}.json", rows[count], indent=1)
    Console(width=120).print(table(rows, f"{tokens:,} tokens, {method}, at most {most} open: facts, %"))


def table(rows: Mapping[int, dict[str, Any]], title: str) -> Table:
    """A row for each number of documents."""
    report = Table("documents", *HOWS, "closed", "base", title=title)
    for count, found in rows.items():
        shares = [pooled([Share(*counts) for counts in found[how]]) for how in HOWS]
        report.add_row(f"{count}", *map(percent, shares), *(percent(Share(*found[how])) for how in ("closed", "base")))
    return report


if __name__ == "__main__":
    app()
