"""The table of tasks: the project's own, those that packages bring by entry points, and those that a program adds."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from environments.haystack.tasks.task import Task
from longthread.errors import ConfigError

GROUP = "longthread.tasks"  # of entry points


class Registry(Mapping[str, Task]):
    """Tasks by name. Looking one up raises `ConfigError`, one line, where its name is taken twice or it cannot be loaded.

    Packages are looked through once, when a name is first asked for; what they bring is loaded when it is asked for by name.
    """

    def __init__(self, own: Sequence[Task]):
        self.own = tuple(own)
        self._tasks = {task.name: task for task in own}

    def add(self, task: Task) -> None:
        """Add a task for this process alone, to try it. Recipes of it are rebuilt only where it was added too."""
        if not isinstance(task, Task):
            raise ConfigError(f"{task!r} is not a longthread Task but of type {type(task).__name__}", setting="tasks")
        if task.name in self:
            raise ConfigError(f"there is a task {task.name!r} already; give this one another name", setting="tasks")
        self._tasks[task.name] = task

    def __getitem__(self, name: str) -> Task:
        """Return the task of that name, loaded."""
        found = _brought().get(name, ())
        packages = [_package(entry) for entry in found]
        if name in self._tasks:
            packages = ["longthread", *packages]
        if len(packages) > 1:
            raise ConfigError(
                f"task {name!r} is brought by {' and by '.join(packages)}: rename or uninstall all but one",
                setting="tasks",
            )
        return self._tasks[name] if name in self._tasks else _load(found[0]) if found else self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        """Yield all names, the project's own first; nothing is loaded."""
        return iter(dict.fromkeys([*self._tasks, *_brought()]))

    def __len__(self) -> int:
        """Return the number of names."""
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        """Return whether there is a task of that name, even one that cannot be loaded."""
        return name in self._tasks or name in _brought()

    def twin(self, question: str) -> str:
        """Return the name of the task that asks `question` of a text without the answer; "absent" if there is none."""
        return name if (name := f"absent_{question}") in self else "absent"


@cache
def _brought() -> dict[str, list[EntryPoint]]:
    """Return the entry points of the group, by name."""
    brought: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        brought.setdefault(entry.name, []).append(entry)
    return brought


@cache
def _load(entry: EntryPoint) -> Task:
    where = f"task {entry.name!r} of package {_package(entry)} ({entry.value})"
    try:
        task = entry.load()
    except Exception as error:  # whatever another package raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(f"{where} cannot be loaded ({reason}): mend or uninstall it", setting="tasks") from error
    if not isinstance(task, Task):
        raise ConfigError(f"{where} is not a longthread Task but of type {type(task).__name__}", setting="tasks")
    if task.name != entry.name:
        raise ConfigError(f"{where} calls itself {task.name!r}: give both the same name", setting="tasks")
    return task


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unknown package"
