"""The state of a fit: weights and AdamW's moments as safetensors, the step and the digest of the fit as JSON."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from longthread.files import replacing, write_json

MOMENTS = ("exp_avg", "exp_avg_sq")
STATE = "checkpoint.json"


def digest_of(parts: Sequence[object], frozen: Iterable[Tensor]) -> str:
    """Return a SHA-256 (hex) that identifies a fit: by `parts`, and by the first weights of the `frozen` tensors."""
    base = torch.cat([tensor.detach().flatten()[:16].float().cpu() for tensor in frozen]).numpy().tobytes()
    return hashlib.sha256(json.dumps(parts).encode() + base).hexdigest()


def save(folder: Path, step: int, digest: str, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """Save the state of a fit: weights, AdamW's moments, step and digest.

    The JSON is written last and names the weights' file, so a kill leaves the old state or the new one.
    """
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in trained.items()}
    for name, p in trained.items():
        state = optimizer.state.get(p, {})
        tensors |= {f"{key}.{name}": state[key].contiguous() for key in MOMENTS if key in state}
    weights = folder / f"checkpoint-{step}.safetensors"
    with replacing(weights) as file:
        save_file(tensors, file.name)
    write_json(folder / STATE, {"step": step, "of": digest})
    for older in folder.glob("checkpoint-[0-9]*.safetensors"):
        if older != weights:
            older.unlink()


@torch.no_grad()
def load(folder: Path, digest: str, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> int | None:
    """Restore the saved state into weights and optimizer, and return its step.

    Returns None and changes nothing without a complete state of this very fit, known by `digest`.
    """
    try:
        state = json.loads((folder / STATE).read_text())
        if state["of"] != digest:
            return None
        tensors = load_file(folder / f"checkpoint-{state['step']}.safetensors")
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return None
    for name, p in trained.items():
        p.copy_(tensors[f"weight.{name}"])
        if f"{MOMENTS[0]}.{name}" in tensors:
            moments = {key: tensors[f"{key}.{name}"].to(p.device) for key in MOMENTS}
            optimizer.state[p] = {"step": torch.tensor(float(state["step"]), device=p.device), **moments}
    return int(state["step"])


def remove(folder: Path) -> None:
    """Remove the saved state from the folder, if there is one."""
    (folder / STATE).unlink(missing_ok=True)  # first: it names another
    for pattern in ("checkpoint*", ".checkpoint*.part"):
        for file in folder.glob(pattern):
            file.unlink()
