"""`longthread longlora data`: tokens a second and peak memory, for a corpus and one four times as large.

    python -m benchmarks.longlora_data [--megabytes 8] [--length 8192] [--json out.json]

Each run is a process of its own, so that its peak memory is its own; with two processes for the work it is that of the
largest one. Memory is flat if four times the text takes no more of it. Tokens a second are those read, start-up left out.
"""

import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.reference_tokenizers import load
from environments.haystack.filler import prose

PASSAGES = 12  # in a document: about 3600 tokens
RUN = """
import json, resource, sys, time
from pathlib import Path
from trainer_configs.longlora.data.build import Settings, build
from trainer_configs.longlora.data.encoder import load_encoder
from trainer_configs.longlora.data.sources import Source
source, out, tokenizer, length, processes = sys.argv[1:]
load_encoder(tokenizer)
import datasets
start = time.perf_counter()
stats, _ = build(Settings(Source(source), Path(out), tokenizer, int(length), num_proc=int(processes)))
seconds = time.perf_counter() - start
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
tokens = stats["unit_tokens"] + sum(stats["rejected_tokens"].values())
print(json.dumps({"rows": stats["rows"], "tokens": tokens, "tokens_per_s": tokens / seconds, "peak_mib": peak}))
"""


def write_corpus(path: Path, megabytes: int) -> None:
    """Fictional prose as a .jsonl file of about that size."""
    passages = prose.passages(0, "train")
    with path.open("w") as file:
        while file.tell() < megabytes * 1_000_000:
            text = "\n\n".join(map(prose.join, islice(passages, PASSAGES)))
            file.write(json.dumps({"text": text}) + "\n")


def main(
    megabytes: Annotated[int, typer.Option(min=1, help="Text of the smaller corpus.")] = 8,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a row.")] = 8192,
    tokenizer: Annotated[str, typer.Option(help="One of reference_tokenizers.")] = "smollm2",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the table of tokens a second and peak memory."""
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load(tokenizer).save_pretrained(folder / "tokenizer")
        for times, processes in tqdm([(1, 1), (4, 1), (1, 2), (4, 2)], unit="run"):
            corpus = folder / f"{times}.jsonl"
            if not corpus.exists():
                write_corpus(corpus, times * megabytes)
            out = folder / f"{times}-{processes}"
            command = [sys.executable, "-c", RUN, *map(str, (corpus, out, folder / "tokenizer", length, processes))]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append({"megabytes": times * megabytes, "processes": processes, **json.loads(run.stdout)})
    table = Table("text", "processes", "rows", "tokens", "tokens/s", "peak memory")
    for row in results:
        cells = (row["processes"], row["rows"], row["tokens"])
        speed, peak = f"{row['tokens_per_s']:,.0f}", f"{row['peak_mib']:,.0f} MiB"
        table.add_row(f"{row['megabytes']} MB", *(f"{cell:,}" for cell in cells), speed, peak)
    Console(width=100).print(table)
    if json_out:
        json_out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    typer.run(main)
