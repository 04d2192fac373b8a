"""Small language models as long-term memory: the public names, each imported when it is asked for.

    from longthread import Haystacks, Options, load_tokenizer, score

The other modules of this package hold what several of the project's packages use; they import none of those packages.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Haystacks": "environments.haystack.sample",
    "Options": "environments.haystack.sample",
    "Sample": "environments.haystack.sample",
    "rebuild": "environments.haystack.sample",
    "TASKS": "environments.haystack.tasks",
    "Task": "environments.haystack.tasks.task",
    "Quiz": "environments.haystack.tasks.task",
    "Answer": "environments.haystack.tasks.task",
    "Draw": "environments.haystack.tasks.task",
    "load_tokenizer": "environments.haystack.tokens",
    "score": "environments.rollouts.scoring",
    "Score": "environments.rollouts.scoring",
    "NeedleEnv": "environments.needle_env",
    "LinkedNeedleEnv": "environments.linked_needle_env",
    "MemoryEnv": "environments.memory_env",
    "LongLoRAPlugin": "trainer_configs.longlora",
    "LongthreadError": "longthread.errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
