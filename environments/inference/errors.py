"""What can go wrong with a request to a model server, as kinds that `completions` decides on."""

import json

from environments.inference.http_client import through_proxy
from longthread.errors import RunError
from longthread.secrets import redact_text

UNAVAILABLE = (408, 425, 429, 502, 503, 504, 529)  # HTTP statuses
WRONG_KEY = ("set LONGTHREAD_API_KEY", ("openai.api_key",))
REJECTED = {  # HTTP status -> the fix and its settings
    401: WRONG_KEY,
    403: WRONG_KEY,
    404: ("check its address, model and type", ("openai.base_url", "openai.model_name", "openai.server_type")),
    407: ("the proxy wants a name and a password", ("openai.base_url",)),
}


class CompletionError(RunError):
    """No full group came back."""


class BadReply(CompletionError):
    """A reply that holds no completion, or none in time."""


class ServerUnavailable(CompletionError):
    """The server cannot be reached, or asks to be left alone for `seconds`; it has been down for `lasted` seconds."""

    def __init__(self, message: str, seconds: float = 0.0):
        super().__init__(message)
        self.seconds, self.lasted = seconds, 0.0


class RequestRejected(CompletionError):
    """The server will reject every request: a wrong key, address or model, or no credit."""

    status = 0  # HTTP


class RequestRefused(CompletionError):
    """The server refuses this request (HTTP 400, 405, 413, 422 and the like); `text` is what it says, `status` HTTP's."""

    def __init__(self, message: str, text: str, status: int):
        super().__init__(message)
        self.text, self.status = text, status


def http_error(url: str, status: int, content: bytes, retry_after: str) -> CompletionError:
    """Return the exception for an answer other than 200."""
    said = excerpt(content)
    message = f"{url} answered HTTP {status}: {said}" if said else f"{url} answered HTTP {status}"
    if status in REJECTED:
        fix, settings = REJECTED[status]
        rejected = RequestRejected(f"{message}; {fix}{through_proxy(url)}", setting=settings)
        rejected.status = status
        return rejected
    if status == 429 and "insufficient_quota" in said:
        return RequestRejected(f"{message}; the account has no credit left")
    if status in UNAVAILABLE:
        seconds = float(retry_after) if retry_after.replace(".", "", 1).isdigit() else 0.0  # it may also be a date
        return ServerUnavailable(message, seconds)
    if status >= 500:
        return BadReply(message)
    return RequestRefused(message, content.decode("utf-8", "replace"), status)


def excerpt(reply: object) -> str:
    """Return the beginning of a reply in one line, without keys."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else json.dumps(reply)
    return redact_text(" ".join(text.split()))[:160]
