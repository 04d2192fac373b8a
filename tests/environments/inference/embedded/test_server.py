"""The server through the clients that will call it: openai's, and atroposlib's VLLMServer and ManagedServer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

torch = pytest.importorskip("torch")

from environments.inference.embedded import server as embedded_server  # noqa: E402
from environments.inference.embedded.command import app  # noqa: E402
from environments.inference.embedded.engine import load  # noqa: E402
from environments.inference.embedded.server import EmbeddedServer, background  # noqa: E402
from environments.inference.embedded.stream import TextStream  # noqa: E402
from longthread.errors import ConfigError  # noqa: E402
from tests.environments.patience import PATIENCE  # noqa: E402
from tests.environments.tiny_model import CONTEXT, EOS, save_tiny, tiny_model, tiny_tokenizer  # noqa: E402
from tests.forked import Forked, forked  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"
QUESTION = [{"role": "user", "content": "Where is the needle?"}]
RENDERED = "<|im_start|>user\nWhere is the needle?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", autouse=True)
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[signal.Signals, Forked]]:
    """A server's process for each signal that ends it, forked before the tests run servers in threads."""
    with forked(app, 2, tmp_path_factory.mktemp("commands")) as waiting:
        yield dict(zip((signal.SIGTERM, signal.SIGINT), waiting, strict=True))


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with background(folder) as base_url:
        yield base_url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=PATIENCE)


def greedy(ids: list[int], max_tokens: int) -> list[int]:
    with torch.inference_mode():
        out = tiny_model(attn_implementation="eager").generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=max_tokens, do_sample=False
        )
    return out[0, len(ids) :].tolist()


def encoded(text: str) -> list[int]:
    return tiny_tokenizer().encode(text, add_special_tokens=False)


async def post(url: str, path: str, body: Any, **options: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        aiohttp.ClientSession() as session,
        session.post(url.replace("/v1", "") + path, data=data, **options) as r,
    ):
        return r.status, await r.json()


@pytest.mark.parametrize("settings", [{}, {"n": 3, "seed": 1}, {"stop": ["e", "needle"]}, {"max_tokens": 1}])
def test_a_stream_gives_the_whole_answer_in_pieces(client: openai.OpenAI, settings: dict[str, Any]) -> None:
    asked = {"model": "tiny", "messages": QUESTION, "temperature": 0.9, "max_tokens": 24, "seed": 7} | settings
    whole = client.chat.completions.create(**asked)
    texts, ends, counted = [""] * len(whole.choices), [None] * len(whole.choices), None
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
        counted = chunk.usage or counted
    assert texts == [choice.message.content for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices] and counted == whole.usage


def test_completions_stream_too(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": "Where", "temperature": 0, "max_tokens": 12}
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(pieces) == client.completions.create(**asked).choices[0].text and len(pieces) > 2


def test_a_piece_is_held_back_while_it_may_change() -> None:
    """Half a character, and what may be the beginning of a stop string."""

    async def streamed() -> list[str]:
        stream = TextStream(lambda ids: bytes(ids).decode("utf-8", "replace"), ["STOP"], 1)
        data = "naïve STO no STOP end".encode()
        for end in range(1, len(data) + 1):
            stream.on_token(0, list(data[:end]))
        stream.end(["naïve STO no "])
        pieces = []
        await asyncio.sleep(0)
        while (piece := await stream._pieces.get()) is not None:
            pieces.append(piece[1])
        return pieces

    pieces = asyncio.run(streamed())
    assert "".join(pieces) == "naïve STO no " and not any("\ufffd" in piece for piece in pieces) and len(pieces) > 8


async def test_tokens_are_given_as_vllm_gives_them(url: str) -> None:
    """The environments ask so: `prompt` as ids, `return_token_ids`, the chosen tokens' log-probabilities."""
    prompt = encoded(RENDERED)
    body = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 0,
        "return_token_ids": True,
    }
    status, answer = await post(url, "/v1/completions", body)
    choice = answer["choices"][0]
    assert status == 200 and choice["token_ids"] == greedy(prompt, 8) and choice["prompt_token_ids"] == prompt
    assert len(choice["logprobs"]["token_logprobs"]) == 8


