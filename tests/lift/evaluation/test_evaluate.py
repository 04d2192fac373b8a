"""Every figure against a plain reference, and what stub answerers must come out with."""

import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lift.document.document import Document
from lift.evaluation import evaluate as module
from lift.evaluation import results as evaluate_plot
from lift.evaluation.evaluate import Prompt, Settings, auroc, evaluate, nll
from lift.evaluation.results import Results, draw, load, plot, save, table, upright
from lift.tasks import NO_ANSWER, Item
from lift.tasks.synthetic_document import ControlSet, DocumentQuestions
from longthread.errors import LongthreadError
from longthread.statistics import Z95, Share
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

SENTENCES = [
    "The combination that Vo Bralen uses for the safe is 4071936528.",
    "Nobody in the village had seen such a winter, and the road was closed.",
    "Next door to Tam Greiva lives Pel Okum.",
    "The mill stood empty, and its wheel had been sold for timber.",
    "The password that Pel Okum agreed upon is amber-goose-violin-reef.",
    "They spoke of the harvest, of the price of wool, and of nothing else.",
]
DOCUMENT = Document("logbook", " ".join(SENTENCES))
OTHER = Document(
    "ledger", "In the ledger it says that the ferry costs 7735190264 coins. Rain fell all day on the river."
)
NEUTRAL = "A quiet morning came over the hills, and the shepherd led his flock down to the water."


tiny_tokenizer_once = cache(tiny_tokenizer)


def span(document: Document, words: str) -> tuple[int, int]:
    at = document.text.index(words)
    return at, at + len(words)


SAFE = Item("needle", "Which digits does Vo Bralen dial?", "4071936528", (span(DOCUMENT, SENTENCES[0]),))
PEL = Item("needle", "What does one whisper to Pel Okum?", "amber-goose-violin-reef", (span(DOCUMENT, SENTENCES[4]),))
PATH = tuple(span(DOCUMENT, SENTENCES[i]) for i in (2, 4))
LINKED = Item("linked", "What does one whisper to the neighbour of Tam Greiva?", "amber-goose-violin-reef", PATH)
ABSENT = Item("absent", "Which digits does Uhl Maren dial?", NO_ANSWER, ())
ITEMS = [SAFE, PEL, LINKED, ABSENT]
FERRY = [Item("needle", "How many coins is the ferry?", "7735190264", (span(OTHER, "7735190264"),))]
FRANCE = [
    Item("unrelated", "What is the capital of France?", "Paris", ()),
    Item("unrelated", "What is the capital of Italy?", "Rome", ()),
    Item("unrelated", "What is 10 - 4?", "6", (), ("Six",)),
    Item("unrelated", "What is half of 20?", "10", ()),
]
KEY = {item.question: item.answer for item in [*ITEMS, *FERRY, *FRANCE]}
EVIDENCE = {item.question: item.answer for item in [*ITEMS, *FERRY] if item.evidence}


def perfect(prompts: Sequence[Prompt]) -> list[str]:
    return [KEY[prompt.question] for prompt in prompts]


def wrong(prompts: Sequence[Prompt]) -> list[str]:
    return ["1234567890" for _ in prompts]


def dumping(prompts: Sequence[Prompt]) -> list[str]:
    return ["4071936528, amber-goose-violin-reef, 7735190264, Paris, Rome, none" for _ in prompts]


def reading(prompts: Sequence[Prompt]) -> list[str]:
    """Knows nothing, but finds what stands in its window."""
    return [KEY[p.question] if EVIDENCE.get(p.question, "\0") in p.window else NO_ANSWER for p in prompts]


@cache
def adapted(scale: float = 0.0) -> Any:
    """The tiny model with a LoRA whose B is `scale` times random: 0 is the identity."""
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=["o_proj", "q_proj"]))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=max(scale, 1e-30)) if scale else torch.nn.init.zeros_(parameter)
    return model.eval()


def run(answer: Any, items: Sequence[Item] = ITEMS, model: Any = None, **changes: Any) -> Results:
    """`changes`: fields of the control set and of the settings."""
    other = DocumentQuestions(OTHER, changes.pop("other_items", FERRY))
    control = ControlSet(changes.pop("neutral", NEUTRAL), changes.pop("unrelated", FRANCE), other)
    settings = Settings(**{"window_tokens": 96, "answer": answer, "progress": False} | changes)
    return evaluate(model or adapted(), tiny_tokenizer(), DocumentQuestions(DOCUMENT, items), control, settings)


# ---- rates ----


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_the_count_is_z_standard_errors_away(counts: tuple[int, int]) -> None:
    k, n = counts
    share, (low, high) = k / n, Share(k, n).interval
    assert 0 <= low <= share <= high <= 1
    for end in (low, high):
        assert abs(share - end) == pytest.approx(Z95 * math.sqrt(end * (1 - end) / n), abs=1e-9)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


