"""Axolotl for one stage: the recipe with the stage's model, rows and rates, and `axolotl train` in a process of its own."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from longthread.files import JsonObject, write_text
from trainer_configs.longlora.row_files import ROWS

ROOT = Path(__file__).parents[3]
# Not `-m axolotl.cli.main`: datasets saves the rows in a process of its own, which would import that module anew, for 15 s.
PROGRAM = "from axolotl.cli.main import main; main()"
LOSS = re.compile(r"'loss': '?([\d.]+)")
RATES = ("embedding_lr", "norm_lr")
CHECKPOINTS = 4  # of a stage, to go on from


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
        command = [sys.executable, "-c", PROGRAM, "train", str(self.config), "--launcher", "python"]
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

    def wait(self, seconds: float | None = None) -> str:
        """Empty when it ended well, else why not; it is killed after `seconds`, and when this process is interrupted."""
        try:
            code: int | str = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            code = "killed: out of time"
        except BaseException:
            self.kill()
            raise
        self.reader.join(10)
        return "" if code == 0 else f"training ended with {code} after {len(self.losses)} steps, see {self.log}"

    def kill(self) -> None:
        """End the process and its children."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def figures(self) -> JsonObject:
        """Seconds a step: the median of the last half, as an evaluation may run beside the first."""
        gaps = [b - a for a, b in zip(self.times[:-1], self.times[1:], strict=True)]
        step = statistics.median(gaps[len(gaps) // 2 :]) if gaps else None
        seconds = time.monotonic() - self.began
        return {"steps": len(self.losses), "seconds_a_step": step, "seconds": seconds, "losses": self.losses}


@dataclass(frozen=True)
class StageConfig:
    """What a stage changes in its recipe. `rows`: how many are trained on, each once; `rate`: of the learning rates."""

    base: Path
    out: Path
    datasets: list[JsonObject]
    length: int
    rows: int
    rate: float
    learning_rate: float | None
    seed: int
    section: JsonObject  # of `longlora`; None takes a key out
    more: JsonObject = field(default_factory=dict)

    def of(self, recipe: JsonObject) -> JsonObject:
        """Return the recipe with the stage's changes."""
        made: dict[str, Any] = {**recipe, "longlora": {**recipe["longlora"]}}
        section = made["longlora"]
        if recipe.get("sequence_len") != self.length:
            section.pop("group_size", None)  # the plugin's default follows the length
        section |= {name: section[name] * self.rate for name in RATES if section.get(name)}
        section |= self.section
        made["longlora"] = {name: value for name, value in section.items() if value is not None}
        steps = max(1, self.rows // (made.get("micro_batch_size", 1) * made.get("gradient_accumulation_steps", 1)))
        made |= {
            "base_model": str(self.base.resolve()),
            "datasets": self.datasets,
            "dataset_prepared_path": str((self.out / "prepared").resolve()),
            "output_dir": str((self.out / "adapter").resolve()),
            "sequence_len": self.length,
            "max_steps": steps,
            "learning_rate": (self.learning_rate or made["learning_rate"]) * self.rate,
            "seed": self.seed,
            "save_strategy": "steps",
            "save_steps": max(1, steps // CHECKPOINTS),
            "save_total_limit": 1,
            "auto_resume_from_checkpoints": True,
        }
        made.pop("num_epochs", None)
        if "num_decay_steps" in (made.get("lr_scheduler_kwargs") or {}):
            made["lr_scheduler_kwargs"] = {"num_decay_steps": max(1, steps // 5)}
        if "warmup_steps" in made:
            made["warmup_steps"] = max(1, steps // 20)
        return made | self.more

    def write(self, recipe: JsonObject) -> Path:
        """Write the stage's YAML beside its adapter, and return its path."""
        path = self.out / "recipe.yaml"
        write_text(path, yaml.safe_dump(self.of(recipe), sort_keys=False))
        return path


def drop_cut_checkpoints(adapter: Path) -> list[str]:
    """Remove the checkpoints that a kill cut off while they were written, and return their names.

    The trainer writes its state last. Axolotl goes on from the checkpoint of the highest number, and fails without it.
    """
    cut = [path for path in sorted(adapter.glob("checkpoint-*")) if not _has_state(path)]
    for path in cut:
        shutil.rmtree(path)
    return [path.name for path in cut]


def _has_state(checkpoint: Path) -> bool:
    try:
        return bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (OSError, ValueError):
        return False


def rows_of(folder: Path) -> list[JsonObject]:
    """Return the `datasets` entry of tokenised rows."""
    return [{"path": str(folder.resolve()), "type": ROWS}]


def pairs_of(path: Path) -> list[JsonObject]:
    """Return the `datasets` entry of the pairs of `longthread export dpo`."""
    entry = {"ds_type": "json", "split": "train", "type": "chat_template.argilla_chat"}
    return [{"path": str(path.resolve()), **entry}]
