"""API keys stay out of every log, page and file: stand-ins for keys, and one `redact` for whatever looks like a secret."""

import os
import re
from collections.abc import Mapping
from typing import Any

KEY_VARIABLES = ("LONGTHREAD_API_KEY", "OPENAI_API_KEY")
REDACTED = "***"
_STAND_IN = "hidden-key-"
_keys: dict[str, str] = {}  # stand-in -> key
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET_WORDS = {"password", "passwd", "secret", "secrets", "authorization", "apikey", "apikeys", "credential"}
_SECRET_WORDS |= {"credentials", "cookie", "bearer", "passphrase"}
_SECRET_VALUE = re.compile(
    r"\b(?:sk|hf|ghp|wandb)[-_][\w-]{16,}|(?<=Bearer )\S+|(?<=Basic )[\w+/=]{8,}|(?<=://)[^/\s@]+(?=@)"
)


def mask_key(key: str) -> str:
    """Return a harmless stand-in for an API key, to print and store in its place; `unmask_key` turns it back."""
    if key.startswith(_STAND_IN):  # from the evaluate_config.yaml of an earlier run
        return key
    stand_in = f"{_STAND_IN}{len(_keys)}"
    _keys[stand_in] = key
    return stand_in


def unmask_key(stand_in: str) -> str:
    """Return the key behind a stand-in; any other text is returned as a key itself.

    For an empty text, "x" or an unknown stand-in: the key in the environment variables, or else "x".
    """
    if stand_in in _keys:
        return _keys[stand_in]
    if stand_in and stand_in != "x" and not stand_in.startswith(_STAND_IN):
        return stand_in
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), "x")


def is_secret(name: str) -> bool:
    """Return True when a setting's name tells of a secret: `api_key`, `hf_token`, `Authorization`; not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    kinds = {"api", "access", "private", "secret", "auth", "signing"}
    pairs = zip(words, words[1:], strict=False)
    after_a_kind = any(kind in kinds and word in ("key", "keys", "token", "tokens") for kind, word in pairs)
    return after_a_kind or words[-1] == "token" or bool(_SECRET_WORDS & set(words))


def redact_text(text: str) -> str:
    """Return the text with `***` for this process's API keys, which servers like to repeat, and what looks like a key."""
    variables = (*KEY_VARIABLES, "WANDB_API_KEY")
    for key in (*_keys.values(), *(os.environ.get(name, "") for name in variables)):
        if len(key) > 3:
            text = text.replace(key, REDACTED)
    return _SECRET_VALUE.sub(REDACTED, text)


def redact(value: Any, name: str = "") -> Any:
    """Return a JSON value without its secrets: what stands under a secret's name, or has a key's shape, becomes `***`."""
    if is_secret(name):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return redact_text(value) if isinstance(value, str) else value
