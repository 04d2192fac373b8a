"""Several compact memories at once: what is loaded, when the switch opens them, what is cited, and what stays as it was."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file

from lift.inference.citation import CitingLayer, cite, reference_slot_weights, slot_weights
from lift.inference.generate import answers, chat, question_prompt
from lift.inference.hops import answered
from lift.inference.routing import Place, Router, in_turn
from lift.inference.switch import (
    WORDS,
    Question,
    Switch,
    best_heads,
    conformal_threshold,
    gaps,
    listen,
    reference_gap,
)
from lift.inference.together import Together
from lift.library import segment_terms
from lift.library.attach import Attached
from lift.library.compact_store import CompactStore
from lift.library.files import SOURCES, SWITCH
from lift.library.library import Library
from lift.memory.compact_memory import CompactMemory
from lift.memory.document_cache import standing_in
from lift.memory.tuner import layers
from longthread.errors import LongthreadError
from tests.environments.tiny_model import tiny_model, tiny_tokenizer
from tests.lift.toy_texts import MILL, PORT, add, fitted

QUESTION = "What is the combination of the safe of Timo Varga?"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [fitted(tmp_path_factory.mktemp("compact"), document).folder for document in (MILL, PORT)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, adapters: list[Path]) -> Library:
    made = Library(tmp_path_factory.mktemp("library") / "books")
    for adapter, document in zip(adapters, (MILL, PORT), strict=True):
        add(made, adapter, document)
    return made


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def opened(library: Library, *names: str) -> Attached:
    return Attached(library, tiny_model(), list(names), closed=True)


def switched(together: Together, threshold: float) -> Together:
    """The same documents, with switches that open always, or never."""
    switches = {
        name: switch and switch.model_copy(update={"threshold": threshold})
        for name, switch in together.switches.items()
    }
    return replace(together, switches=switches)


# ---- loading ----


def test_segments_that_are_read_alone_say_what_they_say_in_the_whole_memory(
    library: Library, adapters: list[Path]
) -> None:
    whole = PeftModel.from_pretrained(tiny_model(), str(adapters[0])).eval()
    part, ids = opened(library, "mill"), chat(tiny_tokenizer(), "mill", QUESTION)
    assert torch.equal(logits(part.model, ids), logits(tiny_model(), ids))  # nothing is open
    for segments in ([0], [0, 2], [0, 1, 2]):
        for layer in layers(whole):
            layer.gm_memory["default"].open(segments)
        part.open_segments("mill", segments)
        torch.testing.assert_close(logits(part.model, ids), logits(whole, ids), atol=2e-5, rtol=1e-5)
        in_memory = sum(len(layer.gm_memory[part.key("mill")].biases) for layer in layers(part.model))
        store = CompactStore(adapters[0])
        assert in_memory == sum(sum(store.slots[layer][s]) for layer in store.layers for s in segments)


def test_a_stored_memory_is_read_by_segment_and_by_head(adapters: list[Path]) -> None:
    store, weights = CompactStore(adapters[0]), load_file(adapters[0] / "adapter_model.safetensors")
    for layer in store.layers:
        for part in ("keys", "biases", "values"):
            pieces = [
                store.read(part, layer, segment, head)
                for segment in range(store.segments)
                for head in range(len(store.slots[layer][segment]))
            ]
            name = next(name for name in weights if f"layers.{layer}." in name and name.endswith(part))
            assert torch.equal(torch.cat(pieces), weights[name])


def test_each_slot_says_which_token_it_stood_for(adapters: list[Path]) -> None:
    store = CompactStore(adapters[0])
    sources = store.sources
    assert sources is not None and sources.characters == len(MILL.text)
    assert [tuple(each) for each in sources.sentences.tolist()] == MILL.sentences
    assert sources.token_starts.tolist() == list(range(len(MILL.text)))  # a token a byte
    for layer in store.layers:
        for number, segment in enumerate(sources.segments):
            positions = sources.positions(layer, number)
            assert len(positions) == sum(store.slots[layer][number])
            assert segment.start <= positions.min() and positions.max() < segment.stop


# ---- the switch ----


def test_gaps_are_those_of_the_reference(adapters: list[Path]) -> None:
    store, tokenizer = CompactStore(adapters[0]), tiny_tokenizer()
    model = PeftModel.from_pretrained(tiny_model(), str(adapters[0])).eval()
    prompts = [Question(*question_prompt(tokenizer, text)) for text in (QUESTION, "Who?")]
    heard = listen(model, prompts, 1000)
    heads = [(layer, head) for layer in store.layers for head in range(4)]
    found = gaps(heard, store, 1, heads)
    for p, prompt in enumerate(heard):
        for f, (layer, head) in enumerate(heads):
            keys, biases = (store.read(part, layer, 1, head // 2) for part in ("keys", "biases"))
            slow = reference_gap(prompt[store.layers.index(layer)], keys, biases, head)
            assert found[p, f].item() == pytest.approx(slow, abs=1e-3)


def test_questions_that_are_read_together_are_heard_as_each_alone(adapters: list[Path]) -> None:
    """Read alone, a prompt shares no beginning and its batch has no padding: the reference of what is read together."""
    tokenizer = tiny_tokenizer()
    model = PeftModel.from_pretrained(tiny_model(), str(adapters[0])).eval()
    prompts = [Question(*question_prompt(tokenizer, text)) for text in (QUESTION, "Who?", "Which mill is that?")]
    assert os.path.commonprefix([prompt.ids[: prompt.tokens.start] for prompt in prompts])
    for batch_tokens in (1000, 1):
        for prompt, together in zip(prompts, listen(model, prompts, batch_tokens), strict=True):
            [alone] = listen(model, [prompt], 1000)
            for layer, reference in zip(together, alone, strict=True):
                assert len(layer.q_NHD) == len(prompt.tokens)
                for part, expected in zip(layer, reference, strict=True):
                    torch.testing.assert_close(part, expected, atol=1e-5, rtol=1e-4)


def test_the_question_s_tokens_are_found_in_its_prompt() -> None:
    ids, tokens = question_prompt(tiny_tokenizer(), QUESTION)
    assert tiny_tokenizer().decode(ids[tokens.start : tokens.stop]) == QUESTION
    assert ids == chat(tiny_tokenizer(), "", QUESTION) and "About" not in tiny_tokenizer().decode(ids)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.sampled_from([0.05, 0.2, 0.5]))
def test_few_of_the_scores_it_was_set_on_are_above_a_threshold(scores: list[float], share: float) -> None:
    threshold = conformal_threshold(scores, share)
    above = sum(score > threshold for score in scores)
    assert above <= share * (len(scores) + 1)
    assert threshold in scores or len(scores) < 1 / share - 1 + 1e-9


def test_the_heads_that_tell_own_questions_from_others_are_chosen() -> None:
    torch.manual_seed(0)
    own, other = torch.randn(40, 30), torch.randn(40, 30)
    own[:, [3, 17]] += 4
    assert {3, 17} <= set(best_heads(own, other, 4)) and best_heads(own, other, 2) == [3, 17]


def test_a_fit_leaves_a_calibrated_switch(adapters: list[Path]) -> None:
    switch = Switch.load(adapters[0])
    assert switch is not None and len(switch.heads) == len(switch.mean) == len(switch.deviation) == 8  # all of the toy
    assert abs(switch.threshold) < 100 and (adapters[0] / SWITCH).stat().st_size < 2000
    mean = torch.tensor([switch.mean])
    assert switch.score(mean).item() == pytest.approx(0, abs=1e-5)
    assert switch.score(mean, torch.ones(1)).item() == pytest.approx(WORDS, abs=1e-5)
    assert switch.words is not None
    assert switch.score(mean, torch.tensor([sum(switch.words)])).item() == pytest.approx(1, abs=1e-5)


def test_a_segment_that_names_who_is_asked_about_has_more_to_say(library: Library) -> None:
    """Of a long text the highest of many gaps is high for any question: the words tell its own questions from others."""
    together = Together.read(library, ["mill"], 1)
    router = together.session(opened(library, "mill"), tiny_tokenizer()).router
    switch = router.switches["mill"]
    assert switch is not None
    wordless = Router(
        router.model, router.tokenizer, router.stores, {"mill": switch.model_copy(update={"words": None})}
    )
    heard = listen(router.model, [Question(*question_prompt(tiny_tokenizer(), QUESTION))], 1000)
    with_words, without = (each._scores("mill", QUESTION, heard) for each in (router, wordless))
    words = segment_terms.matches(together.stores["mill"].folder, QUESTION)
    assert [round(a - b, 3) for a, b in zip(with_words, without, strict=True)] == [
        round((float(score) - switch.words[0]) / switch.words[1], 3)  # type: ignore[index]
        for score in words
    ]
    assert words.argmax() in [place.segment for place in Router(
        router.model, router.tokenizer, router.stores, {"mill": None}, segments=1
    ).search(QUESTION)]  # fmt: skip


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_closed_switch_leaves_the_base_model_bit_for_bit(library: Library, stepwise: bool) -> None:
    together = switched(Together.read(library, ["mill", "port"], 2), 1e6)
    session = together.session(opened(library, "mill", "port"), tiny_tokenizer(), "a page", stepwise)
    result = answered(session, QUESTION, 2)
    plain = answers(tiny_model(), tiny_tokenizer(), [chat(tiny_tokenizer(), "", QUESTION, "a page")])[0]
    assert result.places == () and result.reply == plain
    with session.attached.model.disable_adapter():
        ids = session.prompt(QUESTION, ())
        assert ids == chat(tiny_tokenizer(), "", QUESTION, "a page")
        assert torch.equal(logits(session.attached.model, ids), logits(tiny_model(), ids))
    assert session.citation(QUESTION, result) == ""


def test_open_memories_are_one_softmax_over_all(library: Library) -> None:
    """The same as one memory that holds the slots of all open segments."""
    attached, ids = opened(library, "mill", "port"), chat(tiny_tokenizer(), "", QUESTION)
    attached.switch(["mill", "port"])
    attached.open_segments("mill", [2])
    attached.open_segments("port", [0, 1])
    both = logits(attached.model, ids)
    stores = {name: CompactStore(library.path(library.get(name))) for name in ("mill", "port")}
    for layer in layers(attached.model):
        parts = [("mill", 2), ("port", 0), ("port", 1)]
        counts = [stores[name].slots[layer.index][segment] for name, segment in parts]
        joined = CompactMemory(layer.heads, 16, counts)
        for part in ("keys", "biases", "values"):
            rows = [stores[name].read(part, layer.index, segment) for name, segment in parts]
            getattr(joined, part).data.copy_(torch.cat(rows))
        layer.gm_memory[attached.key("mill")] = joined
        layer.gm_memory[attached.key("port")] = CompactMemory(layer.heads, 16, [])
    torch.testing.assert_close(logits(attached.model, ids), both, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("most", [1, 2])
def test_at_most_so_many_documents_open_and_so_many_segments(library: Library, most: int) -> None:
    together = switched(Together.read(library, ["mill", "port"], most), -1e6)
    model = opened(library, "mill", "port").model
    router = Router(model, tiny_tokenizer(), together.stores, together.switches, most, segments=2)
    places = router.search(QUESTION)
    assert len({place.document for place in places}) == most and len(places) == 2 * most == len(set(places))


@pytest.mark.parametrize(("most", "opened_of"), [(2, {"mill", "port"}), (1, set())])
def test_documents_asked_by_name_are_open_unless_there_are_too_many(
    library: Library, most: int, opened_of: set[str]
) -> None:
    together = switched(Together.read(library, ["mill", "port"], most, chosen=True), 1e6)
    session = together.session(opened(library, "mill", "port"), tiny_tokenizer())
    assert {place.document for place in session.search(QUESTION)} == opened_of


def test_a_memory_without_a_switch_is_always_open(library: Library) -> None:
    together = Together.read(library, ["mill", "port"], 2)
    always = Together(together.stores, {"mill": None, "port": together.switches["port"]}, 1)
    session = always.session(opened(library, "mill", "port"), tiny_tokenizer())
    places = session.search(QUESTION)
    assert {place.document for place in places} == {"mill"}
    assert any(MILL.text[at.start : at.stop].count("Timo Varga") for at in _segments(library, places))


def _segments(library: Library, places: list[Place]) -> list[Any]:
    sources = CompactStore(library.path(library.get("mill"))).sources
    assert sources is not None
    return [sources.segments[place.segment] for place in places]


@given(st.lists(st.permutations(range(9)).map(lambda ranking: ranking[:6]), min_size=1, max_size=3))
def test_rankings_are_taken_in_turn(rankings: list[list[int]]) -> None:
    joined = in_turn(rankings)
    assert sorted(joined) == sorted(set().union(*map(set, rankings)))
    for taken in range(1, 7):  # what is first in a ranking is among the first, whatever the others say of it
        assert {each for ranking in rankings for each in ranking[:taken]} <= set(joined[: taken * len(rankings)])
    assert in_turn([[2], [0, 1, 2]]) == [2, 0, 1] and in_turn([[], [1, 0]]) == [1, 0]


@pytest.mark.parametrize("name", ["Fenth's", "Fenth’s", "fenth,"])
def test_the_only_segment_that_names_a_person_is_opened_in_a_very_long_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also if the switch ranks it last: with sums of reciprocal ranks it was not among the first hundred."""
    words = "In the room there was a safe, and the combination of the safe was known."
    segment_terms.write(tmp_path, [words + (" Maro Fenth was there." if at == 70 else "") for at in range(143)])
    store = SimpleNamespace(folder=tmp_path, segments=143)
    scores = [1.0 + (at != 70) * (143 - at) for at in range(143)]
    for switch in (Switch(heads=[], mean=[], deviation=[], threshold=0.0), None):
        router = Router(None, None, {"book": store}, {"book": switch})  # type: ignore[arg-type,dict-item]
        opened = router._best_segments("book", f"What is Maro {name} combination of the safe?", scores)
        assert 70 in opened and 0 in opened and len(opened) == 3
        assert len(router._best_segments("book", "Qui?", scores)) == 3


