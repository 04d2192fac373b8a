"""The benchmark of lift: equal bytes, nothing measured twice, and a table and pictures of what was."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, Qwen2Config
from typer.testing import CliRunner

from benchmarks import lift as benchmark
from benchmarks import lift_ceilings, lift_store
from benchmarks.lift import METHODS, RATES, app, recipe
from benchmarks.lift_measure import equal, parameters
from benchmarks.lift_store import Store
from benchmarks.lift_table import ceilings_table, draw_seconds
from lift.evaluation.results import Results
from lift.training.recipes import RECIPES
from longthread.statistics import Share

SMOLLM2 = LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
    vocab_size=49_152, tie_word_embeddings=True,
)  # fmt: skip

QWEN2 = Qwen2Config(
    hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
    vocab_size=151_936, tie_word_embeddings=True,
)  # fmt: skip


def results(needles: int) -> Results:
    rates = {"needle": Share(needles, 32), "linked": Share(6, 12), "absent": Share(11, 12)}
    return Results(
        document="d", digest="0", tokens=2048, window_tokens=1024, closed=rates, depths={}, window=rates, window_off=rates,
        elsewhere=rates, other=Share(3, 16), other_off=Share(4, 16), unrelated=Share(30, 40), unrelated_off=Share(32, 40),
        nll=2.5, nll_off=2.4, nll_change=(0.09, 0.11), gate_auroc=0.6,
    )  # fmt: skip


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, int, int]]:
    made: list[tuple[str, float, int, int]] = []

    def measured(folder: Path, given: Any, tokens: int, seed: int, out: Path) -> dict[str, Any]:
        made.append((given.name if given else "window", given.learning_rate if given else 0.0, tokens, seed))
        out.mkdir(parents=True, exist_ok=True)
        (out / "adapter_model.safetensors").touch()
        figures = {"seconds": 3.0, "prefill": 0.1, "bytes": 18e6, "kv": 180e6, "steps": 9, "losses": {"loss": 0.1}}
        in_steps = {"needle": [20, 32], "linked": [2, 4], "absent": [0, 0]}
        return {"results": results(20 + len(made) % 12).to_json(), "in steps": in_steps, **figures}

    def several(folder: Path, given: Any, tokens: int, method: str, fitted: list[Path], out: Path) -> dict[str, Any]:
        return {"all": [[5 + 5 * i, 32] for i, _ in enumerate(fitted)], "alone": [[15, 32] for _ in fitted]}

    monkeypatch.setattr(benchmark, "measured", measured)
    monkeypatch.setattr(benchmark, "several", several)
    monkeypatch.setattr(benchmark, "fingerprint", str)
    return made


def cells_of(output: str) -> list[str]:
    """Of `lse` at 2,048 tokens."""
    row = next(line for line in output.splitlines() if "2048" in line and "lse" in line and "│" in line)
    return [cell.strip() for cell in row.strip("│").split("│")]


@pytest.mark.parametrize("config", [SMOLLM2, QWEN2], ids=["smollm2", "qwen2"])
def test_every_adapter_has_the_same_bytes(config: LlamaConfig) -> None:
    """Within a tenth; a cartridge's are its slots' keys and values."""
    sized = equal(config)
    text = config.num_hidden_layers * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    cartridge = sized["slots"] * 2 * text
    for name in RECIPES.keys() - {"cartridge", "compact", "compact+"}:
        assert parameters(config, replace(recipe(name), **sized)) == pytest.approx(cartridge, rel=0.1), name


def test_the_sizes_of_the_model_that_is_measured() -> None:
    assert equal(SMOLLM2) == {"rank": 15, "alpha": 30, "slots": 398}


def test_methods_with_questions_have_the_same_ones_as_often_and_their_own_rate() -> None:
    mine = {name: recipe(name) for name in ("published-v4", "cartridge", "query", "lse")}
    same = ("tasks", "items", "window_rows", "stages", "schedule", "learnt", "kl_weight", "kl_rows")
    assert len({tuple(getattr(each, name) for name in same) for each in mine.values()}) == 1
    assert {name: each.learning_rate for name, each in mine.items()} == {name: RATES[name] for name in mine}
    assert recipe("published-v3").learning_rate == RECIPES["published-v3"].learning_rate
    assert recipe("lse", 0.5).learning_rate == 0.5


def test_run_goes_on_where_it_was_and_shows_everything(tmp_path: Path, calls: list[Any]) -> None:
    arguments = [
        "run",
        str(tmp_path),
        "--model",
        "m",
        "--tokens",
        "2048,8192",
        "--seeds",
        "0,1",
        "--methods",
        "lse,raw-lora",
    ]
    first = CliRunner().invoke(app, [*arguments, "--seconds", "-1"])
    assert first.exit_code == 0 and not calls
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(calls) == sorted(
        (name, RATES[name], tokens, seed) for name in ("lse", "raw-lora") for tokens in (2048, 8192) for seed in (0, 1)
    )
    assert CliRunner().invoke(app, arguments).exit_code == 0 and len(calls) == 8
    found = Store(tmp_path / "results.json").results
    assert len(found) == 10 and found["2048 lse together"]["all"] == [[5, 32], [10, 32]]
    cells = cells_of(done.output)
    assert cells[:5] == ["2048", "lse", "2", f"{100 * (21 + 25) / 64:.0f}", "50"]  # seeds pooled
    assert cells[6] == "62/50/–"  # facts, links, absent ones: 20 of 32 twice, 2 of 4 twice, none asked
    assert cells[8:] == ["72/72", "+0.100", "19/25", "75/80", "3.0", "30", "18.0", "10", "0.60", "–", "12.2", "50"]
    assert all((tmp_path / f"lift-{name}.png").stat().st_size > 10_000 for name in (2048, 8192, "seconds"))


def test_seconds_are_those_of_fits_that_were_alone(tmp_path: Path, calls: list[Any]) -> None:
    arguments = ["run", str(tmp_path), "--model", "m", "--tokens", "2048", "--methods", "lse"]
    shared = CliRunner().invoke(app, [*arguments, "--seeds", "0", "--each", "3"])
    assert shared.exit_code == 0 and cells_of(shared.output)[12:14] == ["–", "–"]
    both = CliRunner().invoke(app, [*arguments, "--seeds", "0,1"])
    assert len(calls) == 2 and cells_of(both.output)[12:14] == ["3.0", "30"]


def test_what_another_recipe_model_or_code_gave_is_measured_anew(
    tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["run", str(tmp_path), "--tokens", "2048", "--seeds", "0", "--methods", "lse", "--model"]
    for model in ("m", "m", "n"):
        assert CliRunner().invoke(app, [*arguments, model]).exit_code == 0
    assert len(calls) == 2
    monkeypatch.setitem(benchmark.RATES, "lse", 0.5)
    CliRunner().invoke(app, [*arguments, "n"])
    assert [rate for _, rate, _, _ in calls[2:]] == [0.5]
    assert {
        (row["base"], row["recipe"]["learning_rate"]) for row in Store(tmp_path / "results.json").results.values()
    } == {("n", 0.5)}
    monkeypatch.setattr(lift_store, "code", lambda: "another")
    CliRunner().invoke(app, [*arguments, "n"])
    assert len(calls) == 4


def test_a_fit_that_fails_costs_no_other(tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    measured = benchmark.measured

    def one_fails(*given: Any) -> Any:
        if given[2] == 2048:
            raise ValueError("no number")
        return measured(*given)

    monkeypatch.setattr(benchmark, "measured", one_fails)
    done = CliRunner().invoke(
        app, ["run", str(tmp_path), "--model", "m", "--tokens", "2048,8192", "--seeds", "0", "--methods", "lse"]
    )
    assert done.exit_code == 0 and "2048 lse 0: ValueError: no number" in done.output
    assert list(Store(tmp_path / "results.json").results) == ["8192 lse 0"]


def test_each_method_is_measured_on_a_reader_too(tmp_path: Path, calls: list[Any]) -> None:
    arguments = ["run", str(tmp_path), "--tokens", "2048", "--seeds", "0", "--methods", "compact,whole", "--model", "m"]
    done = CliRunner().invoke(app, [*arguments, "--reader", "r"])
    assert done.exit_code == 0, done.output
    found = {
        key: (row["base"], row["recipe"]["share"]) for key, row in Store(tmp_path / "results.json").results.items()
    }
    assert found == {
        "2048 compact@reader 0": ("r", None), "2048 whole@reader 0": ("r", 1.0), "2048 compact 0": ("m", None),
        "2048 whole 0": ("m", 1.0),
    }  # fmt: skip
    assert list(found)[:2] == ["2048 compact@reader 0", "2048 whole@reader 0"]
    assert CliRunner().invoke(app, arguments).exit_code == 0 and len(calls) == 4


def test_tune_tries_each_rate_on_documents_of_its_own(tmp_path: Path, calls: list[Any]) -> None:
    assert CliRunner().invoke(app, ["tune", str(tmp_path), "--model", "m", "--methods", "lse"]).exit_code == 0
    tried = [(factor, seed) for factor in (0.5, 1.0, 2.0) for seed in (100, 101)]
    assert [(rate / RATES["lse"], seed) for _, rate, _, seed in calls] == tried


def test_ablations_change_one_thing_each(tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    measured = benchmark.measured
    monkeypatch.setattr(benchmark, "measured", lambda *given: made.append(given[1]) or measured(*given))
    done = CliRunner().invoke(app, ["ablate", str(tmp_path), "--model", "m"])
    assert done.exit_code == 0, done.output
    found = Store(tmp_path / "ablations.json").results
    of_lse = [name for name in benchmark.ABLATIONS if name.startswith("lse")]
    assert list(found) == [f"8192 {name} {seed}" for name in of_lse for seed in (100, 101)]
    assert CliRunner().invoke(app, ["ablate", str(tmp_path), "--model", "m", "--of", "compact"]).exit_code == 0
    assert len(made) == 2 * len(benchmark.ABLATIONS)
    for given in made[::2]:
        change = [
            change for name, change in benchmark.ABLATIONS.items() if replace(recipe(given.name), **change) == given
        ]
        plain = asdict(recipe(given.name))
        assert {key for key, value in asdict(given).items() if value != plain[key]} == set(change[0])
    assert CliRunner().invoke(app, ["ablate", str(tmp_path), "--model", "m", "--changes", "lse,magic"]).exit_code == 2


def test_an_unknown_method_is_refused(tmp_path: Path, calls: list[Any]) -> None:
    refused = CliRunner().invoke(app, ["run", str(tmp_path), "--model", "m", "--methods", "lse,magic"])
    assert refused.exit_code == 2 and not calls
    refused = CliRunner().invoke(app, ["tune", str(tmp_path), "--model", "m", "--methods", "published-v3"])  # not tuned
    assert refused.exit_code == 2 and "(got 'published-v3')" in refused.output and not calls


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    for command in ("run", "tune", "ablate", "ceilings"):
        refused = CliRunner().invoke(app, [command, str(tmp_path), "--model", str(tmp_path)])
        assert refused.exit_code == 2 and isinstance(refused.exception, SystemExit)
        assert refused.stderr.startswith(f"error: {tmp_path} is not a model folder") and refused.stderr.count("\n") == 1


def test_the_most_important_cells_come_first(tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the reader: what is first, then text, then all rivals of one seed after the other; the shipped model last."""
    for picture in ("draw", "draw_seconds"):  # of which there would be three, and slow ones
        monkeypatch.setattr(benchmark, picture, lambda *_: None)
    novel = tmp_path / "a novel.txt"
    novel.write_text("It rained all day, and nobody came to the mill. " * 3)
    arguments = [
        "run",
        str(tmp_path / "out"),
        "--model",
        "m",
        "--reader",
        "r",
        "--text",
        str(novel),
        "--tokens",
        "8192,2048",
    ]
    methods = ("window", "compact", "lse", "raw-lora")
    done = CliRunner().invoke(app, [*arguments, "--seeds", "0,1", "--methods", ",".join(methods)])
    assert done.exit_code == 0, done.output
    found = list(Store(tmp_path / "out" / "results.json").results)
    sizes = (8192, 2048)
    assert found[: 8 + 2 + 4] == [
        *(f"{n} {method}@reader {seed}" for n in sizes for method in methods[:2] for seed in (0, 1)),
        *(f"{n} compact@reader together" for n in sizes),
        *(f"{n} {method}@reader text-a-novel" for n in sizes for method in methods[:2]),
    ]
    rivals = [f"{n} {method}@reader {seed}" for seed in (0, 1) for n in sizes for method in methods[2:]]
    assert found[14 : 14 + 8] == rivals
    shipped = [f"{n} {method} {seed}" for seed in (0, 1) for n in sizes for method in methods]
    assert found[28 : 28 + 16] == shipped and len(found) == len(calls) + 8 and "window@reader, text" in done.output
    assert set(METHODS) == RECIPES.keys() | {"window", "whole"}


