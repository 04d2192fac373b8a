"""Chat prompts of one tokenizer, proved once: what the user writes arrives whole and once, and all around it is constant.

The tokens of a prompt are counted by pieces, so the template has to render a message's text as it is. Where it takes
lists of parts alone, as those of vision models do, the text is rendered as the one part of such a list.
"""

import html
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from longthread.errors import ConfigError
from longthread.files import JsonObject
from longthread.language_model import PromptTokenizer

# Names that a call of `apply_chat_template` gives a meaning of its own.
RESERVED = {
    *("conversation", "messages", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs"),
    *("padding", "truncation", "max_length"),
}
# What a haystack may hold and a template may trip over: blank lines, quotes, markup, braces, a surplus of spaces.
AWKWARD = (
    "Read this: \"quoted\", 'single' & <b>bold</b> {{ braces }} {% tags %} 100 % of \\n it.\n\n"
    "[1] Caf\u00e9, \u6cb3\u8fb9\u7684\u623f\u5b50\u3002 \U0001f600 two  spaces\n\tand a tab.\n\n\n- a list\n1. numbered\n\n"
)
# As long as a prompt may be, because a template may cut what it renders.
PROBES = ("What is it?", AWKWARD + "Question: who?", AWKWARD + "A line of text.\n\n" * 65_536 + AWKWARD + "End.")

Message = Mapping[str, Any]


class ChatTemplate:
    """Renders conversations with a tokenizer's chat template and the template's own variables, like `enable_thinking`.

    Raises `ConfigError` for several templates without a default, and for variables that are not the template's own.
    """

    def __init__(self, tokenizer: PromptTokenizer, variables: Mapping[str, Any] | None = None):
        self._tokenizer, self.variables = tokenizer, dict(variables or {})
        self._name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        self._check_variables()
        self._check_names()

    @cached_property
    def parts(self) -> bool:
        """True where content goes in as a list of parts, because it does not arrive as a string. Raises `ConfigError`."""
        fault = self._fault(parts=False)
        if fault and self._fault(parts=True):
            raise self._error(fault)
        return fault is not None

    def prove(self) -> None:
        """Raise `ConfigError`, in one line, unless a user's text arrives whole and once. The first rendering asks too."""
        _ = self.parts

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Return the conversation as text, ending where the assistant begins to write. Raises `ConfigError`."""
        parts = self.parts
        try:
            return self._apply(messages, parts, add_generation_prompt)
        except Exception as error:  # a template may raise what it likes
            raise self._error(_raised(error)) from error

    def _apply(self, messages: Sequence[Message], parts: bool, add_generation_prompt: bool = True) -> str:
        conversation = [_in_parts(message) if parts else dict(message) for message in messages]
        text: str = self._tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=add_generation_prompt, **self.variables
        )
        return text

    def _fault(self, parts: bool) -> str | None:
        """Return what the template does to a text, as a verb phrase; None where it renders all probes whole and once."""
        frames = set()
        for probe in PROBES:
            try:
                text = self._apply([{"role": "user", "content": probe}], parts)
            except Exception as error:  # as above
                return _raised(error)
            if text.count(probe) != 1:
                return _change(text, probe)
            frames.add(tuple(text.split(probe)))
        return None if len(frames) == 1 else "puts other text around each message"

    def _check_variables(self) -> None:
        if reserved := sorted(RESERVED & self.variables.keys()):
            raise ConfigError(
                f"chat template variables must not name {', '.join(reserved)}: longthread sets that itself; name only "
                "variables that the template reads",
                setting="request",
            )

    def _check_names(self) -> None:
        """Raise `ConfigError` for several named templates of which none is the default."""
        templates: Any = self._tokenizer.chat_template
        if isinstance(templates, Mapping) and "default" not in templates:
            raise ConfigError(
                f"tokenizer {self._name!r} has the chat templates {', '.join(map(str, templates))} and none named "
                "default: set tokenizer.chat_template to one of them and save it",
                setting="tokenizer_name",
            )

    def _error(self, fault: str) -> ConfigError:
        return ConfigError(
            f"the chat template of tokenizer {self._name!r} {fault}: set tokenizer.chat_template to one that renders "
            "message['content'] as it is, and save it, or use another tokenizer",
            setting="tokenizer_name",
        )


def _in_parts(message: Message) -> JsonObject:
    """Return the message with its text as a list of one part."""
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def _raised(error: Exception) -> str:
    reason = " ".join(str(error).split())[:160]
    return f"fails ({type(error).__name__}{f': {reason}' if reason else ''})"


def _change(text: str, probe: str) -> str:
    """Return how the rendered text changes the probe that it should hold once."""
    if probe in text:
        return "repeats the user's text"
    if probe in html.unescape(text):
        return "escapes the user's text"
    if "".join(probe.split()) in "".join(text.split()):
        return "changes the white space of the user's text"
    if probe[:100] in text:
        return "cuts the user's text"
    known = any(word in text.lower() for word in re.findall(r"\w{4,}", probe.lower()))
    return "changes the user's text" if known else "leaves the user's text out"
