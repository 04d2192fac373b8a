"""How much memory a fit of recipe `compact` takes with texts of different lengths, and a question to the memory.

    python -m benchmarks.lift_long_text OUT [--tokens 100000,1000000]

The model is a random Llama of 0.1 M parameters with a token a byte, so that what is measured is the text's share: its tokens,
sentences, questions, segments and the writing of the adapter. Each length has a process of its own. `fit` and `ask` are the
growth of the largest resident set above that with the model loaded; of the text itself, its tokens and its sentences stay.
With `--text-alone` no segment is read, which takes nearly all of the time: its memory is random, with as many slots.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from environments.haystack.filler import prose
from lift.document.document import Document
from lift.inference.together import Together
from lift.library.attach import Attached
from lift.library.base_model import fingerprint
from lift.library.library import Entry, Library
from lift.memory.compact import Slots, slots
from lift.memory.tuner import layers
from lift.training import compaction
from lift.training.fit import fit
from lift.training.job import FitJob, FitOptions
from lift.training.recipes import RECIPES
from lift.training.reference_rows import ReferenceRows
from lift.training.segment_memory import SegmentMemory
from longthread.command_line import App
from longthread.errors import exit_on_error
from longthread.files import write_json
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

SEGMENT = 8192
WARM_UP = 10_000  # tokens, that are fitted before anything is measured

app = App()


def toy() -> Any:
    """The random model, with a window for one segment and a prompt."""
    return tiny_model(max_position_embeddings=SEGMENT + 2048)


def text_of(characters: int) -> Document:
    """Fiction of so many characters."""
    sizes = [0]

    def fits(story: str) -> bool:
        sizes[0] += len(story) + 2
        return sizes[0] - len(story) < characters

    stories = takewhile(fits, map(prose.join, prose.passages(0, "train")))
    return Document("book", "\n\n".join(stories)[:characters])


def peak() -> float:
    """The largest resident set so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def random_memory(model: Any, job: FitJob, rows: ReferenceRows, span: range) -> SegmentMemory:
    """A memory of one segment with the slots of a fit, whose questions are made, but which the model has not read."""
    rows.asked(span, 1000)
    rows.quiet(span, 1000)
    kept = slots(job.recipe.share, 1, len(span), 16)
    heads = [
        Slots(torch.randn(kept, 16), torch.zeros(kept), torch.randn(kept, 16), torch.arange(kept))
        for _ in range(2 * len(layers(model)))
    ]
    return SegmentMemory.of(heads, len(layers(model)), span.start, torch.bfloat16)


def measured(tokens: int, out: Path, text_alone: bool) -> dict[str, Any]:
    """One fit and one question, in this process."""
    torch.set_num_threads(1)
    if text_alone:
        compaction.closed_form = random_memory
    recipe = replace(RECIPES["compact"], segment=SEGMENT, queries=300)
    tokenizer = tiny_tokenizer()
    fit(text_of(WARM_UP), toy(), tokenizer, recipe, FitOptions(out / "warm", progress=False))
    document, before, began = text_of(tokens), peak(), time.perf_counter()
    done = fit(document, toy(), tokenizer, recipe, FitOptions(out / "fitted", progress=True))
    found = {"tokens": done.tokens, "seconds": time.perf_counter() - began, "fit_mib": peak() - before}
    library = Library(out / "books")
    library.add(done.folder, Entry(
        name=document.name, digest=document.digest, tokens=done.tokens, words=0, recipe=recipe.name, base_model="toy",
        fingerprint=fingerprint(toy()),
    ))  # fmt: skip
    found |= json.loads(subprocess.run(
        [sys.executable, "-m", "benchmarks.lift_long_text", "--asked", str(library.folder)],
        capture_output=True, text=True, check=True,
    ).stdout)  # fmt: skip
    return found | {"adapter_mib": done.bytes / 2**20}


def asked(folder: Path) -> dict[str, Any]:
    """One question to a stored memory, in this process."""
    torch.set_num_threads(1)
    library, tokenizer = Library(folder), tiny_tokenizer()
    model = toy()
    together = Together.read(library, ["book"], 1)
    session = together.session(Attached(library, model, ["book"], closed=True), tokenizer)
    session.answer("Who?", ())
    before, began = peak(), time.perf_counter()
    places = session.search("Who keeps the lighthouse?")
    session.answer("Who keeps the lighthouse?", places)
    return {
        "segments": together.stores["book"].segments,
        "ask_mib": peak() - before,
        "ask_s": time.perf_counter() - began,
    }


@app.command()
@exit_on_error()
def main(
    out: Annotated[Path | None, typer.Argument(help="Folder for the figures.")] = None,
    tokens: Annotated[str, typer.Option(help="Lengths of texts.")] = "100000,1000000",
    text_alone: Annotated[bool, typer.Option("--text-alone", help="Leave out what the model reads.")] = False,
    one: Annotated[int, typer.Option(hidden=True)] = 0,
    asked_of: Annotated[Path | None, typer.Option("--asked", hidden=True)] = None,
) -> None:
    """Memory and time of a fit and of a question, by the length of the text."""
    if asked_of is not None:
        print(json.dumps(asked(asked_of)))
        return
    out = out or Path("long-text")
    if one:
        write_json(out / f"{one}.json", measured(one, out / str(one), text_alone))
        shutil.rmtree(out / str(one))
        return
    table = Table("tokens", "segments", "fit, s", "fit, MiB", "adapter, MiB", "ask, s", "ask, MiB")
    for length in map(int, tokens.split(",")):
        command = [sys.executable, "-m", "benchmarks.lift_long_text", str(out), "--one", str(length)]
        command += ["--text-alone"] if text_alone else []
        subprocess.run(command, check=True)
        found = json.loads((out / f"{length}.json").read_text())
        cells = [found["seconds"], found["fit_mib"], found["adapter_mib"], found["ask_s"], found["ask_mib"]]
        table.add_row(f"{found['tokens']:,}", f"{found['segments']}", *(f"{each:,.1f}" for each in cells))
    Console(width=120).print(table)


if __name__ == "__main__":
    app()