def test_words_that_no_segment_has_rank_nothing(tmp_path: Path) -> None:
    segment_terms.write(tmp_path, ["the mill", "the miller", "a port", "a ship"])
    assert segment_terms.ranking(tmp_path, "Whose ship?") == [3]
    assert segment_terms.ranking(tmp_path, "Qui?") == []


# ---- citations ----


def test_weights_of_slots_are_those_of_the_reference() -> None:
    torch.manual_seed(3)
    memory = CompactMemory(4, 8, [[2, 3], [1, 0]], torch.float32)
    for part in (memory.keys, memory.values, memory.biases):
        part.data.normal_()
    q, gate = torch.randn(5, 4, 8), torch.rand(5, 4)
    torch.testing.assert_close(
        slot_weights(memory, q, gate), reference_slot_weights(memory, q, gate), atol=1e-5, rtol=1e-4
    )


def test_an_answer_is_cited_where_the_memory_was_read(library: Library) -> None:
    """With the slots of one sentence alone, that sentence is cited."""
    attached, tokenizer = opened(library, "mill"), tiny_tokenizer()
    stores = {"mill": CompactStore(library.path(library.get("mill")))}
    attached.open_segments("mill", [1, 2])
    sources = stores["mill"].sources
    assert sources is not None
    places, prompt = [Place("mill", 1), Place("mill", 2)], chat(tokenizer, "mill", QUESTION)
    wanted = 2
    for layer in layers(attached.model):
        memory = layer.gm_memory[attached.key("mill")]
        tokens = torch.cat([sources.positions(layer.index, segment) for segment in (1, 2)])
        first, behind = MILL.sentences[wanted]
        memory.biases.data[(tokens < first) | (tokens >= behind)] -= 50
    found = cite(attached, stores, places, prompt, [5, 6, 7])
    assert found is not None and found.sentence == wanted and found.characters == MILL.sentences[wanted]
    assert found.share > 0.99 and found.place in places
    before = logits(attached.model, prompt)
    cite(attached, stores, places, prompt, [5])
    assert torch.equal(logits(attached.model, prompt), before)


