"""One family of errors for what a user can change, and the one place that turns them into a line and an exit code."""

import asyncio
import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, NoReturn

from longthread import secrets

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # the fault of the disk, not of a setting


class LongthreadError(Exception):
    """The base of this project's errors: its message names in one line the value that is wrong, the limit and the fix.

    `setting` names the settings to change, without a flag's dashes ("lengths"); each command prints them as its own
    flags.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, setting: str | tuple[str, ...] = ()):
        super().__init__(message)
        self.message = message
        self.settings = (setting,) if isinstance(setting, str) else setting

    def line(self, flag: Callable[[str], str] = str) -> str:
        """Return the message as one line, followed in brackets by the settings to change, each written by `flag`."""
        named = ", ".join(flag(setting) for setting in self.settings)
        return " ".join(f"{self.message} ({named})".split()) if named else " ".join(self.message.split())

    def __str__(self) -> str:
        return self.line()


class ConfigError(LongthreadError, ValueError):
    """A setting, a file or a recipe that cannot work. Raised before any work starts."""


class DataError(ConfigError):
    """A row, a document or a file that cannot be read as what it should be."""


class RunError(LongthreadError, RuntimeError):
    """A run that has started and cannot go on; its command ends with exit code 1."""

    exit_code = 1


def fail(message: str, exit_code: int = 2) -> NoReturn:
    """Print the message as one line on stderr, without any API key, and exit."""
    print(f"error: {secrets.redact_text(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(exit_code)


def option(setting: str) -> str:
    """Return the command-line option of a setting: "--num-proc" for "num_proc"."""
    return "--" + setting.replace("_", "-")


@contextmanager
def exit_on_error(flag: Callable[[str], str] = str) -> Iterator[None]:
    """Run a command in the block: an error that a user can mend ends in one line and an exit code, others in a traceback.

    Exit codes: 2 for a user's mistake, 1 for a failed run or a full disk, 130 for Ctrl-C, 143 for SIGTERM.
    """
    try:
        yield
    except LongthreadError as error:
        fail(error.line(flag), error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        fail(str(error), 1 if error.errno in FULL_DISK else 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except asyncio.CancelledError:  # `serve` ends so on SIGTERM
        fail("terminated", 143)
