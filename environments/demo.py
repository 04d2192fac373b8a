"""`longthread demo`: the whole journey on a laptop without a GPU.

Fetches a real small model, starts the embedded server, runs `needle-env process` and `needle-env evaluate` against it as
a user would, and names the three results to look at. Every command is printed before it runs.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from environments.inference.embedded.demo_model import fetch
from longthread.errors import RunError, exit_on_error

MODEL = "SmolLM2-135M-Instruct"
# Numbers in plain replies: a model of 135M parameters writes no tags. Sized for two cores and six minutes.
COMMON = ("--env.answer_format", "plain", "--env.max_new_tokens", "40", "--env.value_kind", "numbers")
PROCESS = ("--env.tasks", "single,multi_key", "--env.distractors", "1", "--env.lengths", "1024,2048",
           "--env.temperature", "0.3", "--env.total_steps", "6", "--env.group_size", "4",
           "--env.max_num_workers", "2")  # fmt: skip
EVALUATE = ("--env.tasks", "single", "--env.lengths", "1024,2048,4096",
            "--env.depths", "5", "--env.repeats", "2", "--env.absent_share", "0", "--env.max_eval_workers", "2")  # fmt: skip


def demo(out: Path) -> None:
    """Run the demo; the results are below `out`. Raises SystemExit with one line when a step fails."""
    started = time.monotonic()
    rollouts, evaluation = _unused(out / "rollouts.jsonl"), _unused(out / "evaluation")
    with exit_on_error():
        model = fetch()
        with _embedded_server(model) as url:
            target = ("--env.tokenizer_name", str(model), "--openai.base_url", url, "--openai.model_name", MODEL)
            _run("process", *target, *COMMON, *PROCESS, "--env.data_path_to_save_groups", str(rollouts))
            _run("evaluate", *target, *COMMON, *EVALUATE, "--env.data_dir_to_save_evals", str(evaluation))
    print(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. Three things to look at:")
    print(f"  rollouts, a group a line             {rollouts}")
    print(f"  rollouts, to read in a browser       {rollouts.with_suffix('.html')}")
    print(f"  heatmap, and the report that has it  {evaluation / 'heatmap.png'}  {evaluation / 'report.html'}")
    print("The model is small: it finds most single needles, and near-duplicates and absent facts deceive it.")


def _unused(path: Path) -> Path:
    """Return the path or, if it exists, the first of `path_1`, `path_2`, … that does not, so that a second demo leaves
    the first one's results alone."""
    number, candidate = 0, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}_{number}")
    return candidate


def _run(command: str, *arguments: str) -> None:
    """Show and run one `needle-env` command."""
    print(f"\n$ {shlex.join(['needle-env', command, *arguments])}", flush=True)
    code = subprocess.run([sys.executable, "-m", "environments.needle_env", command, *arguments]).returncode
    if code:
        raise SystemExit(code)


@contextmanager
def _embedded_server(model: Path) -> Iterator[str]:
    """Run the embedded server in a process of its own, on a free port, while the block runs; yield its base URL."""
    command = [sys.executable, "-m", "environments.embedded_server", str(model), "--port", "0", "--model-name", MODEL]
    print(f"$ {shlex.join(['python', *command[1:]])}", flush=True)
    # Its progress bar would be noise between ours; its last line of stderr says why it did not start.
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            if line.startswith("ready "):
                yield line.split()[1]
                break
        else:
            raise RunError(f"the embedded server did not start: {process.stderr.read().strip()[-300:]}")
    finally:
        process.terminate()
        process.wait()
