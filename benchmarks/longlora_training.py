"""The trainings of `benchmarks.longlora_run`: the recipe with one method's attention, run by Axolotl and watched."""

import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "trainer_configs" / "smollm2-135m-32k.yaml"
METHODS: dict[str, dict[str, Any]] = {  # of the recipe's `longlora` section; the one most is expected of comes first
    "full": {"attention": "full", "full_attention_steps": 1.0},
    "quarter": {"attention": "shifted", "full_attention_steps": 0.25},
    "tail_global": {"attention": "tail_global", "full_attention_steps": 0.0, "group_size": 4096},
    "shifted": {"attention": "shifted", "full_attention_steps": 0.0},
}
LOSS = re.compile(r"'loss': '?([\d.]+)")


def write_config(method: str, out: Path, model: Path, rows: Path, changes: dict[str, Any]) -> Path:
    """The recipe with this method's attention, below `out`."""
    import yaml

    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["longlora"] |= METHODS[method] | changes.pop("longlora", {})
    recipe["datasets"][0]["path"] = str(rows.resolve())
    recipe |= {"base_model": str(model.resolve()), "output_dir": str((out / method).resolve())}
    recipe |= {"dataset_prepared_path": str((out / "prepared").resolve()), **changes}
    path = out / f"{method}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@dataclass
class Training:
    """`axolotl train` in a process of its own; its output goes to a file, and the time of each step's loss is kept."""

    config: Path
    log: Path
    losses: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def start(self) -> "Training":
        """Start the process and read its output in a thread."""
        self.began = time.monotonic()
        quiet = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "axolotl.cli.main", "train", str(self.config), "--launcher", "python"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, **quiet, "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout
        with self.log.open("w") as log:
            for line in self.process.stdout:
                log.write(line)
                log.flush()
                if match := LOSS.search(line):
                    self.losses.append(float(match[1]))
                    self.times.append(time.monotonic())

    def wait(self, seconds: float) -> str:
        """Empty when it ended well, else why not; it is killed after `seconds`."""
        try:
            code: int | str = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            code = "killed: out of time"
        self.reader.join(10)
        return "" if code == 0 else f"training ended with {code} after {len(self.losses)} steps, see {self.log}"

    def figures(self) -> dict[str, Any]:
        """Seconds a step: the median of the last half, as an evaluation may run beside the first."""
        gaps = [b - a for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        step = statistics.median(gaps[len(gaps) // 2 :]) if gaps else None
        seconds = time.monotonic() - self.began
        return {"steps": len(self.losses), "seconds_a_step": step, "seconds": seconds, "losses": self.losses}