def test_what_the_prompt_attends_to_as_well_is_taken_off(library: Library) -> None:
    """A text's first tokens take attention from every query: what counts is what the answer attends to more."""
    attached, tokenizer = opened(library, "mill"), tiny_tokenizer()
    attached.open_segments("mill", [1, 2])
    prompt, reply = chat(tokenizer, "mill", QUESTION), [5, 6, 7]
    seen: list[torch.Tensor] = []

    class Recording(CitingLayer):
        def _parts(self, x_L: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(x_L)
            return super()._parts(x_L)

    citing = [Recording(layer, len(prompt)) for layer in layers(attached.model)]
    with standing_in(attached.model, citing), torch.no_grad():
        attached.model(torch.tensor([[*prompt, *reply]]), use_cache=False)
    for layer, q, gate in zip(citing, seen[::2], seen[1::2], strict=True):
        memory, first = layer.layer.gm_memory[attached.key("mill")], len(prompt) - 1
        answer = reference_slot_weights(memory, q[first:-1], gate[first:-1]) / len(reply)
        before = reference_slot_weights(memory, q[:first], gate[:first]) / first
        torch.testing.assert_close(layer.weights[attached.key("mill")], answer - before, atol=1e-5, rtol=1e-4)


def test_a_memory_that_does_not_know_where_it_stands_says_so(
    library: Library, tmp_path: Path, adapters: list[Path]
) -> None:
    old = Library(tmp_path / "old")
    entry = add(old, adapters[0], MILL)
    (old.path(entry) / SOURCES).unlink()
    Together.read(old, ["mill"], 2)
    with pytest.raises(LongthreadError, match=r"'mill' does not say where .*fit it again .*\(cite\)"):
        Together.read(old, ["mill"], 2, cited=True)
    (old.path(entry) / SWITCH).write_text("{}")
    with pytest.raises(LongthreadError, match=r"switch.json is damaged"):
        Together.read(old, ["mill"], 2)
