"""What goes to W&B, read out of the files that the real wandb writes offline."""

from __future__ import annotations

import http.server
import io
import json
import math
import os
import struct
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from environments import cli
from environments.config import HaystackEnvConfig
from environments.haystack.sample import Haystacks, Options
from environments.inference.contracts import Completion
from environments.needle_env import NeedleEnv
from environments.reports import metrics as report_numbers
from environments.reports import wandb_log, wandb_run
from environments.reports.report import Report, draw_report
from environments.reports.wandb_log import COLUMNS, RolloutLog
from environments.rollouts.rollout import RolloutGroup, RolloutRequest
from environments.rollouts.scoring import score
from longthread import secrets
from longthread.errors import ConfigError
from tests.environments.tiny_model import tiny_tokenizer

KEY = "my-very-own-key-4711"  # has no shape by which a key could be told from other text
REFUSED = "0123456789" * 4
LENGTHS = (1300, 1500)


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One wandb service, in a folder of its own, for the whole module."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")] + list(secrets.KEY_VARIABLES):
            patch.delenv(name, raising=False)
        for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HOME"):
            patch.setenv(name, str(folder))
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        wandb.teardown()
        yield folder
        wandb.teardown()


@pytest.fixture(scope="module")
def haystacks() -> Haystacks:
    return Haystacks(tiny_tokenizer(), Options())


