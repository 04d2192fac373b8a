"""Three processes of Atropos at work for `longthread collect`: run-api, a generator and an environment, started, watched
and ended together."""

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from longthread.secrets import KEY_VARIABLES, redact_text

ENVIRONMENTS = {"needle": ("needle_env", "NeedleEnv"), "linked": ("linked_needle_env", "LinkedNeedleEnv")}
DPO_GROUPS = 8  # atropos-dpo-gen registers batches of so many times its --group-size, and uses that for nothing else
QUEUE_GROUPS = 16  # groups that may wait in run-api before the environment drops what it is working on
ENDLESS = 10**8  # rows and steps that are never reached: this process decides when there are enough
# Seconds: between looks; between questions to run-api; without a row before the reason is told; to end in.
POLL, ASK, QUIET, GRACE = 0.2, 1.0, 60.0, 5.0
# Runs a module's `main` that ends when our end of its standard input closes, so also if we are killed with -9. The files
# that the module opens are buffered by the line, so that a row is in the generator's file as soon as it is made.
# They work in the folder of the run: the generators make the environment write checkpoints into the current one.
PACKAGES = str(Path(__file__).resolve().parents[1])
LAUNCH = """
import functools, importlib, os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.path.append(sys.argv[1])
sys.argv = sys.argv[2:]
module = importlib.import_module(sys.argv[0])
module.open = functools.partial(open, buffering=1)
module.main()
"""


