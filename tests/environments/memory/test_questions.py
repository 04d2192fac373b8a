"""Questions of a file, of a text about itself and of haystacks, and what is refused of them in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from environments.datasets.process_rows import parse_row
from environments.haystack.options import Options
from environments.haystack.sample import Haystacks
from environments.haystack.tasks.task import Answer
from environments.haystack.tokens import Tokens, load_tokenizer
from environments.memory import questions
from environments.memory.memories import Memory
from environments.memory_env import MemoryEnv
from environments.retrieval.dense import Embedder
from environments.retrieval.lance_store import LanceStore
from longthread.errors import DataError
from tests.environments.loopback import ChatServer, command, rows_of, run_cli, said
from tests.environments.retrieval.embedders import hashed

pytestmark = pytest.mark.usefixtures("clean")
NOWHERE = "http://127.0.0.1:9/v1"
BOOK = "\n\n".join(
    f"In the year {1700 + i} the harbour of Brennick sold {300 + 7 * i} barrels to a merchant from Ostrava{chr(97 + i)}. "
    f"The tally was kept by Corvin{chr(97 + i)} and nobody disputed what the clerk had written under it.\n"
    f"Later the {['wharf', 'chapel', 'granary', 'smithy', 'orchard'][i % 5]} near the old mill burned, and its keeper "
    f"went inland with Marthe{chr(97 + i)} before the frost."
    for i in range(24)
)


def rows(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def run(name: str, tokenizer: Path, url: str = NOWHERE, **settings: Any) -> int:
    return run_cli(command(name, tokenizer, url, env_tasks=None, env_lengths=None, **settings), MemoryEnv)


@pytest.fixture
def tokens(tokenizer: Path) -> Tokens:
    return Tokens(load_tokenizer(str(tokenizer)))


# ---- where questions come from ----


@pytest.mark.parametrize("task", ["single", "multi_value", "chain", "reconstruct", "turns", "absent"])
def test_evidence_of_a_haystack_stands_where_it_says(tokenizer: Path, task: str) -> None:
    sample = Haystacks(load_tokenizer(str(tokenizer)), Options()).sample(3, "eval", task, 9000)
    question = questions.of_haystack(sample, "x")
    needed = [n.text for n in sample.needles if n.role in ("answer", "link")]
    assert [question.document.text[a:b] for a, b in question.evidence or ()] == needed
    assert (question.evidence is None) == (not needed)
    content = sample.messages[0]["content"]
    assert content.endswith(f"\n\n{question.document.text}\n\n{question.asked}") and question.form in question.asked


def test_a_text_is_asked_about_itself_word_for_word(tokens: Tokens, tmp_path: Path) -> None:
    path = tmp_path / "brennick book.txt"
    path.write_text(BOOK)
    made = questions.about_itself(path, questions.OWN_TASKS, 6, 0, Options(), tokens)
    assert {q.sample.recipe["task"] for q in made} == set(questions.OWN_TASKS)
    assert len({q.asked for q in made}) == len(made) and made[0].document.name == "brennick-book"
    for question in made:
        [(start, end)], [value] = question.evidence or (), question.sample.answer.values
        sentence = re.sub(r"\s+", " ", BOOK[start:end])
        assert question.document.text == BOOK and value in sentence and BOOK.count(BOOK[start:end]) == 1
    assert made == questions.about_itself(path, questions.OWN_TASKS, 6, 0, Options(), tokens)


def test_rows_as_narrativeqa_has_them_and_as_jsonl_has_them(tokens: Tokens, tmp_path: Path) -> None:
    nested = {"document": {"id": "1", "text": BOOK}, "question": {"text": "Who kept it?"},
              "answers": [{"text": "Corvina"}, {"text": "the clerk Corvina"}]}  # fmt: skip
    flat = {"document": BOOK, "name": "my book", "question": "Who?", "answer": "Corvina", "kind": "who",
            "evidence": ["The tally was kept by Corvina"]}  # fmt: skip
    [one] = questions.of_rows(str(rows(tmp_path / "a.jsonl", nested)), "test", Options(), tokens)
    [other] = questions.of_rows(str(rows(tmp_path / "b.jsonl", flat)), "test", Options(), tokens)
    assert one.alternatives == (Answer("one", ("the clerk Corvina",), "text"),) and one.evidence is None
    assert one.document.digest == other.document.digest and other.document.name == "my-book"
    [(start, end)] = other.evidence or ()
    assert BOOK[start:end] == "The tally was kept by Corvina" and other.sample.recipe["task"] == "who"


def test_any_of_several_answers_is_right(server: ChatServer, tokenizer: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "q.jsonl", {"document": BOOK, "question": "Who?", "answers": ["Corvina", "the old clerk"]})
    server.reply = said("The old clerk.")
    more = {"env_questions": path, "env_data_dir_to_save_evals": tmp_path / "out"}
    assert run("evaluate", tokenizer, server.url, **more) == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert [(r["mode"], r["score"], r["task"]) for r in records] == [
        ("context", 1.0, "question"),
        ("retrieval", 1.0, "question"),
    ]
    assert records[1]["recall"] is None  # no evidence was given


def test_a_text_is_evaluated_and_its_rows_are_not_trained_on(
    server: ChatServer, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "book.txt").write_text(BOOK)
    more = {"env_document": tmp_path / "book.txt", "env_document_questions": 3, "env_passages": 2}
    assert run("evaluate", tokenizer, server.url, **more, env_data_dir_to_save_evals=tmp_path / "out") == 0
    records = rows_of(tmp_path / "out" / "samples.jsonl")
    assert len(records) == 12 and {r["document"] for r in records} == {"book"}
    assert all(r["recall"]["needles"] in (0, 1) for r in records if r["mode"] == "retrieval")
    out = tmp_path / "rows.jsonl"
    assert run("process", tokenizer, server.url, **more, env_total_steps=2, env_data_path_to_save_groups=out) == 0
    for row in rows_of(out):
        with pytest.raises(DataError, match="what is evaluated on must not be trained on"):
            parse_row(row, "here")
    assert run("serve", tokenizer, server.url, **more) == 2
    assert "serve trains on generated haystacks" in capsys.readouterr().err


def test_a_store_of_vectors_is_kept_and_another_models_refused(
    server: ChatServer,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("lancedb")
    (tmp_path / "book.txt").write_text(BOOK)
    monkeypatch.setattr(Embedder, "load", classmethod(lambda _, name: hashed(name=name, seed=len(name))))
    added: list[int] = []
    add = LanceStore.add
    monkeypatch.setattr(LanceStore, "add", lambda self, chunks: (added.append(len(chunks)), add(self, chunks))[1])
    more = {"env_document": tmp_path / "book.txt", "env_document_questions": 1, "env_ranking": "dense",
            "env_chunk_store": tmp_path / "store", "env_modes": "retrieval", "env_chunking": "semantic"}  # fmt: skip
    for out in ("one", "two"):  # of the second the chunks are there
        more["env_data_dir_to_save_evals"] = tmp_path / out
        assert run("evaluate", tokenizer, server.url, **more, env_embedding_model="small") == 0
    assert len(added) == 1 and added[0] > 1
    assert run("evaluate", tokenizer, server.url, **more, env_embedding_model="other model") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "was made with embedding model 'small' (64 dimensions), not embedding model 'other model'" in line


# ---- what is refused ----


def book(folder: Path, data: bytes) -> dict[str, Path]:
    (folder / "book.txt").write_bytes(data)
    return {"env_document": folder / "book.txt"}


def jsonl(folder: Path, *values: Any) -> dict[str, Path]:
    return {"env_questions": rows(folder / "q.jsonl", *values)}


def broken(settings: dict[str, Path]) -> Path:
    path = settings["env_questions"]
    path.write_text(path.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    return path


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mode": ({"env_modes": "context,memory"}, ("modes must be one of context, retrieval, weights, hybrid", "'memory'")),
    "no mode": ({"env_modes": ","}, ("modes is empty",)),
    "overlap": (
        {"env_overlap": 256},
        ("overlap 256 must be from 0 to 255", "(--env.overlap, --env.chunk_tokens)"),
    ),
    "passages": (
        {"env_window": 4000, "env_passages": 20, "env_tasks": "single"},
        ("20 passages of 256 tokens take", "than the window of 4,000"),
    ),
    "passages of none": ({"env_passages": 0}, ("passages must be from 1 to 10,000 (got 0)",)),
    "order": ({"env_order": "best"}, ("order must be one of rank, reverse_rank",)),
    "ranking": ({"env_ranking": "dense"}, ("ranking dense needs an embedding model",)),
    "model": (
        {"env_ranking": "fused", "env_embedding_model": "/nowhere"},
        ("embedding model '/nowhere' cannot be loaded",),
    ),
    "store": ({"env_chunk_store": "x"}, ("ranking bm25 is not by vectors alone",)),
    "tags": ({"env_modes": "weights", "env_answer_format": "tags"}, ("asks for the answer alone",)),
    "tokens": ({"env_modes": "hybrid", "openai_server_type": "vllm"}, ("asked without a name", "--env.memory_url")),
    "two sources": ({"env_questions": "a", "env_document": "b"}, ("two sources",)),
    "numbered": ({"env_numbered": "true"}, ("numbered does not go with modes",)),
    "reading": ({"env_reading": "plain"}, ("reading does not go with modes",)),
    "task": (
        lambda f: book(f, BOOK.encode()) | {"env_tasks": "reconstruct"},
        ("task reconstruct changes the text", "cloze and entity"),
    ),
    "empty": (lambda f: book(f, b" \n"), ("book.txt", "give")),
    "binary": (lambda f: book(f, b"\x89PNG\r\n\x1a\n\x00\xff\xfe"), ("book.txt", "UTF-8")),
    "no file": ({"env_document": "gone.txt"}, ("gone.txt does not exist",)),
    "no rows": (lambda f: jsonl(f), ("q.jsonl",)),
    "a broken line": (
        lambda f: {"env_questions": broken(jsonl(f, {"document": "A text.", "question": "Who?", "answer": "A"}))},
        ("q.jsonl: line 2 is not a JSON object", "(--env.questions)"),
    ),
    "no question": (lambda f: jsonl(f, {"document": "A text."}), ("row 1: question is empty or no text",)),
    "no answer": (
        lambda f: jsonl(f, {"document": "A text.", "question": "Who?", "answers": []}),
        ("row 1 has no answer",),
    ),
    "two documents": (
        lambda f: jsonl(f, *({"name": "x", "document": d, "question": "?", "answer": "A"} for d in ("A.", "B."))),
        ("two documents are called 'x'",),
    ),
    "evidence": (
        lambda f: jsonl(f, {"document": "A text.", "question": "Who?", "answer": "A", "evidence": ["not there"]}),
        ("row 1: the evidence 'not there' does not stand in the document",),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_one_line(
    name: str, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, parts = REFUSED[name]
    settings = settings(tmp_path) if callable(settings) else settings
    argv = command("evaluate", tokenizer, NOWHERE, **{"env_tasks": None} | settings)
    assert run_cli(argv, MemoryEnv) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts), line


def test_a_frame_takes_texts_that_look_like_its_marks() -> None:
    memory = Memory.of({"id": "{question}", "ask_frame": 'About "{question}": {question}\nGo.'})
    assert memory.message("Q?") == 'About "{question}": Q?\nGo.'
    assert memory.message("Which {question}?") == 'About "{question}": Which {question}?\nGo.'
