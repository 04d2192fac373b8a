"""What one chat server takes: the fields of its requests, changed by its first refusals."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from longthread.files import JsonObject

# Sent where the server takes them: what a request leaves open vLLM fills from the model's generation_config.json, where a
# repetition penalty counts the prompt and changes what is copied from it (measured: 27 of 28 answers at temperature 0).
NEUTRAL: Mapping[str, float] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
TOO_LONG = re.compile(
    r"context (length|window|size)|too (long|large)|reduce the length|exceed|max_model_len", re.IGNORECASE
)
UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra|instead|only the default",
    re.IGNORECASE,
)
ONE_REPLY = re.compile(
    r"""['"`]n['"`]|\bn\s*(?:>|=|<|must|should|parameter|is\b)|parameter n\b|num(?:ber of)? (?:choices|completions)|"""
    r"multiple (?:choices|completions|outputs)|only one (?:choice|completion)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RequestForm:
    """The fields of a server's chat requests: `n` or one reply a request, the limit's name, and what is left out."""

    takes_n: bool = True
    limit: str = "max_tokens"
    left_out: frozenset[str] = frozenset()

    def fields(self, max_tokens: int, temperature: float, n: int, own: Mapping[str, object]) -> JsonObject:
        """Return the sampling fields of a request for `n` replies; the user's `own` win over the neutral ones."""
        wanted: JsonObject = {"n": n, self.limit: max_tokens, "temperature": temperature, **NEUTRAL}
        left_out = self.left_out if self.takes_n else self.left_out | {"n"}
        return {name: value for name, value in wanted.items() if name not in left_out} | dict(own)

    def after(self, refusal: str, own: Mapping[str, object]) -> "RequestForm | None":
        """Return the form that avoids what a refusal (the text of HTTP 400 or 422) names, None where it names nothing.

        No other form helps a prompt that is too long. A field that the user asked for is never left out.
        """
        if TOO_LONG.search(refusal) and "max_completion_tokens" not in refusal:
            return None
        if self.limit == "max_tokens" and _names(refusal, "max_tokens") and UNSUPPORTED.search(refusal):
            return replace(self, limit="max_completion_tokens")
        # A temperature that is out of range is the user's to change; a neutral value may be refused for any reason.
        candidates = (*(["temperature"] if UNSUPPORTED.search(refusal) else []), *NEUTRAL)
        for name in candidates:
            if name not in self.left_out and name not in own and _names(refusal, name):
                return replace(self, left_out=self.left_out | {name})
        return self.one_by_one() if self.takes_n and ONE_REPLY.search(refusal) else None

    def one_by_one(self) -> "RequestForm":
        """Return the form that asks for one reply a request."""
        return replace(self, takes_n=False)

    def learnt(self, first: "RequestForm") -> str:
        """Return in words what differs from the `first` form, empty where nothing does."""
        lessons = []
        if self.limit != first.limit:
            lessons.append(f"takes {self.limit}, not {first.limit}")
        if self.takes_n != first.takes_n:
            lessons.append("gives one reply a request, not n")
        if more := sorted(self.left_out - first.left_out):
            lessons.append(f"takes no {', '.join(more)}: its own is in force")
        return "; ".join(lessons)

    def in_force(self, temperature: float, own: Mapping[str, object]) -> str:
        """Return the sampling parameters as reports state them."""
        values = {"temperature": temperature, **NEUTRAL, **own}
        names = ["temperature", *NEUTRAL, *sorted(set(own) - {"temperature", *NEUTRAL})]
        return ", ".join(f"{n} {'the server’s own' if n in self.left_out else values[n]}" for n in names)


def _names(text: str, field: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(field)}(?![\w])", text) is not None
