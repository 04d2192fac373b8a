"""A trainer's state on disk: whole or not there, and enough to go on as if nothing had happened since."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from longthread.errors import ConfigError
from longthread.files import replacing_folder, write_json

KEPT = 2  # checkpoints


@dataclass
class State:
    """Where a run is. The samples that were trained on stand in the checkpoint whose weights have learnt from them."""

    step: int = 0
    version: int = 0  # of the last published weights
    steps_of: dict[int, int] = field(default_factory=dict)  # published version -> step
    seen: set[str] = field(default_factory=set)  # keys of samples


def save(
    folder: Path, state: State, base: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> None:
    """Write the checkpoint of a step, and delete all but the last `KEPT`."""
    with replacing_folder(folder / f"step-{state.step:06d}") as draft:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in parameters.items()}
        save_file(tensors, draft / "trained.safetensors")
        torch.save(optimizer.state_dict(), draft / "optimizer.pt")
        versions = {str(version): step for version, step in state.steps_of.items()}
        write_json(
            draft / "state.json",
            {
                "base": base,
                "step": state.step,
                "version": state.version,
                "steps_of": versions,
                "seen": sorted(state.seen),
            },
            indent=None,
        )
    for old in sorted(folder.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def load(folder: Path, base: str, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> State:
    """Set weights and optimizer to the newest checkpoint, and return its state; a new state where there is none.

    Raises `ConfigError` for a checkpoint of another model or adapter.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return State()
    newest = found[-1]
    saved, tensors = json.loads((newest / "state.json").read_bytes()), load_file(newest / "trained.safetensors")
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if saved["base"] != base or shapes != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ConfigError(
            f"{newest} is of another model or adapter: give another run", setting=("run", "model", "lora")
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    optimizer.load_state_dict(torch.load(newest / "optimizer.pt", weights_only=True))
    steps_of = {int(version): step for version, step in saved["steps_of"].items()}
    return State(saved["step"], saved["version"], steps_of, set(saved["seen"]))
