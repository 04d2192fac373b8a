"""In a batch each row is answered as its document alone answers, and a row of the base model as the base model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from environments.haystack.document_prompt import behind_text, request
from environments.inference.embedded.batch import ATTENTION
from environments.inference.embedded.engine import Engine
from environments.inference.embedded.limits import Limits
from environments.inference.embedded.protocol import Generation, RequestError, Sampling
from lift.inference.served_documents import ServedDocuments
from lift.library import segment_terms
from lift.library.attach import Attached
from lift.library.library import Library
from lift.memory.tuner import GatedMemoryConfig
from tests.environments.patience import PATIENCE
from tests.environments.tiny_model import EOS, tiny_model
from tests.lift.compact_shelf import SEGMENTS, compact_adapter, compact_library
from tests.lift.shelf import entry_for, make_adapter, refused, three

QUESTION = "Who keeps the lighthouse by the harbour?"
NAMES = (["a"], ["b"], ["long"], ["a", "b"], ["b", "long"], [])


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, base: str) -> Library:
    return compact_library(tmp_path_factory.mktemp("compact"), base)


@pytest.fixture(scope="module")
def served(library: Library) -> ServedDocuments:
    return ServedDocuments(library, tiny_model(attn_implementation=ATTENTION), "tiny")


def variant(served: ServedDocuments, names: Sequence[str], question: str = QUESTION) -> Any:
    return served.variant(names, question) if names else None


def alone(library: Library, names: Sequence[str], ids: Sequence[int], tokens: int) -> tuple[list[int], list[float]]:
    """Greedy tokens and their log-probabilities by the path of `lift ask`: one document, no batch, no cache."""
    attached = Attached(library, tiny_model(), list(names) or ["a"])
    attached.switch(list(names) or ["a"])
    for name in names:
        best = segment_terms.best(library.path(library.get(name)), QUESTION, segment_terms.OPENED)
        if best is not None:
            attached.open_segments(name, best)
    model, row, logprobs = attached.model if names else attached.model.unload(), list(ids), []
    for _ in range(tokens):
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].log_softmax(-1)
        row.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
        if row[-1] == EOS:
            break
    return row[len(ids) :], logprobs


class Together:
    """An engine that sees the variants of every forward pass."""

    def __init__(self, served: ServedDocuments):
        self.passes: list[list[Any]] = []
        self.reads: list[Any] = []  # the variants of chunks of prompts

        def forward(variants: Sequence[Any], **inputs: Any) -> Any:
            self.passes.append(list(variants))
            self.reads += variants if inputs["input_ids"].shape[1] > 1 else []
            return served.forward(variants, **inputs)

        self.engine = Engine(served.attached.model, {EOS}, Limits(chunk=16), forward=forward)

    def ask(self, *asked: tuple[list[int], Any], n: int = 1) -> list[list[Generation]]:
        sampling = Sampling(n=n, temperature=0, max_tokens=6)
        with self.engine.wake:  # so that all are waiting before the first is read
            futures = [self.engine.submit(ids, sampling, variant) for ids, variant in asked]
        return [future.result(PATIENCE) for future in futures]


@pytest.fixture
def together(served: ServedDocuments) -> Iterator[Together]:
    made = Together(served)
    yield made
    made.engine.close()


def test_a_mixed_batch_answers_as_each_document_alone(
    served: ServedDocuments, together: Together, library: Library
) -> None:
    prompts = [prompt(20 + 9 * i, i) for i in range(len(NAMES))]  # some read in one chunk, some in several
    answers = together.ask(*((ids, variant(served, names)) for ids, names in zip(prompts, NAMES, strict=True)))
    assert max(len(set(rows)) for rows in together.passes) >= 4, "nothing was mixed"
    for ids, names, [answer] in zip(prompts, NAMES, answers, strict=True):
        tokens, logprobs = alone(library, names, ids, 6)
        assert answer.ids == tokens, names
        assert answer.logprobs == pytest.approx(logprobs, abs=1e-4), names


def test_documents_change_what_is_said(served: ServedDocuments) -> None:
    """Else the test above could not fail."""
    inputs = {"input_ids": torch.tensor([prompt(30)])}
    with torch.no_grad():
        logits = [served.forward([variant(served, names)], **inputs).logits[0, -1] for names in NAMES]
    for i, one in enumerate(logits):
        assert all((one - other).abs().max() > 0.1 for other in logits[:i])


@pytest.mark.parametrize("attention", [ATTENTION, "sdpa"])
def test_rows_of_the_base_model_are_its_own_bit_for_bit(library: Library, attention: str) -> None:
    served = ServedDocuments(library, tiny_model(attn_implementation=attention), "tiny")
    ids = torch.tensor([prompt(30, seed) for seed in range(4)])
    mask = torch.zeros(4, 1, 30, 30).masked_fill(~torch.ones(30, 30).tril().bool(), float("-inf"))
    plain = tiny_model(attn_implementation=attention)
    with torch.no_grad():
        for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
            rows = [None, served.variant(["a"], ""), None, served.variant(["b"], "")]
            mixed, expected = served.forward(rows, **inputs).logits, plain(**inputs).logits
            assert torch.equal(mixed[[0, 2]], expected[[0, 2]]) and not torch.equal(mixed[1], expected[1])
            assert torch.equal(served.forward([None] * 4, **inputs).logits, expected)


def test_the_same_prompt_is_read_anew_for_another_document(
    served: ServedDocuments, together: Together, library: Library
) -> None:
    """Keys and values of one document's prompt must not answer for another's, nor for the base model's."""
    ids = prompt(40)
    for names in (["a"], ["b"], [], ["a"], ["long"]):
        [[answer]] = together.ask((ids, variant(served, names)))
        assert answer.ids == alone(library, names, ids, 6)[0], names
    assert together.reads.count(variant(served, ["a"])) == 6  # twice, in chunks of 16 of its 40 tokens