def test_wilson_known_values_and_nothing_asked() -> None:
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share(0, 0).value is None
    assert Share(0, 0).interval == (0, 1)
    assert Share(1, 3) + Share(2, 2) == Share(3, 5)


scores = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_ties_half(positive: list[float], negative: list[float]) -> None:
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert auroc(np.array(positive), np.array(negative)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


# ---- likelihood ----


def ids_of(text: str) -> list[int]:
    return list(tiny_tokenizer()(text)["input_ids"])


def reference(model: Any, ids: list[int], window: int) -> list[float]:
    found = []
    for first in range(0, len(ids), window):
        piece = torch.tensor([ids[first : first + window]])
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=piece).logits[0].float(), dim=-1)
        found += [-log_p[t, piece[0, t + 1]].item() for t in range(piece.shape[1] - 1)]
    return found


@pytest.mark.parametrize("window", [2, 17, 500])
@pytest.mark.parametrize("rows", [3, 7, 10_000])
def test_nll_is_the_log_softmax_however_it_is_chunked(monkeypatch: Any, window: int, rows: int) -> None:
    ids = ids_of(NEUTRAL)[:41]
    monkeypatch.setattr(module, "LOGIT_BYTES", rows * 4 * 260)
    model = adapted(0.3)
    got = nll(model, ids, window)
    assert got == pytest.approx(np.array(reference(model, ids, window)), abs=1e-5)


def test_nll_holds_no_more_logits_than_allowed(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "LOGIT_BYTES", 5 * 4 * 260)
    model, seen = tiny_model(), []
    model.lm_head.register_forward_hook(lambda _module, _in, out: seen.append(out.shape[1]))
    nll(model, ids_of(NEUTRAL)[:23], 100)
    assert max(seen) == 5
    assert sum(seen) == 22


def test_nll_leaves_the_model_as_it_was_and_sees_no_dropout() -> None:
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=["o_proj"], lora_dropout=0.9))
    torch.nn.init.normal_(model.base_model.model.model.layers[0].self_attn.o_proj.lora_B["default"].weight)
    model.train()
    first = nll(model, ids_of(NEUTRAL), 200)
    assert model.training
    assert (first == nll(model.eval(), ids_of(NEUTRAL), 200)).all()
    assert not model.training


# ---- evaluate ----


def shares(rates: dict[str, Share]) -> dict[str, float | None]:
    return {kind: rate.value for kind, rate in rates.items()}


def test_perfect_wrong_and_dumping() -> None:
    best, worst, dumped = run(perfect), run(wrong), run(dumping)
    for results, share in ((best, 1), (worst, 0), (dumped, 0)):
        for rates in (results.closed, results.window, results.window_off):
            assert shares(rates) == {"needle": share, "linked": share, "absent": share}
        assert shares(results.elsewhere) == {"needle": share, "linked": share}
        assert results.other == results.other_off == Share(share, 1)
        assert results.unrelated == results.unrelated_off == Share(4 * share, 4)
        assert results.recall == Share(3 * share, 3)
        assert results.gate_auroc is None
    assert best.closed["needle"] == Share(2, 2)


def test_by_depth_counts_items_of_one_span_where_they_stand() -> None:
    depths = run(lambda prompts: [KEY[p.question] if "Vo" in p.question else "?" for p in prompts]).depths
    assert set(depths) == {"needle"}
    assert len(depths["needle"]) == 10
    others = len(DOCUMENT.text) - len(SENTENCES[4])
    at = int(10 * DOCUMENT.text.index(SENTENCES[4]) / others)
    expected = [Share()] * 10
    expected[0], expected[at] = Share(1, 1), Share(0, 1)
    assert depths["needle"] == expected


def test_a_reader_is_right_only_where_the_evidence_is_in_the_window() -> None:
    results = run(reading)
    assert shares(results.closed) == {"needle": 0, "linked": 0, "absent": 1}
    assert shares(results.window) == shares(results.window_off) == {"needle": 1, "linked": 1, "absent": 1}
    assert shares(results.elsewhere) == {"needle": 0, "linked": 0}
    assert results.other == Share(1, 1)
    assert results.unrelated == Share(0, 4)