def test_chat_is_the_models_greedy_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0, max_tokens=20)
    ids = greedy(encoded(RENDERED), 20)
    choice = answer.choices[0]
    assert choice.message.content == tiny_tokenizer().decode(ids, skip_special_tokens=True)
    assert choice.finish_reason == ("stop" if ids[-1] == EOS else "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(encoded(RENDERED)), len(ids))
    assert answer.usage.total_tokens == len(encoded(RENDERED)) + len(ids)


def test_text_parts_are_joined(client: openai.OpenAI) -> None:
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the needle?"}]}
    ]
    answers = [
        client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_completion_tokens=9)
        for messages in (QUESTION, parts)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_n_seed_and_chat_logprobs(client: openai.OpenAI) -> None:
    ask = {"model": "tiny", "messages": QUESTION, "n": 3, "max_tokens": 8, "temperature": 1.2, "seed": 11}
    first, second = (client.chat.completions.create(**ask, logprobs=True, top_logprobs=2) for _ in range(2))
    assert len({choice.message.content for choice in first.choices}) == 3
    assert [c.message.content for c in first.choices] == [c.message.content for c in second.choices]
    for choice in first.choices:
        entries = choice.logprobs.content
        assert all(len(entry.top_logprobs) == 2 and entry.logprob <= entry.top_logprobs[0].logprob for entry in entries)
        assert bytes(entries[0].bytes).decode() == entries[0].token
    assert first.usage.completion_tokens == sum(len(choice.logprobs.content) for choice in first.choices)


def test_completions_take_text_or_ids_and_give_legacy_logprobs(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "max_tokens": 7, "temperature": 0, "logprobs": 2}
    text, ids = (client.completions.create(prompt=prompt, **ask) for prompt in ("A hay", encoded("A hay")))
    assert text.choices[0].text == ids.choices[0].text
    logprobs = text.choices[0].logprobs
    lengths = {
        len(part) for part in (logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, logprobs.text_offset)
    }
    assert lengths == {text.usage.completion_tokens}
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]


def test_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "tiny", "prompt": "needles ", "max_tokens": 60, "temperature": 3, "seed": 4}
    free = client.completions.create(**ask).choices[0].text
    stop = free[10:12]
    cut = client.completions.create(**ask, stop=["never there", stop])
    assert cut.choices[0].text == free[: free.find(stop)] and cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < client.completions.create(**ask).usage.completion_tokens
    assert client.completions.create(**ask, stop=stop).choices[0].text == cut.choices[0].text


def test_models_and_health(client: openai.OpenAI, url: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]

    async def health() -> int:
        async with aiohttp.ClientSession() as session, session.get(url.replace("/v1", "/health")) as response:
            return response.status

    assert asyncio.run(health()) == 200


async def test_concurrent_requests_equal_single_ones(url: str) -> None:
    client = openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0)
    asks = [
        {
            "model": "tiny",
            "prompt": "hay " * (1 + 7 * i),
            "max_tokens": 12,
            "temperature": i % 2,
            "seed": i,
            "n": 1 + i % 3,
        }
        for i in range(12)
    ]
    together = await asyncio.gather(*[client.completions.create(**ask) for ask in asks])
    for ask, answer in zip(asks, together, strict=True):
        alone = await client.completions.create(**ask)
        assert [choice.text for choice in answer.choices] == [choice.text for choice in alone.choices]


# atroposlib 0.4.0 -------------------------------------------------------------------------------------------------


