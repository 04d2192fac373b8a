"""The benchmark of the four modes on a random model: replies are those of one prompt at a time, cells name their maker."""

import json
import shutil
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import memory_measure, segment_fits
from benchmarks.memory import FIRST, LOOKED_UP, MODEL, OTHERS, READER, app, order
from benchmarks.memory_cells import MODES, WAYS, Asked
from benchmarks.memory_documents import Counts
from benchmarks.memory_measure import Bench
from benchmarks.memory_replies import Replies
from environments.haystack import document_prompt
from environments.memory.hybrid import POLICY
from lift.inference import steps
from lift.inference.generate import answers
from lift.library import base_model, segment_terms
from lift.library.attach import Attached
from lift.library.library import Entry
from lift.memory.tuner import OpenMemory, layers, open_rows
from lift.training import calibration, compaction
from lift.training.recipes import RECIPES
from longthread.errors import ConfigError
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer

REPLY = 30  # tokens: the longest values have no more
IN_STEPS = 100  # tokens, with a name before the value
LENGTH, WINDOW = 1800, 1400  # tokens of a document, which a token a byte makes short, and of the model
SINGLE = ("context", "retrieval", "weights")
SMALL = Counts(singles=2, groups=1, chains=1, asked=(2, 2, 1, 2))


@pytest.fixture(autouse=True, scope="module")
def _few() -> Iterator[None]:
    """Few questions, passages that fit the window, a memory of several segments that takes a second; one thread."""
    settings, threads = memory_measure.MemoryEnvConfig, torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_measure, "counts_of", lambda length: SMALL)
        patch.setattr(
            memory_measure,
            "MemoryEnvConfig",
            lambda **given: settings(passages=2, chunk_tokens=200, overlap=20, **given),
        )
        for name in ("compact", "compact+"):
            small = replace(RECIPES[name], segment=500, queries=40, items=6, steps=min(1, RECIPES[name].steps))
            patch.setitem(RECIPES, name, small)
        patch.setattr(calibration, "OWN", 4)
        patch.setattr(calibration, "OTHER", 6)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), max_position_embeddings=WINDOW)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder of memories for all tests: each is fitted once."""
    return tmp_path_factory.mktemp("libraries")


# ---- replies ----


def test_replies_behind_one_text_are_those_of_whole_prompts() -> None:
    model: Any = tiny_model(max_position_embeddings=WINDOW)
    tokenizer = tiny_tokenizer()
    text = list(b"The harbour lay still, and nobody came down to it. ") * 5
    prompts = [text + list(end) for end in (b"Who?", b"What is there?", b"When was it that they came?", b"W")]
    asked = Replies(model, tokenizer, 8, 0)
    found, _, _, shared = asked.behind_one_text(prompts)
    assert found == answers(model, tokenizer, prompts, 8) == asked.bare(prompts)[0]
    assert len(text) <= shared < min(map(len, prompts))


# ---- cells ----


def test_a_memory_of_several_segments_is_asked_as_lift_serve_asks_it(base: Path, libraries: Path) -> None:
    bench = Bench(base, libraries, REPLY, 0)
    asked = Asked(READER, LENGTH, 0, "weights", "compact")
    source = bench.source(asked)
    made, _, _ = bench.exchanges(asked, source)
    text, library = bench.text(LENGTH, 0), bench.library("compact")
    [entry] = library.entries()
    assert entry.digest == text.document.digest and entry.constants["segment"] == 500
    folder = library.path(entry)
    attached = Attached(library, base_model.load(base, base_model.device("cpu")), [entry.name])
    assert len(layers(attached.model)[0].gm_memory[entry.folder].slots) > segment_terms.OPENED  # type: ignore[arg-type]
    for [exchange], question in zip(made, text.questions, strict=True):
        alone = document_prompt.question_in(exchange.prepared.messages[0]["content"])
        assert alone.startswith(question.sample.question)
        best = segment_terms.best(folder, alone, segment_terms.OPENED)
        assert best is not None
        with open_rows(layers(attached.model), [(OpenMemory(entry.folder, tuple(best)),)]):
            assert exchange.reply == answers(attached.model, bench.tokenizer, [exchange.prepared.tokens], REPLY)[0]


def test_segments_that_other_processes_have_fitted_are_not_fitted_again(
    base: Path, libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Bench(base, libraries, REPLY, 0)
    [whole] = [alone.memory(alone.text(LENGTH, 0), "compact")]
    fitted: list[int] = []

    def in_turn(work: Any, jobs: dict[str, tuple[Any, ...]], devices: int, *_: float) -> Iterator[tuple[str, float]]:
        for key, (given, number) in jobs.items():
            fitted.append(number)
            yield key, work(given, number)
        monkeypatch.setattr(compaction, "closed_form", lambda *_: pytest.fail("fitted again"))

    monkeypatch.setattr(segment_fits, "spread", in_turn)
    bench = Bench(base, tmp_path, REPLY, 0, fits=2)
    entry = bench.memory(bench.text(LENGTH, 0), "compact")
    assert fitted == list(range(len(fitted))) and len(fitted) > 1
    assert entry.sha256 == whole.sha256
    assert [path.name for path in bench.library("compact").folder.parent.iterdir()] == ["compact"]


def test_every_way_of_asking_gives_records_with_what_they_cost(base: Path, libraries: Path) -> None:
    bench = Bench(base, libraries, REPLY, 0)
    cells = {way: bench.records(Asked(READER, LENGTH, 0, way, "compact")) for way in (*MODES, *WAYS)}
    keys = {way: [record["question_key"] for record in records] for way, records in cells.items()}
    assert all(of_way == keys["context"] for of_way in keys.values())
    first = {way: records[0] for way, records in cells.items()}
    assert first["context"]["cut_tokens"] > 0 and first["context"]["recall"] is not None
    assert first["weights"]["recall"] is None and first["hybrid"]["recall"] is not None
    once = [of for way, cell in cells.items() if not way.startswith("hybrid") for of in cell]
    assert all(record["requests"] == 1 and not record["proposed"] for record in once)
    [entry] = bench.library("compact").entries()
    assert first["weights"]["cost"]["stored_bytes"] == entry.bytes
    assert first["weights"]["cost"]["prepare_seconds"] == entry.seconds
    index_bytes = first["retrieval"]["cost"]["stored_bytes"]
    assert first["hybrid"]["cost"]["stored_bytes"] == entry.bytes + index_bytes
    tokens = {way: record["cost"]["tokens_read"] for way, record in first.items()}
    assert tokens["weights"] < tokens["retrieval"] < tokens["context"]
    assert max(record["cost"]["tokens_read"] for record in cells["context"]) == WINDOW - REPLY
    assert all(record["cost"]["seconds"] > 0 for record in first.values())


# ---- the memory proposes, the text confirms ----


def text_of(prompt: Sequence[int]) -> str:
    return str(tiny_tokenizer().decode(prompt))


class Scripted:
    """Replies in place of a model's: those of each stage by question, and a second for each prompt of what was asked."""

    def __init__(self, *stages: dict[str, str]):
        self.stages, self.asked = list(stages), list[tuple[str, list[Sequence[int]]]]()

    def bare(self, prompts: list[Sequence[int]]) -> tuple[list[str], float]:
        return self._replies("model", prompts)

    def remembered(self, _: object, entry: Entry, prompts: list[Sequence[int]], __: object) -> tuple[list[str], float]:
        return self._replies(entry.name, prompts)

    def _replies(self, who: str, prompts: list[Sequence[int]]) -> tuple[list[str], float]:
        replies = self.stages[len(self.asked)]
        self.asked.append((who, prompts))
        said = [next(reply for question, reply in replies.items() if question in text_of(p)) for p in prompts]
        return said, float(len(prompts))


