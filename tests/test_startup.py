"""What needs no torch imports none: `--help` of every command, and the names that a short program imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "atroposlib", "matplotlib", "datasets", "wandb", "sklearn", "scipy", "openai")
PROBE = """
import json, sys
try:
    {statement}
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""
COMMANDS = {
    "longthread": ("longthread_cli", "main", ["--help"]),
    "longthread demo": ("longthread_cli", "main", ["demo", "--help"]),
    "longthread report": ("longthread_cli", "main", ["report", "--help"]),
}


def imported(statement: str) -> list[str]:
    """The heavy modules that a fresh interpreter has after the statement."""
    program = PROBE.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_heavy(name: str) -> None:
    module, function, argv = COMMANDS[name]
    assert imported(f"sys.argv[1:] = {argv}; from {module} import {function}; {function}()") == []


@pytest.mark.parametrize(
    "statement",
    [
        "import longthread",
    ],
)
def test_importing_a_public_name_imports_nothing_heavy(statement: str) -> None:
    assert imported(statement) == []


def test_an_environment_imports_atroposlib_without_what_few_runs_use() -> None:
    statement = "from environments.atropos.base import BaseEnv"
    assert set(imported(statement)) & {"torch", "transformers", "wandb", "sklearn", "scipy", "datasets"} == set()
