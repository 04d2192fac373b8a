"""Questions about documents: of generated haystacks, of a file of questions, and of a text about itself.

A question knows where in its document the evidence stands, if that is known, so that what retrieval found can be told from
what the model made of it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol

from environments.haystack.filler.corpora import dataset_rows, documents, folder_passages, text_files
from environments.haystack.filler.pool import Pool
from environments.haystack.options import Options
from environments.haystack.prompt import Prompt
from environments.haystack.sample import NEEDED, Decoys, Sample
from environments.haystack.tasks import TASKS
from environments.haystack.tasks.task import Answer, Draw, Quiz
from environments.haystack.tokens import BREAK, Tokens
from environments.reading.text_file import TextFile
from environments.retrieval.chunking import Span
from longthread.errors import ConfigError, DataError, LongthreadError
from longthread.files import text_digest

OWN_TASKS = ("cloze", "entity")  # of the tasks about a text itself, those that leave it as it is
NAME_CHARS = 60
REDRAWS = 100  # draws in a row of questions that were drawn before
UNCHECKED = 20  # questions drawn for each that is wanted
WANTED = "each row has document (its text), question, and answers (a list) or answer"


@dataclass(frozen=True)
class Document:
    """A text with the name by which a memory of it is asked for."""

    name: str
    text: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the text, which names it whatever it is called."""
        return text_digest(self.text)


@dataclass(frozen=True)
class Question:
    """A question about a document.

    `sample` holds the question, its answer, and what reports need; its messages are those of the whole document.
    `asked` is the question as prompts have it, with the form of the reply; `alternatives` are answers that are right too.
    `evidence`: the characters of the document that the answer rests on; None where they are not known.
    """

    document: Document
    sample: Sample
    asked: str
    evidence: tuple[Span, ...] | None
    alternatives: tuple[Answer, ...] = ()

    @property
    def form(self) -> str:
        """What the prompt says of the form of the reply."""
        return self.asked.partition(f"Question: {self.sample.question}")[2].strip()


class QuestionSettings(Protocol):
    """The settings of an environment that say where its questions come from; see `MemoryEnvConfig`."""

    questions: str
    questions_split: str
    document: str
    document_questions: int
    seed: int


def given(
    settings: QuestionSettings, tasks: Sequence[str], default_tasks: str, options: Options, tokens: Tokens
) -> list[Question]:
    """Return the questions of a file or of a text about itself; none where haystacks are generated. Raises `ConfigError`.

    `tasks` are those of the settings; where they are the `default_tasks`, a text is asked about by all of `OWN_TASKS`.
    """
    if settings.questions:
        return of_rows(settings.questions, settings.questions_split, options, tokens)
    if not settings.document:
        return []
    own = list(OWN_TASKS) if list(tasks) == default_tasks.split(",") else list(tasks)
    if other := next((task for task in own if task not in OWN_TASKS), ""):
        raise ConfigError(
            f"task {other} changes the text that it asks about; of a document ask {' and '.join(OWN_TASKS)}",
            setting=("tasks", "document"),
        )
    path, each, seed = Path(settings.document), settings.document_questions, settings.seed
    return about_itself(path, own, each, seed, options, tokens)


# ---- a generated haystack ----


def of_haystack(sample: Sample, name: str) -> Question:
    """Return the question of a generated sample, whose haystack is the document."""
    file = TextFile.of(sample)
    needles = [n for n in sample.needles if n.role in NEEDED]
    spans = tuple(_place(file.text, n.before, n.text, n.after) for n in needles)
    return Question(Document(name, file.text), sample, file.question, spans or None)


def _place(text: str, before: str, needle: str, after: str) -> Span:
    """Return the characters of a needle, which stands between these two."""
    start = text.index(before + needle + after) + len(before)
    return start, start + len(needle)


# ---- a file of questions, or a dataset ----


def of_rows(source: str, split: str, options: Options, tokens: Tokens) -> list[Question]:
    """Return the questions of a JSONL file, or of a dataset of that name. Raises `DataError`.

    Columns are `document`, `question`, and `answers` or `answer`; each a text, or an object with the text under `text`, as
    NarrativeQA has them. Optional are `name` of the document, `kind` of the question, and `evidence`, texts that must stand
    in the document.
    """
    path = Path(source)
    try:
        rows = dataset_rows(source, "document", "train" if path.is_file() else split)
    except DataError as error:
        raise DataError(error.message, setting="questions") from error
    made, known = list[Question](), dict[str, Document]()
    lengths: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        made.append(_of_row(row, f"{source}: row {number}", number - 1, known, lengths, options, tokens))
    if not made:
        raise DataError(f"{source} has no rows: {WANTED}", setting="questions")
    names = [document.name for document in known.values()]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise DataError(
            f"{source}: two documents are called {twice!r}: give each a name of its own", setting="questions"
        )
    return made


