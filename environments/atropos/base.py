"""atroposlib's environment classes, imported without the modules that only few runs use.

`atroposlib.envs.base` imports wandb and transformers' AutoTokenizer, which takes ten seconds of CPU (torch, scikit-learn,
scipy). Here something stands in for both until they are first used.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Self

import aiohttp

from environments.config import ServerSettings
from environments.inference.http_client import is_loopback
from longthread.secrets import unmask_key

__all__ = ["APIServerConfig", "BaseEnv", "EvalHandlingEnum", "follow_proxies", "server_config"]


class _DeferredModule(ModuleType):
    """A module that is imported when something of it is first used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # asked for by the import system, while this still stands in sys.modules
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


class _DeferredTokenizer:
    """A tokenizer that transformers loads when something of it is first used. The environments encode with their own."""

    def __init__(self, *args: object, **kwargs: object):
        self._arguments, self._tokenizer = (args, kwargs), None

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> Self:
        return cls(*args, **kwargs)

    def _load(self) -> Any:
        if self._tokenizer is None:
            args, kwargs = self._arguments
            self._tokenizer = import_module("transformers").AutoTokenizer.from_pretrained(*args, **kwargs)
        return self._tokenizer

    def __getattr__(self, name: str) -> object:
        return getattr(self._load(), name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._load()(*args, **kwargs)

    def __len__(self) -> int:
        return len(self._load())


@contextmanager
def _deferred(*names: str) -> Iterator[None]:
    """Put stand-ins for these modules into `sys.modules` while the block imports, unless they are imported already."""
    stand_ins = {name: _DeferredModule(name) for name in names if name not in sys.modules}
    for name, module in stand_ins.items():
        module.__spec__ = find_spec(name)
    if "transformers" in stand_ins:
        vars(stand_ins["transformers"])["AutoTokenizer"] = _DeferredTokenizer
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


with _deferred("transformers", "wandb"):
    import atroposlib.envs.base
    from atroposlib.envs.base import APIServerConfig, BaseEnv, EvalHandlingEnum


class _ProxiedAiohttp(ModuleType):
    """aiohttp for atroposlib, whose sessions go through the environment's proxies."""

    ClientSession = staticmethod(partial(aiohttp.ClientSession, trust_env=True))

    def __getattr__(self, name: str) -> object:
        return getattr(aiohttp, name)


def follow_proxies(run_api: str) -> None:
    """Have atroposlib reach a run-api of another machine as this program reaches its servers: through proxies, if any."""
    proxied = _ProxiedAiohttp("aiohttp")
    vars(atroposlib.envs.base)["aiohttp"] = aiohttp if is_loopback(run_api) else proxied


def server_config(server: ServerSettings, tokenizer_name: str) -> APIServerConfig:
    """Return atroposlib's config of a server, with its API key."""
    named = {
        "api_key": unmask_key(server.api_key or ""),
        "base_url": (server.base_url or "").rstrip("/"),  # atroposlib cuts "/v1" off the end
        "tokenizer_name": tokenizer_name if server.tokenizer_name == "none" else server.tokenizer_name,
    }
    return APIServerConfig.model_construct(**server.model_dump() | named)


logging.getLogger("atroposlib.envs.base").setLevel(logging.WARNING)  # at DEBUG, its default, it prints every item
