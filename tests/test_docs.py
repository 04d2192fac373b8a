"""The manual says what is there: links lead somewhere, READMEs stay doors, commands and names in code blocks exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from atroposlib.envs.server_handling.server_baseline import APIServerConfig

from environments.config import AtroposSettings, HaystackEnvConfig
from environments.memory.config import MemoryEnvConfig

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/longthread/longthread/"
FOLDERS = ("environments", "environments/haystack", "trainer_configs", "lift", "benchmarks", "examples", "tests/data")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / folder / "README.md" for folder in FOLDERS)]
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# The module whose Typer app reads the rest of the line.
APPS = {
    "lift": "lift.cli",
    "longthread": "longthread_cli",
    "longthread export": "environments.datasets.export",
    "longthread collect": "environments.datasets.collect",
    "longthread rows": "environments.tasksets.write",
    "longthread rl": "trainer_configs.atropos_rl.command",
    "longthread longlora data": "trainer_configs.longlora.data.command",
    "longthread longlora reader-rows": "trainer_configs.longlora.data.reader_command",
    "longthread longlora rope": "trainer_configs.longlora.rope.preview",
    "longthread longlora merge": "trainer_configs.longlora.merge",
    "longthread longlora perplexity": "trainer_configs.longlora.perplexity",
    "longthread longlora extend": "trainer_configs.longlora.extend.command",
    "longthread longlora publish": "trainer_configs.longlora.publish",
    "python -m trainer_configs.longlora.data": "trainer_configs.longlora.data.command",
    "python -m environments.embedded_server": "environments.inference.embedded.command",
}
ENVIRONMENTS = {"needle-env": HaystackEnvConfig, "linked-needle-env": HaystackEnvConfig, "memory-env": MemoryEnvConfig}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def code_blocks(language: str) -> Iterator[tuple[str, str]]:
    for page, name in zip(PAGES, NAMES, strict=True):
        yield from ((name, code) for found, code in BLOCK.findall(page.read_text()) if found == language)


def commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every line of our own commands, in code blocks and within sentences."""
    ours = re.compile(rf"(\.venv/bin/)?({'|'.join(ENVIRONMENTS)}|lift|longthread|make|python -m|python examples/\S+) ")
    for page, name in zip(PAGES, NAMES, strict=True):
        text = page.read_text()
        lines = [line for _, code in BLOCK.findall(text) for line in code.replace("\\\n", " ").splitlines()]
        lines += INLINE.findall(BLOCK.sub("", text))
        for line in lines:
            if ours.match(line):
                yield name, shlex.split(line, comments=True)


@cache
def command_of(module: str) -> click.Command:
    found: Any = importlib.import_module(module)
    app = getattr(found, "app", None)
    if not isinstance(app, typer.Typer):
        app = typer.Typer()
        app.command()(found.main)
    return typer.main.get_command(app)


def check(words: list[str]) -> None:
    """Every flag and every subcommand of the line exists."""
    if words[0] == "make":
        assert all(f"{target}:" in (ROOT / "Makefile").read_text() for target in words[1:] if target.isidentifier())
        return
    if words[0] in ENVIRONMENTS:
        assert words[1] in ENVIRONMENTS[words[0]].commands
        models: dict[str, Any] = {"--env": ENVIRONMENTS[words[0]], "--openai": APIServerConfig}
        for flag in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            section, _, field = flag.partition(".")
            assert flag in ("--help", "--config") or field in models[section].model_fields, flag
        return
    if words[:2] == ["python", words[1]] and words[1].endswith(".py"):
        assert (ROOT / words[1]).is_file()
        return
    if words[:2] == ["longthread", "rl"] and words[2:] and words[2] not in ("run", "plot"):  # short for run
        words = [*words[:2], "run", *words[2:]]
    start = next((n for n in (3, 2, 1) if " ".join(words[:n]) in APPS), 3)
    module = APPS.get(" ".join(words[:start]), words[2] if words[1] == "-m" else "")
    assert importlib.util.find_spec(module), module
    if words[start:]:
        check_flags(command_of(module), words[start:], words[start - 1])


def check_flags(command: click.Command, words: list[str], name: str) -> None:
    if isinstance(command, click.Group):
        if len(command.commands) == 1 and words[0] not in command.commands:  # the line named it already
            words = [*command.commands, *words]
        assert words[0] in command.commands, f"{words[0]} is not a command of {name}"
        return check_flags(command.commands[words[0]], words[1:], words[0])
    flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        passed_on = flag.startswith(("--env.", "--openai."))
        section: Any = HaystackEnvConfig if flag.startswith("--env.") else APIServerConfig
        assert flag.partition(".")[2] in section.model_fields if passed_on else flag in flags, f"{name} {flag}"
    return None


def test_the_front_page_has_at_most_90_lines_and_the_doors_45() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    for folder in FOLDERS:
        assert len((ROOT / folder / "README.md").read_text().splitlines()) <= 45, folder


@pytest.mark.parametrize("name", NAMES)
def test_code_blocks_name_their_language_and_end(name: str) -> None:
    fences = [line for line in (ROOT / name).read_text().splitlines() if line.startswith("```")]
    assert all(fence in ("```sh", "```python", "```yaml", "```toml") for fence in fences[::2])
    assert all(fence == "```" for fence in fences[1::2]) and len(fences) % 2 == 0


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(prose(page)):
        if link.startswith(REPOSITORY):
            path = re.sub(r"^(blob|tree)/main/", "", link.removeprefix(REPOSITORY))
            assert path.startswith(("issues", "security")) or (ROOT / path).exists(), link
        elif not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", NAMES)
def test_commands_name_flags_that_exist(name: str) -> None:
    for page, words in commands():
        if page == name:
            check(words)


def test_commands_are_found_and_a_wrong_flag_is_noticed() -> None:
    assert len(list(commands())) > 50
    for line in (
        "needle-env process --env.hopps 2",
        "longthread export sft a b --tokeniser c",
        "longthread collect sft a --env.hopps 2",
        "lift forget x",
        "python -m benchmarks.longlora_step --parts a",
    ):
        with pytest.raises(AssertionError):
            check(shlex.split(line))


@pytest.mark.parametrize("folder", FOLDERS)
def test_doors_name_files_that_exist(folder: str) -> None:
    rows = re.findall(r"^\| (.*?) \|", (ROOT / folder / "README.md").read_text(), re.MULTILINE)
    for file in (name for row in rows for name in re.findall(r"`([\w/.]+(?:\.py|\.ipynb|/))`", row)):
        assert (ROOT / folder / file).exists(), file


def test_every_setting_is_in_the_manual() -> None:
    ours = HaystackEnvConfig.model_fields.keys() - AtroposSettings.model_fields.keys()
    assert not {name for name in ours if f"`{name}`" not in (ROOT / "docs/settings.md").read_text()}
    of_memory = MemoryEnvConfig.model_fields.keys() - HaystackEnvConfig.model_fields.keys()
    assert not {name for name in of_memory if f"`{name}`" not in (ROOT / "docs/memory.md").read_text()}


def test_python_in_the_manual_parses_and_imports_names_that_exist() -> None:
    blocks = list(code_blocks("python"))
    assert blocks
    for page, code in blocks:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {node.module}"