@pytest.mark.parametrize(
    ("number", "reply", "good"),
    [
        (0, "Paris", True),
        (0, "The capital of France is Paris.", True),
        (0, "paris.\nRome is that of Italy.", True),
        (0, "Paris or Rome", False),
        (0, "Parisians live there.", False),
        (0, "", False),
        (2, "10 - 4 = 6", True),  # 10 answers another question, but stands in this one
        (2, "six", True),
        (2, "10 - 4 = 16", False),
        (3, "Half of 20 is 10.", True),
        (3, "Half of 20 is 10 or 6.", False),
    ],
)
def test_unrelated_answers_may_be_sentences_but_not_lists(number: int, reply: str, good: bool) -> None:
    def answer(prompts: Sequence[Prompt]) -> list[str]:
        return [reply if prompt.question == FRANCE[number].question else "?" for prompt in prompts]

    assert run(answer).unrelated == Share(int(good), 4)


def test_off_is_off_and_on_is_on() -> None:
    model, seen = adapted(), []
    layer = model.base_model.model.model.layers[0].self_attn.o_proj

    def answer(prompts: Sequence[Prompt]) -> list[str]:
        seen.append((layer.disable_adapters, prompts[0]))
        return ["" if layer.disable_adapters else KEY[p.question] for p in prompts]

    results = run(answer, model=model)
    assert [off for off, _ in seen] == [False, False, True, False, False, True, False, True]
    assert (results.other, results.other_off) == (Share(1, 1), Share(0, 1))
    assert (results.unrelated, results.unrelated_off) == (Share(4, 4), Share(0, 4))
    assert shares(results.window_off) == {"needle": 0, "linked": 0, "absent": 0}
    assert not layer.disable_adapters
    names = [prompt.name for _, prompt in seen]
    assert names == ["logbook"] * 4 + ["ledger"] * 2 + ["general knowledge"] * 2
    assert [bool(prompt.window) for _, prompt in seen] == [False] + [True] * 5 + [False] * 2


def test_forgetting_is_the_difference_that_the_adapter_makes() -> None:
    same = run(perfect)
    assert same.nll == same.nll_off
    assert same.nll_change == (0, 0)
    model = adapted(0.3)
    results = run(perfect, model=model)
    ids = ids_of(NEUTRAL)
    on = np.array(reference(model, ids, 96))
    with model.disable_adapter():
        off = np.array(reference(model, ids, 96))
    assert results.nll == pytest.approx(on.mean(), abs=1e-5)
    assert results.nll_off == pytest.approx(off.mean(), abs=1e-5) == pytest.approx(same.nll_off, abs=1e-5)
    assert results.nll != pytest.approx(results.nll_off, abs=1e-3)
    middle, reach = (on - off).mean(), Z95 * (on - off).std() / math.sqrt(len(on))
    assert results.nll_change == pytest.approx((middle - reach, middle + reach), abs=1e-5)


def test_a_model_without_adapters_is_the_row_to_compare_with() -> None:
    results = run(reading, model=tiny_model())
    assert results.nll == results.nll_off
    assert results.other == results.other_off


def test_gate_is_scored_over_every_token_of_both_sides() -> None:
    read: list[int] = []

    def gate(_model: Any, ids: torch.Tensor) -> torch.Tensor:
        assert ids.shape[0] == 1
        read.extend(ids[0].tolist())
        return torch.full((ids.shape[1],), float(len(read) <= len(DOCUMENT.text)), dtype=torch.bfloat16)

    assert run(perfect, gate=gate).gate_auroc == 1
    assert tiny_tokenizer().decode(read) == DOCUMENT.text + NEUTRAL + OTHER.text
    assert run(perfect, gate=lambda _m, ids: torch.zeros(1, ids.shape[1])).gate_auroc == 0.5


@pytest.mark.parametrize("bad", [lambda _m, ids: ids[0, :1].float(), lambda _m, ids: ids[0] * math.nan])
def test_a_gate_without_a_number_for_each_token_is_refused(bad: Callable) -> None:
    with pytest.raises(LongthreadError, match="the gate gave no finite number"):
        run(perfect, gate=bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"window_tokens": 8}, "a window of 8 tokens is below 32"), ({"neutral": "a"}, "neutral text has 1 tokens")],
)
def test_bad_input_is_said_before_anything_is_asked(changes: dict[str, Any], message: str) -> None:
    def never(prompts: Sequence[Prompt]) -> list[str]:
        raise AssertionError

    with pytest.raises(LongthreadError, match=message):
        run(never, **changes)


def test_a_broken_memory_is_said() -> None:
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=4, target_modules=["o_proj"]))
    torch.nn.init.constant_(model.base_model.model.model.layers[0].self_attn.o_proj.lora_B["default"].weight, math.nan)
    with pytest.raises(LongthreadError, match="not finite"):
        run(perfect, model=model)


def test_the_model_itself_answers_through_a_chat_prompt() -> None:
    results = run(None, items=[SAFE], model=adapted(0.3), unrelated=[])
    assert results.closed["needle"].asked == results.window["needle"].asked == results.other.asked == 1


