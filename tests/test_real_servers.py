"""Whole commands against real servers of other people: `make test-servers`, not part of `make test`.

Each is started on a free port with SmolLM2-135M-Instruct, and skipped where it is not installed. `VLLM` names vLLM's command
where it stands in another environment, `LLAMA_PYTHON` the Python that has `llama_cpp.server`, `LLAMA_GGUF` its model.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import load_tokenizer
from environments.inference.completions import request_group
from environments.inference.contracts import CompletionRequest, PlainServer, ServerAddress
from environments.inference.embedded.demo_model import fetch
from environments.inference.embedded.server import background
from environments.inference.endpoint import Endpoint
from longthread.errors import exit_on_error
from tests.environments.loopback import rows_of, run_cli

pytestmark = pytest.mark.real_server
START_SECONDS = 900  # vLLM compiles before it answers
LENGTHS = (512, 1024)


@dataclass(frozen=True)
class Real:
    """A running server: its address, its name for the model, and whether it gives tokens and the model's own floats."""

    url: str
    model: str
    tokens: bool
    exact: bool


def _vllm(folder: Path, port: int) -> tuple[list[str], str]:
    command = os.environ.get("VLLM") or shutil.which("vllm")
    if not command:
        pytest.skip("vLLM is not installed: put its command into VLLM")
    options = ["--dtype", "float32", "--max-model-len", "2048", "--enforce-eager", "--generation-config", "vllm"]
    return [command, "serve", str(folder), *options, "--served-model-name", "m", "--port", str(port)], "m"


def _llama(folder: Path, port: int) -> tuple[list[str], str]:
    python, gguf = os.environ.get("LLAMA_PYTHON", sys.executable), os.environ.get("LLAMA_GGUF", "")
    if subprocess.run([python, "-c", "import llama_cpp.server"], capture_output=True).returncode or not gguf:
        pytest.skip("llama_cpp.server is not installed (LLAMA_PYTHON), or LLAMA_GGUF names no model")
    options = ["--model", gguf, "--n_ctx", "2048", "--model_alias", "m"]
    return [python, "-m", "llama_cpp.server", *options, "--port", str(port)], "m"


def _transformers(folder: Path, port: int) -> tuple[list[str], str]:
    command = Path(sys.executable).with_name("transformers")
    if (
        not command.exists()
        or "--port" not in subprocess.run([command, "serve", "--help"], capture_output=True, text=True).stdout
    ):
        pytest.skip("this transformers has no `serve`: pip install 'transformers[serving]'")
    return [str(command), "serve", "--port", str(port)], str(folder)


SERVERS = {
    "vllm": (_vllm, True, True),
    "llama.cpp": (_llama, False, False),
    "transformers": (_transformers, False, True),
}


@pytest.fixture(scope="module", params=SERVERS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    command_of, tokens, exact = SERVERS[request.param]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command, model = command_of(fetch(), port)
    log = tmp_path_factory.mktemp("log") / "server.log"
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "2"}
    with log.open("wb") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **settings}, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            assert running.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield Real(url, model, tokens, exact)
    finally:
        os.killpg(running.pid, 15)
        running.wait(60)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/models", timeout=5).status == 200
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def argv(name: str, server: Real, **settings: Any) -> list[str]:
    common = {"env.tokenizer_name": fetch(), "openai.base_url": server.url, "openai.model_name": server.model}
    common |= {"env.answer_format": "plain", "env.value_kind": "numbers", "env.max_new_tokens": 24}
    common |= {"env.lengths": ",".join(map(str, LENGTHS)), "env.tasks": "single"}
    return [name, *(f"--{key}={value}" for key, value in (common | settings).items())]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_server_reads_as_many_tokens_as_were_asked_for(real: Real, length: int) -> None:
    tokenizer = load_tokenizer(str(fetch()))
    haystacks = Haystacks(tokenizer, Options())
    endpoint = Endpoint(PlainServer(ServerAddress(real.url, "x", real.model)), tokenizer)
    for seed in range(3):
        sample = haystacks.sample(seed, "eval", "single", length)
        prompt = haystacks.tokens.encode_prompt(haystacks.tokens.render(sample.messages), length)
        request = CompletionRequest(sample.messages, prompt, 8, 0.0)
        (completion,) = asyncio.run(request_group([endpoint], request, 1))
        assert completion.tokens and len(prompt) == length
    assert endpoint.offset == 0


def test_process_makes_whole_groups(real: Real, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    more = {"env.total_steps": 2, "env.group_size": 3, "env.data_path_to_save_groups": out}
    assert run_cli(argv("process", real, **more)) == 0
    assert [len(row["completions"]) for row in rows_of(out)] == [3, 3]


def test_evaluate_finds_what_the_same_weights_find_here(real: Real, tmp_path: Path) -> None:
    more = {"env.depths": 3, "env.repeats": 1, "env.absent_share": 0}
    found = {}
    with background(fetch(), model_name="m", dtype="float32") as url:
        for name, server in (("real", real), ("embedded", Real(url, "m", True, True))):
            out = tmp_path / name
            assert run_cli(argv("evaluate", server, **more, **{"env.data_dir_to_save_evals": out})) == 0
            found[name] = {r["item"]: (r["completion"], r["score"]) for r in rows_of(out / "samples.jsonl")}
    assert found["real"].keys() == found["embedded"].keys() and len(found["real"]) == 6
    if real.exact:
        assert found["real"] == found["embedded"]


def test_tokens_and_log_probabilities_are_the_models_own(real: Real) -> None:
    if not real.tokens:
        pytest.skip("gives no tokens")
    tokenizer = load_tokenizer(str(fetch()))
    sample = (haystacks := Haystacks(tokenizer, Options())).sample(3, "eval", "single", 512)
    prompt = haystacks.tokens.encode_prompt(haystacks.tokens.render(sample.messages), 512)
    address = ServerAddress(real.url, "x", real.model, server_type="vllm")
    request = CompletionRequest(sample.messages, prompt, 16, 1.0)
    completions = asyncio.run(request_group([Endpoint(PlainServer(address), tokenizer)], request, 4))
    model = AutoModelForCausalLM.from_pretrained(fetch(), dtype=torch.float32)
    for completion in completions:
        ids = torch.tensor([prompt + completion.tokens])
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(ids).logits[0, len(prompt) - 1 : -1].float(), -1)
        own = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert (own - torch.tensor(completion.logprobs)).abs().max() < 1e-4


def test_collect_serves_it_to_atropos(real: Real, tmp_path: Path) -> None:
    from environments.datasets.collect import app

    out = tmp_path / "rows.jsonl"  # the name of the generator's own file
    args = ["sft", str(out), "--tokenizer", str(fetch()), "--url", real.url, "--model", real.model, "--rows", "2"]
    args += ["--group-size", "2", "--min-score", "0", "--env.lengths=512", "--env.answer_format=plain"]
    with pytest.raises(SystemExit) as ended, exit_on_error():
        app([*args, "--env.value_kind=numbers", "--env.absent_share=0", "--env.max_new_tokens=24"])
    assert ended.value.code in (0, None) and len(rows_of(out)) == 2