def atropos_server(folder: Path, url: str, **options: Any) -> Any:
    from atroposlib.envs.server_handling.server_baseline import APIServerConfig
    from atroposlib.envs.server_handling.vllm_server import VLLMServer

    config = APIServerConfig(
        base_url=url, model_name="tiny", tokenizer_name=str(folder), server_type="vllm", timeout=PATIENCE, health_check=False,
        **{"api_key": "x"} | options,
    )  # fmt: skip
    return VLLMServer(config)


async def test_atropos_reads_tokens_and_logprobs(folder: Path, url: str) -> None:
    server = atropos_server(folder, url)
    prompt, outputs, logprobs, reasons = await server._tokens_and_logprobs_completion_wrapper(
        model="tiny", prompt="Where?", n=3, max_tokens=9, temperature=1.0, top_p=0.95, seed=1, stop=["\n\n"]
    )
    assert prompt == encoded("Where?") and len(outputs) == len(logprobs) == len(reasons) == 3
    model = tiny_model(attn_implementation="eager")
    for ids, given in zip(outputs, logprobs, strict=True):
        with torch.inference_mode():
            full = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(given), full[range(len(ids)), ids], atol=1e-4, rtol=0)


async def test_atropos_managed_server_tracks_the_exact_tokens(folder: Path, url: str) -> None:
    from atroposlib.envs.server_handling.managed_server import ManagedServer

    managed = ManagedServer(atropos_server(folder, url), tokenizer=tiny_tokenizer())
    answer = await managed.chat_completion(messages=QUESTION, n=2, max_tokens=300, temperature=1.0, seed=2)
    nodes = managed.get_state()["nodes"]
    assert len(nodes) == len(answer.choices) == 2
    for node, choice in zip(nodes, answer.choices, strict=True):
        start = len(encoded(RENDERED))
        assert node.tokens[:start] == encoded(RENDERED)
        assert node.masked_tokens[:start] == [-100] * start and node.masked_tokens[start:] == node.tokens[start:]
        assert node.metadata["finish_reason"] == choice.finish_reason
        assert (node.tokens[-1] == EOS) == (choice.finish_reason == "stop")  # the end token is trained on
        assert all(logprob <= 0 for logprob in node.logprobs[start:])


async def test_atropos_chat_and_health_through_the_openai_side(folder: Path, url: str) -> None:
    server = atropos_server(folder, url)
    answer = await server.chat_completion(messages=QUESTION, n=2, max_tokens=5, temperature=0)
    assert len(answer.choices) == 2 and answer.choices[0].message.content == answer.choices[1].message.content


# What is refused --------------------------------------------------------------------------------------------------

