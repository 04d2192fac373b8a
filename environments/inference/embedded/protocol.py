"""What a request to the embedded server may say, and what its answers look like: OpenAI's forms and vLLM's. Pure.

A parameter that would change the answer and is not implemented is refused, never ignored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from environments.inference.embedded.engine import Completion, Sampling

MAX_N = 64

# Parameters that would change the answer and are not implemented, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
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


class RequestError(Exception):
    """A request that is refused: HTTP status, one line, OpenAI's error code."""

    def __init__(self, message: str, status: int = 400, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code = status, code

    def response(self) -> web.Response:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return web.json_response({"error": error}, status=self.status)


def number(body: dict[str, Any], name: str, default: Any, kind: type, low: float, high: float = float("inf")) -> Any:
    """A number of the body, checked; a missing one or null gives the default."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise RequestError(f"{name} is {shown(value)}: give {'an integer' if kind is int else 'a number'}")
    if not low <= value <= high:
        raise RequestError(f"{name} is {value}: give {low} or more" + (f", at most {high}" if high < 2**63 - 1 else ""))
    return kind(value)


def stop_strings(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError(f"stop is {shown(stop)}: give a string or a list of strings, none of them empty")
    return stops


def chat_messages(body: dict[str, Any]) -> list[dict[str, str]]:
    """The messages with plain string contents (text parts are joined)."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages is missing or empty: give a list of {role, content}")
    plain = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{i}] is no object with a role: give {{role, content}}")
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise RequestError(f"messages[{i}].content is no text: give a string")
        plain.append({"role": message["role"], "content": content})
    return plain


def sampling_of(body: dict[str, Any], default_max_tokens: int, logprobs: int, tokenizer: Any) -> Sampling:
    """Everything but the prompt; raises RequestError for what is out of range or not implemented."""
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in values:
            raise RequestError(
                f"{name}={shown(body[name])} is not supported by the embedded server: leave it out, or use vLLM",
                code="unsupported_parameter",
            )
    budget = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    top_k = number(body, "top_k", 0, int, -1)
    stops = stop_strings(body)
    return Sampling(
        n=number(body, "n", 1, int, 1, MAX_N),
        max_tokens=number(body, budget, default_max_tokens, int, 1),
        temperature=number(body, "temperature", 1.0, float, 0, 100),
        top_p=number(body, "top_p", 1.0, float, 1e-6, 1),
        top_k=max(top_k, 0),
        seed=number(body, "seed", None, int, -(2**63), 2**63 - 1),
        top_logprobs=logprobs,
        stopped=_stop_test(tokenizer, stops) if stops else None,
    )


def _stop_test(tokenizer: Any, stops: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    # The match ends in the newest token and a token is at least a byte: so many tokens hold it for sure.
    reach = max(len(stop.encode()) for stop in stops) + 8

    def stopped(ids: Sequence[int]) -> bool:
        tail = tokenizer.decode(ids[-reach:], skip_special_tokens=True)
        return any(stop in tail for stop in stops)

    return stopped


def shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:40] + "…"


class Voice:
    """Completions as text and as the three forms of log-probabilities."""

    def __init__(self, tokenizer: Any, eos_ids: set[int]) -> None:
        self.tokenizer, self.eos_ids = tokenizer, eos_ids

    def text(self, completion: Completion, stops: Sequence[str]) -> str:
        """Up to the end-of-text token or the first stop string, neither of them included."""
        ids = completion.ids[:-1] if completion.ids[-1] in self.eos_ids else completion.ids
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]

    def token(self, token_id: int) -> str:
        text: str = self.tokenizer.decode([token_id])
        return text

    def chat_logprobs(self, completion: Completion) -> dict[str, Any]:
        def entry(token_id: int, logprob: float) -> dict[str, Any]:
            token = self.token(token_id)
            return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

        tops = completion.top or [[] for _ in completion.ids]
        content = [
            entry(token_id, logprob) | {"top_logprobs": [entry(*pair) for pair in top]}
            for token_id, logprob, top in zip(completion.ids, completion.logprobs, tops, strict=True)
        ]
        return {"content": content, "refusal": None}

    def legacy_logprobs(self, completion: Completion) -> dict[str, Any]:
        tokens = [self.token(token_id) for token_id in completion.ids]
        return {
            "tokens": tokens,
            "token_logprobs": completion.logprobs,
            "top_logprobs": [{self.token(t): lp for t, lp in top} for top in completion.top] or None,
            "text_offset": [sum(map(len, tokens[:i])) for i in range(len(tokens))],
        }


def native_logprobs(completion: Completion) -> list[list[dict[int, float]]]:
    """/generate's form: per token a list whose first entry is {token id: logprob}, the chosen one first."""
    return [[{i: lp}] for i, lp in zip(completion.ids, completion.logprobs, strict=True)]
