"""The `lift` command: what it prints, and one line for what a user has to change, before any model is loaded."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from peft import PrefixTuningConfig, TaskType
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

import lift.training.fit
import lift.training.recipes
from lift import cli
from lift.document.document import read
from lift.evaluation.results import load
from lift.inference import steps
from lift.inference.generate import answers, chat
from lift.inference.switch import Switch
from lift.library import base_model, readers
from lift.library.attach import Attached
from lift.library.base_model import fingerprint
from lift.library.files import FILES
from lift.library.library import WEIGHTS, Entry, Library
from lift.library.tables import shown
from lift.memory.compact import RULE
from lift.memory.tuner import GatedMemoryConfig
from lift.training import calibration
from lift.training.fit import FitOptions
from lift.training.recipes import RECIPES
from longthread.errors import LongthreadError
from tests.environments.loopback import ChatServer
from tests.environments.tiny_model import save_tiny, tiny_model, tiny_tokenizer
from tests.lift.compact_shelf import compact_library
from tests.lift.shelf import entry_for, make_adapter

TEXT = " ".join(f"Keeper {i} of the tower by the sea wrote {i * 7919 % 9973} into the logbook." for i in range(30))
WIDE = {"COLUMNS": "160"}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [make_adapter(tmp_path_factory.mktemp("adapter"), seed) for seed in (1, 2)]


@pytest.fixture
def adapter(adapters: list[Path]) -> Path:
    return adapters[0]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "logbook.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def library(tmp_path: Path, base: Path, adapters: list[Path], book: Path) -> Library:
    """Two documents, `logbook` and `other`."""
    made = Library(tmp_path / "books")
    for name, adapter in zip(("logbook", "other"), adapters, strict=True):
        fields = {"name": name, "digest": read(book).digest, "tokens": 2000, "words": 390, "recipe": "lse"}
        fields |= {"base_model": str(base), "fingerprint": fingerprint(base), "seconds": 8.0, "kv_bytes": 2**20}
        made.add(adapter, Entry(**fields))
    return made


def run(*argv: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(map(str, argv)), env=WIDE)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def refused(*argv: Any) -> str:
    code, out, err = run(*argv)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, (code, out, err)
    return err


def fitting(book: Path, base: Path, library: Path, *more: Any) -> tuple[Any, ...]:
    """A fit of recipe `lse`, whose methods have stand-ins, unless another is named."""
    recipe = () if "--recipe" in more else ("--recipe", "lse")
    return ("fit", book, "--model", base, "--library", library, "--device", "cpu", *recipe, *more)


@pytest.fixture
def fake_fit(monkeypatch: pytest.MonkeyPatch, adapter: Path) -> list[dict[str, Any]]:
    """Stands for the fit, which has tests of its own: gives a ready adapter, and keeps what it was called with."""
    calls: list[dict[str, Any]] = []

    def fit(document: Any, model: Any, tokenizer: Any, recipe: Any, options: FitOptions) -> Any:
        out = options.out
        calls.append({"document": document, "recipe": recipe} | vars(options))
        out.mkdir(parents=True, exist_ok=True)
        for path in adapter.glob("adapter*"):
            (out / path.name).write_bytes(path.read_bytes())
        figures = {"tokens": 1500, "bytes": 99, "kv_bytes": 10**6, "losses": {"loss": 0.25, "KL": float("nan")}}
        figures |= {"folder": out, "seconds": 12.0, "prefill_seconds": 3.0}
        return type("Fitted", (), figures)

    monkeypatch.setattr(lift.training.fit, "fit", fit)
    return calls


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(base_model, "load", load)


# ---- fit --------------------------------------------------------------------------------------------------------


def test_fit_puts_a_document_into_the_library_and_prints_one_table(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path
) -> None:
    code, out, err = run(*fitting(book, base, tmp_path / "books", "--name", "the log", "--seed", 3))
    assert code == 0, err
    entry = Library(tmp_path / "books").get("the log")
    assert (entry.tokens, entry.recipe, entry.seconds) == (1500, "lse", 12.0)
    assert entry.words == len(TEXT.split()) and entry.digest == read(book).digest
    assert entry.losses == {"loss": 0.25, "KL": None} and entry.fingerprint == fingerprint(base)
    assert entry.base_model == str(base.resolve()) and entry.constants["learning_rate"] > 0
    for part in ("the log", "1,500 tokens", f"1/{10**6 / entry.bytes:,.1f}", "4.0 × prefill", "0.2500", "not finite"):
        assert part in out
    [call] = fake_fit
    assert call["seed"] == 3 and call["document"].name == "the log" and not call["out"].exists()
    assert Library(tmp_path / "books").verify() == []


def test_the_same_fit_has_the_same_place_to_go_on_from(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path
) -> None:
    for more in ([], ["--replace"], ["--replace", "--seed", 1]):
        assert run(*fitting(book, base, tmp_path / "books", *more))[0] == 0
    first, second, third = (call["out"] for call in fake_fit)
    assert first == second != third and first.parent == tmp_path / "books"


def test_what_other_fits_of_the_document_left_stays_until_the_document_is_removed(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds = lift.training.fit.fit

    def ended(document: Any, model: Any, tokenizer: Any, recipe: Any, options: FitOptions) -> None:
        made.append(options.out)
        options.out.mkdir(parents=True)
        (options.out / "checkpoint.json").write_text("{}")
        raise LongthreadError("ended")

    made: list[Path] = []
    monkeypatch.setattr(lift.training.fit, "fit", ended)
    for more in (["--recipe", "query"], ["--seed", 1], ["--name", "another"]):
        assert run(*fitting(book, base, tmp_path / "books", *more))[0] == 2
    monkeypatch.setattr(lift.training.fit, "fit", succeeds)
    assert [path.is_dir() for path in made] == [True, True, True]
    assert run(*fitting(book, base, tmp_path / "books"))[0] == 0
    assert [path.is_dir() for path in made] == [True, True, True]  # any of them may be running, or be gone on with
    with FileLock(made[0].with_name(f".lock-{made[0].name[1:]}")):  # this one is
        assert run("remove", "--library", tmp_path / "books", "--document", "logbook")[0] == 0
    assert [path.is_dir() for path in made] == [True, False, True]


def test_the_same_fit_twice_at_once_is_refused_and_nothing_is_lost(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Physical-Intelligence/openpi 868, PrimeIntellect-ai/prime-rl PR 1716: the one that ended deleted the other's folder."""
    succeeds, lines = lift.training.fit.fit, []

    def slow(document: Any, model: Any, tokenizer: Any, recipe: Any, options: FitOptions) -> Any:
        monkeypatch.setattr(lift.training.fit, "fit", succeeds)
        lines.append(refused(*fitting(book, base, tmp_path / "books")))  # while this one runs
        assert run(*fitting(book, base, tmp_path / "books", "--recipe", "raw-lora", "--name", "beside"))[0] == 0
        assert run(*fitting(book, base, tmp_path / "books", "--seed", "1", "--name", "seeded"))[0] == 0
        return succeeds(document, model, tokenizer, recipe, options)

    monkeypatch.setattr(lift.training.fit, "fit", slow)
    assert run(*fitting(book, base, tmp_path / "books"))[0] == 0
    assert "this very fit of 'logbook' is running in another process: wait for it" in lines[0]
    assert [entry.name for entry in Library(tmp_path / "books").entries()] == ["beside", "seeded", "logbook"]
    assert {path.name for path in (tmp_path / "books").glob(".*")} == {".lock"}


