"""One rule for proxies, and errors that name the one a request went through."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from atroposlib.envs import base

from environments.atropos.base import follow_proxies
from environments.inference.completions import request_group
from environments.inference.errors import CompletionError, RequestRejected
from environments.inference.http_client import is_loopback, proxy_of
from environments.inference.preflight import check_server
from longthread.errors import ConfigError
from tests.environments.loopback import REQUEST, ChatServer, command, make_endpoint, run_cli, said

pytestmark = pytest.mark.usefixtures("clean")
DEAD = "http://user:secret@127.0.0.1:1"


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, DEAD)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "a.localhost", "[::1]", "0.0.0.0"])
def test_loopback_goes_straight(host: str, dead_proxy: None) -> None:
    """tenstorrent/tt-xla 3637, NVIDIA/NemoClaw 2616, hiyouga/LlamaFactory PR 7332."""
    assert is_loopback(f"http://{host}:8000/v1") and proxy_of(f"http://{host}:8000/v1") is None


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/v1", "http://example.org/v1", "http://[", "nonsense", "http://localhost.org"]
)
def test_nothing_else_is_loopback(url: str) -> None:
    assert not is_loopback(url)


async def test_a_server_on_loopback_is_reached_behind_a_proxy(server: ChatServer, dead_proxy: None) -> None:
    server.reply = said("hi")
    await check_server(make_endpoint(server.url).config)
    assert (await request_group([make_endpoint(server.url)], REQUEST, 1))[0].text == "hi"


def test_a_whole_run_on_loopback_is_not_asked_through_a_proxy(
    server: ChatServer, tokenizer: Path, dead_proxy: None
) -> None:
    assert run_cli(command("process", tokenizer, server.url)) == 0 and len(server.requests) == 3


async def test_an_error_names_the_proxy_but_not_its_password(monkeypatch: pytest.MonkeyPatch, dead_proxy: None) -> None:
    url = "http://model.example:9/v1"
    with pytest.raises(
        ConfigError, match=r"through the proxy 127\.0\.0\.1:1, which NO_PROXY=model\.example avoids"
    ) as caught:
        await check_server(make_endpoint(url).config)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr("environments.inference.completions.OUTAGE_SECONDS", 0.0)
    with pytest.raises(CompletionError, match=r"through the proxy 127\.0\.0\.1:1"):
        await request_group([make_endpoint(url)], REQUEST, 1)


async def test_a_proxy_that_refuses_is_not_taken_for_the_server(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, dead_proxy: None
) -> None:
    """A proxy's 403 read "refused the API key"."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    server.models = lambda request: web.Response(status=403)
    server.reply = lambda *_: web.Response(status=403)
    url = "http://model.example:9/v1"
    with pytest.raises(ConfigError, match="through the proxy 127.0.0.1:"):
        await check_server(make_endpoint(url).config)
    with pytest.raises(RequestRejected, match="through the proxy 127.0.0.1:"):
        await make_endpoint(url).complete(REQUEST, 1)


async def test_atroposlib_reaches_run_api_by_the_same_rule(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sessions knew no proxy, while the model server was asked through one: two rules in one program."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    server.models = lambda request: web.json_response({"asked": str(request.url)})
    for url, proxied in (("http://run-api.example:8000", True), (server.url.removesuffix("/v1"), False)):
        follow_proxies(url)
        async with base.aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as reply:
            assert ("run-api.example" in (await reply.json())["asked"]) == proxied
