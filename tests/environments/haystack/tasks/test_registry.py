"""The registry of tasks: names, twins, what the rest of the package asks of them, and tasks that other packages bring."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from environments.haystack.sample import rebuild
from environments.haystack.tasks import TASKS, absent_twin, independent, registry
from environments.haystack.tasks.task import Task
from longthread.errors import ConfigError
from tests.conftest import build_tokenizer, make_haystacks

EXAMPLE = Path(__file__).parents[4] / "examples" / "06_own_task.py"
OF_TEXT = {"cloze", "entity", "reconstruct", "code_constant", "code_chain"}


def test_every_task_has_an_absent_twin() -> None:
    names = ("single", "multi_key", "multi_value", "custom", "absent", "reconstruct")
    assert [absent_twin(name) for name in names] == ["absent"] * 6
    for name in (task.name for task in TASKS.own):
        task, twin = TASKS[name], TASKS[absent_twin(name)]
        assert task.name == name and twin.absent and twin.linked == task.linked and TASKS[task.question].absent is False
        if task.linked or task.question in OF_TEXT - {"reconstruct"}:
            assert twin.name == f"absent_{task.question}" and absent_twin(twin.name) == twin.name
        assert task.absent == name.startswith("absent")


# ---- tasks of other packages ----

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages as pip does: their modules, and the folder of metadata with their entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copy(EXAMPLE, tmp_path / "nickname_task.py")

    def write(package: str, **entries: str) -> None:
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[longthread.tasks]\n{lines}\n")
        forget()

    yield write
    forget()
    for name in ("nickname_task", "broken_task"):
        sys.modules.pop(name, None)


def forget() -> None:
    registry._brought.cache_clear()
    registry._load.cache_clear()


def refusal(name: str) -> str:
    with pytest.raises(ConfigError) as error:
        TASKS[name]
    assert "\n" not in error.value.message
    return error.value.message


def test_a_package_brings_a_task(install: Install) -> None:
    assert "nickname" not in TASKS
    install("nicknames", nickname="nickname_task:NICKNAME")
    assert "nickname" in TASKS and list(TASKS)[-1] == "nickname" and len(TASKS) == len(TASKS.own) + 1
    assert absent_twin("nickname") == "absent"
    sample = make_haystacks("gpt2").sample(0, "train", "nickname", 2048)
    assert "friends call" in sample.question and sample.length == 2048


def test_a_recipe_is_rebuilt_where_the_package_is(install: Install) -> None:
    install("nicknames", nickname="nickname_task:NICKNAME")
    sample = make_haystacks("gpt2").sample(0, "train", "nickname", 1024)
    assert rebuild(sample.recipe, build_tokenizer("gpt2")) == sample
    with pytest.raises(ConfigError) as error:
        rebuild({**sample.recipe, "task": "surname"}, build_tokenizer("gpt2"))
    assert "'surname'" in error.value.message and "install the package" in error.value.message


def test_a_name_taken_twice(install: Install) -> None:
    install("one-package", nickname="nickname_task:NICKNAME", single="nickname_task:NICKNAME")
    install("other-package", nickname="nickname_task:NICKNAME")
    message = refusal("nickname")
    assert "one-package" in message and "other-package" in message and "uninstall" in message
    assert "longthread and by one-package" in refusal("single")
    assert TASKS["multi_key"].name == "multi_key"  # the others work


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("broken_task:TASK", "cannot be loaded (ValueError: it is broken)"),
        ("missing_module:TASK", "cannot be loaded (ModuleNotFoundError"),
        ("nickname_task:MISSING", "cannot be loaded (AttributeError"),
        ("nickname_task:nickname", "is not a longthread Task but of type function"),
        ("nickname_task:NICKNAME", "calls itself 'nickname'"),
    ],
)
def test_what_cannot_be_loaded(install: Install, tmp_path: Path, entry: str, words: str) -> None:
    (tmp_path / "broken_task.py").write_text("raise ValueError('it is\\nbroken')\n")
    install("a-package", another=entry)
    message = refusal("another")
    assert words in message and "a-package" in message


def test_a_task_is_added_for_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_tasks", dict(TASKS._tasks))
    TASKS.add(Task("another", "another", independent.single))
    assert TASKS["another"].question == "another"
    with pytest.raises(ConfigError, match="there is a task 'another' already"):
        TASKS.add(Task("another", "another", independent.single))
    with pytest.raises(ConfigError, match="not a longthread Task"):
        TASKS.add(independent.single)  # type: ignore[arg-type]


def test_help_looks_through_no_package() -> None:
    program = (
        "import sys, importlib.metadata as m; m.entry_points = None; sys.argv[1:] = ['evaluate', '--help'];"
        "from environments.console import needle; needle()"
    )
    assert (
        "reconstruct"
        in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
