"""What an endpoint needs of others (a server's settings, a tokenizer), and what it takes and gives: requests, completions."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from longthread.files import JsonObject


class ServerConfig(Protocol):
    """The settings of one model server, as in atroposlib's `APIServerConfig`."""

    @property
    def base_url(self) -> str | None:
        """Address of the server, up to and with `/v1`."""

    @property
    def api_key(self) -> str | None:
        """API key, sent as a Bearer token."""

    @property
    def model_name(self) -> str:
        """The model's name in requests."""

    @property
    def server_type(self) -> str:
        """The kind of server: `openai`, or another of atroposlib's."""

    @property
    def timeout(self) -> float:
        """Seconds that a whole request may take; 0: no limit."""

    @property
    def n_kwarg_is_ignored(self) -> bool:
        """Whether the server gives one reply however many are asked for."""


class Server(Protocol):
    """What is used of atroposlib's `APIServer`: the settings, and the semaphores that bound requests in flight."""

    config: ServerConfig
    sem: asyncio.Semaphore  # of training: the run-api's share under `serve`
    eval_sem: asyncio.Semaphore

    def _inject_reasoning_kwargs(self, kwargs: JsonObject) -> JsonObject: ...


@dataclass(frozen=True)
class ServerAddress:
    """The settings of a server of OpenAI's chat protocol; see `ServerConfig`."""

    base_url: str
    api_key: str
    model_name: str
    server_type: str = "openai"
    timeout: float = 1800
    n_kwarg_is_ignored: bool = False


class PlainServer:
    """A server that no run-api divides among environments."""

    def __init__(self, config: ServerAddress):
        self.config: ServerConfig = config
        self.sem = self.eval_sem = asyncio.Semaphore(64)

    def _inject_reasoning_kwargs(self, kwargs: JsonObject) -> JsonObject:
        return kwargs


class CompletionTokenizer(Protocol):
    """What is used of a tokenizer: a completion's text as tokens, and back."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of the text."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of the token ids."""


@dataclass(frozen=True)
class CompletionRequest:
    """A prompt, as chat messages and as the tokens that they render to, and how to sample from it.

    `prompt` is empty where only the server knows the tokens, as it does of a request with tools.
    """

    messages: Sequence[Mapping[str, Any]]
    prompt: list[int]
    max_tokens: int
    temperature: float
    split: str = "train"
    own: Mapping[str, Any] = field(default_factory=dict)  # fields of the request that the user asks for
    model: str = ""  # name of the model to ask at the server, in place of the endpoint's own; chat servers alone


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion, without the prompt: its text, its tokens, and each token's log-probability, None from a chat server.

    `missing` says why a chat server gave no content: "no_content", or "budget_spent_thinking"; empty where it gave some.
    `thought`: the server took the thinking out of the text. `tool_calls`: OpenAI's, as the server gave them.
    `policy_version`: of the weights that wrote it, where the server says so.
    """

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: str | None
    missing: str = ""
    thought: bool = False
    tool_calls: tuple[JsonObject, ...] = ()
    policy_version: int | None = None