CHAT = {"model": "tiny", "messages": QUESTION, "max_tokens": 4}
REFUSED = [
    (CHAT | {"stream": "yes"}, 400, 'stream is "yes": give true or false'),
    (CHAT | {"stream": True, "logprobs": True}, 400, "logprobs are not streamed"),
    (CHAT | {"chat_template_kwargs": 3}, 400, "chat_template_kwargs is 3: give an object"),
    (CHAT | {"logit_bias": {"5": 1}}, 400, "logit_bias"),
    (CHAT | {"frequency_penalty": 0.5}, 400, "frequency_penalty=0.5 is not supported"),
    (CHAT | {"max_tokens": 0}, 400, "max_tokens is 0: give 1 or more"),
    (CHAT | {"max_tokens": "5"}, 400, 'max_tokens is "5": give an integer'),
    (CHAT | {"max_tokens": True}, 400, "max_tokens is true: give an integer"),
    (CHAT | {"n": 0}, 400, "n is 0"),
    (CHAT | {"n": 65}, 400, "n is 65: give 1 or more, at most 64"),
    (CHAT | {"temperature": -0.1}, 400, "temperature is -0.1"),
    (CHAT | {"temperature": float("nan")}, 400, "temperature is nan"),
    (CHAT | {"top_p": 0}, 400, "top_p is 0"),
    (CHAT | {"seed": 1.5}, 400, "seed is 1.5: give an integer"),
    (CHAT | {"stop": [""]}, 400, "stop is"),
    (CHAT | {"logprobs": 3}, 400, "logprobs is 3: give true or false"),
    (CHAT | {"messages": []}, 400, "messages is missing or empty"),
    (CHAT | {"messages": ["hi"]}, 400, "messages[0] must be an object"),
    (CHAT | {"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content must be text"),
    (CHAT | {"model": "gpt-4"}, 404, "this server has 'tiny'"),
    ({"messages": QUESTION}, 400, "model is missing"),
    ([1], 400, "must be a JSON object"),
    (b"{", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED)
async def test_bad_requests_get_one_line(url: str, body: Any, status: int, words: str) -> None:
    got, answer = await post(url, "/v1/chat/completions", body)
    assert got == status and set(answer["error"]) == {"message", "type", "param", "code"}
    assert words in answer["error"]["message"] and "\n" not in answer["error"]["message"]


@pytest.mark.parametrize("prompt", [None, "", [], [-1], [260], [True], ["a", "b"], {"prompt_token_ids": None}, 5])
@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
async def test_bad_prompts_are_refused(url: str, path: str, prompt: Any) -> None:
    status, answer = await post(url, path, {"model": "tiny", "prompt": prompt})
    assert status == 400 and answer["error"]["message"].startswith("prompt must")


def test_a_prompt_beyond_the_context_names_the_numbers(client: openai.OpenAI) -> None:
    fits = client.completions.create(model="tiny", prompt=[65] * (CONTEXT - 2), max_tokens=2)
    assert fits.usage.prompt_tokens == CONTEXT - 2
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt=[65] * (CONTEXT - 2), max_tokens=3)
    assert refused.value.code == "context_length_exceeded"
    for part in (str(CONTEXT - 2), "max_tokens 3", str(CONTEXT), "shorten the prompt or lower max_tokens"):
        assert part in refused.value.message


def test_unknown_model_is_openais_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="other", messages=QUESTION)
    assert refused.value.code == "model_not_found"


async def test_unknown_path_and_too_large_a_body(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_server, "MAX_BODY", 2000)
    server = EmbeddedServer(folder)
    url = await server.start()
    assert (await post(url, "/v1/nothing", {}))[0] == 404
    status, answer = await post(url, "/v1/completions", {"model": "tiny", "prompt": "x" * 3000})
    assert status == 413 and "error" in answer
    await server.stop()


async def test_a_128k_token_prompt_passes_the_body_limit(url: str) -> None:
    status, answer = await post(url, "/generate", {"prompt": {"prompt_token_ids": [255] * 131_072}, "logprobs": 0})
    assert status == 400 and answer["error"]["code"] == "context_length_exceeded"


