"""What a request to the embedded server may ask for, and the forms of its answers: OpenAI's and vLLM's. Pure.

A parameter that would change the answer and is not implemented is refused, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longthread.files import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """How to sample completions. `stopped` gets a completion's token ids after each token and returns True to end it
    (stop strings live outside the engine)."""

    n: int = 1
    max_tokens: int = 16
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int | None = None
    top_logprobs: int = 0
    stopped: Callable[[Sequence[int]], bool] | None = None
    on_token: Callable[[int, Sequence[int]], None] | None = None  # (number, ids) of a generation that goes on


@dataclass
class Generation:
    """One completion: its token ids, the end-of-text token included, and the model's log-probabilities (temperature 1)."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)  # for each token, the likeliest (id, logprob)
    finish_reason: str = ""  # "stop" or "length"; empty while it runs
    policy_version: int = 0  # of the weights that wrote it


class RequestError(Exception):
    """A request that is refused: one line, an HTTP status and OpenAI's error code."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def to_json(self) -> JsonObject:
        """Return the error as the body of OpenAI's error replies."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": None, "code": self.code}}


# ---- requests ----


@dataclass(frozen=True)
class Number:
    """A numeric parameter: its type, its range and its default."""

    kind: type[int] | type[float]
    low: float
    high: float = float("inf")
    default: float | None = None


NUMBERS = {
    "n": Number(int, 1, 64, 1),
    "max_tokens": Number(int, 1),
    "max_completion_tokens": Number(int, 1),
    "temperature": Number(float, 0, 100, 1.0),
    "top_p": Number(float, 1e-6, 1, 1.0),
    "top_k": Number(int, -1, default=0),
    "seed": Number(int, -(2**63), 2**63 - 1),
    "logprobs": Number(int, 0, 20, 0),
    "top_logprobs": Number(int, 0, 20, 0),
}
# Parameters that would change the answer and are not implemented, with the values that ask for nothing.
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "stop_token_ids": ([],),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "prompt_logprobs": (False,),
}


def number(body: JsonObject, name: str) -> Any:
    """Return a parameter of `NUMBERS` from a request's body, as int or float; a missing one or null gives its default.

    Raises `RequestError` for a wrong type or a value out of range.
    """
    wanted, value = NUMBERS[name], body.get(name)
    if value is None:
        return wanted.default
    if isinstance(value, bool) or not isinstance(value, int if wanted.kind is int else (int, float)):
        raise RequestError(f"{name} is {shortened(value)}: give {'an integer' if wanted.kind is int else 'a number'}")
    if not wanted.low <= value <= wanted.high:
        at_most = f", at most {wanted.high}" if wanted.high < 2**63 - 1 else ""
        raise RequestError(f"{name} is {value}: give {wanted.low} or more{at_most}")
    return wanted.kind(value)


def stop_strings(body: JsonObject) -> list[str]:
    """Return the request's stop strings: the text of a completion ends before the first of them."""
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError(f"stop is {shortened(stop)}: give a string or a list of strings, none of them empty")
    return stops


