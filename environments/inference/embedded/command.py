"""The command line of the embedded server: `python -m environments.embedded_server MODEL_DIR --port 9001`."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from environments.inference.embedded.server import EmbeddedServer
from longthread.command_line import App
from longthread.errors import exit_on_error, option
from longthread.files import JsonObject

LOOPBACK = ("127.0.0.1", "localhost", "::1")


async def serve(server: EmbeddedServer) -> None:
    """Start the server, print its base URL, and stop it on SIGTERM or SIGINT."""
    done = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, done.set)
    if server.host not in LOOPBACK:
        print(f"embedded server: bound to {server.host}, so others on the network can reach it", file=sys.stderr)
    print(f"ready {await server.start()}", flush=True)
    await done.wait()
    await server.stop()


# No locals in a traceback: they hold the key.
app = App()


@app.command()
def main(
    model_dir: Annotated[Path, typer.Argument(help="a local Hugging Face folder with safetensors")],
    port: Annotated[int, typer.Option(help="0 picks a free one")] = 9001,
    host: Annotated[str, typer.Option(help="anything but loopback is reachable by others")] = "127.0.0.1",
    dtype: Annotated[
        str, typer.Option(help="auto (float32 on CPU, bfloat16 on CUDA), float32, bfloat16, float16")
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="requests decoded together")] = 8,
    model_name: Annotated[
        str | None, typer.Option(help="what clients call it", show_default="the folder's name")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="LONGTHREAD_API_KEY", show_default=False, help="the Bearer token to ask for")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="torch threads", show_default="one a core")] = None,
) -> None:
    """Serve a small local model to Atropos; SIGTERM and SIGINT end it."""
    named: JsonObject = {
        "host": host,
        "port": port,
        "dtype": dtype,
        "max_batch": max_batch,
        "model_name": model_name,
    }
    server = EmbeddedServer(model_dir, **named, api_key=api_key, threads=threads)
    print(
        "embedded server: a small model on this machine, for tests and the demo; for more use vLLM or SGLang",
        file=sys.stderr,
    )
    with exit_on_error(option):
        asyncio.run(serve(server))