def test_a_killed_fit_holds_nothing(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 leaves the lock's file and the working folder; the same command goes on there."""
    succeeds, made = lift.training.fit.fit, []

    def killed(document: Any, model: Any, tokenizer: Any, recipe: Any, options: FitOptions) -> None:
        made.append(options.out)
        options.out.mkdir()  # for its checkpoints
        raise KeyboardInterrupt

    monkeypatch.setattr(lift.training.fit, "fit", killed)
    assert run(*fitting(book, base, tmp_path / "books"))[0] == 130
    made[0].with_name(f".lock-{made[0].name[1:]}").touch()
    monkeypatch.setattr(lift.training.fit, "fit", succeeds)
    assert run(*fitting(book, base, tmp_path / "books"))[0] == 0
    assert fake_fit[0]["out"] == made[0]


def test_a_fit_whose_name_was_taken_meanwhile_is_kept_and_added_by_the_same_command(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeeds = lift.training.fit.fit

    def slow(document: Any, model: Any, tokenizer: Any, recipe: Any, options: FitOptions) -> Any:
        monkeypatch.setattr(lift.training.fit, "fit", succeeds)
        assert run(*fitting(book, base, tmp_path / "books", "--recipe", "raw-lora"))[0] == 0  # and its folder only
        return succeeds(document, model, tokenizer, recipe, options)

    monkeypatch.setattr(lift.training.fit, "fit", slow)
    line = refused(*fitting(book, base, tmp_path / "books"))
    assert "'logbook' is already in" in line and "(--replace, --name)" in line
    assert len(fake_fit) == 2
    assert run(*fitting(book, base, tmp_path / "books", "--replace"))[0] == 0
    assert len(fake_fit) == 2  # nothing was trained again
    entry = Library(tmp_path / "books").get("logbook")
    assert (entry.recipe, entry.tokens) == ("lse", 1500) and entry.losses == {"loss": 0.25, "KL": None}
    assert Library(tmp_path / "books").verify() == []
    assert {path.name for path in (tmp_path / "books").glob(".*")} == {".lock"}


@pytest.mark.usefixtures("no_model")
class TestFitRefuses:
    def test_a_document(self, tmp_path: Path, base: Path, book: Path) -> None:
        assert "none.txt" in refused(*fitting(tmp_path / "none.txt", base, tmp_path / "books"))
        book.write_text("too short")
        assert "2 words" in refused(*fitting(book, base, tmp_path / "books"))
        book.write_bytes(TEXT.encode() + b"\xe9")
        assert "UTF-8" in refused(*fitting(book, base, tmp_path / "books"))
        assert not (tmp_path / "books").exists()

    def test_a_recipe(self, tmp_path: Path, base: Path, book: Path) -> None:
        line = refused(*fitting(book, base, tmp_path / "books", "--recipe", "published-v5"))
        assert "raw-lora" in line and "did you mean published-v" in line

    def test_a_model(self, tmp_path: Path, book: Path) -> None:
        assert "'no/such'" in refused(*fitting(book, Path("no/such"), tmp_path / "books"))
        assert "config.json" in refused(*fitting(book, tmp_path, tmp_path / "books"))

    def test_a_model_without_q_proj(self, tmp_path: Path, book: Path) -> None:
        folder = tmp_path / "gpt2"
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=260)).save_pretrained(folder)
        assert "q_proj" in refused(*fitting(book, folder, tmp_path / "books"))

    def test_a_text_that_is_none(self, tmp_path: Path, base: Path, book: Path) -> None:
        book.write_text(TEXT + "\0")
        assert f"character {len(TEXT)} is NUL" in refused(*fitting(book, base, tmp_path / "books"))
        assert "Is a directory" in refused(*fitting(tmp_path, base, tmp_path / "books"))

    def test_an_empty_name(self, tmp_path: Path, base: Path, book: Path) -> None:
        assert "give one (--name)" in refused(*fitting(book, base, tmp_path / "books", "--name", ""))

    def test_a_model_without_a_tokenizer(self, tmp_path: Path, book: Path) -> None:
        tiny_model().save_pretrained(tmp_path / "bare")
        assert "tokenizer" in refused(*fitting(book, tmp_path / "bare", tmp_path / "books"))

    def test_a_library_of_another_model(self, library: Library, tmp_path: Path, book: Path) -> None:
        other = save_tiny(tmp_path / "deeper", num_hidden_layers=3)
        assert "--library" in refused(*fitting(book, other, library.folder, "--name", "third"))

    def test_a_name_that_is_taken(self, library: Library, base: Path, book: Path) -> None:
        line = refused(*fitting(book, base, library.folder))
        assert "'logbook'" in line and "--replace" in line

    def test_a_folder_that_is_no_library(self, tmp_path: Path, base: Path, book: Path) -> None:
        assert "not a library" in refused(*fitting(book, base, tmp_path))

    def test_a_device(self, tmp_path: Path, base: Path, book: Path) -> None:
        assert "'tpu'" in refused(*fitting(book, base, tmp_path / "books")[:-1], "tpu")

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost", "http://127.0.0.1:9/v1"])
    def test_a_server_for_self_study(self, tmp_path: Path, base: Path, book: Path, url: str) -> None:
        assert url in refused(*fitting(book, base, tmp_path / "books", "--self-study", url))