def test_completions_of_one_request_share_its_memory(
    served: ServedDocuments, together: Together, library: Library
) -> None:
    ids = prompt(25)
    [branches] = together.ask((ids, variant(served, ["a"])), n=3)
    assert [branch.ids for branch in branches] == [alone(library, ["a"], ids, 6)[0]] * 3


def test_the_segments_of_a_question_are_open_in_its_row_alone(served: ServedDocuments, library: Library) -> None:
    questions = ("the keeper of the lighthouse", "the bread of the market")
    variants = [served.variant(["long"], question)[0] for question in questions]  # type: ignore[index]
    for question, opened in zip(questions, variants, strict=True):
        folder = library.path(library.get("long"))
        assert opened.segments == tuple(segment_terms.best(folder, question, segment_terms.OPENED) or ())
    assert len({opened.segments for opened in variants}) == 2 and len(SEGMENTS) > segment_terms.OPENED
    for question, opened in zip(questions, variants, strict=True):
        message = behind_text("The miller bakes bread at the market.\n\n* * *\n\nShips.", request("long", question))
        assert served.variant(["long"], message) == (opened,), "passages do not choose the segments"
    ids, logits = torch.tensor([prompt(30)] * 2), []
    attached = Attached(library, tiny_model(), ["long"])
    with torch.no_grad():
        mixed = served.forward([(opened,) for opened in variants], input_ids=ids).logits
        for opened in variants:
            attached.open_segments("long", opened.segments)
            logits.append(attached.model(input_ids=ids[:1]).logits[0])
    torch.testing.assert_close(mixed, torch.stack(logits), atol=1e-4, rtol=1e-4)


def test_lora_adapters_are_mixed_by_peft(tmp_path: Path, adapters: list[Path], base: str) -> None:
    library = three(tmp_path / "books", adapters, base)
    served = ServedDocuments(library, tiny_model(attn_implementation=ATTENTION), "tiny")
    together, ids = Together(served), prompt(30)
    answers = together.ask(*((ids, variant(served, names)) for names in (["a"], [], ["b"], ["c"])))
    together.engine.close()
    for names, [answer] in zip((["a"], [], ["b"], ["c"]), answers, strict=True):
        assert answer.ids == alone(library, names, ids, 6)[0]
    with pytest.raises(RequestError, match="a\\+b: memories of this type are asked one at a time"):
        served.variant(["a+b"], "")


