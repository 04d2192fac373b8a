"""Recipes that exist keep their meaning: 200 samples hash as they did when their recipes were written, and runs keep
their names.

`golden.json` was written once by `python tests/environments/haystack/test_golden.py` and is never written anew: where a
hash differs, recipes in people's files would build another text. Only tokenizers whose data come in a package stand in it;
those that the other tests train belong to a version of the trainer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from environments.haystack.recipe import LATER
from environments.haystack.sample import Haystacks, Options, rebuild
from environments.linked_needle_env import LinkedNeedleEnv
from environments.needle_env import NeedleEnv
from tests.conftest import build_tokenizer

GOLDEN = Path(__file__).parent / "golden.json"
NOVEL = Path(__file__).parents[2] / "data" / "persuasion.txt.gz"
RECIPES, POOL = 200, 65_536
TASKS = (  # in the order they had then; tasks that came later have no golden samples
    "single", "multi_key", "multi_value", "multi_query", "absent", "custom", "chain", "update", "find_all", "count",
    "order", "join", "absent_chain", "absent_update", "absent_find_all", "absent_count", "absent_order", "absent_join",
)  # fmt: skip
CHOICES: dict[str, tuple[Any, ...]] = {
    "value_kind": ("any", "words", "numbers", "uuids", "dates", "names"),
    "distractors": (0, 3, 9),
    "values": (2, 3, 5),
    "queries": (2, 3, 6),
    "lexical_gap": (False, True),
    "hops": ("2-4", "3", "2-6"),
    "decoys": (-1, 0, 8),
    "versions": ("2-5", "4"),
    "update_ask": ("any", "current", "then", "times"),
    "matches": ("2-8", "3"),
    "partial_order": (False, True),
    "min_span": (0.0, 0.5),
    "numbered": (False, True),
    "may_abstain": (True, False),
    "answer_format": ("tags", "plain"),
    "placement": ("uniform", "sigmoid", "0,0.5,1", "11"),
    "filler_mode": ("coherent", "shuffled"),
}
NEEDLE = {
    "needle": "The spare key lies under blue pot 47.",
    "question": "Under what does it lie?",
    "expected": "pot 47",
}
RUNS: tuple[tuple[type[NeedleEnv], dict[str, Any]], ...] = (
    (NeedleEnv, {}),
    (NeedleEnv, {"tasks": "single,multi_key", "lengths": "1024,2048", "absent_share": 0.3, "group_size": 4}),
    (NeedleEnv, {"answer_format": "plain", "numbered": True, "temperature": 0.7, "max_new_tokens": 64}),
    (LinkedNeedleEnv, {}),
    (LinkedNeedleEnv, {"curriculum": True, "hops": "2-3", "seed": 7, "lexical_gap": True, "store": "full"}),
)


def cases() -> Iterator[dict[str, Any]]:
    """Seed, split, task, length, depths, options and tokenizer of each golden sample, drawn from a fixed seed."""
    rng = Random("longthread golden")
    for i in range(RECIPES):
        task = TASKS[i % len(TASKS)]
        options = {name: rng.choice(values) for name, values in CHOICES.items()}
        tokenizer, splits = (("smollm2", ("train", "eval")), ("gpt2", ("train",)), ("mistral", ("eval",)))[i % 3]
        case = {
            "tokenizer": tokenizer,
            "seed": rng.randrange(1024),
            "split": rng.choice(splits),
            "task": task,
            "length": rng.choice((3001, 4096, 6000, 8192)),
            "depths": rng.choice((None, [0.0], [1.0], [0.3], [0.2, 0.7])),
            "options": options | (NEEDLE if task == "custom" else {}),
        }
        if i % 10 == 9:  # a corpus of one's own instead of the generated prose
            case["options"] |= {"filler": "folder", "filler_path": "corpus"}
            case["length"] = min(case["length"], 4001)
        yield case


@cache
def _base(tokenizer: str, filler: str, filler_mode: str) -> Haystacks:
    corpus = {"filler": "folder", "filler_path": "corpus", "pool_tokens": 8192} if filler == "folder" else {}
    return Haystacks(build_tokenizer(tokenizer), Options(**{"pool_tokens": POOL, "filler_mode": filler_mode, **corpus}))


def build(case: dict[str, Any]) -> Any:
    """The case's sample. All samples of a tokenizer and filler share their pools and decoys, counted once."""
    options = case["options"]
    base = _base(case["tokenizer"], options.get("filler", "prose"), options["filler_mode"])
    where = (case["seed"], case["split"], case["task"], case["length"], case["depths"])
    return base.variant(replace(base.options, **options)).sample(*where)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def write_corpus(folder: Path) -> None:
    (folder / "corpus").mkdir()
    (folder / "corpus" / "persuasion.txt").write_bytes(gzip.decompress(NOVEL.read_bytes()))


def run_digests() -> list[str]:
    """The name of each run in `RUNS`, which its file of rows bears."""
    from tests.environments.loopback import make_env

    tokenizer = build_tokenizer("smollm2").name_or_path
    return [make_env(Path(tokenizer), "http://127.0.0.1:1/v1", cls, **run).run_digest() for cls, run in RUNS]


@pytest.mark.parametrize("third", range(3))
def test_golden_recipes_build_the_same_samples(third: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole samples, their recipes with the tokenizer's fingerprint among them; a third of the cases each."""
    write_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    golden = json.loads(GOLDEN.read_text())["samples"]
    assert len(golden) == RECIPES
    drawn = list(cases())
    changed = [i for i in range(third, RECIPES, 3) if digest(build(drawn[i]).to_json()) != golden[i]["sha256"]]
    assert not changed


def test_golden_recipes_rebuild_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipes themselves stand in the file, as they stand in people's rollouts; some are rebuilt."""
    write_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    golden = json.loads(GOLDEN.read_text())["samples"]
    first = {entry["recipe"]["task"]: entry for entry in reversed(golden)}
    assert set(first) == set(TASKS)
    for task in ("single", "custom", "update", "absent_chain"):
        entry = first[task]
        sample = rebuild(entry["recipe"], build_tokenizer(entry["tokenizer"]))
        assert digest(sample.to_json()) == entry["sha256"], entry["recipe"]


def test_runs_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NeedleEnv, "_probe", lambda _: None)  # a sample of each task, which no name depends on
    assert run_digests() == json.loads(GOLDEN.read_text())["runs"]


def test_golden_options_are_all_options() -> None:
    """An option that is added later is named here, with the value that leaves samples as they were."""
    unpinned = {"pool_tokens", "seeds_per_pool", "filler_column", "filler", "filler_path", *NEEDLE, *LATER}
    assert set(asdict(Options())) == {*CHOICES, *unpinned}


def _write() -> None:
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        write_corpus(Path(scratch))
        os.chdir(scratch)
        entries = []
        for case in cases():
            sample = build(case)
            entries.append(
                {"tokenizer": case["tokenizer"], "recipe": sample.recipe, "sha256": digest(sample.to_json())}
            )
        lines = ",\n".join(json.dumps(entry) for entry in entries)
        GOLDEN.write_text(f'{{"runs": {json.dumps(run_digests())},\n"samples": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    _write()
