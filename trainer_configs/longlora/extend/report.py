"""One report of a run: heatmaps of all its models side by side, their figures by length, and how each was trained."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from environments.reports.figures import png, side_by_side
from environments.reports.html import Fact, Picture, ReportPage
from environments.reports.metrics import Record, by, false_answers, grid, present
from environments.reports.report import grid_csv
from longthread.counts import counted
from longthread.files import JsonObject, replacing, write_json, write_text
from longthread.statistics import Share
from trainer_configs.longlora.by_position import perplexity_of
from trainer_configs.longlora.extend.evaluation import evaluated, general_of, kinds_asked
from trainer_configs.longlora.extend.plan import Plan

CAPTIONS = {
    "needles": "Single needles by depth and length",
    "keys": "Needles among others of their kind",
    "links": "Questions over one link, by depth of the answer",
    "lexical_gap": "Needles that share no word with their question",
}
CURVES = "perplexity.png"


def write_report(plan: Plan, out: Path, untrained: Sequence[str], stages: Sequence[JsonObject]) -> Path:
    """Write OUT/results.json and OUT/report/: report.html, and its pictures; return the page's path."""
    names = [*untrained, *(stage["name"] for stage in stages)]
    answers = {kind: evaluated(out, names, kind) for kind in kinds_asked(plan)}
    curves = {name: json.loads(path.read_text()) for name in names if (path := perplexity_path(out, name)).is_file()}
    results: JsonObject = {
        "settings": json.loads(json.dumps(asdict(plan.settings), default=str)),
        "native": plan.native,
        "notes": list(plan.notes),
        "stages": [{key: value for key, value in stage.items() if key != "losses"} for stage in stages],
        "evaluation": {kind: {name: _by_length(r) for name, r in found.items()} for kind, found in answers.items()},
        "general": {name: _general(found) for name in names if (found := general_of(out, name))},
        "absent": {name: _absent(records) for name, records in answers["needles"].items()},
        "perplexity": curves,
    }
    write_json(out / "results.json", results)
    folder = out / "report"
    pictures = [
        Picture(f"{kind}.png", CAPTIONS[kind], png(side_by_side({n: grid(present(r)) for n, r in found.items()})))
        for kind, found in answers.items()
        if found
    ]
    if curves:
        pictures.append(Picture(CURVES, "Perplexity of held-out text by position", _curves(curves)))
    for picture in pictures:
        with replacing(folder / picture.file) as file:
            file.write(picture.png)
    if needles := answers["needles"]:
        write_text(folder / "grid.csv", grid_csv(grid(present(list(needles.values())[-1]))))
    title = (
        f"{Path(plan.settings.model).name}: {plan.native:,} to {plan.settings.to:,} tokens by {plan.settings.method}"
    )
    page = ReportPage(title, _facts(results), pictures, table(results), results["settings"], (), {})
    write_text(folder / "report.html", page.html())
    return folder / "report.html"


def perplexity_path(out: Path, name: str) -> Path:
    """Return the file of one model's perplexity by position."""
    return out / "evaluation" / "perplexity" / f"{name}.json"


def table(results: JsonObject) -> str:
    """Return the figures as text: the share of right answers by length for every model, then how each was trained."""
    lines = []
    for kind, found in results["evaluation"].items():
        lengths = sorted({int(length) for shares in found.values() for length in shares})
        if not lengths:
            continue
        lines.append(f"{kind}, % right" + " " * (24 - len(kind)) + "".join(f"{length:>14,}" for length in lengths))
        for name, shares in found.items():
            cells = [_cell(shares.get(str(length))) for length in lengths]
            lines.append(f"{name:32}" + "".join(f"{cell:>14}" for cell in cells))
        lines.append("")
    if counts := _counts(results):
        lines += [*counts, ""]
    for stage in results["stages"]:
        if "skipped" in stage:
            lines.append(f"{stage['name']}: left out, {stage['skipped']}")
        else:
            rate, step = stage["learning_rate"], stage["seconds_a_step"]
            taken = f", {step:.2f} s a step" if step else ""
            lines.append(f"{stage['name']}: {counted(stage['steps'], 'step')}{taken}, learning rate {rate:.2g}")
    return "\n".join(lines)


def _counts(results: JsonObject) -> list[str]:
    """Return what of absent needles and of general questions each model had right."""
    absent = [
        f"{name:32}{100 * (1 - found['mean']):.0f} % of {found['n']} absent needles told to be absent"
        for name, found in results["absent"].items()
        if found
    ]
    general = [
        f"{name:32}{found['right']} of {found['n']} general questions, {100 * found['mean']:.0f} %"
        for name, found in results["general"].items()
    ]
    return absent + general


def _cell(share: JsonObject | None) -> str:
    if share is None:
        return "–"
    error = f" ± {100 * share['stderr']:.0f}" if share["stderr"] is not None else ""
    return f"{100 * share['mean']:.0f}{error}"


def _by_length(records: Sequence[Record]) -> JsonObject:
    """Return the share of right answers of questions whose fact is in the text, by length."""
    shares = {}
    for length, found in by(present(records), "length").items():
        stderr = found.stderr if found.n > 1 else None
        shares[str(length)] = {"mean": found.mean, "stderr": stderr, "n": found.n}
    return shares


def _general(found: Mapping[str, Share]) -> JsonObject:
    """Return how many general questions are right: in all, and of each kind."""
    every = sum(found.values(), Share())
    kinds = {kind: [share.right, share.asked] for kind, share in found.items()}
    return {"right": every.right, "n": every.asked, "mean": every.value, "kinds": kinds}


def _absent(records: Sequence[Record]) -> JsonObject | None:
    """Return the share of questions without an answer that got one; None where none was asked."""
    invented = false_answers(records).invented
    return {"mean": invented.mean, "n": invented.n} if invented.n else None


def _facts(results: JsonObject) -> list[Fact]:
    """Return the last model's figures at its longest prompts."""
    facts = []
    for kind, found in results["evaluation"].items():
        if found:
            name, shares = list(found.items())[-1]
            longest = max(shares, key=int)
            facts.append(Fact(f"{kind} at {int(longest):,}", f"{_cell(shares[longest])} %", f"of {name}"))
    if general := list(results["general"].values()):
        before = f"{100 * general[0]['mean']:.0f} % before" if len(general) > 1 else ""
        facts.append(Fact("General questions", f"{100 * general[-1]['mean']:.0f} %", before))
    trained = [stage for stage in results["stages"] if "skipped" not in stage]
    seconds = sum(stage["seconds"] for stage in trained)
    steps = sum(stage["steps"] for stage in trained)
    steps_in_stages = f"{counted(steps, 'step')} in {counted(len(trained), 'stage')}"
    facts.append(Fact("Training", f"{seconds / 60:.1f} min", steps_in_stages))
    return facts


def _curves(curves: dict[str, list[JsonObject]]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, buckets in curves.items():
        middles = [(bucket["start"] + bucket["end"]) / 2 for bucket in buckets]
        axes.plot(middles, [perplexity_of(min(b["nll"], 20.0)) for b in buckets], marker="o", label=name)
    axes.set(xlabel="position (tokens)", ylabel="perplexity", yscale="log")
    axes.legend()
    return png(figure)