@pytest.mark.parametrize("stepwise", [False, True], ids=["plain", "in steps"])
@pytest.mark.parametrize("way", ["hybrid", "hybrid_hops"])
@pytest.mark.parametrize("reads", [True, False], ids=["read", "read otherwise"])
def test_only_what_the_passages_lack_is_asked_of_the_memory_and_counts_only_if_the_text_confirms_it(
    base: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch, way: str, stepwise: bool, reads: bool
) -> None:
    bench = Bench(base, libraries, IN_STEPS if stepwise else REPLY, 0)
    bench.window = 4000
    asked = Asked(READER, LENGTH, 0, way, "compact", stepwise)
    source = bench.source(asked)
    name, questions = source.text.document.name, [question.sample.question for question in source.text.questions]
    kinds = [question.sample.recipe["task"] for question in source.text.questions]
    assert len(questions) == len(set(questions)) == 7
    [known, else_], [unknown, other] = ([i for i, k in enumerate(kinds) if k == kind] for kind in ("single", "absent"))
    value, elses = (source.text.questions[i].sample.answer.values[0] for i in (known, else_))

    read = value if reads else "none"  # in the sentence that confirms the value

    def said(values: dict[int, str]) -> dict[str, str]:
        form = "<steps></steps>\n<answer>{}</answer>" if stepwise else "{}"
        return {questions[i]: form.format(said) for i, said in values.items()}

    passages = dict.fromkeys(range(7), "11111") | {known: "none", unknown: "none", other: "The text does not say."}
    memory = {known: value, unknown: elses, other: "none"}  # one value is that of somebody else
    scripted = Scripted(said(passages), said(memory), said({known: read}))
    for method in ("bare", "remembered"):
        monkeypatch.setattr(bench.replies, method, getattr(scripted, method))
    records = bench.records(asked)
    assert [(who, len(prompts)) for who, prompts in scripted.asked] == [("model", 7), (name, 3), ("model", 1)]
    [sentence] = scripted.asked[2][1]
    assert value in text_of(sentence) and len(sentence) < len(scripted.asked[0][1][known])
    answered = {known: value} if read == value else {}
    assert [steps.value(r["reply"]) for r in records] == [(passages | answered)[i] for i in range(7)]
    assert records[known]["correct"] == (read == value) and records[unknown]["correct"]
    assert [record["requests"] for record in records] == [
        3 if i == known else 2 if i in memory else 1 for i in range(7)
    ]
    proposed = {known: value, unknown: elses}
    assert [record["proposed"] for record in records] == [proposed.get(i, "") for i in range(7)]
    assert [record["recall"] is None for record in records] == [i in answered or not q.evidence for i, q in
                                                                enumerate(source.text.questions)]  # fmt: skip
    tokens = [sum(len(p) for _, prompts in scripted.asked for p in prompts if q in text_of(p)) for q in questions]
    assert [record["cost"]["tokens_read"] for record in records] == tokens
    assert all(record["cost"]["seconds"] >= record["requests"] for record in records)
    single = replace(asked, way="hops" if way == "hybrid_hops" else "retrieval", recipe="")
    everything = source.text.questions
    found, _ = bench._prepared(single, bench.source(single), "retrieval", everything)
    assert scripted.asked[0][1] == [one.tokens for one in found]


