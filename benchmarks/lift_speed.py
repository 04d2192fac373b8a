"""How many seconds a fit takes on a device that does nothing else, and how many times the model reads the text in them.

    python -m benchmarks.lift_speed OUT --model READER --tokens 8192,32768 [--methods compact] [--times 3]

A made-up document of each length is fitted several times over in one process. The first fit is left out where there are
more, since it loads kernels. `fit` and `prefill` are medians; `OUT/speed.json` has every fit, as soon as it is there.
"""

from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.lift_measure import free, load
from benchmarks.lift_options import LENGTHS, MODEL, OUT, known, numbers
from lift.tasks import synthetic_document
from lift.training.fit import FitOptions, Fitted, fit
from lift.training.recipes import RECIPES
from longthread.command_line import App
from longthread.errors import exit_on_error
from longthread.files import JsonObject, write_json

app = App()


def timed(model: Path, tokens: int, method: str, out: Path) -> JsonObject:
    """Return the seconds of one fit and of one pass over its text, and the length."""
    loaded, tokenizer = load(model)
    document, _ = synthetic_document.generate(tokenizer, tokens, 0)
    done: Fitted = fit(document, loaded, tokenizer, RECIPES[method], FitOptions(out, 0, progress=False))
    del loaded
    free()
    return {
        "method": method,
        "asked": tokens,
        "tokens": done.tokens,
        "fit": done.seconds,
        "prefill": done.prefill_seconds,
    }


def summary(fits: list[JsonObject]) -> JsonObject:
    """Return the medians of one method's fits of one length, without the first where there are more."""
    counted = fits[1:] or fits
    fitted, prefill = (median(each[name] for each in counted) for name in ("fit", "prefill"))
    return {"fit": fitted, "prefill": prefill, "prefills": fitted / prefill, "fits": len(counted)}


@app.command()
@exit_on_error()
def main(
    out: OUT,
    model: MODEL,
    tokens: LENGTHS = "8192,32768",
    methods: Annotated[str, typer.Option(help="Of lift's recipes.")] = "compact",
    times: Annotated[int, typer.Option(min=1, help="Fits of each.")] = 3,
) -> None:
    """Fit each document several times, and print the seconds."""
    given = [(m, size) for size in numbers("tokens", tokens) for m in known("methods", methods.split(","), RECIPES)]
    made: list[JsonObject] = []
    shown = Table("method", "tokens", "fit, s", "prefill, s", "prefills", "fits")
    for method, size in given:
        for number in track(range(times), f"{method}, {size}"):
            made.append(timed(model, size, method, out / f"fit-{method}-{size}-{number}"))
            write_json(out / "speed.json", {"fits": made})
        found = summary(made[-times:])
        shown.add_row(method, str(size), *(f"{found[name]:.2f}" for name in ("fit", "prefill")),
                      f"{found['prefills']:.0f}", str(found["fits"]))  # fmt: skip
    Console().print(shown)


if __name__ == "__main__":
    app()
