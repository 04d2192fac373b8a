"""Recipe `compact` at toy size: its budget, its segments, a killed fit, what it refuses; and its reference rows."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaConfig

from lift.document.document import Document
from lift.inference.generate import before_text, chat
from lift.library import segment_terms
from lift.library.compact_store import CompactStore
from lift.memory.compact import LEAST_AVERAGE
from lift.memory.reference_queries import ExactMemory, ReferenceRow
from lift.memory.tuner import layers
from lift.tasks import Item
from lift.training import calibration, closed_form, compaction, fit, reference_rows, segment_memory
from lift.training.batches import AnswerEncoder
from lift.training.compaction import check_positions, spans_of
from lift.training.job import FitJob, FitOptions
from lift.training.recipes import RECIPES, Recipe
from lift.training.reference_rows import ReferenceRows, in_proportion
from longthread.errors import ConfigError, DataError, LongthreadError, RunError
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import tiny_config, tiny_model, tiny_tokenizer
from tests.lift import toy_texts

PEOPLE = ("Maro Fenth", "Lisa Kord", "Timo Varga", "Anna Selim", "Josef Brandt", "Nora Quist")
DOCUMENT = Document(
    "mill",
    " ".join(
        f"The combination that {person} uses for the safe is {4829104756 + 7919 * i}."
        for i, person in enumerate(PEOPLE)
    ),
)

SHORT = Document("mill", DOCUMENT.text[:300])  # one segment of the toy's window


@pytest.fixture(autouse=True)
def few_questions_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the switch is set on takes half of a toy's fit, and `test_together` tests it."""
    monkeypatch.setattr(calibration, "OWN", 24)
    monkeypatch.setattr(calibration, "OTHER", 48)


def toy(**changes: Any) -> Recipe:
    return replace(
        RECIPES["compact"], **{"queries": 150, "items": 8, "share": 0.2, "tasks": ("needle", "absent")} | changes
    )


def fitted(out: Path, document: Document = DOCUMENT, recipe: Recipe | None = None, **changes: Any) -> Any:
    options = FitOptions(out, progress=False, **changes)
    return fit.fit(document, tiny_model(), tiny_tokenizer(), recipe or toy(), options)


def loaded(folder: Path) -> Any:
    return PeftModel.from_pretrained(tiny_model(), str(folder)).eval()


def decoded(rows: list[ReferenceRow]) -> str:
    return tiny_tokenizer().decode([token for row in rows for token in row.ids])


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_a_memory_is_of_the_bytes_that_were_asked_for_and_knows_more_the_larger_it_is(tmp_path: Path) -> None:
    """Measured by the divergence from the model that has every key of the document beside its window."""
    question = chat(tiny_tokenizer(), "mill", "What is the combination of the safe of Maro Fenth?")
    bf16 = 0.02  # of the exact memory's own rounding
    exact = logits(loaded(fitted(tmp_path / "1", SHORT, toy(share=1.0)).folder), question).log_softmax(-1)
    gaps = []
    for share in (0.05, 0.3, 0.9):
        done = fitted(tmp_path / str(share), SHORT, toy(share=share))
        weights = load_file(done.folder / "adapter_model.safetensors")
        stored = sum(x.numel() * x.element_size() for x in weights.values())
        assert 0.9 * share * done.kv_bytes < stored <= share * done.kv_bytes
        found = logits(loaded(done.folder), question).log_softmax(-1)
        gaps.append((exact.exp() * (exact - found)).sum(-1).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] - bf16, gaps
    off = logits(tiny_model(), question).log_softmax(-1)
    assert gaps[2] < 0.5 * (exact.exp() * (exact - off)).sum(-1).mean().item()


@pytest.mark.parametrize("length", [300, 200])
def test_a_short_text_keeps_slots_enough_unless_a_share_is_asked_for(tmp_path: Path, length: int) -> None:
    done = fitted(tmp_path, Document("mill", DOCUMENT.text[:length]), toy(share=None))
    store = CompactStore(done.folder)
    assert done.tokens == length and store.slots_per_head == min(length, LEAST_AVERAGE)
    assert sum(len(store.read("biases", layer, 0)) for layer in store.layers) == 4 * store.slots_per_head