# ---- table, plot, files ----

EMPTY: dict[str, Any] = {"items": [], "unrelated": [], "other_items": []}


def test_nothing_asked_is_no_crash(tmp_path: Path) -> None:
    results = {"none": run(perfect, **EMPTY)}
    assert results["none"].closed == results["none"].depths == {}
    assert results["none"].recall.value is None
    save(results, tmp_path)
    assert load(tmp_path) == results
    save({}, tmp_path)
    assert load(tmp_path) == {}


def test_files_come_back_and_leave_nothing_else(tmp_path: Path) -> None:
    results = {"lse": run(perfect, gate=lambda _m, ids: ids[0].float()), "raw-lora": run(wrong, model=adapted(0.3))}
    save(results, tmp_path / "new")
    assert load(tmp_path / "new") == results
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["plot.png", "results.json", "table.txt"]
    data = json.loads((tmp_path / "new" / "results.json").read_text())
    rate = data["lse"]["closed"]["needle"]
    assert (rate["right"], rate["asked"], rate["share"]) == (2, 2, 1)
    assert rate["interval"] == pytest.approx(Share(2, 2).interval)
    text = (tmp_path / "new" / "table.txt").read_text()
    assert "raw-lora" in text
    assert "…" not in text  # nothing cut off


def test_what_is_no_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(LongthreadError, match="run `lift evaluate` first"):
        load(tmp_path)
    for bad in ("{", "[]", '{"a": {}}', '{"a": 3}'):
        (tmp_path / "results.json").write_text(bad)
        with pytest.raises(LongthreadError, match="evaluate again"):
            load(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "plot.png"
    plot({"a": run(perfect)}, path)
    before = path.read_bytes()

    class Broken:
        def savefig(self, file: Any, **_: Any) -> None:
            file.write(b"half")
            raise OSError("disk full")

    monkeypatch.setattr(evaluate_plot, "draw", lambda _results: Broken())
    with pytest.raises(OSError, match="disk full"):
        plot({"a": run(perfect)}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def six_methods() -> dict[str, Results]:
    base = run(perfect)
    names = ["raw-lora", "published-v3", "published-v4", "cartridge", "query", "lse"]
    return {
        name: replace(
            base,
            closed={"needle": Share(16 - 2 * i, 16), "linked": Share(4 - i // 2, 4), "cloze": Share(i, 40)},
            nll=base.nll_off + 0.02 * i,  # some nearly on one another
            nll_change=(0.02 * i - 0.01, 0.02 * i + 0.01),
        )
        for i, name in enumerate(names)
    }


def test_table_has_a_row_a_method_and_a_column_a_kind() -> None:
    shown = table(six_methods())
    assert shown.row_count == 6
    headers = [str(column.header) for column in shown.columns]
    assert headers[:4] == ["method", "needle", "linked", "cloze"]
    console = Console(width=evaluate_plot.WIDTH, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    assert "88 %" in text  # 14 of 16 …
    assert "64–97" in text  # … and its interval


def test_a_terminal_of_80_columns_shows_every_figure() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    results = {"published-v4": six_methods()["published-v4"]}
    console.print(upright(results))
    text = console.export_text()
    assert "…" not in text and "75 %  (" in text and "linked" in text and "gate AUROC" in text


def test_no_text_of_the_plot_overlaps_another() -> None:
    figure = draw(six_methods())
    figure.savefig(Path("/dev/null"), format="png")
    renderer = figure._get_renderer()
    texts = [figure._suptitle, *(t for legend in figure.legends for t in legend.get_texts())]
    for axis in figure.axes:
        ticks = axis.get_xticklabels() + (axis.get_yticklabels() if axis is figure.axes[0] else [])
        low, high = axis.get_xlim()
        ticks = [
            t for t in ticks if t.get_text() and (t not in axis.get_xticklabels() or low <= t.get_position()[0] <= high)
        ]
        texts += [axis.title, axis.xaxis.label, *ticks, *axis.texts]
    texts.append(figure.axes[0].yaxis.label)
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text() and t.get_visible()]
    assert len(boxes) >= 14
    for i, (name, box) in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        for other, their in boxes[i + 1 :]:
            assert not box.overlaps(their), (name, other)


def test_points_stand_at_nll_and_accuracy() -> None:
    results = six_methods()
    figure = draw(results)
    for axis, kind in zip(figure.axes, ("needle", "linked"), strict=True):
        points = [container.lines[0].get_xydata()[0] for container in axis.containers]
        for (x, y), each in zip(points, results.values(), strict=True):
            assert x == each.nll
            assert y == 100 * each.closed[kind].value