@dataclass(frozen=True)
class Plan:
    """What one run wants. `least` is the lowest score of an SFT row, or what a DPO pair must differ by more than."""

    kind: str
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
    passed: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Sequences that run-api hands on at a time: one group where it can be, so that rows come early and no batch is
        too large for it."""
        return self.group_size if self.kind == "sft" else math.lcm(DPO_GROUPS, self.group_size)

    def served(self, api: str, workers: int) -> list[str]:
        """The settings of the environment."""
        ahead = math.ceil((QUEUE_GROUPS + workers) * self.group_size / self.batch)
        settings = {
            "env.tokenizer_name": self.tokenizer,
            "env.group_size": self.group_size,
            "env.rollout_server_url": api,
            "env.batch_size": -1,  # the generator's
            "env.total_steps": ENDLESS,
            "env.max_batches_offpolicy": ahead,
            "env.include_messages": True,
            # A group of right answers alone teaches SFT as well as any; a pair needs a difference.
            "env.ensure_scores_are_not_same": self.kind == "dpo",
            "openai.base_url": self.url,
            "openai.model_name": self.model,
            "openai.server_type": self.server_type,
        }
        return [*self.passed, *(f"--{name}={value}" for name, value in settings.items())]

    def generated(self, api: str, rows: Path, longest: int) -> list[str]:
        """The arguments of atropos-sft-gen or atropos-dpo-gen."""
        args = [str(rows), "--api-url", api, "--tokenizer", self.tokenizer, "--save-messages"]
        args += ["--max-token-len", str(longest + 1), "--num-seqs-to-save", str(ENDLESS)]
        if self.kind == "sft":
            return [*args, "--group-size", str(self.batch), "--tasks-per-step", "1",
                    "--save-top-n-per-group", str(self.top)]  # fmt: skip
        return [*args, "--group-size", str(self.batch // DPO_GROUPS), "--save-n-pairs-per-group", str(self.top),
                "--minimum-score-diff-max-min", str(self.least)]  # fmt: skip

    def wants(self, row: dict[str, Any]) -> bool:
        # atropos-sft-gen keeps every score above 0, and so what a wrong answer earns for its form.
        return self.kind == "dpo" or row["score"] >= self.least


class Lines:
    """The whole lines that a growing file has got since they were last asked for."""

    def __init__(self, path: Path):
        self.path, self.end = path, 0

    def new(self) -> list[bytes]:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.end)
            whole, newline, _ = file.read().rpartition(b"\n")
            self.end += len(whole) + len(newline)
            return whole.split(b"\n") if newline else []
        return []


class Collection:
    """Three processes, the rows that they have made and what they said."""

    def __init__(self, plan: Plan, folder: Path):
        self.plan, self.folder, self.stopped = plan, folder, False
        self.kept_in = folder / plan.out.name
        self.kept = self.size = self.groups = self.same = 0
        self.before = 0  # groups at the last row
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._rows, self._said = Lines(folder / "rows.jsonl"), Lines(folder / "environment.log")
        self._shown: set[str] = set()
        self._heard = self._asked = time.monotonic()

    def run(self, longest: int, workers: int) -> str | None:
        """Until there are rows enough (None), `stopped` is set or a process ends (which, in one line). No process is left."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        api = f"http://127.0.0.1:{self.port}"
        try:
            with self.kept_in.open("wb") as kept, tqdm(total=self.plan.rows, unit="row", desc=self.plan.kind) as bar:
                try:
                    problem = self._until_enough(api, longest, workers, lambda: self._look(kept, bar))
                finally:
                    self._end()
                self._look(kept, bar)  # what came last
                os.fsync(kept.fileno())
        except OSError as error:
            problem = str(error)
            os.truncate(self.kept_in, self.size)  # a full disk may have cut the last row
        return problem if self.kept < self.plan.rows else None

    def _until_enough(self, api: str, longest: int, workers: int, look: Callable[[], None]) -> str | None:
        self._start("run-api", "atroposlib.cli.run_api", ["--host", "127.0.0.1", "--port", str(self.port)])
        while not self._ask_api():
            if problem := self._problem():
                return problem
            time.sleep(POLL)
        # Both at once: run-api itself lets the environment in when the generator has registered.
        generator = self.plan.generated(api, self._rows.path, longest)
        self._start("generator", f"atroposlib.cli.{self.plan.kind}", generator)
        module = f"environments.{ENVIRONMENTS[self.plan.env][0]}"
        self._start("environment", module, ["serve", *self.plan.served(api, workers)])
        while self.kept < self.plan.rows:
            if problem := self._problem():
                return problem
            time.sleep(POLL)
            look()
        return None

    def _start(self, name: str, module: str, args: list[str]) -> None:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment.setdefault("WANDB_DIR", os.getcwd())  # the folder of the run is removed at its end
        if name != "environment":  # nothing else needs the key
            environment = {key: value for key, value in environment.items() if key not in KEY_VARIABLES}
        with (self.folder / f"{name}.log").open("wb") as log:
            self.children[name] = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, PACKAGES, module, *args], cwd=self.folder,
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip

    def _end(self) -> None:
        """The newest first, each given its time to end in order; those that take too long are killed."""
        deadline = time.monotonic() + GRACE
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in reversed(self.children.values()):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)  # a session of its own: what it has started goes with it
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()) if number == signal.SIGTERM else None)
        for child in self.children.values():
            if child.stdin:
                child.stdin.close()

    def _problem(self) -> str | None:
        if self.stopped:
            return "interrupted"
        for name, child in self.children.items():
            if child.poll() is not None:
                return f"{name} ended ({_ending(child.returncode)}): {_last_words(self.folder / f'{name}.log')}"
        return None

    def _ask_api(self) -> bool:
        """Whether run-api answers; counts the groups that it has got. It is silent while it passes on a large batch."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/status")
            status = json.load(connection.getresponse())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        finally:
            connection.close()
        self.groups = status["current_step"] * self.plan.batch // self.plan.group_size + status["queue_size"]
        return True

    def _look(self, kept: Any, bar: Any) -> None:
        """Takes the rows that have come, tells what the environment says, and why nothing comes."""
        for line in self._rows.new():
            if self.kept < self.plan.rows and self.plan.wants(json.loads(line)):
                kept.write(line + b"\n")
                kept.flush()
                self.kept, self.size = self.kept + 1, self.size + len(line) + 1
                bar.update()
                self.before, self.same, self._heard = self.groups, 0, time.monotonic()
        for said in (line.decode(errors="replace") for line in self._said.new()):
            if same := re.search(r"(\d+) groups in a row are not sent", said):
                self.same = int(same[1])
            if note := self._note(said):
                bar.write(f"environment: {note}", file=sys.stderr)
        if time.monotonic() - self._asked > ASK:
            self._ask_api()
            self._asked = time.monotonic()
            bar.set_postfix(groups=self.groups)
        if time.monotonic() - self._heard > QUIET:
            self._heard = time.monotonic()
            bar.write(f"no row for {QUIET:.0f} s: {self.reason()}", file=sys.stderr)

    def _note(self, said: str) -> str | None:
        """A warning of the environment, once: its like, with other numbers, is not shown again."""
        kind = re.sub(r"\d+", "#", said)
        usual = "Waiting to register" in said
        if not said.startswith(("WARNING", "ERROR", "error:")) or usual or kind in self._shown:
            return None
        self._shown.add(kind)
        return redact_text(said)[:300]

    def reason(self) -> str:
        """Why no row comes, as far as can be told."""
        groups = self.groups - self.before
        if self.same:
            return (
                f"{self.same} groups in a row had completions that all scored the same; easier settings (shorter "
                "--env.lengths), a larger --group-size or a higher --env.temperature make them differ"
            )
        if groups < (batch := self.plan.batch // self.plan.group_size):
            why = "the model may need that long" + ", or all of a group score the same" * (self.plan.kind == "dpo")
            return f"{groups} of the {batch} groups of a batch have come; {why} (see {self.folder / 'environment.log'})"
        if self.plan.kind == "dpo":
            return (
                f"{groups} groups came, none with a pair that differs by more than --min-difference {self.plan.least}"
            )
        return (
            f"{groups} groups came, none with a completion that scores --min-score {self.plan.least}; easier settings "
            "(shorter --env.lengths, --env.answer_format plain) give the model a chance"
        )


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _last_words(log: Path) -> str:
    """The last line of a log that speaks of an error, or else the last one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    return redact_text((errors or lines or ["it said nothing"])[-1].removeprefix("error: "))[:300]
