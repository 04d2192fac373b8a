"""A fit's state in a folder: weights and AdamW's moments as safetensors, the step and what it is a fit of as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
STATE = "checkpoint.json"


def save(folder: Path, step: int, digest: str, trained: Mapping[str, Tensor], optimizer: Any) -> None:
    """The JSON is written last and names the weights' file, so that a kill at any moment leaves the old or the new."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in trained.items()}
    for name, p in trained.items():
        held = optimizer.state.get(p, {})
        tensors |= {f"{key}.{name}": held[key].contiguous() for key in MOMENTS if key in held}
    file, scratch = folder / f"checkpoint-{step}.safetensors", folder / "checkpoint.tmp"
    save_file(tensors, scratch)
    scratch.replace(file)
    scratch.write_text(json.dumps({"step": step, "of": digest}))
    scratch.replace(folder / STATE)
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != file:
            old.unlink()


@torch.no_grad()
def load(folder: Path, digest: str, trained: Mapping[str, Tensor], optimizer: Any) -> int | None:
    """Puts the state back and returns its step; None and nothing changed where there is none of this very fit, whole."""
    try:
        said = json.loads((folder / STATE).read_text())
        if said["of"] != digest:
            return None
        tensors = load_file(folder / f"checkpoint-{said['step']}.safetensors")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return None
    for name, p in trained.items():
        p.copy_(tensors[f"weight.{name}"])
        if f"{MOMENTS[0]}.{name}" in tensors:
            moments = {key: tensors[f"{key}.{name}"].to(p.device) for key in MOMENTS}
            optimizer.state[p] = {"step": torch.tensor(float(said["step"]), device=p.device), **moments}
    return int(said["step"])


def remove(folder: Path) -> None:
    (folder / STATE).unlink(missing_ok=True)  # first: it names another
    for file in folder.glob("checkpoint*"):
        file.unlink()
