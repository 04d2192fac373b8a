"""The run's grid and its restarts, at toy size; Axolotl is a process that prints what Axolotl prints."""

import json
import time

import pytest
import yaml

from benchmarks import longlora_grid, longlora_run
from benchmarks.longlora_grid import Grid
from benchmarks.longlora_results import best, draw, report
from benchmarks.longlora_run import CONFIRM_SEED, Cut, Run
from benchmarks.longlora_training import METHODS, write_config
from environments.haystack.facts import in_split
from environments.haystack.filler import prose
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import save_tiny
from trainer_configs.longlora.extend.axolotl_run import Training
from trainer_configs.longlora.token_nll import windows

LENGTHS = [600, 700]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("model"), max_position_embeddings=2048)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    path = tmp_path_factory.mktemp("novels")
    passages = prose.passages(5, "eval")
    (path / "a.txt").write_text("\n\n".join(prose.join(next(passages)) for _ in range(20)))
    return path


def test_the_grid_is_exact_and_its_second_questions_are_others(folder, held_out):
    grid = Grid(str(folder), held_out, LENGTHS, (0.1, 0.9))
    first, again, other = grid.prompts(600, 2), grid.prompts(600, 2), grid.prompts(600, 2, CONFIRM_SEED)
    assert first == again
    assert [(one.depth, one.filler) for one in first] == [
        (0.1, "prose"),
        (0.9, "prose"),
        (0.1, "novel"),
        (0.9, "novel"),
    ]
    assert {len(one.ids) for one in first} == {600}
    values = [one.answer.values[0] for one in (*first, *other)]
    assert len(set(values)) == 8 and all(in_split(value, "eval") for value in values)


def the_run(out, folder, held_out, seconds=1e6, results=None):
    grid = Grid(str(folder), held_out, LENGTHS, (0.1, 0.9))
    ids = grid.tokenizer((held_out / "a.txt").read_text())["input_ids"]
    out.mkdir(exist_ok=True)
    return Run(out, folder, grid, windows([ids], 700, 2), 2, time.monotonic() + seconds, results or {})


def test_evaluation_goes_on_where_it_was_cut(folder, held_out, tmp_path, monkeypatch):
    monkeypatch.setattr(longlora_grid, "REPLY_TOKENS", 4)
    monkeypatch.setattr(longlora_grid, "BATCH_TOKENS", 2000)  # three prompts, then one
    work = the_run(tmp_path, folder, held_out)
    work.evaluate("before")
    whole = json.loads((tmp_path / "results.json").read_text())
    assert [r["length"] for r in whole["before"]["records"]] == [600] * 4 + [700] * 4
    assert whole["before"]["perplexity"][-1]["end"] == 700
    cut = {"before": whole["before"] | {"records": whole["before"]["records"][:6]}}  # killed within a length
    work = the_run(tmp_path, folder, held_out, results=cut)
    work.evaluate("before")
    assert work.results == whole
    monkeypatch.setattr(longlora_run, "load", lambda *args, **kwargs: pytest.fail("all was there"))
    work.evaluate("before")
    with pytest.raises(Cut):
        the_run(tmp_path, folder, held_out, seconds=1).evaluate("before")


def test_the_configs_differ_in_attention_alone(folder, tmp_path):
    configs = {}
    for method in METHODS:
        changes = {"max_steps": 7, "longlora": {"group_size": 512}}
        config = yaml.safe_load(write_config(method, tmp_path, folder, tmp_path / "rows", changes).read_text())
        assert config.pop("output_dir").endswith(f"/{method}") and config["max_steps"] == 7
        section = config["longlora"]
        configs[method] = section.pop("attention"), section.pop("full_attention_steps"), config
    assert configs["full"][0] == "full" and configs["quarter"][:2] == ("shifted", 0.25)
    assert configs["shifted"][:2] == ("shifted", 0.0) and configs["tail_global"][:2] == ("tail_global", 0.0)
    assert configs["full"][2] == configs["quarter"][2] == configs["tail_global"][2] == configs["shifted"][2]
    assert configs["full"][2]["longlora"]["group_size"] == 512


AXOLOTL = """
import sys, threading
print(sys.argv[1:], flush=True)
for step in range(3):
    print(f"{{'loss': '{3 - step}.5', 'grad_norm': '1.0', 'epoch': '0.1'}}", flush=True)
if "forever" in sys.argv[2]:
    threading.Event().wait()
sys.exit("bad" in sys.argv[2])
"""


@pytest.fixture
def axolotl(tmp_path, monkeypatch):
    (tmp_path / "axolotl" / "cli").mkdir(parents=True)
    for name in ("axolotl/__init__.py", "axolotl/cli/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "axolotl" / "cli" / "main.py").write_text(AXOLOTL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def test_a_training_is_watched_and_ended_in_time(axolotl):
    good = Training(axolotl / "good.yaml", axolotl / "log").start()
    assert good.wait(PATIENCE) == ""
    assert good.figures()["losses"] == [3.5, 2.5, 1.5] and good.figures()["seconds_a_step"] >= 0
    assert "--launcher" in (axolotl / "log").read_text()
    assert "ended with 1 after 3 steps" in Training(axolotl / "bad.yaml", axolotl / "log").start().wait(PATIENCE)
    endless = Training(axolotl / "forever.yaml", axolotl / "log").start()
    assert "out of time" in endless.wait(0.01)
    assert endless.process.poll() is not None


def test_a_failed_training_is_said_and_does_not_stop_the_others(axolotl, folder, held_out, capsys):
    work = the_run(axolotl / "out", folder, held_out)
    work.train("full", axolotl / "rows", {}, ())  # ends well, but leaves no adapter
    assert "merge:" in work.results["full"]["error"] and "full: merge:" in capsys.readouterr().out
    work.evaluate("full")
    assert work.results["full"]["records"] == []
    assert json.loads((axolotl / "out" / "results.json").read_text())["full"]["training"]["steps"] == 3


def test_report_and_pictures(tmp_path, capsys):
    def result(found, nll, **more):
        cells = [(length, depth) for length in (4096, 8192) for depth in (0.05, 0.95)]
        records = [{"length": n, "depth": d, "filler": "prose", "score": found} for n, d in cells]
        curve = [{"start": 4096 * i, "end": 4096 * (i + 1), "tokens": 9, "nll": nll + i / 10} for i in range(4)]
        return {"perplexity": curve, "records": records, "confirm": [], **more}

    results = {"before": result(0.0, 3.0), "full": result(0.5, 3.0), "quarter": result(1.0, 2.0)}
    results["shifted"] = {"perplexity": [], "records": [], "confirm": [], "error": "killed"}
    assert best({"before": results["before"]}) is None
    assert best(results) == "quarter"
    report(results)
    said = capsys.readouterr().out
    assert "best: quarter" in said and "perplexity of 0-4k: 7.39, of the model as it was: 20.09" in said
    draw(results, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"needles.png", "perplexity.png"}