def test_a_model_at_an_address_asks_and_answers_too(
    fake_fit: list[dict[str, Any]], tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ChatServer().running() as server:
        code, _, err = run(*fitting(book, base, tmp_path / "books", "--self-study", server.url))
    assert code == 0, err
    assert fake_fit[0]["questions"] == []  # it says "none" to everything, which is no question


def test_fit_and_ask_without_any_stand_in(
    tmp_path: Path, base: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text of several segments: asked with its switch closed and open, cited, appended to, forgotten."""
    small = {"compact": replace(RECIPES["compact"], queries=100, items=4, segment=300)}
    monkeypatch.setattr(lift.training.recipes, "RECIPES", small)
    monkeypatch.setattr(calibration, "OWN", 24)  # what the switch is set on, `test_together` tests
    monkeypatch.setattr(calibration, "OTHER", 48)
    monkeypatch.setenv("LONGTHREAD_CACHE", str(tmp_path / "cache"))
    code, out, err = run("fit", book, "--model", base, "--library", tmp_path / "books", "--device", "cpu")
    assert (code, out) == (2, "") and "error: the model answers 0 of 12 questions" in err and "--anyway)" in err
    assert not (tmp_path / "books").exists()  # a fit that is refused leaves nothing
    code, out, err = run(*fitting(book, base, tmp_path / "books", "--recipe", "compact", "--anyway"))
    assert code == 0 and f"256 a head on average ({RULE})" in out, err
    shelf = Library(tmp_path / "books")
    folder = shelf.path(shelf.get("logbook"))
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert {path.name for path in shelf.folder.glob(".*")} == {".lock"} and shelf.verify() == []
    switch = Switch.load(folder)
    assert switch is not None
    question = "What did Keeper 29 of the tower write?"
    switch.model_copy(update={"threshold": 1e6}).save(folder)
    code, out, err = run(*asking(shelf, question))  # none is named: all of the library
    plain = answers(tiny_model(), tiny_tokenizer(), [chat(tiny_tokenizer(), "", question)])[0]
    assert (code, err) == (0, "no memory has something to say: answered by the model alone\n")
    assert out == "\n".join(map(shown, plain.split("\n"))) + "\n"
    code, _, err = run(*asking(shelf, "--document", "logbook", question))
    assert (code, err) == (0, "")  # who names a document has it open
    switch.model_copy(update={"threshold": -1e6}).save(folder)
    code, out, err = run(*asking(shelf, "--document", "logbook", "--cite", question))
    assert (code, err) == (0, "") and re.search(r"\[logbook: segment \d+ of \d+, sentence \d+, characters ", out), out
    more = book.read_text() + " " + " ".join(f"Keeper {i} of the harbour came home." for i in range(30))
    append = fitting(book, base, tmp_path / "books", "--recipe", "compact", "--append", "--anyway")
    book.write_text("Another " + more)
    assert "with which this text does not begin: give a text that goes on from them" in refused(*append)
    book.write_text(more)
    assert run(*append)[0] == 0 and shelf.get("logbook").digest == read(book).digest
    assert "no document 'diary'" in refused(*append, "--name", "diary")
    folder = shelf.path(shelf.get("logbook"))
    code, out, err = run("remove", "--library", shelf.folder, "--document", "logbook")
    assert code == 0 and not folder.exists(), err
    assert {path.name for path in shelf.folder.iterdir()} == {".lock", "index.json", "index.previous.json"}
    assert not any("logbook" in path.read_text() for path in shelf.folder.iterdir())


@pytest.mark.usefixtures("no_model")
def test_ask_refuses_what_a_memory_cannot_do(library: Library, tmp_path: Path, base: Path, book: Path) -> None:
    assert "0 documents cannot be opened: give at least 1 (--open)" in refused(*asking(library, "--open", 0, "Who?"))
    line = refused(*asking(library, "--document", "logbook", "--cite", "Who?"))
    assert "only memories of recipe compact say where they stand" in line and "(--cite)" in line
    line = refused(*fitting(book, base, library.folder, "--append"))
    assert "only recipe compact can be appended to" in line and "(--recipe, --replace)" in line
    assert "no documents" in refused("ask", "--library", tmp_path / "none", "Who?")


# ---- ask --------------------------------------------------------------------------------------------------------


def asking(library: Library, *more: Any) -> tuple[Any, ...]:
    return ("ask", "--library", library.folder, "--device", "cpu", *more)


def reply(library: Library, name: str, question: str, window: str = "") -> str:
    memory, tokenizer = Attached(library, tiny_model(), [name]), tiny_tokenizer()
    said = answers(memory.model, tokenizer, [chat(tokenizer, name, question, window)])[0]
    return "\n".join(map(shown, said.split("\n")))  # an untrained model writes anything


def test_ask_prints_the_reply_of_the_model_that_remembers(library: Library) -> None:
    code, out, err = run(*asking(library, "--document", "logbook", "Who?"))
    assert (code, err) == (0, "")
    assert out == reply(library, "logbook", "Who?") + "\n"
    plain = answers(tiny_model(), tiny_tokenizer(), [chat(tiny_tokenizer(), "logbook", "Who?")])[0]
    assert out != plain + "\n"


REPLY = "<steps>Lisa Kord; Timo\x1b Varga</steps> <answer>4829</answer>"


def heard(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that a model hears which answers in steps, as the tiny one cannot."""
    prompts_heard: list[list[int]] = []

    def replied(model: Any, tokenizer: Any, prompts: list[list[int]], new_tokens: int) -> list[str]:
        prompts_heard.extend(prompts)
        return [REPLY] * len(prompts)

    for module in ("generate", "together"):
        monkeypatch.setattr(f"lift.inference.{module}.answers", replied)
    return prompts_heard


def test_ask_step_by_step_prints_the_answer_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a reply that has steps, the names go to standard error."""
    asked = heard(monkeypatch)
    code, out, err = run(*asking(library, "--document", "logbook", "--steps", "Who?"))
    assert (code, out) == (0, "4829\n") and "by way of: Lisa Kord; Timo" in err and "\x1b" not in err
    assert asked == [steps.chat(tiny_tokenizer(), "Who?")]


@pytest.fixture
def remembering(tmp_path: Path) -> Library:
    """Memories of recipe `compact` of an installed reader: `a`, whose switch is closed, and `b`, which has none."""
    reader = save_tiny(tmp_path / "tiny" / readers.MODEL)
    record = readers.Reader(name="tiny", base_model="tiny", fingerprint="f" * 64)
    (tmp_path / "tiny" / readers.RECORD).write_text(record.model_dump_json())
    made = compact_library(tmp_path, fingerprint(reader), str(reader))
    Switch(heads=[(0, 0)], mean=[0.0], deviation=[1.0], threshold=1e6).save(made.path(made.get("a")))
    return made


IN_STEPS, PLAIN = steps.chat(tiny_tokenizer(), "Who?"), chat(tiny_tokenizer(), "b", "Who?")


@pytest.mark.parametrize(("more", "stepwise"), [((), True), (("--steps",), True), (("--no-steps",), False)], ids=str)
def test_a_reader_is_asked_step_by_step_unless_told_otherwise(
    remembering: Library, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], stepwise: bool
) -> None:
    asked = heard(monkeypatch)
    code, out, err = run(*asking(remembering, "--document", "b", *more, "Who?"))
    assert (code, out) == (0, "4829\n" if stepwise else f"{shown(REPLY)}\n")
    assert asked == [IN_STEPS if stepwise else PLAIN] and ("by way of: Lisa Kord" in err) == stepwise


@pytest.mark.parametrize("more", [(), ("--steps",)], ids=str)
def test_where_no_memory_has_something_to_say_a_reader_is_asked_as_its_base_model(
    remembering: Library, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    remembering.remove("b")
    remembering.remove("long")
    asked = heard(monkeypatch)
    code, out, err = run(*asking(remembering, *more, "Who?"))
    assert (code, out, asked) == (0, f"{shown(REPLY)}\n", [chat(tiny_tokenizer(), "", "Who?")])
    assert "no memory has something to say" in err and "by way of" not in err


@pytest.mark.parametrize(
    ("command", "default"),
    [
        (("ask",), "steps of a reader with memories of recipe compact"),
        (("evaluate",), "2,048, or what the model reads"),
        (("serve",), "all"),
        (("reader", "install"), "its own name"),
        (("reader", "pack"), "the file's"),
    ],
)
def test_help_says_what_holds_where_nothing_is_given(command: tuple[str, ...], default: str) -> None:
    """Rich takes square brackets within the text for markup, and shows nothing of them."""
    _, out, _ = run(*command, "--help")
    assert f"[default: ({default})]" in re.sub(r"[│\s]+", " ", out)


def test_another_model_is_asked_for_the_answer_alone(
    remembering: Library, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a reader with memories of another recipe, and one without a chat format, in which steps are asked for."""
    asked = heard(monkeypatch)
    assert run(*asking(remembering, "--document", "b", "--model", base, "Who?"))[0] == 0
    reader = tmp_path / "tiny" / readers.MODEL
    shelf = Library(tmp_path / "others")
    make_adapter(tmp_path / "lora", 1)
    shelf.add(tmp_path / "lora", entry_for(fingerprint(reader), "b", base_model=str(reader)))
    assert run(*asking(shelf, "Who?"))[0] == 0
    (reader / "chat_template.jinja").unlink()
    assert run(*asking(remembering, "--document", "b", "Who?"))[0] == 0
    bare = tiny_tokenizer()
    bare.chat_template = None
    assert asked == [PLAIN, PLAIN, chat(bare, "b", "Who?")]


BOTH = ("--document", "logbook", "--document", "other")


def test_several_documents_are_asked_one_after_the_other(library: Library) -> None:
    _, out, _ = run(*asking(library, *BOTH, "Who?"))
    assert out == "".join(f"{name}: {reply(library, name, 'Who?')}\n" for name in ("logbook", "other"))


@pytest.mark.parametrize(
    "config",
    [
        GatedMemoryConfig(gate="query", published_init=True),
        PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=4),
    ],
    ids=["query", "cartridge"],
)
def test_so_are_those_that_cannot_be_on_at_once(config: Any, library: Library, tmp_path: Path) -> None:
    for seed, name in enumerate(("logbook", "other")):
        library.add(make_adapter(tmp_path / name, seed, config), library.get(name), replace=True)
    _, out, _ = run(*asking(library, *BOTH, "Who?"))
    replies = [reply(library, name, "Who?") for name in ("logbook", "other")]
    assert out == f"logbook: {replies[0]}\nother: {replies[1]}\n" and replies[0] != replies[1]


@pytest.mark.usefixtures("no_model")
def test_what_is_wrong_with_any_of_them_is_said_first(library: Library, book: Path) -> None:
    assert "--document" in refused(*asking(library, *BOTH, "--retrieve", 1, "--source", book, "Who?"))
    (library.path(library.get("other")) / WEIGHTS).unlink()
    assert "'other'" in refused(*asking(library, *BOTH, "Who?"))


@pytest.mark.usefixtures("no_model")
def test_a_cartridge_takes_room_of_the_prompt(library: Library, tmp_path: Path) -> None:
    asked = asking(library, "--document", "logbook", "Who? " * 20)
    config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=400)
    library.add(make_adapter(tmp_path / "long", 0, config), library.get("logbook"), replace=True)
    assert "reads 112" in refused(*asked)