# ---- step by step ----


def test_steps_are_asked_for_in_the_prompt_of_lift_ask_in_every_mode(base: Path, libraries: Path) -> None:
    bench = Bench(base, libraries, IN_STEPS, 0)
    bench.window = 4000  # the text stands whole in the prompt
    for way in (*MODES, "hybrid_hops"):
        asked = Asked(READER, LENGTH, 0, way, "compact", steps=True)
        source = bench.source(asked)
        for mode in [way] if way in SINGLE else ["retrieval", "weights"]:
            prepared, _ = bench._prepared(asked, source, mode, source.text.questions)
            for question, one in zip(source.text.questions, prepared, strict=True):
                shown = {"context": source.text.document.text, "weights": ""}.get(
                    mode, "\n\n* * *\n\n".join(chunk.text.strip() for chunk in one.passages)
                )
                assert one.tokens == steps.chat(bench.tokenizer, question.sample.question, shown), (way, mode)
            searched_for = bench._searched_for(asked, source.text.questions, prepared)
            assert searched_for == [q.sample.question for q in source.text.questions]


def test_of_a_reply_in_steps_the_answer_counts(base: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(base, libraries, IN_STEPS, 0)
    asked = Asked(READER, LENGTH, 0, "retrieval", steps=True)
    right = ["".join(q.sample.answer.values) or "none" for q in bench.text(LENGTH, 0, True).questions]
    tagged = [f"<steps>Ann Lee</steps>\n<answer>{value}</answer>" for value in right]
    tagged[0] = f"<steps>{right[0]}</steps>\n<answer>{right[1]}</answer>"  # the value among the steps is no answer
    monkeypatch.setattr(bench.replies, "bare", lambda prompts: (tagged, 1.0))
    records = bench.records(asked)
    assert [record["correct"] for record in records] == [False, *[True] * (len(right) - 1)]
    assert [record["reply"] for record in records] == tagged
    keys = [record["question_key"] for record in bench.records(replace(asked, way="hops"))]
    assert keys == [f"{record['document']}/{number}" for number, record in enumerate(records)]


# ---- the commands ----


def test_steps_stand_beside_the_same_without_them(base: Path, libraries: Path, tmp_path: Path) -> None:
    run = ["run", str(tmp_path / "out"), "--reader", str(base), "--lengths", str(LENGTH), "--documents", "1"]
    run += ["--ways", "retrieval,hops", "--libraries", str(libraries)]
    bare = CliRunner().invoke(app, [*run, "--replies", str(REPLY)])
    assert bare.exit_code == 0 and "In steps" not in bare.output, bare.output
    both = CliRunner().invoke(app, [*run, "--steps", "--replies", str(IN_STEPS)])
    assert both.exit_code == 0 and "In steps" in both.output, both.output
    names = [f"reader-{LENGTH}-0-{way}{form}.json" for way in ("hops", "retrieval") for form in ("", "-steps")]
    assert sorted(path.name for path in (tmp_path / "out" / "cells").iterdir()) == sorted(names)
    report = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert report.exit_code == 0, report.output
    assert len(list((tmp_path / "out").glob("reader-*-steps.json"))) == 1
    lines = [line.split() for line in report.output.splitlines() if "over retrieval:" in line]
    of_hops = [line for line in lines if line[:3] == [f"{LENGTH:,}", "single", "hops"]]
    assert len(of_hops) == 2, "hops against one search, without steps and in them"
    short = CliRunner().invoke(app, [*run, "--steps", "--replies", str(REPLY)])
    assert "replies have 30" in short.output and "2 cells failed" in short.output


def test_what_the_time_did_not_reach_is_said(base: Path, tmp_path: Path) -> None:
    run = ["run", str(tmp_path / "out"), "--reader", str(base), "--lengths", str(LENGTH), "--documents", "1"]
    run += ["--ways", "retrieval", "--replies", str(REPLY)]
    assert CliRunner().invoke(app, run).exit_code == 0
    late = CliRunner().invoke(app, [*run[:-4], "--ways", "retrieval,weights", "--seconds", "-1"])
    assert late.exit_code == 0, late.output
    assert f"2 cells not reached: reader-{LENGTH}-0-retrieval, reader-{LENGTH}-0-weights-compact" in late.output
    accuracy = late.output.split("Accuracy\n")[1].splitlines()[:2]
    assert accuracy[0].split()[-4:] == list(MODES), "a mode that was not reached has its column"
    cells = accuracy[1].split()
    assert cells[-4] == cells[-2] == cells[-1] == "–" and cells[-3] != "–"


def test_partial_results_are_reported_and_gone_on_with(base: Path, libraries: Path, tmp_path: Path) -> None:
    run = ["run", str(tmp_path / "out"), "--reader", str(base), "--lengths", str(LENGTH), "--documents", "1"]
    run += ["--replies", str(REPLY), "--libraries", str(libraries)]
    done = CliRunner().invoke(app, run)
    assert done.exit_code == 0, done.output
    cells = tmp_path / "out" / "cells"
    written = {path.name: path.read_bytes() for path in cells.iterdir()}
    assert f"reader-{LENGTH}-0-hybrid-compact.json" in written and len(written) == len(MODES) + len(WAYS)
    assert "multi_key" in done.output and "hops" in done.output
    (cells / f"reader-{LENGTH}-0-weights-compact.json").unlink()
    (cells / f"reader-{LENGTH}-0-semantic.json").unlink()
    report = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert report.exit_code == 0, report.output
    [picture] = (tmp_path / "out").glob("reader-*-compact-*.png")
    [numbers] = (tmp_path / "out").glob("reader-*-compact.json")
    assert picture.stat().st_size and {cell["mode"] for cell in json.loads(numbers.read_text())["cells"]} == {
        "context", "retrieval", "hybrid",
    }  # fmt: skip
    again = CliRunner().invoke(app, run)
    assert again.exit_code == 0 and again.output.count(" right, ") == 2, again.output
    assert all((cells / name).exists() for name in written)
    hybrid = cells / f"reader-{LENGTH}-0-hybrid-compact.json"
    earlier = json.loads(hybrid.read_text())
    del earlier["made_of"]["hybrid"]
    hybrid.write_text(json.dumps(earlier))
    report = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert report.exit_code == 0 and "1 cell of an earlier hybrid is left out" in report.output, report.output
    assert {cell["mode"] for cell in json.loads(numbers.read_text())["cells"]} == {*MODES} - {"hybrid"}
    anew = CliRunner().invoke(app, run)
    assert anew.output.count(" right, ") == 1 and "earlier hybrid" not in anew.output, anew.output


def test_cells_of_other_weights_or_another_recipe_are_measured_anew(base: Path, tmp_path: Path) -> None:
    bench = Bench(base, tmp_path / "libraries", REPLY, 0)
    weights = Asked(READER, LENGTH, 0, "weights", "compact")
    mine, bare = bench.made_of(weights), bench.made_of(Asked(READER, LENGTH, 0, "context"))
    assert mine == bench.made_of(weights)
    assert bench.made_of(replace(weights, recipe="compact+")) != mine
    hybrid = bench.made_of(Asked(READER, LENGTH, 0, "hybrid_hops", "compact"))
    assert mine.items() < hybrid.items() and POLICY in hybrid.values() and POLICY not in mine.values()
    assert "recipe" not in bare and bare["base"] == mine["base"] == base_model.fingerprint(base)
    assert bench.made_of(Asked(READER, LENGTH, 1, "context")) != bare
    other = deepcopy(bench.replies.model)
    torch.nn.init.normal_(other.lm_head.weight)  # type: ignore[attr-defined]
    shutil.copytree(base, tmp_path / "other")
    other.save_pretrained(tmp_path / "other")  # type: ignore[attr-defined]
    assert Bench(tmp_path / "other", tmp_path / "libraries", REPLY, 0).made_of(weights)["base"] != mine["base"]


def test_replies_too_short_for_an_answer_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replies have 5"):
        Bench(base, tmp_path, 5, 0).text(LENGTH, 0)


def test_the_most_valuable_cells_come_first_and_each_once() -> None:
    documents = {8192: 4, 32768: 4, 1048576: 1}
    cells = order([READER, MODEL], documents, "compact")
    assert len({cell.key for cell in cells}) == len(cells) == 2 * 9 * (len(MODES) + len(WAYS))
    first = 2 * FIRST + 1  # documents
    looked_up, others = cells[: first * len(LOOKED_UP)], cells[first * len(LOOKED_UP) :][: first * len(OTHERS)]
    for part, ways in ((looked_up, LOOKED_UP), (others, OTHERS)):
        assert [cell.length for cell in part] == sorted(cell.length for cell in part)
        assert {(cell.model, cell.way) for cell in part} == {(READER, way) for way in ways}
    of_model = cells[first * (len(LOOKED_UP) + len(OTHERS)) :][: first * 2]
    assert {(cell.model, cell.way) for cell in of_model} == {(MODEL, "retrieval"), (MODEL, "context")}
    assert {cell.way for cell in cells if cell.recipe} == {"weights", "hybrid", "hybrid_hops"}
    assert {cell.model for cell in order([READER], documents, "compact")} == {READER}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--lengths", "8192,8192", "lengths"),
        ("--documents", "1,2,3,4", "documents"),
        ("--documents", "0,1,1", "documents"),
        ("--recipe", "lse", "recipe must be one of compact, compact+"),
        ("--ways", "retrieval,guess", "ways must be one of context, retrieval, weights, hybrid, hops"),
        ("--reader", "/nowhere/at/all", "/nowhere/at/all"),
    ],
    ids=["a length twice", "not one for each", "none", "a recipe that is not compact", "an unknown way", "no model"],
)
def test_a_mistake_is_one_line(tmp_path: Path, option: str, value: str, said: str) -> None:
    given = {"--reader": str(tmp_path), "--lengths": "8192,32768,131072", "--documents": "4,4,1"} | {option: value}
    refused = CliRunner().invoke(
        app, ["run", str(tmp_path / "out"), *(part for pair in given.items() for part in pair)]
    )
    assert refused.exit_code == 2 and said in refused.output and refused.output.count("\n") == 1


def test_a_report_of_nothing_is_one_line(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert refused.exit_code == 2 and "no cells" in refused.output and refused.output.count("\n") == 1
