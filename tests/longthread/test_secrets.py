"""No API key comes out: neither by a setting's name nor by its own shape."""

import pytest

from longthread.secrets import is_secret, redact


@pytest.mark.parametrize(
    "key",
    [
        "api_key",
        "apiKey",
        "openai.api_key",
        "OPENAI_API_KEY",
        "token",
        "hf_token",
        "HF_TOKEN",
        "access-token",
        "Authorization",
        "password",
        "db_password",
        "client_secret",
        "secret",
        "aws_secret_access_key",
        "private_key",
        "credentials",
        "auth_tokens",
        "Cookie",
    ],
)
def test_secret_keys(key: str) -> None:
    assert is_secret(key)
    assert redact({"servers": [{key: "value"}]}) == {"servers": [{key: "***"}]}


@pytest.mark.parametrize(
    "key",
    [
        "max_tokens",
        "tokenizer",
        "tokenizer_name",
        "max_token_length",
        "prompt_tokens",
        "tokens",
        "keys",
        "monkey",
        "author",
        "task_keys",
    ],
)
def test_open_keys(key: str) -> None:
    assert not is_secret(key) and redact({key: "value"}) == {key: "value"}


def test_secret_values_under_innocent_keys() -> None:
    config = {"argv": ["--openai.api_key", "sk-abcdefghijklmnop1234"], "url": "https://me:pw@host/v1", "n": 3}
    assert redact(config) == {"argv": ["--openai.api_key", "***"], "url": "https://***@host/v1", "n": 3}
    assert redact({"header": "Bearer abc.def"}) == {"header": "Bearer ***"}
