"""metrics.json of an evaluation."""

import json
import math
from pathlib import Path
from typing import Any

from environments.reports import metrics as report_numbers
from environments.reports.html import replacing


def write_metrics(path: Path, records: list[dict[str, Any]], model: str, config: dict[str, Any]) -> dict[str, float]:
    """metrics.json in the form of atroposlib's `evaluate_log`, with standard errors beside the means. The metrics."""
    effective = report_numbers.effective_length(records)
    invented = report_numbers.false_answers(records)
    metrics: dict[str, float] = {}
    for name, estimates in (
        ("score", {"all": report_numbers.estimate([r["score"] for r in records])}),
        ("score_present", {"all": report_numbers.estimate([r["score"] for r in report_numbers.present(records)])}),
        ("score_by_task", report_numbers.by(records, "task")),
        ("score_by_length", report_numbers.by(records, "length")),
        ("false_answers", {"all": invented.invented}),
        ("false_silence", {"all": invented.withheld}),
    ):
        for key, found in estimates.items():
            if found.n:
                label = f"eval/{name}" if key == "all" else f"eval/{name}/{key}"
                metrics[label] = found.mean
                if math.isfinite(found.stderr):
                    metrics[f"{label}/stderr"] = found.stderr
    metrics["eval/effective_length"] = (effective.length or 0) if effective else 0
    task = f"atropos|{config['wandb_name']}|0"
    body = {
        "config_general": {"model_name": model, "samples": len(records)},
        "results": {task: metrics, "all": metrics},
    }
    with replacing(path) as file:
        file.write(json.dumps(body, indent=2).encode())
    return metrics