def test_texts_are_known_by_their_name_and_measured_anew_when_changed(tmp_path: Path, calls: list[Any]) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"It rained in {folder}, and nobody came to the mill. " * 3)
    arguments = [
        "run",
        str(tmp_path),
        "--model",
        "m",
        "--methods",
        "compact",
        "--seeds",
        "0",
        "--tokens",
        "2048",
        "--text",
    ]
    one, two = str(tmp_path / "one" / "a.txt"), str(tmp_path / "two" / "a.txt")
    for text, measured in ((one, 2), (one, 2), (two, 3)):
        assert CliRunner().invoke(app, [*arguments, text]).exit_code == 0 and len(calls) == measured
    both = CliRunner().invoke(app, [*arguments, one, "--text", two])
    assert both.exit_code == 2 and "two have one name" in both.output
    missing = CliRunner().invoke(app, [*arguments, str(tmp_path / "none.txt")])
    assert missing.exit_code == 2 and missing.output.count("\n") == 1 and len(calls) == 3


def test_what_was_not_reached_stays_empty(tmp_path: Path, calls: list[Any]) -> None:
    done = CliRunner().invoke(app, ["run", str(tmp_path), "--model", "m", "--methods", "compact", "--seeds", "0"])
    assert done.exit_code == 0 and len(calls) == 3
    assert not any("together" in key for key in Store(tmp_path / "results.json").results)  # of one document
    draw_seconds({}, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_gates_that_tell_questions_apart_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.normal(size=(2, 200, 60))
    own[:, :5] += 1.5
    found = lift_ceilings.separation(own, others)
    assert found["best"] > 0.75 and found["best 20"] > 0.8 and 0.5 < found["mean"] < 0.6
    by_chance = lift_ceilings.separation(*rng.normal(size=(2, 200, 60)))
    assert abs(by_chance["best 20"] - 0.5) < 0.12 and abs(by_chance["mean"] - 0.5) < 0.05


def test_ceilings_are_printed(tmp_path: Path) -> None:
    share = {"needle": [3, 4], "linked": [1, 4], "absent": [0, 0]}
    found = dict.fromkeys(("exact", "in steps", "at once", "evidence", "around"), share)
    row = {**found, "neutral": [2.0, 2.25], "gate": {"mean": 0.5}}
    cells = [list(column.cells) for column in ceilings_table({"8192 reader": row}).columns]
    assert [cell for [cell] in cells] == ["8192", "reader", *["75/25/–"] * 5, "+0.250", "mean 0.50"]
