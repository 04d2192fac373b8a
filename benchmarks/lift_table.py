"""What `benchmarks.lift` prints and draws of its results: a row and a dot for each length and method."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from lift.evaluation.results import Results, plot
from longthread.statistics import Share


def pooled(rates: Sequence[Share]) -> Share:
    """All of them together."""
    return sum(rates, Share())


def table(results: dict[str, dict[str, Any]]) -> Table:
    """A row for each length and method; rates pool the seeds, times are means of the fits that had a GPU alone."""
    rows: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for key, value in results.items():
        tokens, method, _ = key.split()
        rows[int(tokens), method].append(value)
    report = Table(title="closed book, in wordings not trained on")
    heads = (
        "tokens method seeds needles linked absent cloze window neutral others unrelated fit,s ×prefill MB 1/KV AUROC"
    )
    for head in heads.split():
        report.add_column(head, justify="left" if head == "method" else "right")
    for (length, method), values in sorted(rows.items(), key=lambda row: row[0][0]):
        of_seeds = [Results.from_json(value["results"]) for value in values]
        pool = together(of_seeds)
        closed = [percent(pool.closed.get(kind, Share())) for kind in ("needle", "linked", "absent", "cloze")]
        timed = [value for value in values if value["alone"]]  # those that shared a GPU waited for each other
        aurocs = [r.gate_auroc for r in of_seeds if r.gate_auroc is not None]
        report.add_row(
            f"{length}", method, f"{len(values)}", *closed,
            "/".join(percent(rates.get("needle", Share())) for rates in (pool.window, pool.window_off)),
            f"{pool.nll - pool.nll_off:+.3f}", f"{percent(pool.other)}/{percent(pool.other_off)}",
            f"{percent(pool.unrelated)}/{percent(pool.unrelated_off)}",
            f"{mean(v['seconds'] for v in timed):.1f}" if timed else "–",
            f"{mean(v['seconds'] / v['prefill'] for v in timed):.0f}" if timed else "–",
            f"{mean(v['bytes'] for v in values) / 1e6:.1f}", f"{mean(v['kv'] / v['bytes'] for v in values):.0f}",
            f"{mean(aurocs):.2f}" if aurocs else "",
        )  # fmt: skip
    return report


def percent(rate: Share) -> str:
    """The share in per cent."""
    return f"{100 * rate.right / rate.asked:.0f}" if rate.asked else "–"


def by_kind(rates: Sequence[dict[str, Share]]) -> dict[str, Share]:
    """Shares pooled for each kind of question."""
    return {kind: pooled([each.get(kind, Share()) for each in rates]) for kind in rates[0]}


def together(results: Sequence[Results]) -> Results:
    """Of several seeds: rates pooled, nats averaged."""
    low, high = (mean(r.nll_change[i] for r in results) for i in (0, 1))
    return replace(
        results[0],
        closed=by_kind([r.closed for r in results]),
        window=by_kind([r.window for r in results]), window_off=by_kind([r.window_off for r in results]),
        other=pooled([r.other for r in results]), other_off=pooled([r.other_off for r in results]),
        unrelated=pooled([r.unrelated for r in results]), unrelated_off=pooled([r.unrelated_off for r in results]),
        nll=mean(r.nll for r in results), nll_off=mean(r.nll_off for r in results), nll_change=(low, high),
    )  # fmt: skip


def draw(results: dict[str, dict[str, Any]], out: Path) -> None:
    """Accuracy against neutral text, a picture a length."""
    for tokens in sorted({int(key.split()[0]) for key in results}):
        methods: dict[str, list[Results]] = defaultdict(list)
        for key, value in results.items():
            length, name, _ = key.split()
            if int(length) == tokens:
                methods[name].append(Results.from_json(value["results"]))
        plot({name: together(of_seeds) for name, of_seeds in methods.items()}, out / f"lift-{tokens}.png")
