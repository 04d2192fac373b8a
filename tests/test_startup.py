"""What needs no torch imports none: `--help` of every command, and the names that a short program imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "atroposlib",
    "matplotlib",
    "datasets",
    "wandb",
    "sklearn",
    "scipy",
    "openai",
    "pandas",
)
PROBE = """
import json, sys
sys.argv[1:] = {arguments}
try:
    {statement}
except SystemExit as stop:
    assert not stop.code, stop.code
print(json.dumps([name for name in {heavy} if name in sys.modules]))
"""
ENTRIES = {
    "needle-env": "from environments.console import needle; needle()",
    "linked-needle-env": "from environments.console import linked; linked()",
    "memory-env": "from environments.console import memory; memory()",
    "longthread": "from longthread_cli import main; main()",
    "lift": "from lift.cli import main; main()",
}
MODULES = ("environments.embedded_server", "environments.demo_model", "trainer_configs.longlora.data")
COMMANDS = """
needle-env
needle-env process
linked-needle-env
linked-needle-env evaluate
memory-env evaluate
longthread
longthread demo
longthread report
longthread export
longthread export sft
longthread collect
longthread collect sft
longthread longlora
longthread longlora data
longthread longlora rope
longthread longlora merge
longthread longlora perplexity
lift
lift fit
lift ask
lift evaluate
lift serve
lift reader
lift reader install
lift reader pack
""".split("\n")[1:-1]


def imported(statement: str, *arguments: str) -> list[str]:
    """The heavy modules that a fresh interpreter has after the statement."""
    program = PROBE.format(statement=statement, arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    entry, *arguments = command.split()
    assert imported(ENTRIES[entry], *arguments, "--help") == []


@pytest.mark.parametrize("module", MODULES)
def test_help_of_a_module_imports_nothing_heavy(module: str) -> None:
    assert imported(f"import runpy; runpy.run_module({module!r}, run_name='__main__')", "--help") == []


@pytest.mark.parametrize(
    "statement",
    [
        "from longthread import Haystacks, Options, load_tokenizer, rebuild",
        "from longthread import Score, score",
        "import environments.datasets.export",
        "import environments.config",
    ],
)
def test_importing_what_a_short_program_uses_imports_nothing_heavy(statement: str) -> None:
    assert imported(statement) == []


def test_an_environment_imports_atroposlib_without_what_few_runs_use() -> None:
    assert imported("from longthread import NeedleEnv, LinkedNeedleEnv; NeedleEnv") == ["atroposlib", "openai"]