def test_names_are_documents_before_they_are_several(tmp_path: Path, base: str) -> None:
    library = Library(tmp_path / "books")
    for seed, name in enumerate(("a", "b", "a+b")):
        library.add(compact_adapter(tmp_path / f"{seed}", seed), entry_for(base, name))
    served = ServedDocuments(library, tiny_model(), "tiny")
    folders = {entry.name: entry.folder for entry in library.entries()}

    def opened(*names: str) -> list[str]:
        return [memory.adapter for memory in served.variant(names, "")]  # type: ignore[attr-defined]

    assert opened("a+b") == [folders["a+b"]]
    assert opened("b+a") == opened("b", "a") == [folders["b"], folders["a"]]
    assert opened("a", "a") == [folders["a"]]


def test_an_unknown_name_is_refused_with_those_that_there_are(served: ServedDocuments) -> None:
    for names in (["x"], ["a+x"], ["a", "x"]):
        with pytest.raises(
            RequestError, match="no model 'x' here: it must be one of 'tiny', 'a', 'b', 'long'"
        ) as caught:
            served.variant(names, "")
        assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_documents_added_and_replaced_are_served_as_they_are_now(tmp_path: Path, base: str) -> None:
    library = Library(tmp_path / "books")
    library.add(compact_adapter(tmp_path / "0", 0), entry_for(base, "a"))
    served, ids = ServedDocuments(library, tiny_model(), "tiny"), torch.tensor([prompt(30)])
    before = served.variant(["a"], "")
    library.add(compact_adapter(tmp_path / "1", 1), entry_for(base, "b"))
    library.add(compact_adapter(tmp_path / "2", 2), entry_for(base, "a"), replace=True)
    assert [card["id"] for card in served.cards()] == ["b", "a"]
    rows = [before, served.variant(["a"], ""), served.variant(["b"], "")]
    with torch.inference_mode():
        logits = served.forward(rows, input_ids=ids.expand(3, -1)).logits[:, -1]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (logits[i] - logits[j]).abs().max() > 0.1


def test_adapters_that_were_not_used_for_long_are_dropped(
    served: ServedDocuments, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lift.inference.served_documents.LOADED", 1)
    ids = torch.tensor([prompt(30)])
    first = [served.forward([variant(served, [name])], input_ids=ids).logits for name in ("a", "b", "a")]
    assert torch.equal(first[0], first[2]) and len(served.attached.model.peft_config) == 1


def test_types_that_do_not_share_a_batch_are_refused(tmp_path: Path, adapters: list[Path], base: str) -> None:
    library = three(tmp_path / "books", adapters[:1], base)
    library.add(compact_adapter(tmp_path / "compact", 0), entry_for(base, "logbook"))
    refused(lambda: ServedDocuments(library, tiny_model(), "tiny"), "GATED_MEMORY, compact and LORA", "(document)")
    ServedDocuments(library, tiny_model(), "tiny", ["logbook"])


def test_a_published_gate_is_served_one_document_at_a_time(tmp_path: Path, base: str) -> None:
    library = Library(tmp_path / "books")
    for seed, name in enumerate("ab"):
        config = GatedMemoryConfig(gate="query", published_init=True)
        library.add(make_adapter(tmp_path / name, seed, config), entry_for(base, name))
    served, ids = ServedDocuments(library, tiny_model(), "tiny"), torch.tensor([prompt(30)])
    with torch.no_grad():
        mixed = served.forward([served.variant([name], "") for name in "ab"], input_ids=ids.expand(2, -1)).logits
        for name, logits in zip("ab", mixed, strict=True):
            expected = Attached(library, tiny_model(), [name]).model(input_ids=ids).logits[0]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(RequestError, match="one at a time"):
        served.variant(["a", "b"], "")
