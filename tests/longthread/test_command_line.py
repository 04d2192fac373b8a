"""What the commands say to wrong options and arguments: one line on stderr, and exit code 2."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from longthread.command_line import App

ROOMS = [path for folder in ("benchmarks", "environments", "lift", "longthread", "trainer_configs")
         for path in Path(folder).rglob("*.py")]  # fmt: skip


@pytest.fixture
def app() -> App:
    made = App(no_args_is_help=True, help="A tool.")

    @made.command()
    def cut(
        source: str, pieces: Annotated[int, typer.Option(min=1)] = 1, how: Annotated[str, typer.Option()] = "evenly"
    ) -> None:
        print(f"{source} in {pieces}, {how}")

    @made.command()
    def stop() -> None:
        raise typer.Exit(3)

    @made.command()
    def give_up() -> None:
        raise typer.Abort

    return made


def run(app: App, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(list(arguments), prog_name="tool")
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cut", "rope", "--pieces", "0"], ("'--pieces'", "(tool cut --help)")),
        (["cut", "rope", "--pieces", "two"], ("'--pieces'", "(tool cut --help)")),
        (["cut"], ("'SOURCE'", "(tool cut --help)")),
        (["cut", "rope", "more"], ("extra argument", "more", "(tool cut --help)")),
        (["cut", "rope", "--how"], ("'--how' requires an argument",)),
        (["tie"], ("No such command 'tie'", "(tool --help)")),
    ],
)
def test_a_wrong_option_is_one_line(
    app: App, arguments: list[str], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert all(word in said.err for word in named)


def test_an_unknown_option_is_one_line(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, "cut", "rope", "--piece", "2") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: No such option") and said.count("\n") == 1


def test_a_command_that_works_exits_with_0(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, "cut", "rope", "--pieces", "2") == 0
    assert capsys.readouterr() == ("rope in 2, evenly\n", "")


def test_a_command_s_own_exit_code_is_kept(app: App) -> None:
    assert run(app, "stop") == 3


def test_an_abort_is_one_line(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, "give-up") == 1
    assert capsys.readouterr().err == "error: aborted\n"


def test_no_arguments_show_the_help_and_no_error(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app) == 2
    said = capsys.readouterr()
    assert "give-up" in said.out + said.err and "error:" not in said.out + said.err


def test_a_program_that_calls_it_gets_the_exception(app: App) -> None:
    with pytest.raises(Exception, match="(?i)source"):
        app(["cut"], standalone_mode=False)
    assert app(["cut", "rope"], standalone_mode=False) is None


def test_every_command_uses_this_app() -> None:
    own = Path("longthread/command_line.py")
    assert not [path for path in ROOMS if path != own and "typer.Typer(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("lift.cli", ["ask", "who?", "--hops", "-1"]), ("longthread_cli", ["longlora", "extend", "out", "--to", "far"])],
)
def test_the_real_commands_say_it_in_one_line(module: str, arguments: list[str]) -> None:
    run = f"import sys, {module} as room; sys.argv[1:] = {arguments!r}; room.main()"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: Invalid value for") and done.stderr.count("\n") == 1
