"""The app of every command of this project: typer's, except that a wrong option ends in one line."""

import sys
from typing import Any

import typer

from longthread.errors import fail

USAGE_ERROR: Any = typer.BadParameter.__base__  # click's, which not every typer brings under the same name


class App(typer.Typer):
    """A typer app that says in one line what is wrong with its options or arguments, where typer draws a box.

    No completion is installed, and exceptions that are nobody's mistake keep Python's own traceback.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"add_completion": False, "pretty_exceptions_enable": False} | options)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the command that the arguments name, and exit; with `standalone_mode=False` return, or raise, as click does."""
        if not options.pop("standalone_mode", True):
            return super().__call__(*args, **options, standalone_mode=False)
        try:
            code = super().__call__(*args, **options, standalone_mode=False)
        except USAGE_ERROR as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
                error.show()
                sys.exit(error.exit_code)
            hint = f" ({error.ctx.command_path} --help)" if error.ctx else ""
            fail(error.format_message().rstrip(".") + hint, error.exit_code)
        except typer.Abort:
            fail("aborted", 1)
        sys.exit(code if isinstance(code, int) else 0)