def test_ask_with_a_window_beside_the_memory(library: Library, tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("a page of some length " * 5)
    _, out, _ = run(*asking(library, "--document", "logbook", "--window", tmp_path / "page.txt", "Who?"))
    assert out == reply(library, "logbook", "Who?", "a page of some length " * 5) + "\n"


@pytest.mark.usefixtures("no_model")
def test_ask_refuses(library: Library, tmp_path: Path, base: Path, book: Path) -> None:
    assert "did you mean 'logbook'?" in refused(*asking(library, "--document", "logbok", "Who?"))
    assert "empty" in refused(*asking(library, "--document", "logbook", " "))
    assert "UTF-8" in refused(*asking(library, "--document", "logbook", "caf\udce9?"))
    assert "none.txt" in refused(*asking(library, "--document", "logbook", "--window", tmp_path / "none.txt", "Who?"))
    assert "--source" in refused(*asking(library, "--document", "logbook", "--retrieve", 2, "Who?"))
    assert "--retrieve" in refused(*asking(library, "--document", "logbook", "--source", book, "Who?"))
    other = save_tiny(tmp_path / "deeper", num_hidden_layers=3)
    assert "other weights" in refused(*asking(library, "--document", "logbook", "--model", other, "Who?"))
    assert "there is none yet" in refused("ask", "--library", tmp_path / "none", "--document", "x", "Who?")


@pytest.mark.usefixtures("no_model")
def test_ask_refuses_documents_of_two_methods(library: Library, tmp_path: Path) -> None:
    make_adapter(tmp_path / "gated", 0, GatedMemoryConfig())
    library.add(tmp_path / "gated", library.get("other").model_copy(update={"name": "third"}))
    line = refused(*asking(library, "--document", "logbook", "--document", "third", "Who?"))
    assert "LORA" in line and "GATED_MEMORY" in line and "'third'" in line


@pytest.mark.usefixtures("no_model")
def test_ask_says_that_the_base_model_has_moved(library: Library) -> None:
    path = library.folder / "index.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["documents"][0]["base_model"], "/no/such"))
    assert "--model" in refused(*asking(library, "--document", "logbook", "Who?"))


@pytest.mark.usefixtures("no_model")
def test_a_prompt_longer_than_the_model_reads(library: Library, book: Path) -> None:
    line = refused(*asking(library, "--document", "logbook", "--window", book, "Who?"))
    assert "reads 512" in line and "shorten the text before the question (--window)" in line
    retrieved = ("--retrieve", 3, "--source", book)
    assert "shorten the text before the question (--retrieve)" in refused(
        *asking(library, "--document", "logbook", *retrieved, "Who?")
    )
    assert "shorten the question" in refused(*asking(library, "--document", "logbook", "Who? " * 90))


def test_a_window_may_be_one_line_but_not_nothing(library: Library, tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_text("One line.")
    arguments = asking(library, "--document", "logbook", "--window", tmp_path / "line.txt", "Who?")
    _, out, _ = run(*arguments)
    assert out == reply(library, "logbook", "Who?", "One line.") + "\n"
    (tmp_path / "line.txt").write_text(" \n")
    assert "is empty" in refused(*arguments)


def test_without_bm25s_nothing_is_retrieved(library: Library, book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    line = refused(*asking(library, "--document", "logbook", "--retrieve", 2, "--source", book, "Who?"))
    assert "pip install bm25s" in line


def test_ask_beside_retrieved_passages(library: Library, book: Path, tmp_path: Path) -> None:
    book.write_text(TEXT[:200])  # one passage
    short = library.get("logbook").model_copy(update={"digest": read(book).digest})
    library.add(make_adapter(tmp_path / "short", 0), short, replace=True)
    asked = asking(library, "--document", "logbook", "--retrieve", 1, "--source", book, "Keeper 1?")
    _, out, _ = run(*asked)
    assert out == reply(library, "logbook", "Keeper 1?", read(book).text) + "\n"
    book.write_text(TEXT + " And so on.")
    assert "is not the text that 'logbook' was fitted from" in refused(*asked)


# ---- evaluate, list, remove -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_model")
def test_evaluate_refuses_another_text_than_was_fitted(library: Library, book: Path) -> None:
    arguments = ("evaluate", "--library", library.folder, "--source", book, "--document")
    assert "did you mean" in refused(*arguments, "logbok")
    book.write_text(TEXT + " And more.")
    assert "not the text" in refused(*arguments, "logbook")


@pytest.mark.parametrize("method", ["LORA", "GATED_MEMORY"])
def test_evaluate_from_the_library_to_the_files(method: str, library: Library, book: Path, tmp_path: Path) -> None:
    if method == "GATED_MEMORY":
        make_adapter(tmp_path / "gated", 0, GatedMemoryConfig())
        library.add(tmp_path / "gated", library.get("logbook"), replace=True)
    code, out, err = run(
        "evaluate", "--library", library.folder, "--source", book, "--document", "logbook", "--device", "cpu",
        "--questions", 1, "--window-tokens", 200, "--out", tmp_path / "measured",
        "--model", save_tiny(tmp_path / "far", max_position_embeddings=2048),  # the same weights
    )  # fmt: skip
    assert code == 0, err
    results = load(tmp_path / "measured")["lse"]
    assert (results.document, results.digest, results.tokens) == ("logbook", read(book).digest, len(TEXT))
    assert (results.unrelated.asked, results.other.asked) == (40, 20)
    assert results.closed and all(rate.asked == 1 for rate in results.closed.values())
    assert (results.gate_auroc is None) == (method == "LORA") and "lse" in out


@pytest.mark.usefixtures("no_model")
def test_evaluate_refuses_a_window_that_the_model_cannot_read(library: Library, book: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--library", library.folder, "--source", book, "--document", "logbook", "--questions", 1)
    line = refused(*arguments, "--window-tokens", 500)
    assert "a window of 500 tokens" in line and "(--window-tokens)" in line and "reads 512" in line
    room = int(line.rpartition("at most ")[2].split()[0])
    with pytest.raises(AssertionError, match="a model was loaded"):  # the largest that is offered is not refused
        run(*arguments, "--window-tokens", room)
    assert "below 32" in refused(*arguments, "--window-tokens", 8)
    (tmp_path / "file").write_text("")
    assert "is not a folder: give another folder (--out)" in refused(*arguments, "--out", tmp_path / "file" / "report")


def test_list_says_what_is_there(library: Library, tmp_path: Path, base: Path) -> None:
    code, out, err = run("list", "--library", library.folder)
    entry = library.get("logbook")
    assert (code, err) == (0, "")
    for part in ("logbook", "other", "2,000", "lse", "8.0 s", f"1/{2**20 / entry.bytes:,.1f}", entry.created[:10]):
        assert part in out
    assert "no documents" in run("list", "--library", tmp_path / "none")[1]


def test_a_name_cannot_write_on_the_terminal(library: Library, adapter: Path) -> None:
    library.add(adapter, library.get("other").model_copy(update={"name": "\x1b[2J"}))
    _, out, _ = run("list", "--library", library.folder)
    assert "\x1b[2J" not in out and "\\x1b[2J" in out


def test_list_verify_reads_every_adapter(library: Library) -> None:
    code, out, _ = run("list", "--library", library.folder, "--verify")
    assert code == 0 and f"{len(library.entries())} adapters as added" in out
    weights = library.path(library.get("other")) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    code, _, err = run("list", "--library", library.folder, "--verify")
    assert code == 2 and "'other'" in err


def test_a_damaged_index_is_one_line(library: Library) -> None:
    (library.folder / "index.json").write_text("{")
    for argv in (["list"], ["remove", "--document", "other"], ["ask", "--document", "other", "Who?"]):
        assert "damaged" in refused(*argv, "--library", library.folder)


def test_remove_of_what_is_not_there_makes_no_library(tmp_path: Path) -> None:
    assert "there is none yet" in refused("remove", "--library", tmp_path / "typo", "--document", "x")
    assert not (tmp_path / "typo").exists()


def test_remove(library: Library) -> None:
    assert "'logbook'" in refused("remove", "--library", library.folder, "--document", "nothing")
    code, out, _ = run("remove", "--library", library.folder, "--document", "other")
    assert code == 0 and "removed other" in out
    assert [entry.name for entry in library.entries()] == ["logbook"]
