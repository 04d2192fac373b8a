"""What `longthread collect` runs of Atropos: run-api, a generator and an environment, with settings that fit together."""

import contextlib
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from longthread.secrets import KEY_VARIABLES, redact_text

ENVIRONMENTS = {"needle": ("needle_env", "NeedleEnv"), "linked": ("linked_needle_env", "LinkedNeedleEnv")}
DPO_GROUPS = 8  # atropos-dpo-gen registers batches of so many times its --group-size, and uses that for nothing else
QUEUE_GROUPS = 16  # groups that may wait in run-api before the environment drops what it is working on
ENDLESS = 10**8  # rows and steps that are never reached: `collect` decides when there are enough
GRACE_SECONDS = 5.0  # to end in
LAST_WORDS = 65_536  # bytes of a log that are searched for the reason of an end
# So that children find this package from the folder of the run, in which they work: the generators make the environment
# write checkpoints into the current folder.
PACKAGES = str(Path(__file__).resolve().parents[2])


class Kind(StrEnum):
    """Which generator makes the rows."""

    SFT = "sft"
    DPO = "dpo"


class Limits(NamedTuple):
    """What follows from the environment's settings: the tokens of the longest sequence, and the number of workers."""

    sequence_tokens: int  # of the longest sequence
    workers: int


@dataclass(frozen=True)
class CollectionPlan:
    """The settings of one `longthread collect`.

    `least` is the lowest score of an SFT row, or what the scores of a DPO pair must differ by more than.
    """

    kind: Kind
    out: Path
    rows: int
    env: str
    tokenizer: str
    url: str
    model: str
    server_type: str
    group_size: int
    top: int
    least: float
    passed: tuple[str, ...] = ()  # arguments for the environment

    @property
    def batch(self) -> int:
        """Sequences that run-api hands on at a time: one group where possible, so that rows come early and no batch is
        too large for it."""
        return self.group_size if self.kind == Kind.SFT else math.lcm(DPO_GROUPS, self.group_size)

    def environment_args(self, api: str, workers: int) -> list[str]:
        """Return the command-line arguments of the environment's `serve`."""
        batches_ahead = math.ceil((QUEUE_GROUPS + workers) * self.group_size / self.batch)
        settings = {
            "env.tokenizer_name": self.tokenizer,
            "env.group_size": self.group_size,
            "env.rollout_server_url": api,
            "env.batch_size": -1,  # the generator's
            "env.total_steps": ENDLESS,
            "env.max_batches_offpolicy": batches_ahead,
            "env.include_messages": True,
            # A group of right answers alone teaches SFT as well as any; a pair needs a difference.
            "env.ensure_scores_are_not_same": self.kind == Kind.DPO,
            "openai.base_url": self.url,
            "openai.model_name": self.model,
            "openai.server_type": self.server_type,
        }
        return [*self.passed, *(f"--{name}={value}" for name, value in settings.items())]

    def generator_args(self, api: str, rows: Path, sequence_tokens: int) -> list[str]:
        """Return the command-line arguments of atropos-sft-gen or atropos-dpo-gen."""
        args = [str(rows), "--api-url", api, "--tokenizer", self.tokenizer, "--save-messages"]
        args += ["--max-token-len", str(sequence_tokens + 1), "--num-seqs-to-save", str(ENDLESS)]
        if self.kind == Kind.SFT:
            args += ["--group-size", str(self.batch), "--tasks-per-step", "1"]
            return [*args, "--save-top-n-per-group", str(self.top)]
        args += ["--group-size", str(self.batch // DPO_GROUPS), "--save-n-pairs-per-group", str(self.top)]
        return [*args, "--minimum-score-diff-max-min", str(self.least)]

    def wants(self, line: bytes) -> bool:
        """Return True for a generator's row to keep: any DPO pair, and an SFT row that scores at least `least`."""
        # atropos-sft-gen keeps every score above 0, and so what a wrong answer earns for its form.
        return self.kind == Kind.DPO or json.loads(line)["score"] >= self.least


class Processes:
    """Starts and ends processes that work in `folder`, each with a log file there."""

    def __init__(self, folder: Path):
        """Keep the folder; nothing is started yet."""
        self.folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, args: Sequence[str]) -> None:
        """Start a process that runs the `main` of a module. The process ends with this one, even after kill -9."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (PACKAGES, os.environ.get("PYTHONPATH"))))
        environment.setdefault("WANDB_DIR", os.getcwd())  # the folder of the run is removed at its end
        if name != "environment":  # nothing else needs the key
            environment = {key: value for key, value in environment.items() if key not in KEY_VARIABLES}
        command = [sys.executable, "-P", "-m", "environments.datasets.child_process", module, *args]
        with self.log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        """Return the path of the file that holds a process's output."""
        return self.folder / f"{name}.log"

    def ended(self) -> str | None:
        """Return in one line which process has ended, how, and the last words of its log; None while all run."""
        for name, child in self._children.items():
            if (code := child.poll()) is not None:
                how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                return f"{name} ended ({how}): {last_words(self.log(name))}"
        return None

    def end(self) -> None:
        """End all processes, the newest first; those that outlast `GRACE_SECONDS` are killed."""
        deadline = time.monotonic() + GRACE_SECONDS
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in reversed(self._children.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)  # a session of its own: what it has started goes with it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()) if number == signal.SIGTERM else None)
        for child in self._children.values():
            if child.stdin:
                child.stdin.close()


class RunApi:
    """Atropos' run-api at a free port of this machine."""

    def __init__(self, plan: CollectionPlan):
        """Choose the port; `Processes` starts the server there."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._groups_of_a_batch = plan.batch // plan.group_size

    def groups(self) -> int | None:
        """Return how many groups run-api has received; None while it does not answer, as when it hands on a large batch."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/status")
            status = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return status["current_step"] * self._groups_of_a_batch + status["queue_size"]


def last_words(log: Path) -> str:
    """Return the last line of a log that mentions an error or, if none does, its last line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    return redact_text((errors or lines or ["it said nothing"])[-1].removeprefix("error: "))[:300]