def chat_messages(body: JsonObject) -> list[dict[str, str]]:
    """Return the request's messages, each with its content as one string (text parts are joined)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is missing or empty: give a list of {role, content}")
    return [_message(i, message) for i, message in enumerate(messages)]


def last_user_text(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the content of the last message of the role "user"; an empty text if there is none."""
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def _message(i: int, message: object) -> dict[str, str]:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError(f"messages[{i}] must be an object with a role: give {{role, content}}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"messages[{i}].content must be text: give a string")
    return {"role": message["role"], "content": content}


def sampling_of(
    body: JsonObject, default_max_tokens: int, top_logprobs: int, tokenizer: PreTrainedTokenizerBase
) -> Sampling:
    """Return how to sample, from everything in a request's body but the prompt.

    Raises `RequestError` for what is out of range or not implemented.
    """
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in values:
            raise RequestError(
                f"{name}={shortened(body[name])} is not supported by the embedded server: leave it out, or use vLLM",
                code="unsupported_parameter",
            )
    budget = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    stops = stop_strings(body)
    return Sampling(
        n=number(body, "n"),
        max_tokens=number(body, budget) or default_max_tokens,
        temperature=number(body, "temperature"),
        top_p=number(body, "top_p"),
        top_k=max(number(body, "top_k"), 0),
        seed=number(body, "seed"),
        top_logprobs=top_logprobs,
        stopped=_stop_test(tokenizer, stops) if stops else None,
    )


def _stop_test(tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    # The match ends in the newest token and a token is at least a byte: so many tokens hold it for sure.
    reach = max(len(stop.encode()) for stop in stops) + 8

    def stopped(ids: Sequence[int]) -> bool:
        tail = tokenizer.decode(list(ids[-reach:]), skip_special_tokens=True)
        return any(stop in tail for stop in stops)

    return stopped


def shortened(value: object) -> str:
    """Return the value as JSON, cut to 41 characters."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "…"


# ---- answers ----


def wants_stream(body: JsonObject) -> bool:
    """Return whether the answer is wanted as events. Raises `RequestError` for what events do not have."""
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise RequestError(f"stream is {shortened(stream)}: give true or false")
    if stream and body.get("logprobs") not in (None, False):
        raise RequestError("logprobs are not streamed by the embedded server: leave out stream or logprobs")
    return stream


def template_variables(body: JsonObject) -> JsonObject:
    """Return the variables of the chat template that a request sets."""
    variables = body.get("chat_template_kwargs") or {}
    if not isinstance(variables, dict) or {"tokenize", "add_generation_prompt"} & variables.keys():
        raise RequestError(
            f"chat_template_kwargs is {shortened(variables)}: give an object of the template's variables"
        )
    return variables


def usage(prompt: Sequence[int], generations: Sequence[Generation]) -> JsonObject:
    """Return the counts of tokens that were read and written."""
    written = sum(len(generation.ids) for generation in generations)
    return {"prompt_tokens": len(prompt), "completion_tokens": written, "total_tokens": len(prompt) + written}


class Formatter:
    """Turns generations into text, and their log-probabilities into OpenAI's two formats."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Collection[int]) -> None:
        self.tokenizer, self.eos_ids = tokenizer, eos_ids

    def text(self, generation: Generation, stops: Sequence[str]) -> str:
        """Return the generation's text up to the end-of-text token or the first stop string, neither of them included."""
        text = self.decode(generation.ids[:-1] if generation.ids[-1] in self.eos_ids else generation.ids)
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def token(self, token_id: int) -> str:
        """Return the text of one token id."""
        return str(self.tokenizer.decode([token_id]))

    def chat_logprobs(self, generation: Generation) -> JsonObject:
        """Return the generation's log-probabilities in the format of /v1/chat/completions."""

        def entry(token_id: int, logprob: float) -> JsonObject:
            token = self.token(token_id)
            return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

        tops = generation.top or [[] for _ in generation.ids]
        content = [
            entry(token_id, logprob) | {"top_logprobs": [entry(*pair) for pair in top]}
            for token_id, logprob, top in zip(generation.ids, generation.logprobs, tops, strict=True)
        ]
        return {"content": content, "refusal": None}

    def legacy_logprobs(self, generation: Generation) -> JsonObject:
        """Return the generation's log-probabilities in the format of /v1/completions."""
        tokens = [self.token(token_id) for token_id in generation.ids]
        return {
            "tokens": tokens,
            "token_logprobs": generation.logprobs,
            "top_logprobs": [{self.token(t): lp for t, lp in top} for top in generation.top] or None,
            "text_offset": [sum(map(len, tokens[:i])) for i in range(len(tokens))],
        }


def native_logprobs(generation: Generation) -> list[list[dict[int, float]]]:
    """Return logprobs in the format of /generate: for each token a list that holds {id of the chosen token: logprob}."""
    return [[{i: lp}] for i, lp in zip(generation.ids, generation.logprobs, strict=True)]
