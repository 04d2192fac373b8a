"""Servers that take token ids and give token ids with log-probabilities: how each is asked, and what it answers.

Which one stands at an address is found out by asking: vLLM's own `/v1/completions` with `return_token_ids` (vLLM 0.10.2 and
later; tried with 0.32), atroposlib's server of vLLM (`example_trainer/vllm_api_server.py`, which no vLLM since 0.24 starts),
SGLang's `/generate` (from its documentation; not tried with a real one).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from environments.inference.request_form import NEUTRAL
from longthread.chunked_json import dumps, elements
from longthread.files import Json, JsonObject

TOKEN_SERVERS = ("vllm", "sglang")  # server types


@dataclass(frozen=True)
class TokenRequest:
    """Token ids to go on from, and how to sample."""

    model: str
    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    n: int
    own: Mapping[str, object]  # fields of the user's

    @property
    def sampling(self) -> JsonObject:
        """The fields that every server of vLLM's takes."""
        return {"n": self.n, "max_tokens": self.max_tokens, "temperature": self.temperature, **NEUTRAL, **self.own}


@dataclass(frozen=True)
class TokenReply:
    """One completion as a server gives it: `text` is None where the server gives none."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: str | None
    text: str | None
    policy_version: int | None = None  # of the weights that wrote it, where the server says so


class TokenApi(Protocol):
    """One way to ask for tokens. `replies` raises LookupError, TypeError or ValueError for a body of another form."""

    name: str
    path: str  # behind the address, or in place of its /v1

    def body(self, request: TokenRequest) -> bytes:
        """Return the body of a request."""

    def replies(self, reply: Json) -> Iterator[TokenReply]:
        """Yield the completions of an answer."""

    def prompt_read(self, reply: Json) -> list[int] | None:
        """Return the prompt's tokens as the server read them, None where it does not say."""


class VllmCompletions:
    """vLLM's own `/v1/completions`."""

    name, path = "vLLM's /v1/completions", "/v1/completions"

    def body(self, request: TokenRequest) -> bytes:
        """Return the body: the prompt as ids, and tokens and log-probabilities wanted back."""
        asked = {"model": request.model, "logprobs": 0, "return_token_ids": True, "add_special_tokens": False}
        return b'{"prompt": [' + elements(request.prompt) + b"], " + dumps(asked | request.sampling)[1:]

    def replies(self, reply: Json) -> Iterator[TokenReply]:
        """Yield each choice with its `token_ids` and `logprobs.token_logprobs`."""
        for choice in reply["choices"]:
            tokens, logprobs = [int(i) for i in choice["token_ids"]], choice["logprobs"]["token_logprobs"]
            ending, version = choice.get("finish_reason"), reply.get("policy_version")
            yield _checked(tokens, [float(p) for p in logprobs], ending, choice.get("text"), version)

    def prompt_read(self, reply: Json) -> list[int] | None:
        """Return the first choice's `prompt_token_ids`."""
        read: list[int] | None = reply["choices"][0].get("prompt_token_ids")
        return read


class AtroposVllm:
    """The /generate of atroposlib's own server of vLLM, and of the embedded server."""

    name, path = "atroposlib's /generate", "/generate"

    def body(self, request: TokenRequest) -> bytes:
        """Return the body; what its server does not take must not stand in it."""
        sampling = {"n": request.n, "max_tokens": request.max_tokens, "temperature": request.temperature}
        prompt = b'{"prompt": {"prompt_token_ids": [' + elements(request.prompt) + b"]}, "
        return prompt + dumps({"logprobs": 0, **sampling, **request.own})[1:]

    def replies(self, reply: Json) -> Iterator[TokenReply]:
        """Yield each completion: for each token a list whose first member is {token id: log-probability} of the chosen
        one."""
        texts = reply.get("text") or [None] * len(reply["logprobs"])
        for entries, finish_reason, text in zip(reply["logprobs"], reply["finish_reasons"], texts, strict=True):
            chosen = [next(iter(entry[0].items())) for entry in entries]
            tokens, logprobs = [int(i) for i, _ in chosen], [float(p) for _, p in chosen]
            yield _checked(tokens, logprobs, finish_reason, text, reply.get("policy_version"))

    def prompt_read(self, reply: Json) -> list[int] | None:
        """Return `prompt_token_ids`."""
        read: list[int] | None = reply.get("prompt_token_ids")
        return read


class Sglang:
    """SGLang's /generate."""

    name, path = "SGLang's /generate", "/generate"

    def body(self, request: TokenRequest) -> bytes:
        """Return the body: ids, and sampling parameters of their own."""
        sampling = {"n": request.n, "max_new_tokens": request.max_tokens, "temperature": request.temperature}
        rest = {"sampling_params": {**sampling, **NEUTRAL, **request.own}, "return_logprob": True}
        return (
            b'{"input_ids": ['
            + elements(request.prompt)
            + b"], "
            + dumps(rest | {"return_text_in_logprobs": False})[1:]
        )

    def replies(self, reply: Json) -> Iterator[TokenReply]:
        """Yield each completion, of `meta_info.output_token_logprobs`: (log-probability, token id, text) a token."""
        for one in reply if isinstance(reply, list) else [reply]:
            reason, chosen = one["meta_info"].get("finish_reason"), one["meta_info"]["output_token_logprobs"]
            reason = reason["type"] if isinstance(reason, dict) else reason
            yield _checked([int(c[1]) for c in chosen], [float(c[0]) for c in chosen], reason, one.get("text"))

    def prompt_read(self, reply: Json) -> list[int] | None:
        """Return None: SGLang says only how many there were."""
        return None


# By server type, the likeliest first.
APIS: Mapping[str, tuple[TokenApi, ...]] = {"vllm": (VllmCompletions(), AtroposVllm()), "sglang": (Sglang(),)}
COMMANDS = {
    "vllm": "vllm serve MODEL --generation-config vllm (0.10.2 or later)",
    "sglang": "python -m sglang.launch_server --model-path MODEL",
}


def _checked(
    tokens: list[int], logprobs: list[float], finish_reason: str | None, text: str | None, version: int | None = None
) -> TokenReply:
    if len(tokens) != len(logprobs):
        raise ValueError(f"{len(tokens)} tokens with {len(logprobs)} log-probabilities")
    return TokenReply(tokens, logprobs, finish_reason, text, version)