async def test_the_key_is_asked_for_and_never_shown(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = EmbeddedServer(folder, api_key="s3cret")
    url = await server.start()
    body = CHAT | {"temperature": 0}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3cr\u00e9t"}):
        status, answer = await post(url, "/v1/chat/completions", body, headers=headers)
        assert status == 401 and answer["error"]["code"] == "invalid_api_key" and "s3cret" not in str(answer)
    assert (await post(url, "/v1/chat/completions", body, headers={"Authorization": "Bearer s3cret"}))[0] == 200
    managed = atropos_server(folder, url, api_key="s3cret")
    assert (await managed._tokens_and_logprobs_completion_wrapper(model="tiny", prompt="a", n=1, max_tokens=2))[1]
    async with aiohttp.ClientSession() as session, session.get(url.replace("/v1", "/health")) as response:
        assert response.status == 200
    await server.stop()
    assert "s3cret" not in "".join(capfd.readouterr())


async def test_a_client_that_hangs_up_cancels_its_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted, gone, endless = asyncio.Event(), asyncio.Event(), Future[Any]()
    server = EmbeddedServer(folder)
    url = await server.start()
    loop = asyncio.get_running_loop()
    endless.add_done_callback(lambda _: loop.call_soon_threadsafe(gone.set))

    def submit(*_: Any) -> Any:
        loop.call_soon_threadsafe(submitted.set)
        return endless

    monkeypatch.setattr(server.engine, "submit", submit)
    request = asyncio.create_task(post(url, "/v1/completions", {"model": "tiny", "prompt": "a"}))
    await submitted.wait()
    request.cancel()
    await asyncio.wait_for(gone.wait(), PATIENCE)
    assert endless.cancelled()  # what the engine looks at before every step
    await server.stop()


async def test_a_failing_model_is_a_500_without_the_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = EmbeddedServer(folder)
    url = await server.start()

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("no room for 9 GB\nsecond line")

    monkeypatch.setattr(server.engine, "model", broken)
    status, answer = await post(url, "/v1/completions", {"model": "tiny", "prompt": "the secret haystack"})
    assert status == 500 and answer["error"]["type"] == "server_error" and "second" not in str(answer)
    await server.stop()
    assert "haystack" not in "".join(capfd.readouterr())


# Starting and stopping --------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config.json is missing.*environments.demo_model"):
        load(tmp_path / "missing")
    with pytest.raises(ConfigError, match="must be one of auto, .* .got 'int8'. .dtype."):
        load(save_tiny(tmp_path / "tiny"), "int8")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    (tmp_path / "tiny" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="cannot load"):
        load(tmp_path / "tiny")
    config = json.loads((tmp_path / "tiny" / "config.json").read_text())
    for change, words in (
        ({"architectures": ["BertModel"]}, "not a causal LM"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 64}, "whole context"),
        ({"model_type": "no_such"}, "cannot load"),
    ):
        (tmp_path / "tiny" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=words) as error:
            load(tmp_path / "tiny")
        assert "\n" not in str(error.value)


async def test_a_taken_port_is_one_line(folder: Path, url: str) -> None:
    port = int(url.split(":")[2].removesuffix("/v1"))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*port 0 picks a free one"):
        await EmbeddedServer(folder, port=port).start()


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_the_command_line_prints_ready_and_ends_cleanly(
    commands: dict[signal.Signals, Forked], folder: Path, name: signal.Signals
) -> None:
    server = commands[name]
    server.begin(str(folder), "--port", "0", "--model-name", "mine", LONGTHREAD_API_KEY="s3cret")
    deadline = time.monotonic() + PATIENCE
    while not server.out.exists() or "\n" not in server.out.read_text():
        assert server.process.is_alive() and time.monotonic() < deadline, server.err.read_text()
        server.process.join(0.02)
    word, url = server.out.read_text().split()
    assert word == "ready" and url.startswith("http://127.0.0.1:") and url.endswith("/v1")
    client = openai.OpenAI(base_url=url, api_key="s3cret", max_retries=0)
    assert client.completions.create(model="mine", prompt="a", max_tokens=2).usage.completion_tokens >= 1
    os.kill(server.process.pid or 0, name)
    server.process.join(PATIENCE)
    assert server.process.exitcode == 0 and server.out.read_text().count("\n") == 1
    err = server.err.read_text()
    assert "vLLM or SGLang" in err and "s3cret" not in err and "Traceback" not in err


def test_the_command_line_reports_a_missing_folder_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "environments.embedded_server", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert done.returncode == 2 and "bound to 0.0.0.0" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr


def test_the_real_model_knows_paris() -> None:
    from environments.inference.embedded.demo_model import DemoModelError, fetch

    try:
        folder = fetch()
    except DemoModelError as error:
        pytest.skip(str(error))
    with background(folder) as url:
        answer = openai.OpenAI(base_url=url, api_key="x", timeout=PATIENCE).chat.completions.create(
            model=folder.name,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_tokens=20,
        )
    assert "Paris" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
