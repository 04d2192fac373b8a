"""What is asked of a model server before any work starts."""

import json
import logging
from urllib.parse import quote

import aiohttp

from environments.inference.contracts import ServerConfig
from environments.inference.http_client import session, through_proxy
from longthread.errors import ConfigError
from longthread.files import JsonObject

logger = logging.getLogger(__name__)
PREFLIGHT_SECONDS = 10
# What /v1/models calls a model's window: vLLM and SGLang, OpenRouter, LM Studio, others.
WINDOWS = ("max_model_len", "context_length", "max_context_length", "context_window")
START_SERVER = "start the server, or give another address"


async def check_server(config: ServerConfig, longest: int = 0) -> None:
    """Ask for the list of models before any work starts.

    Raises `ConfigError` if the server is down, rejects the key, does not serve the model, or serves it with a window of
    fewer than `longest` tokens.
    """
    url = (config.base_url or "").rstrip("/")
    if not url:
        return
    entries = await served_models(url, config.api_key)
    served = [entry.get("id") for entry in entries]
    if served and config.model_name not in served:
        entries = await _unlisted_model(url, config)
    if served and not entries:
        names = ", ".join(map(str, served[:5]))
        raise ConfigError(
            f"{url} does not serve the model {config.model_name!r}: it must be one of {names}",
            setting="openai.model_name",
        )
    windows = [e[name] for e in entries if e.get("id") == config.model_name for name in WINDOWS if name in e]
    if windows and isinstance(windows[0], int) and windows[0] < longest:
        raise ConfigError(
            f"{url} serves {config.model_name!r} with a window of {windows[0]:,} tokens, and the longest prompt with its "
            f"completion has {longest:,}: ask for less, or serve it with a longer window",
            setting=("lengths", "max_new_tokens"),
        )


async def served_models(url: str, api_key: str | None) -> list[JsonObject]:
    """Return the entries of the server's list of models; none from a server that has no such list.

    Raises `ConfigError` if the server is down or rejects the key.
    """
    try:
        status, content, has_v1 = await _list_models(url, api_key)
        models = json.loads(content or b"{}") if status == 200 else {}
    except TimeoutError:
        raise _address_error(f"no answer from {url} within {PREFLIGHT_SECONDS} s; {START_SERVER}") from None
    except aiohttp.ClientError as error:
        raise _address_error(
            f"cannot reach a server at {url} ({type(error).__name__}); {START_SERVER}{through_proxy(url)}"
        ) from None
    except ValueError:
        raise _address_error(f"{url}/models answered with something that is not JSON; {START_SERVER}") from None
    if has_v1:
        raise _address_error(f"there is no {url}/models, but there is {url}/v1/models; give {url}/v1")
    if status in (401, 403):
        message = f"{url} refused the API key (HTTP {status}); set LONGTHREAD_API_KEY{through_proxy(url)}"
        raise ConfigError(message, setting="openai.api_key")
    if status == 500:  # `transformers serve` without a network looks for the hub's list, and answers chats all the same
        logger.warning("%s cannot list its models (HTTP 500): the name and window of the model are not checked", url)
    elif status > 500:
        raise _address_error(f"{url} answered HTTP {status}; {START_SERVER}{through_proxy(url)}")
    # A server without a list of models (atroposlib's own vLLM server is one) answers 404: nothing to compare with.
    data = models.get("data") if isinstance(models, dict) else None
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


async def _unlisted_model(url: str, config: ServerConfig) -> list[JsonObject]:
    """Return what the server says of the model that it does not list (several names in one, say); none if it has none."""
    headers = {"Authorization": f"Bearer {config.api_key}"}
    try:
        async with (
            session(url, PREFLIGHT_SECONDS, headers) as client,
            client.get(f"{url}/models/{quote(config.model_name, safe='')}") as reply,
        ):
            entry = json.loads(await reply.read()) if reply.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return []
    return [entry] if isinstance(entry, dict) and entry.get("id") == config.model_name else []


async def _list_models(url: str, api_key: str | None) -> tuple[int, bytes, bool]:
    """Status and body of `{url}/models`, and whether `/v1` is all that the address lacks."""
    async with session(url, PREFLIGHT_SECONDS, {"Authorization": f"Bearer {api_key}"}) as client:
        async with client.get(f"{url}/models") as reply:
            status, content = reply.status, await reply.read()
        if status != 404 or url.endswith("/v1"):
            return status, content, False
        async with client.get(f"{url}/v1/models") as reply:
            return status, content, reply.status == 200


def _address_error(message: str) -> ConfigError:
    return ConfigError(message, setting="openai.base_url")
