"""Results of `benchmarks.lift` in a JSON file, each written as soon as it is there."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import lift
from benchmarks.spread import spread
from longthread.files import JsonObject, write_json

Work = Callable[..., dict[str, Any]]


def code() -> str:
    """SHA-256 of lift's files: a recipe does not say how it is carried out."""
    files = sorted(Path(lift.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Store:
    """A JSON file of results by key, rewritten whenever something was added. No job begins `seconds` after its making."""

    def __init__(self, path: Path, seconds: float = 1e9, each: int = 1):
        self.path, self.each = path, each
        self.results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self.ends = time.monotonic() + seconds

    def measure(self, work: Work, jobs: Mapping[str, tuple[Any, ...]], bases: Mapping[Path, str]) -> None:
        """Measure in their order those jobs that are not there yet, of this recipe, code, base model and document.

        A job's arguments are those of `work` but the last, its folder. The first is a base model's folder, whose fingerprint
        is in `bases`, the second a recipe or None.
        """
        version = code()
        made_by: dict[str, JsonObject] = {}
        for key, (base, given, *rest) in jobs.items():
            stated = None if given is None else json.loads(json.dumps(asdict(given)))
            made_by[key] = {
                "recipe": stated,
                "base": bases[base],
                "code": version,
                "of": [_stated(each) for each in rest],
            }
        new = {
            key: (*job, self.path.parent / key.replace(" ", "-"))
            for key, job in jobs.items()
            if not made_by[key].items() <= self.results.get(key, {}).items()
        }
        left = self.ends - time.monotonic()
        with tqdm(total=len(new), unit="fit", disable=not new) as bar:
            for key, result in spread(work, new, torch.cuda.device_count(), left, self.each):
                bar.update()
                if isinstance(result, Exception):
                    bar.write(f"{key}: {type(result).__name__}: {result}")
                    continue
                self.results[key] = {**result, **made_by[key], "gpu_alone": self.each == 1}
                write_json(self.path, self.results, indent=1)
                bar.write(f"{key}: {summary(result)}")


def _stated(argument: Any) -> Any:
    """What says which a job is, as JSON: of a file its digest, of a folder its name."""
    if isinstance(argument, Path):
        return hashlib.sha256(argument.read_bytes()).hexdigest() if argument.is_file() else argument.name
    return [_stated(each) for each in argument] if isinstance(argument, list) else argument


def summary(result: dict[str, Any]) -> str:
    """One line of a result: of a fit its recall and cost, of anything else its figures."""
    if "results" not in result:
        return json.dumps(result)
    closed = {kind: rate["share"] for kind, rate in result["results"]["closed"].items()}
    change = result["results"]["nll"] - result["results"]["nll_off"]
    return f"{closed} neutral {change:+.3f} fit {result['seconds']:.1f} s {result['losses']}"
