"""The folder of a run that writes shards of rows: begun, resumed, finished, or that of another run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longthread.errors import FULL_DISK, ConfigError, RunError
from longthread.files import JsonObject, write_json

STATS = "stats.json"
Run = JsonObject  # the settings that a run on the same folder must agree in, as JSON


def shards(out: Path) -> list[Path]:
    """Return the shards that are there, in order; each is whole."""
    return sorted((out / "data").glob("train-*.parquet"))


def begin(out: Path, state: Path, run: Run) -> None:
    """Write the run's settings into its `state` folder, or see that they are the same.

    Raises `ConfigError` where the folder holds something else.
    """
    if (state / "config.json").is_file():
        check_same(out, json.loads((state / "config.json").read_text()), run)
        return
    if out.exists() and (not out.is_dir() or any(path.name != ".state" for path in out.iterdir())):
        raise ConfigError(f"{out} exists and holds something else: give a new or empty folder")
    write_json(state / "config.json", run)


def check_same(out: Path, stored: Run, run: Run) -> None:
    """Raise `ConfigError`, which names the first setting that differs, unless both runs have the same settings.

    One that both have is named first: of a run of an older version that is its version, where it has one.
    """
    if different := [name for name in stored.keys() | run.keys() if stored.get(name) != run.get(name)]:
        name = min(different, key=lambda name: (name not in stored or name not in run, name))
        was, now = (json.dumps(settings.get(name))[:80] for settings in (stored, run))
        raise ConfigError(
            f"{out} holds a run with another {name} ({was}, not {now}): give another folder, or delete this one"
        )


@contextmanager
def full_disk_explained(out: Path) -> Iterator[None]:
    """Turn a full disk in a `with` block into a `RunError` that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise RunError(
            f"cannot write to {out}: {error.strerror}; the {len(shards(out))} shards there are whole: make room and run "
            "the same command, which resumes behind them"
        ) from None