@pytest.fixture(scope="module")
def groups(haystacks: Haystacks) -> list[RolloutGroup]:
    """Twelve groups of three: right, cut short, abstaining or wrong; the last of each four, of absent facts."""
    made = []
    for i in range(12):
        task, depth = (("absent", None), ("single", 0.25), ("multi_value", None), ("single", None))[i % 4]
        made.append(group(haystacks, RolloutRequest(i, i, "train", task, LENGTHS[i // 4 % 2], depth), i))
    return made


def group(haystacks: Haystacks, item: RolloutRequest, turn: int = 0) -> RolloutGroup:
    sample = haystacks.sample(item.seed, item.split, item.task, item.length, [item.depth] if item.depth else None)
    right = f"<answer>{'; '.join(sample.answer.values)}</answer>"
    replies = [
        (right, "stop"),
        ("I read on and", "length"),
        ("<answer>none</answer>", "stop"),
        ("", None),
        (right, "stop"),
    ]
    texts = [replies[(turn + j * (turn // 3)) % len(replies)] for j in range(3)]
    completions = [Completion(text, [7] * (len(text) + 1), None, reason) for text, reason in texts]
    prompt = haystacks.tokens.encode(haystacks.tokens.render(sample.messages))
    return RolloutGroup(item, sample, prompt, completions, [score(text, sample.answer) for text, _ in texts])


def config(**changes: Any) -> HaystackEnvConfig:
    return NeedleEnv.config_init()[0].model_copy(update={"use_wandb": True, "wandb_name": "needle"} | changes)


# ---- reading what wandb wrote ----


@dataclass
class Written:
    """An offline run: LevelDB's log format around protobuf records (wandb/core: leveldb/record.go)."""

    folder: Path
    run: Any = None
    exit: Any = None
    arguments: list[str] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wandb.teardown()  # its service writes the last records after `finish` returns, and before it ends
        data, at, parts = next(self.folder.glob("*.wandb")).read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (room := 32768 - at % 32768) < 7:
                at += room
                continue
            _, size, kind = struct.unpack_from("<IHB", data, at)
            parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # whole, or the last part
                self._take(wandb_internal_pb2.Record.FromString(parts))
                parts = b""

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind in ("run", "exit"):
            setattr(self, kind, getattr(record, kind))
        elif kind == "environment":
            self.arguments += record.environment.args
        elif kind == "history":
            line: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = list(item.nested_key) or [item.key]
                into = line
                for name in outer:
                    into = into.setdefault(name, {})
                into[last] = json.loads(item.value_json)
            self.history.append(line)

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    def file(self, value: dict[str, Any]) -> Path:
        return self.folder / "files" / value["path"]

    def table(self, value: dict[str, Any]) -> list[list[Any]]:
        body = json.loads(self.file(value).read_text())
        assert body["columns"] == COLUMNS
        return body["data"]

    def everything(self) -> bytes:
        return b"".join(path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file())


def folder_of(run: Any) -> Path:
    return Path(run.dir).parent


def assert_drawn(path: Path) -> None:
    """A picture of some size with reds and greens in it."""
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert min(pixels.shape[:2]) > 200
    colourful = np.ptp(pixels, axis=2) > 60
    assert colourful.mean() > 0.05 and len(np.unique(pixels[colourful], axis=0)) > 20


def filler_of(rollout: RolloutGroup) -> list[str]:
    """Sentences of the haystack that are no needle, long enough to be nowhere by chance."""
    needles = [needle.text for needle in rollout.sample.needles]
    text = rollout.sample.messages[0]["content"].split("\n\nQuestion: ")[0]
    for needle in needles:
        text = text.replace(needle, ". ")
    found = [part.strip() for line in text.splitlines()[2:] for part in line.split(". ")]
    kept = [sentence for sentence in found if len(sentence) > 30]
    assert all(sentence in rollout.sample.messages[0]["content"] for sentence in kept)
    return kept


# ---- numbers ----


def recomputed(groups: list[RolloutGroup], failures: int) -> dict[str, float]:
    """The metrics by another way: arrays over all completions."""
    flat = [(g, c, s) for g in groups for c, s in zip(g.completions, g.scores, strict=True)]
    scores = np.array([s.score for *_, s in flat])
    tasks, lengths = np.array([g.request.task for g, *_ in flat]), np.array([g.request.length for g, *_ in flat])
    absent, silent = tasks == "absent", np.array([s.abstained for *_, s in flat])
    tokens, table = np.array([len(c.tokens) for _, c, _ in flat]), scores.reshape(len(groups), 3)
    found = {
        "score": scores.mean(),
        "exact": np.mean([s.correct for *_, s in flat]),
        "truncated": np.mean([c.finish_reason == "length" for _, c, _ in flat]),
        "no_content": np.mean([c.missing == "no_content" for _, c, _ in flat]),
        "budget_spent_thinking": np.mean([c.missing == "budget_spent_thinking" for _, c, _ in flat]),
        "false_answers": 1 - silent[absent].mean() if absent.any() else math.nan,
        "false_silence": silent[~absent].mean() if not absent.all() else math.nan,
        "group_score_std": table.std(axis=1).mean(),
        "flat_groups": (np.ptp(table, axis=1) == 0).mean(),
        "completion_tokens_mean": tokens.mean(),
        "completion_tokens_max": tokens.max(),
        "groups": len(groups),
        "failures": failures,
        **{f"score_by_task/{task}": scores[tasks == task].mean() for task in set(tasks)},
        **{f"score_by_length/{length}": scores[lengths == length].mean() for length in set(lengths)},
    }
    return {f"train/{name}": float(value) for name, value in found.items() if math.isfinite(value)}


def test_metrics_are_those_since_the_last_call(groups: list[RolloutGroup]) -> None:
    log = RolloutLog(config())
    for part, failed in ((groups[:8], 2), (groups[4:], 0)):
        for one in part:
            log.add(one)
        for _ in range(failed):
            log.fail()
        found = log.metrics()
        assert found == pytest.approx(recomputed(part, failed))
        assert 0 < found["train/flat_groups"] < 1 and 0 < found["train/exact"] < 1
    assert log.total == 16 and log.metrics() == {"train/groups": 0, "train/failures": 0}


def test_without_absent_facts_there_is_no_share_of_false_answers(groups: list[RolloutGroup]) -> None:
    log = RolloutLog(config())
    log.add(groups[1])
    found = log.metrics()
    assert "train/false_answers" not in found and "train/false_silence" in found
    assert all(math.isfinite(value) for value in found.values())


def test_a_score_that_is_no_number_counts_for_nothing(groups: list[RolloutGroup]) -> None:
    log = RolloutLog(config())
    with pytest.raises(ValueError, match="not finite"):
        log.add(replace(groups[0], scores=[*groups[0].scores[:2], replace(groups[0].scores[2], score=math.nan)]))
    assert log.metrics() == {"train/groups": 0, "train/failures": 0}


async def test_counting_counts_rollouts_and_failures(groups: list[RolloutGroup]) -> None:
    async def roll(item: RolloutRequest) -> RolloutGroup:
        if item.index == 1:
            raise ValueError("no")
        return groups[item.index]

    log = RolloutLog(config())
    counted = log.counting(roll, None)
    assert await counted(groups[0].request) is groups[0]
    with pytest.raises(ValueError, match="no"):
        await counted(groups[1].request)
    assert await counted(groups[2].request) is groups[2]
    assert log.metrics() == pytest.approx(recomputed([groups[0], groups[2]], 1))


def test_off_needs_no_wandb(groups: list[RolloutGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it raises
    off, log = config(use_wandb=False), RolloutLog(config())
    wandb_run.check_login(off)
    with wandb_run.start_run(off, "process", "m") as run, wandb_run.finishing(off):
        log.add(groups[0])
        log.send(run, final=True)
        wandb_log.log_evaluation(run, Report("t", [], {}, {}), {})
    assert run is None and log.metrics()["train/groups"] == 1
    with pytest.raises(ImportError), wandb_run.start_run(config(), "process", "m"):
        pass


# ---- tables ----


@pytest.mark.parametrize(
    ("keep", "each", "rows"), [(32, 1, 12), (5, 2, 10), (4, -1, 12), (32, 99, 36), (3, 0, 0), (0, 1, 0)]
)
def test_table_is_bounded(groups: list[RolloutGroup], keep: int, each: int, rows: int) -> None:
    log = RolloutLog(config(num_rollouts_to_keep=keep, num_rollouts_per_group_for_logging=each))
    for one in groups:
        log.add(one)
    table = log.media().get("train/rollouts")
    data = table.data if table else []
    assert len(data) == rows and "train/rollouts" not in log.media()
    shown = [
        (g, j) for g in groups[len(groups) - keep if keep < 12 else 0 :] for j in range(each % 4 if each < 4 else 3)
    ]
    at = {name: i for i, name in enumerate(COLUMNS)}
    for row, (one, j) in zip(data, shown, strict=True):
        assert row[at["score"]] == one.scores[j].score and row[at["completion"]] == one.completions[j].text
        assert row[at["finish_reason"]] == one.completions[j].finish_reason and row[at["seed"]] == one.request.seed


def test_memory_is_bounded_and_holds_no_prompt(
    haystacks: Haystacks, groups: list[RolloutGroup], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_log, "MOST_ROWS", 50)
    log, held = RolloutLog(config()), []
    for i in range(10):
        one = group(haystacks, RolloutRequest(i, i, "train", "single", LENGTHS[0]))
        held += [weakref.ref(one), weakref.ref(one.sample), weakref.ref(one.request)]
        log.add(one)
        del one
    assert not [ref for ref in held if ref() is not None]
    for _ in range(300):
        log.add(groups[1])
    assert len(log._scores) == 50 and len(log._tables) == 32


def test_a_completion_that_repeats_its_prompt_is_cut(groups: list[RolloutGroup]) -> None:
    long, one = "\ud800" + "x" * 99_999 + "END", groups[1]
    log = RolloutLog(config())
    log.add(replace(one, completions=[replace(c, text=long) for c in one.completions]))
    shown = log.media()["train/rollouts"].data[0][COLUMNS.index("completion")]
    assert len(shown) < wandb_log.LONGEST_TEXT + 10 and shown.endswith("xEND")
    shown.encode()  # a lone surrogate is no text


def test_heatmap_waits_for_enough_groups(groups: list[RolloutGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_log, "PICTURE_GROUPS", 12)
    drawn: list[list[Any]] = []
    monkeypatch.setattr(wandb_log, "_heatmap", lambda scores: drawn.append(list(scores)))
    log = RolloutLog(config())
    for turn in range(24):
        log.add(groups[turn % 12])
        log.media()
    log.add(groups[1])
    log.media(final=True)
    assert [len(scores) for scores in drawn] == [27, 27, 3]  # three of four groups have their fact in the text
    cells, want = report_numbers.grid(drawn[0]), [one.record() for one in groups if one.request.task != "absent"]
    assert list(cells.lengths) == list(LENGTHS) and cells.n.sum() == 27
    assert {d for d in cells.depths if not math.isnan(d)} == {report_numbers.depth_of(r) for r in want} - {None}


# ---- runs ----


@pytest.fixture(scope="module")
def processed(groups: list[RolloutGroup]) -> Written:
    """A run of process, with a key in the command line, in the environment and in what a server said."""
    argv = ["process", "--openai.api_key", KEY, "--env.use_wandb", "true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGTHREAD_API_KEY", KEY)
        patch.setenv("WANDB_PROJECT", "my project")
        patch.setattr(sys, "argv", ["needle-env", *cli.join_values(argv)])
        told = replace(groups[0], completions=[replace(c, text=f"bad key {KEY}") for c in groups[0].completions])
        own = config(rollout_server_url=f"http://user:{KEY}@host:1/", question=f"is it {KEY}?", num_rollouts_to_keep=99)
        log = RolloutLog(own)
        with wandb_run.start_run(own, "process", "the model", group="my group") as run:
            folder = folder_of(run)
            for one in (told, *groups[1:]):
                log.add(one)
                log.send(run)
            log.fail()
            log.send(run, final=True)
    return Written(folder)


def test_process_logs_numbers_every_few_groups(processed: Written, groups: list[RolloutGroup]) -> None:
    numbers = [line for line in processed.history if "train/score" in line]
    assert [line["_step"] for line in numbers] == [2, 4, 6, 8, 10, 12]
    for i, line in enumerate(numbers):
        want = recomputed(groups[2 * i : 2 * i + 2], 0)
        assert {name: line[name] for name in want} == pytest.approx(want)
    last = processed.history[-1]
    assert (last["_step"], last["train/groups"], last["train/failures"]) == (13, 0, 1)


def test_process_ends_with_the_table_and_the_heatmap(processed: Written, groups: list[RolloutGroup]) -> None:
    last = processed.history[-1]
    table = processed.table(last["train/rollouts"])
    assert [dict(zip(COLUMNS, row, strict=True)) for row in table[1:]] == [
        {
            "task": one.request.task,
            "length": one.request.length,
            "depth": report_numbers.depth_of(one.record()),
            "question": one.sample.question,
            "answer": ", ".join(one.sample.answer.values)
            + {"set": " (set)", "absent": ""}.get(one.sample.answer.kind, "")
            or "not in the text: abstaining is right",
            "completion": one.completions[0].text,
            "score": one.scores[0].score,
            "correct": one.scores[0].correct,
            "finish_reason": one.completions[0].finish_reason,
            "completion_tokens": len(one.completions[0].tokens),
            "seed": one.request.seed,
        }
        for one in groups[1:]
    ]
    assert table[0][COLUMNS.index("completion")] == "bad key ***"
    assert_drawn(processed.file(last["train/heatmap"]))


def test_the_run_has_atroposlibs_names_and_all_settings(processed: Written) -> None:
    run = processed.run
    assert (run.project, run.run_group, run.job_type) == ("my project", "my group", "process")
    assert run.display_name.startswith("needle-2") and processed.exit.exit_code == 0
    found, own = processed.config, config().model_dump(mode="json")
    assert found["model"] == "the model" and set(own) <= set(found)
    changed = {"rollout_server_url", "question", "num_rollouts_to_keep"}
    assert {name: found[name] for name in own if name not in changed} == {
        n: v for n, v in own.items() if n not in changed
    }
    assert processed.arguments[0] == "process"  # so that the next test is about the real command line


def test_neither_key_nor_haystack_is_in_any_byte(processed: Written, groups: list[RolloutGroup]) -> None:
    sent = processed.everything()
    assert b"***" in sent and KEY.encode() not in sent
    sentences = [sentence for one in groups for sentence in filler_of(one)]
    assert len(sentences) > 100 and not [sentence for sentence in sentences if sentence.encode() in sent]
    names = {path.name for path in processed.folder.rglob("*")}
    assert not names & {"output.log", "diff.patch"}


def test_a_run_that_raises_is_finished() -> None:
    ends = (
        (ValueError(), 1),
        (SystemExit(3), 3),
        (SystemExit("text"), 1),
        (SystemExit(), 0),
        (KeyboardInterrupt(), 255),
    )
    folders = []
    for error, _ in ends:
        with pytest.raises(type(error)), wandb_run.start_run(config(), "process", "m") as run:
            folders.append(folder_of(run))
            run.log({"x": 1}, step=1)
            raise error
        assert wandb.run is None
    for folder, (_, code) in zip(folders, ends, strict=True):
        written = Written(folder)
        assert written.exit.exit_code == code and written.history[-1]["x"] == 1


def test_evaluation_in_serves_own_run(haystacks: Haystacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTHREAD_API_KEY", KEY)
    items = [RolloutRequest(i, i, "eval", "single", LENGTHS[i % 2], (i // 2) / 3, 0) for i in range(8)]
    rollouts = [group(haystacks, item, i % 5) for i, item in enumerate(items)]
    records = [one.record() | {"completion": f"{one.completions[0].text} {KEY}"} for one in rollouts]
    drawn = draw_report(records, "a title", config().model_dump(mode="json"))
    metrics = {"eval/score": 0.25, "eval/score/stderr": math.nan}
    worst = sorted(rollouts, key=lambda one: one.scores[0].score)[:6]
    monkeypatch.setattr(wandb_log, "MOST_ROWS", 6)
    wandb_run.check_login(config())  # as the environment does when it is made
    with wandb.init(project="p") as serving:
        print("said at the terminal")
        assert serving.settings.disable_git and serving.settings.save_code is False
        serving.log({"needle_0_train/score": 1.0}, step=4)
        with wandb_run.start_run(config(), "evaluate", "m") as run:
            assert run is serving
            wandb_log.log_evaluation(run, drawn, metrics, "needle_0", step=4)
        assert wandb.run is serving  # and not finished
        folder = folder_of(serving)
    written = Written(folder)
    (line,) = written.history
    assert line["_step"] == 4 and line["needle_0_train/score"] == 1.0 and line["needle_0_eval/score"] == 0.25
    assert "needle_0_eval/score/stderr" not in line
    table = written.table(line["needle_0_eval/samples"])
    assert [row[COLUMNS.index("score")] for row in table] == [one.scores[0].score for one in worst]
    assert [row[COLUMNS.index("depth")] for row in table] == [round(one.request.depth or 0, 6) for one in worst]
    assert_drawn(written.file(line["needle_0_eval/heatmap"]))
    page = written.file(line["needle_0_eval/report"]).read_text()
    assert "Mean score" in page and rollouts[0].sample.needles[0].text in page  # the fact, not what stands around it
    sent = written.everything()
    assert KEY.encode() not in sent and b"said at the terminal" not in sent
    sentences = [sentence for one in rollouts for sentence in filler_of(one)]
    assert len(sentences) > 50 and not [sentence for sentence in sentences if sentence.encode() in sent]


# ---- no login ----


class Terminal(io.StringIO):
    """A terminal at which nobody may be asked anything."""

    def isatty(self) -> bool:
        return True

    def readline(self, *_: Any) -> str:  # type: ignore[override]
        raise AssertionError("asked at the terminal")


@pytest.fixture
def refusing() -> Iterator[str]:
    """A W&B server that takes no key, and repeats it."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"errors": [{"message": f"not {REFUSED}"}]}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("key", "says"), [("", "no W&B login"), ("too-short", "40"), (REFUSED, r"not \*\*\*")])
def test_a_missing_login_is_one_line(key: str, says: str, refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", refusing)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Terminal())
    wandb.teardown()
    try:
        with pytest.raises(ConfigError, match=f"{says}.*wandb login.*WANDB_MODE=offline") as found:
            wandb_run.check_login(config())
        with pytest.raises(ConfigError), wandb_run.start_run(config(), "process", "m"):
            raise AssertionError("started")
    finally:
        wandb.teardown()
    assert "\n" not in str(found.value) and (not key or key not in str(found.value))
