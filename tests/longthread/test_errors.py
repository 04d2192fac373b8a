"""One line and one exit code for whatever a user can change; a traceback for a bug."""

from __future__ import annotations

import asyncio
import errno

import pytest

from longthread import secrets
from longthread.errors import ConfigError, DataError, LongthreadError, RunError, exit_on_error, fail, option

KEY = "my-very-own-key-4711"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("a\nb"), 2, "error: a b"),
        (ConfigError("too short", setting="lengths"), 2, "error: too short (--env.lengths)"),
        (ConfigError("a of b", setting=("a", "b")), 2, "error: a of b (--env.a, --env.b)"),
        (DataError("rows.jsonl:3: invalid JSON"), 2, "error: rows.jsonl:3: invalid JSON"),
        (RunError("stopped"), 1, "error: stopped"),
        (OSError(errno.ENOSPC, "No space left on device", "out.html"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "Permission denied"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (asyncio.CancelledError(), 143, "error: terminated"),
    ],
)
def test_how_a_command_may_end(raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, exit_on_error(lambda setting: f"--env.{setting}"):
        raise raised
    shown = capsys.readouterr().err
    assert stop.value.code == code and line in shown and len(shown.splitlines()) == 1


@pytest.mark.parametrize("raised", [ValueError("a bug"), RuntimeError("a bug"), KeyError("a"), OSError("no number")])
def test_a_bug_keeps_its_traceback(raised: Exception) -> None:
    with pytest.raises(type(raised)) as caught, exit_on_error():
        raise raised
    assert caught.value is raised


def test_a_command_that_works_ends_as_it_likes() -> None:
    with exit_on_error():
        pass
    with pytest.raises(SystemExit) as stop, exit_on_error():
        raise SystemExit(3)
    assert stop.value.code == 3


def test_no_key_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(secrets.KEY_VARIABLES[0], KEY)
    with pytest.raises(SystemExit):
        fail(f"the server said {KEY}")
    assert capsys.readouterr().err == "error: the server said ***\n"


def test_errors_are_of_one_family_and_of_the_kinds_that_libraries_expect() -> None:
    """pydantic and Typer take ValueError for a wrong value."""
    assert issubclass(ConfigError, LongthreadError | ValueError) and issubclass(ConfigError, ValueError)
    assert issubclass(DataError, ConfigError) and issubclass(RunError, RuntimeError)
    assert str(ConfigError("x must be 1", setting="x")) == "x must be 1 (x)"


def test_options_are_settings_with_dashes() -> None:
    assert option("num_proc") == "--num-proc"
