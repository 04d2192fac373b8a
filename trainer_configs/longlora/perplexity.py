"""Perplexity by position: how well a model predicts text at 0–2k, 2–4k, … tokens into its window.

    python -m trainer_configs.longlora.perplexity MODEL TEXT [--length 32768] [--rows 8] [--json FILE]

Every model reads the same windows, each from its first token on, and no token is scored twice. Text differs from stretch
to stretch, so compare models at one position, or take many rows before comparing positions. A flat curve shows that
positions are read, not that anything is found in them: the needle grid shows that.
"""

import gzip
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from longthread.errors import ConfigError, DataError, exit_on_error, option
from longthread.files import write_json

if TYPE_CHECKING:  # torch is imported where it is used: `--help` does not need it
    from torch import Tensor

    from longthread.language_model import CausalLM

EDGES = (0, 2048, 4096, 8192, 12288, 16384, 24576, 32768, 49152, 65536, 98304, 131072)
SCORED = 4096  # positions whose logits are held in fp32 at a time
FLAT = 0.05  # how much more perplexity beyond the native window still counts as flat


@dataclass(frozen=True)
class Bucket:
    """A stretch of positions (of the predicted token), how many tokens were scored there, and their mean NLL in nats."""

    start: int
    end: int
    tokens: int
    nll: float

    @property
    def perplexity(self) -> float:
        """Return exp(NLL); of a broken model a huge number, without overflow."""
        return math.exp(min(self.nll, 700.0))


def windows(documents: Sequence[Sequence[int]], length: int, rows: int) -> "Tensor":
    """Return up to `rows` windows of `length` tokens, (N, length), taken from the documents in turn without overlap.

    No window crosses a document's end. Raises `DataError` when no document has `length` tokens.
    """
    import torch

    cut = [[ids[start : start + length] for start in range(0, len(ids) - length + 1, length)] for ids in documents]
    in_turn = [parts[i] for i in range(max(map(len, cut), default=0)) for parts in cut if i < len(parts)]
    if not in_turn:
        longest = max(map(len, documents), default=0)
        fault = f"length {length} is more than the longest text has ({longest} tokens): give longer text"
        raise DataError(fault, setting="length")
    return torch.tensor(in_turn[:rows])


def nll_by_token(model: "CausalLM", ids_L: "Tensor") -> "Tensor":
    """Return the NLL in nats of tokens 1 to L-1, each predicted from all before it: fp32 (L-1,).

    The model runs once. L x vocabulary logits are held once in the model's dtype: 3.2 GB at 32k tokens and 49,152 words
    in bf16. In fp32 they are held a piece at a time.
    """
    import torch
    from torch.nn.functional import cross_entropy

    with torch.inference_mode():
        logits = model(input_ids=ids_L[None], use_cache=False).logits[0, :-1]
        pieces = zip(logits.split(SCORED), ids_L[1:].split(SCORED), strict=True)
        return torch.cat([cross_entropy(piece.float(), labels, reduction="none") for piece, labels in pieces])


def by_position(model: "CausalLM", rows_NL: "Tensor", edges: Sequence[int] = EDGES) -> list[Bucket]:
    """Return the mean NLL over all rows between consecutive `edges` of positions; the last bucket ends with the row."""
    import torch

    length = rows_NL.shape[1]
    cuts = [edge for edge in edges if edge < length] + [length]
    total = torch.zeros(length - 1, dtype=torch.float64)
    for row in rows_NL:
        total += nll_by_token(model, row.to(model.device)).double().cpu()
    buckets = []
    for start, end in zip(cuts[:-1], cuts[1:], strict=True):
        nlls = total[max(start, 1) - 1 : end - 1]
        if nlls.numel():
            count = nlls.numel() * len(rows_NL)
            buckets.append(Bucket(start, end, count, nlls.sum().item() / count))
    return buckets


def mean_nll(buckets: Sequence[Bucket], start: int, end: int) -> float:
    """Return the mean NLL of the buckets that lie within the positions `start` and `end`; NaN where none does."""
    inside = [bucket for bucket in buckets if bucket.start >= start and bucket.end <= end]
    tokens = sum(bucket.tokens for bucket in inside)
    return sum(bucket.nll * bucket.tokens for bucket in inside) / tokens if tokens else math.nan


def is_flat(buckets: Sequence[Bucket], native: int, tolerance: float = FLAT) -> bool:
    """Return whether no bucket beyond the native window has a perplexity more than `tolerance` above that within it."""
    within = mean_nll(buckets, 0, native)
    beyond = [bucket.nll for bucket in buckets if bucket.start >= native]
    return bool(beyond) and max(beyond) <= within + math.log1p(tolerance)


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, plain or gzipped. Raises `DataError`."""
    try:
        return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"text {path} cannot be read ({error}): give a UTF-8 .txt or .txt.gz file") from None


def table(name: str, buckets: Sequence[Bucket]) -> Table:
    """Return a table called `name` with a row for each bucket: positions, tokens, NLL and perplexity."""
    grid = Table("positions", "tokens", "NLL", "perplexity", title=name)
    for bucket in buckets:
        span = f"{bucket.start:,}–{bucket.end:,}"
        grid.add_row(span, f"{bucket.tokens:,}", f"{bucket.nll:.3f}", f"{bucket.perplexity:,.2f}")
    return grid


app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def perplexity(
    model: Annotated[str, typer.Argument(help="Folder or name of the model.")],
    texts: Annotated[list[Path], typer.Argument(help="Held-out .txt or .txt.gz files, each one document.")],
    length: Annotated[int, typer.Option(min=2, help="Tokens of a window.")] = 32_768,
    rows: Annotated[int, typer.Option(min=1, help="Windows, at most.")] = 8,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the perplexity of a model by position."""
    with exit_on_error(option):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model {model} has no tokenizer that can be read: {str(error).strip()[:200]}") from None
        documents = [tokenizer(read_text(path), add_special_tokens=False)["input_ids"] for path in texts]
        rows_NL = windows(documents, length, rows)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        try:
            language_model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        except (OSError, ValueError) as error:
            raise ConfigError(f"model {model} cannot be read: {str(error).strip()[:200]}") from None
        buckets = by_position(language_model.to(device).eval(), rows_NL)
        Console().print(table(f"{model}, {len(rows_NL)} windows", buckets))
        if json_out:
            write_json(json_out, [asdict(bucket) for bucket in buckets])


@app.callback()
def main() -> None:
    """LongLoRA: perplexity by position."""


if __name__ == "__main__":
    typer.run(perplexity)