def _of_row(  # noqa: PLR0913
    row: Any, where: str, number: int, known: dict[str, Document], lengths: dict[str, int], options: Options,
    tokens: Tokens,
) -> Question:  # fmt: skip
    text, question = _text_of(row.get("document"), where, "document"), _text_of(row.get("question"), where, "question")
    listed = row.get("answers") if row.get("answers") is not None else [row.get("answer")]
    answers = [_text_of(answer, where, "answers") for answer in (listed if isinstance(listed, list) else [listed])]
    if not answers:
        raise DataError(f"{where} has no answer: {WANTED}", setting="questions")
    digest = text_digest(text)
    if digest not in known:
        known[digest] = Document(_slug(str(row.get("name") or f"document-{digest[:12]}")), text)
        lengths[digest] = len(tokens.encode(text))
    document = known[digest]
    evidence = [_text_of(part, where, "evidence") for part in row.get("evidence") or ()]
    if missing := next((part for part in evidence if part not in text), ""):
        raise DataError(f"{where}: the evidence {missing[:60]!r} does not stand in the document", setting="questions")
    spans = tuple((start := text.index(part), start + len(part)) for part in evidence)
    first, *others = (Answer("one", (answer,), "text") for answer in answers)
    quiz = Quiz((), (), " ".join(question.split()), first)
    made = made_question(document, quiz, str(row.get("kind") or "question"), number, lengths[digest], options, tokens)
    return replace(made, evidence=spans or None, alternatives=tuple(others))


def _text_of(value: Any, where: str, column: str) -> str:
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: {column} is empty or no text: {WANTED}", setting="questions")
    if "\0" in text:
        raise DataError(f"{where}: {column} holds NUL, so it is no text: {WANTED}", setting="questions")
    return text.strip() if column != "document" else text


# ---- a text about itself ----


def read_document(path: Path) -> Document:
    """Return a text file, or the files of a folder joined by blank lines, as a document. Raises `DataError`."""
    try:
        texts = ["".join(documents(file)) for file in text_files(path)]
    except ConfigError as error:
        raise DataError(error.message, setting="document") from None
    text = BREAK.join(text.replace("\r\n", "\n") for text in texts if text.strip())
    if not text:
        raise DataError(f"{path} is empty: give a file with text", setting="document")
    if "\0" in text:
        raise DataError(f"{path} holds NUL, so it is no text: save it as UTF-8 text", setting="document")
    return Document(_slug(path.name.partition(".")[0]), text)


def about_itself(  # noqa: PLR0913
    path: Path, tasks: Sequence[str], each: int, seed: int, options: Options, tokens: Tokens
) -> list[Question]:
    """Return at most `each` questions of each task about the text of a file or folder. Raises `DataError`.

    Every question's evidence stands once in the text, word for word, and so does what is asked for within it.
    """
    document = read_document(path)
    pool = Pool(tokens, list(folder_passages(path)), None, str(path))
    length = len(tokens.encode(document.text))
    made = list[Question]()
    for task in tasks:
        quizzes = _quizzes(task, pool, seed, options)
        found = islice(filter(None, (_checked(document, quiz) for quiz in islice(quizzes, UNCHECKED * each))), each)
        for quiz, span in found:
            question = made_question(document, quiz, task, len(made), length, options, tokens)
            made.append(replace(question, evidence=(span,)))
    if not made:
        raise DataError(f"no question of {', '.join(tasks)} can be made of {path}: give more text", setting="document")
    return made


def _quizzes(task: str, pool: Pool, seed: int, options: Options) -> Iterator[Quiz]:
    """Yield different quizzes until the text has none, or hardly any, that was not drawn before."""
    rng, asked, repeated = Random(f"memory {task} {seed}"), set[str](), 0
    while repeated < REDRAWS:
        try:
            quiz = TASKS[task].quiz(Draw(options, "eval", rng, pool=pool))
        except LongthreadError:
            return
        repeated += 1
        if quiz.question not in asked:
            repeated = 0
            asked.add(quiz.question)
            yield quiz


def _checked(document: Document, quiz: Quiz) -> tuple[Quiz, Span] | None:
    """Return the quiz with the characters of its evidence; None unless that stands once in the document, with the answer."""
    [(needle, _)], [value] = quiz.needles, quiz.answer.values
    places = list(re.finditer(r"\s+".join(map(re.escape, needle.split())), document.text))
    if len(places) != 1 or value not in places[0][0]:
        return None
    return quiz, places[0].span()


# ---- what they share ----


def made_question(  # noqa: PLR0913
    document: Document, quiz: Quiz, task: str, number: int, length: int, options: Options, tokens: Tokens
) -> Question:
    """Return a question about a document that is not generated; no recipe builds it again, and no one is to train on it."""
    prompt = Prompt(tokens, options)
    asked = prompt.question(quiz)
    recipe = {
        "version": 0, "seed": number, "split": "eval", "task": task, "length": length, "depths": None,
        "options": {"answer_format": options.answer_format, "numbered": False}, "tokenizer": tokens.fingerprint,
        "filler": document.digest[:16],
    }  # fmt: skip
    messages = [{"role": "user", "content": prompt.content(document.text, asked)}]
    sample = Sample(messages, quiz.question, quiz.answer, [], Decoys([], [], []), length, {"hops": quiz.hops}, recipe)
    return Question(document, sample, asked, None)


def _slug(name: str) -> str:
    """Return a name that file systems and model names take as it is."""
    return re.sub(r"[^\w.-]+", "-", name)[:NAME_CHARS].strip("-.") or "document"
