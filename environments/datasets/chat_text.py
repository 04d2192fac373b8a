"""A conversation as text to train on, in the model's chat template."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from environments.haystack.chat_template import ChatTemplate


@lru_cache(maxsize=4)
def _chat_template(tokenizer: Any, variables: str) -> ChatTemplate:
    return ChatTemplate(tokenizer, json.loads(variables))  # proved once, which takes a tenth of a second


def in_template(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any] | None = None
) -> str:
    """Return the conversation as text that, tokenised with special tokens, is what the model reads.

    The text ends with the last turn, and lacks a token at its beginning that the tokenizer would add anyway. `template`:
    variables of the chat template.
    """
    chat = _chat_template(tokenizer, json.dumps(dict(template or {})))
    text = chat.render(messages, add_generation_prompt=False).strip()
    bos = tokenizer.bos_token
    doubled = bos and text.startswith(bos) and tokenizer.encode("a")[0] == tokenizer.bos_token_id
    return text.removeprefix(bos) if doubled else text
