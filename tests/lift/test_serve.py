"""`lift serve` over HTTP: every document is a model of an OpenAI-compatible server, and what it refuses is one line."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner

from environments.haystack.document_prompt import behind_text, request
from environments.inference.embedded.server import background, running
from lift import cli
from lift.inference.generate import answers, chat
from lift.library.attach import Attached
from lift.library.base_model import fingerprint, tokenizer
from lift.library.library import Library
from lift.serve import server
from tests.environments.loopback import SHORT, make_env, model_folder, rows_of
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import tiny_model
from tests.lift.compact_shelf import compact_adapter, compact_library
from tests.lift.shelf import entry_for, refused

QUESTION = "Who keeps the lighthouse?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Library:
    return compact_library(tmp_path_factory.mktemp("served"), fingerprint(model), str(model))


@pytest.fixture(scope="module")
def url(library: Library) -> Iterator[str]:
    with running(server(library)) as base_url:
        yield base_url


def said(url: str, name: Any, content: str = QUESTION, **options: Any) -> str:
    client = openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=PATIENCE)
    messages: Any = [{"role": "user", "content": content}]
    reply = client.chat.completions.create(model=name, messages=messages, **GREEDY | options)
    assert reply.model == ("+".join(name) if isinstance(name, list) else name)
    return str(reply.choices[0].message.content)


def test_every_document_is_listed_beside_the_base_model(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=PATIENCE)
    cards = {card.id: card.model_dump() for card in client.models.list()}
    assert list(cards) == ["tiny", "a", "b", "long"]
    assert cards["a"]["ask_frame"] == request("a", "{question}") and cards["a"]["parent"] == "tiny"
    assert cards["a"]["ask_frame_with_text"] == behind_text("{text}", cards["a"]["ask_frame"])
    assert cards["a"]["digest"] == "d" * 64 and cards["a"]["bytes"] > 0 and cards["a"]["seconds"] is None
    assert client.models.retrieve("a+long").id == "a+long"


def test_the_base_models_name_is_the_base_model(url: str, model: Path) -> None:
    with background(model) as plain:
        client = [openai.OpenAI(base_url=base_url, api_key="x", timeout=PATIENCE) for base_url in (url, plain)]
        asked: dict[str, Any] = {
            "model": "tiny",
            "prompt": "The keeper",
            "logprobs": 3,
            "n": 2,
            "seed": 1,
            "max_tokens": 9,
        }
        mine, theirs = (one.completions.create(**asked).model_dump()["choices"] for one in client)
    assert mine == theirs  # bit for bit: log-probabilities are compared too


def test_a_document_answers_as_in_lift_ask_once_its_frame_is_written(url: str, library: Library, model: Path) -> None:
    reading = tokenizer(model)
    for name in ("a", "b"):
        attached = Attached(library, tiny_model(max_position_embeddings=8192), [name])
        [reply] = answers(attached.model, reading, [chat(reading, name, QUESTION)], 16)
        assert said(url, name, request(name, QUESTION)).strip() == reply
        assert said(url, name).strip() != reply  # as they are: the server adds no frame


def test_several_documents_by_one_name_or_a_list(url: str) -> None:
    assert said(url, "a+b") == said(url, ["a", "b"]) not in (said(url, "a"), said(url, "b"))


def test_a_stream_is_of_the_document(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=PATIENCE)
    messages: Any = [{"role": "user", "content": QUESTION}]
    chunks = client.chat.completions.create(model="b", messages=messages, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said(url, "b")


def test_an_unknown_model_is_a_404_that_names_the_known(url: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        said(url, "a+diary")
    error: Any = caught.value.body
    assert error["code"] == "model_not_found" and error["type"] == "invalid_request_error"
    assert "no model 'diary' here: it must be one of 'tiny', 'a', 'b', 'long'" in error["message"]


@pytest.mark.parametrize("name", ["a", "a+long"])
async def test_an_environment_chooses_a_memory_by_its_model_name(
    url: str, model: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "rollouts.jsonl"
    settings = {"group_size": 2, "total_steps": 1, "max_new_tokens": 5, "data_path_to_save_groups": str(out)}
    env = make_env(model, url, server={"model_name": name}, lengths=SHORT, **settings)
    await env.process_manager()
    [row] = rows_of(out)
    assert len(row["completions"]) == 2


def test_a_document_keeps_its_name_beside_a_base_of_the_same(tmp_path: Path, model: Path) -> None:
    library = Library(tmp_path / "books")
    library.add(compact_adapter(tmp_path / "0", 0), entry_for(fingerprint(model), "tiny", base_model=str(model)))
    assert server(library).model_name == "tiny (base)"


# ---- what is refused before a model is loaded ----


def test_a_port_in_use_is_one_line(library: Library) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(cli.app, ["serve", str(library.folder), "--port", str(port)])
    line = result.stderr.splitlines()[-1]  # behind transformers' bar
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert line.startswith(f"error: cannot listen on 127.0.0.1:{port}") and "(--port)" in line


def test_a_library_that_cannot_be_served_is_one_line(library: Library, model: Path, tmp_path: Path) -> None:
    refused(lambda: server(Library(tmp_path / "none")), "no documents in", "lift fit")
    refused(lambda: server(library, ["lnog"]), "no document 'lnog'", "did you mean 'long'?")
    other = model_folder(tmp_path / "other")
    (other / "model.safetensors").unlink()
    tiny_model(initializer_range=0.2, max_position_embeddings=8192).save_pretrained(other)
    refused(lambda: server(library, model=str(other)), "has other weights: give that model", "(model)")


def test_documents_of_two_base_models_are_one_line(tmp_path: Path, model: Path) -> None:
    library = Library(tmp_path / "books")
    for seed, (name, base) in enumerate([("a", fingerprint(model)), ("b", "f" * 64)]):
        adapter = compact_adapter(tmp_path / name, seed)
        index = library.folder / "index.json"
        stored = json.loads(index.read_text())["documents"] if index.exists() else []
        index.unlink(missing_ok=True)  # the library itself refuses a second base model
        one = Library(tmp_path / f"of {name}")
        one.add(adapter, entry_for(base, name, base_model=f"model {name}"))
        library.folder.mkdir(exist_ok=True)
        entry = json.loads((one.folder / "index.json").read_text())["documents"][0]
        (one.folder / entry["folder"]).rename(library.folder / entry["folder"])
        index.write_text(json.dumps({"version": 1, "documents": [*stored, entry]}))
    refused(lambda: server(library), "2 base models ('a' of model a, 'b' of model b): name documents of one")
