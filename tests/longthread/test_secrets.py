"""No API key comes out: by its stand-in, by a setting's name, by its own shape."""

import pytest

from longthread import secrets
from longthread.secrets import is_secret, mask_key, redact, redact_text, unmask_key

KEY = "sk-do-not-show-me"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_keys", {})
    for name in (*secrets.KEY_VARIABLES, "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_keys_are_hidden_and_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = mask_key(KEY)
    assert KEY not in stand_in and unmask_key(stand_in) == KEY
    assert unmask_key("sk-plain") == "sk-plain" and unmask_key("x") == unmask_key("") == "x"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-second")
    assert unmask_key("x") == "sk-second"
    monkeypatch.setenv("LONGTHREAD_API_KEY", "sk-first")
    assert unmask_key("x") == "sk-first" and unmask_key(stand_in) == KEY
    assert redact_text(f"{KEY} sk-first sk-second other") == "*** *** *** other"


def test_the_stand_in_of_an_earlier_run_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluate_config.yaml that `evaluate` writes can be given to --config again."""
    stand_in = mask_key(KEY)
    secrets._keys.clear()
    monkeypatch.setenv("LONGTHREAD_API_KEY", "sk-now")
    assert unmask_key(stand_in) == unmask_key(mask_key(stand_in)) == "sk-now"


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
