"""Two trainer processes on CPUs, by gloo, against one: the same weights after some steps, and the same numbers of a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch.testing import assert_close

from tests.environments.tiny_model import save_tiny

PROGRAM = """
import json, sys
import torch
from safetensors.torch import save_file
from trainer_configs.atropos_rl.config import RLConfig
from trainer_configs.atropos_rl.groups import Group
from trainer_configs.atropos_rl.trainer import Trainer

torch.set_num_threads(1)
settings, out = json.loads(sys.argv[1]), sys.argv[2]
trainer = Trainer(RLConfig.model_validate(settings))

def group(i):
    completions = [[60 + i, 70], [80, 90 + i, 100]]
    old = [[-4.0] * len(one) for one in completions]
    trained = [[True] * len(one) for one in completions]
    return Group(str(i), "t", 9, [1 + i] * (4 + 5 * i), completions, trained, old, [1.0, 0.0], 0)

if trainer.processes.rank:
    trainer._work()
else:
    rows = []
    for step in range(3):
        sums, norm = trainer._shared_update([group(i) for i in range(3 if step else 1)])  # one process without a group
        trainer.state.step += 1
        rows.append([sums.tokens, sums.loss, sums.entropy, sums.ratio_max, norm])
    trainer.processes.share(None)
    save_file({name: p.detach().contiguous() for name, p in trainer.policy.parameters().items()}, out + ".safetensors")
    open(out + ".json", "w").write(json.dumps(rows))
"""


def trained(folder: Path, out: Path, processes: int) -> tuple[dict[str, Any], list[list[float]]]:
    settings = {
        "model": str(folder), "run": str(out), "environments": [{"program": "needle"}], "batch": {"max_tokens": 256},
        "optimizer": {"learning_rate": 0.01, "warmup_steps": 0}, "loss": {"scale": "none"},
    }  # fmt: skip
    program = out.with_suffix(".py")
    program.write_text(PROGRAM)
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path]), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, *several, program, json.dumps(settings), str(out)], check=True, env=environment)
    return load_file(out.with_suffix(".safetensors")), json.loads(out.with_suffix(".json").read_text())


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    one, its_rows = trained(folder, tmp_path / "one", 1)
    two, rows = trained(folder, tmp_path / "two", 2)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert_close(two[name], tensor, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert_close(rows, its_rows, atol=1e-5, rtol=1e-4)
    assert rows[0][0] == 5 and rows[1][0] == 15