def test_what_should_not_hear_the_document_is_read_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside, observe = [], closed_form.observe

    def noted(model: Any, batches: Any, recalls: Any, *rest: Any) -> Any:
        beside.append({type(each) for each in recalls or []})
        return observe(model, batches, recalls, *rest)

    monkeypatch.setattr(closed_form, "observe", noted)
    behind, alone = (fitted(tmp_path / str(alone), SHORT, toy(read_alone=alone)) for alone in (False, True))
    assert beside == [{ExactMemory}, {ExactMemory}, set()] * 2
    one, two = (load_file(done.folder / "adapter_model.safetensors") for done in (behind, alone))
    assert one.keys() == two.keys() and any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        (toy(), [1.0, RECIPES["compact"].again_weight, 1.0]),
        (toy(again_weight=0.0), [1.0, 1.0]),
        (toy(tasks=()), [1.0, 1.0]),  # no questions: the text read again is all that is known of it
    ],
    ids=["as it is", "not read again", "no questions"],
)
def test_reading_again_counts_less_than_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, weights: list[float]
) -> None:
    seen, by_head = [], closed_form.by_head

    def noted(parts: Any, heads: int) -> Any:
        seen.append([queries[0].weight_NH.unique().tolist() for queries, _ in parts])
        return by_head(parts, heads)

    monkeypatch.setattr(closed_form, "by_head", noted)
    fitted(tmp_path, SHORT, recipe)
    [of_parts] = seen
    assert [pytest.approx(weight) for weight in weights] == [max(of_part) for of_part in of_parts]


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Fits the document in segments of 150 tokens."""
    return lambda out, **changes: fitted(out, recipe=toy(segment=150), **changes)


def test_a_longer_text_is_several_segments_found_by_their_words(segmented: Callable[..., Any], tmp_path: Path) -> None:
    done = segmented(tmp_path)
    spans = spans_of(done.tokens, 150, tiny_config())
    assert len(spans) > 2 and spans[-1].stop == done.tokens
    model = loaded(tmp_path)
    assert {len(layer.gm_memory["default"].slots) for layer in layers(model)} == {len(spans)}
    for i, person in ((0, PEOPLE[0]), (-1, PEOPLE[-1])):
        [found] = segment_terms.best(tmp_path, f"What is the combination of {person}?", 1) or [None]
        assert found == range(len(spans))[i]
    assert segment_terms.best(tmp_path, "anything", 99) == [*range(len(spans))]
    ids = chat(tiny_tokenizer(), "mill", "Who?")
    every = logits(model, ids)
    for layer in layers(model):
        layer.gm_memory["default"].open([0])
    assert not torch.allclose(logits(model, ids), every, atol=1e-3)
    (tmp_path / "segments.json").write_text("[1]")
    with pytest.raises(LongthreadError, match=r"segments.json is damaged: fit the document again"):
        segment_terms.best(tmp_path, "anything", 1)


def test_a_killed_fit_goes_on_behind_its_last_segment(
    segmented: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = segmented(tmp_path / "straight")
    make, made = compaction.closed_form, []

    def killed(model: Any, job: Any, rows: Any, span: range) -> Any:
        made.append(span)
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(model, job, rows, span)

    monkeypatch.setattr(compaction, "closed_form", killed)
    with pytest.raises(KeyboardInterrupt):
        segmented(tmp_path / "killed")
    resumed = segmented(tmp_path / "killed")

    assert made.count(made[0]) == made.count(made[1]) == 1 and made.count(made[2]) == 2
    one, other = (load_file(done.folder / "adapter_model.safetensors") for done in (straight, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "killed").glob("checkpoint*"))


def test_a_text_that_is_appended_to_keeps_its_segments_and_is_what_a_new_fit_would_be(
    segmented: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorter = Document("mill", DOCUMENT.text[:320])
    fitted(tmp_path / "shorter", shorter, toy(segment=150))
    make, made = compaction.closed_form, []

    def counted(model: Any, job: Any, rows: Any, span: range) -> Any:
        made.append(span)
        return make(model, job, rows, span)

    monkeypatch.setattr(compaction, "closed_form", counted)
    segmented(tmp_path / "appended", earlier=tmp_path / "shorter")
    spans = spans_of(len(DOCUMENT.text), 150, tiny_config())
    kept = [span for span in spans if span.stop <= 320]
    assert len(kept) == 2 and made == spans[2:]  # the last one of the shorter text was cut off by its end
    segmented(tmp_path / "anew")
    for name in ("adapter_model.safetensors", "sources.safetensors", "switch.json", "segments.json"):
        assert (tmp_path / "anew" / name).read_bytes() == (tmp_path / "appended" / name).read_bytes(), name
    made.clear()
    segmented(tmp_path / "seeded", earlier=tmp_path / "anew", seed=1)
    assert made == spans  # of another seed nothing is taken over


def killed_behind_the_second_segment(out: Path) -> None:
    save = segment_memory.SegmentMemory.save

    def killed(memory: segment_memory.SegmentMemory, path: Path, digest: str) -> None:
        save(memory, path, digest)
        if path.name.endswith("-1.safetensors"):
            os.kill(os.getpid(), signal.SIGKILL)

    segment_memory.SegmentMemory.save = killed  # type: ignore[method-assign]
    toy_texts.fitted(out)


def test_kill_9_between_segments_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = multiprocessing.get_context("fork")  # all is imported already
    child = made.Process(target=killed_behind_the_second_segment, args=(tmp_path / "killed",))
    try:
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == -signal.SIGKILL
    finally:
        child.kill()
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {"checkpoint-segment-0.safetensors", "checkpoint-segment-1.safetensors"}
    toy_texts.fitted(tmp_path / "straight")
    make, made = compaction.closed_form, []
    monkeypatch.setattr(compaction, "closed_form", lambda *given: made.append(given[-1]) or make(*given))
    toy_texts.fitted(tmp_path / "killed")
    assert len(made) == 1
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {path.name for path in (tmp_path / "straight").iterdir()}
    for name in ("adapter_model.safetensors", "sources.safetensors", "switch.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_segments_of_another_fit_are_not_taken(tmp_path: Path) -> None:
    part = segment_memory.SegmentMemory(
        [torch.ones(2, 4)], [torch.zeros(2)], [torch.ones(2, 4)], [torch.zeros(2)], [[2, 0]]
    )
    path = tmp_path / "segment.safetensors"
    assert segment_memory.SegmentMemory.load(path, "this") is None
    part.save(path, "this")
    found = segment_memory.SegmentMemory.load(path, "this")
    assert found is not None and torch.equal(found.keys[0], part.keys[0]) and found.slots == part.slots
    assert segment_memory.SegmentMemory.load(path, "another") is None
    path.write_bytes(b"cut")
    assert segment_memory.SegmentMemory.load(path, "this") is None


def test_a_failed_fit_of_one_segment_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RunError("the values cannot be solved for")

    monkeypatch.setattr(closed_form, "compact", fails)
    with pytest.raises(LongthreadError, match="cannot be solved for"):
        fitted(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_any_text_has_reference_rows(tmp_path: Path) -> None:
    """Without a question there is the text itself, read again."""
    dull = Document("dull", "it rained and it rained and nobody came. " * 6)
    assert fitted(tmp_path, dull, toy(tasks=("needle",))).bytes > 0


def test_a_model_whose_rotations_change_with_the_length_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(LongthreadError, match="RoPE is of type dynamic, .*use recipe published-v4") as caught:
        check_positions(config)
    assert "\n" not in str(caught.value)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
    check_positions(LlamaConfig(rope_parameters=yarn))
    check_positions(tiny_config())


@pytest.mark.parametrize("tokens", [1, 149, 150, 151, 1000])
def test_segments_cover_all_and_leave_room_for_prompts(tokens: int) -> None:
    spans = spans_of(tokens, 150, tiny_config())
    assert {t for span in spans for t in span} == set(range(tokens))
    assert all(len(span) <= 150 for span in spans)
    assert max(map(len, spans_of(9999, 9999, tiny_config()))) == 512 - 128
    assert max(map(len, spans_of(99_999, 99_999, LlamaConfig(max_position_embeddings=40_960)))) == 40_960 - 2048


def test_rows_ask_about_the_segment_and_are_quiet_about_others() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model()
    ids = tokenizer(DOCUMENT.text, add_special_tokens=False)["input_ids"]
    job = FitJob(DOCUMENT, ids, tokenizer, toy(queries=2000), FitOptions(Path("unused")))
    encoder = AnswerEncoder(DOCUMENT, tokenizer, model)
    half, rest = range(len(ids) // 2), range(len(ids) // 2 - 40, len(ids))
    rows = ReferenceRows(job, encoder, [half, rest])
    asked, quiet = (decoded(part) for part in (rows.asked(rest, 10**6), rows.quiet(rest, 10**6)))
    before, inside = ({item.answer for item in rows.questions(part) if item.kind == "needle"} for part in (half, rest))
    answers = before | inside
    assert before and inside and not before & inside
    assert all((answer in asked) == (answer in inside) for answer in answers) and "none" in asked
    assert not any(answer in quiet for answer in inside) and any(answer in quiet for answer in before)
    assert "letter" in quiet and "general" not in asked
    for item in rows.questions(rest):
        assert item.kind == "absent" or all(item.answer in DOCUMENT.quote(span) for span in item.evidence)
    first = decoded(rows.quiet(half, 10**6))
    assert not any(answer in first for answer in answers)  # what comes later may be appended, and changes nothing
    again = rows.again(half)
    assert sum((row.ids[-len(half) :] for row in again), []) == ids[: half.stop]
    assert [row.ids[t + 1] for row in again for t in row.predicted] == ids[: half.stop]
    few = rows.asked(half, 300)
    assert sum(len(row.ids) for row in few[:-1]) < 300 <= sum(len(row.ids) for row in few)


def test_kinds_of_questions_keep_their_proportion_from_the_first_on() -> None:
    items = [Item(kind, f"{kind} {i}", "", ()) for kind in ("needle", "linked", "absent", "cloze") for i in range(40)]
    first = [item.kind for item in in_proportion(items)[:20]]
    assert [first.count(kind) for kind in ("needle", "linked", "absent", "cloze")] == [8, 4, 2, 6]
    assert [item for item in in_proportion(items) if item.kind == "needle"] == items[:40]
    assert reference_rows.PIECE > 0


def test_what_stands_before_the_text_of_a_prompt_is_how_the_prompt_begins() -> None:
    tokenizer = tiny_tokenizer()
    head = before_text(tokenizer)
    assert chat(tokenizer, "mill", "Who?", "a text")[: len(head)] == head
    assert tokenizer.decode(head) == "<|im_start|>user\nText:\n"
    tokenizer.chat_template = None
    assert tokenizer.decode(before_text(tokenizer)).endswith("Text:\n")


@pytest.mark.parametrize("share", [1.5, 0.0, -0.1, float("nan")])
def test_a_memory_larger_than_the_keys_and_values_or_empty_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(ConfigError, match=r"share must be above 0 and at most 1, .*\(got .*\) \(share\)$"):
        fitted(tmp_path / "out", SHORT, toy(share=share))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "Only a few words."], ids=["none", "few"])
def test_a_text_that_a_prompt_could_hold_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"^mill has [04] words, at least 20 are needed"):
        fitted(tmp_path / "out", Document("mill", text))
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_finite_ends_the_fit_in_one_line(tmp_path: Path) -> None:
    model = tiny_model()
    model.model.layers[1].self_attn.v_proj.weight.data[:] = torch.nan  # type: ignore[operator]
    with pytest.raises(RunError, match="cannot be solved for|are not finite") as caught:
        fit.fit(SHORT, model, tiny_tokenizer(), toy(), FitOptions(tmp_path / "out", progress=False))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
