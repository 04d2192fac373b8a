"""The replies of OpenAI's chat protocol, in the forms that servers give them."""

from dataclasses import dataclass
from typing import Any

from environments.inference.errors import BadReply, excerpt
from environments.inference.finish_reason import Ending, ending
from longthread.files import JsonObject

REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")  # where servers put the thinking


@dataclass(frozen=True)
class ChatReply:
    """One choice of a reply; `missing`, `thought` and `tool_calls` as in `Completion`, `error` what a provider says went
    wrong."""

    text: str
    finish_reason: str | None
    missing: str = ""
    thought: bool = False
    error: str = ""
    tool_calls: tuple[JsonObject, ...] = ()


def checked(reply: Any, url: str) -> JsonObject:
    """Return a reply that has choices. Raises `BadReply`: also for a provider's error inside a 200."""
    if (
        isinstance(reply, dict)
        and isinstance(reply.get("choices"), list)
        and (reply["choices"] or "error" not in reply)
    ):
        return reply
    raise BadReply(f"{url} gave a reply without completions: {excerpt(reply)}")


def parse(reply: JsonObject, url: str) -> list[ChatReply]:
    """Return the choices of a reply. Raises `BadReply` for another form."""
    try:
        return [_choice(choice) for choice in reply["choices"]]
    except (AttributeError, KeyError, TypeError):
        raise BadReply(f"{url} gave a reply without completions: {excerpt(reply)}") from None


def _choice(choice: JsonObject) -> ChatReply:
    message, reason = choice["message"], choice.get("finish_reason")
    if not isinstance(reason, str | None):
        raise TypeError
    text, calls = _text(message.get("content")), _tool_calls(message.get("tool_calls"))
    thought = any(message.get(name) for name in REASONING)
    if error := choice.get("error") or message.get("error"):
        return ChatReply("", "error", "no_content", thought, f": {excerpt(error)}")
    if text is not None:
        # An empty text of a model that went on thinking is none; one of a model that ended at once is its reply.
        spent = thought and not text.strip() and ending(reason) is Ending.CUT
        return ChatReply(text, reason, "budget_spent_thinking" if spent else "", thought, tool_calls=calls)
    spent = thought and ending(reason) is not Ending.FINISHED
    return ChatReply("", reason, "budget_spent_thinking" if spent else "no_content", thought, tool_calls=calls)


def _text(content: Any) -> str | None:
    """The text of a message: a string, or parts of text; None where there is none. Raises TypeError."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, str) or part.get("type") in ("text", "output_text")]
        texts = [part if isinstance(part, str) else part["text"] for part in parts]
        content = "".join(texts) if texts else None
    if not isinstance(content, str | None):
        raise TypeError
    return content


def _tool_calls(calls: Any) -> tuple[JsonObject, ...]:
    """Return a message's tool calls, unread. Raises TypeError for anything but a list of objects."""
    if not isinstance(calls or [], list) or not all(isinstance(call, dict) for call in calls or []):
        raise TypeError
    return tuple(calls or ())
