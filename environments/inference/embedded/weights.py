"""New weights for a served model, from a file of a trainer on the same machine: checked whole, then swapped in at once.

    GET  /weights                    {"policy_version": 3, "base": "5f0c…"}
    POST /weights {"path": "…"}      the same, once the weights are in; requests that had begun end with the old ones

The file is safetensors: some or all of the model's parameters by their names, and as metadata the digest of the model that
training began with (`base`) and a number that grows (`policy_version`), which every reply then states.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from aiohttp import web
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from environments.inference.embedded.protocol import RequestError, shortened
from environments.inference.http_client import is_loopback
from longthread.files import replacing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from environments.inference.embedded.engine import Engine

SAMPLE = 32  # elements of each parameter that its model is known by


def base_digest(model: nn.Module) -> str:
    """Return 16 hex digits that name a model: its parameters' names, shapes, and some elements of each in bfloat16.

    So a model is the same in float32 and in bfloat16.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {sample.tolist()}".encode())
    return digest.hexdigest()[:16]


def write_weights(path: Path, weights: Mapping[str, Tensor], base: str, version: int) -> None:
    """Write a file for POST /weights; it appears complete. `base`: `base_digest` of the model before training."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with replacing(path) as file:
        file.write(save(tensors, {"base": base, "policy_version": str(version)}))


def read_weights(path: Path, model: nn.Module, base: str, served: int) -> tuple[dict[str, Tensor], int]:
    """Return a file's parameters and version. Raises `RequestError`, one line, for what does not belong to the model.

    `served`: the version that is served now; an older file is refused.
    """
    parameters = dict(model.named_parameters())
    try:
        with safe_open(path, "pt") as file:
            stated = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        version = int(stated["policy_version"])
    except (OSError, SafetensorError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as safetensors ({error}): write it anew") from None
    except KeyError:
        raise RequestError(f"{path} states no policy_version: write it with write_weights") from None
    if stated.get("base") != base:
        raise RequestError(
            f"{path} was trained from another model (base {stated.get('base')}, served is {base}): serve that model",
            code="other_model",
        )
    for name, tensor in weights.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            here = tuple(parameters[name].shape) if name in parameters else "none"
            message = f"{path} has {name} of shape {tuple(tensor.shape)}, the served model {here}: serve that model"
            raise RequestError(message, code="other_model")
        if not tensor.isfinite().all():
            raise RequestError(f"{path} has a number in {name} that is not finite: go back to an earlier checkpoint")
    if version <= served:
        raise RequestError(f"{path} has policy_version {version}, served is {served}: give a higher one", 409)
    return weights, version


def add_weight_routes(app: web.Application, engine: Engine) -> None:
    """Add GET and POST /weights to a server; only programs on this machine may post."""
    base = base_digest(engine.model)

    async def state(_: web.Request) -> web.Response:
        return web.json_response({"policy_version": engine.policy_version, "base": base})

    async def swap(request: web.Request) -> web.Response:
        if not is_loopback(f"http://{request.remote}"):
            raise RequestError(f"weights are taken from this machine alone (asked from {request.remote})", 403)
        try:
            path = json.loads(await request.read())["path"]
        except (ValueError, KeyError, TypeError):
            raise RequestError('the body must be {"path": "FILE.safetensors"}') from None
        if not isinstance(path, str):
            raise RequestError(f"path is {shortened(path)}: give a string")
        weights, version = await asyncio.to_thread(read_weights, Path(path), engine.model, base, engine.policy_version)
        # Shielded: weights that are half copied would be nobody's.
        await asyncio.shield(asyncio.wrap_future(engine.swap(weights, version)))
        return await state(request)

    app.router.add_get("/weights", state)
    app.router.add_post("/weights", swap)
