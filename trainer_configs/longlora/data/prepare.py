"""Documents from anywhere, as units that can be trained on: the part of the work that runs in parallel.

    for item in source.items(): ...         # texts, or numbers of texts that a worker writes itself
    units = prepare({"item": [...]}, job)   # pure: what a worker of `Dataset.map` does

A document is one file, one row of a dataset, some passages of fictional prose, or one question of an environment with its
answer. Its text is tokenised as it stands: nothing is cleaned, so nothing goes missing unseen; what is unfit is turned
away with a reason. Special tokens spelled out in a corpus are text, not control tokens.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from environments.haystack.filler import prose
from environments.haystack.filler.corpora import BUILDERS, SUFFIXES
from environments.haystack.filler.sentences import split_sentences
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tasks.independent import NONE, TASKS
from environments.haystack.tokens import TokenizerError, load_tokenizer
from trainer_configs.longlora.data import quality
from trainer_configs.longlora.data.packing import plan_windows
from trainer_configs.longlora.data.quality import Checks

GENERATED = ("prose", "needles")
CHARS_PER_TOKEN = 4  # only to plan sizes
DOCUMENT_CHARS = 4_000_000  # a longer file is parted at a paragraph's end, so that memory stays flat
BLOCK, CONTEXT = 20_000, 100  # characters tokenised at a time, and those around them that are tokenised along
PROSE_SHARE = (0.5, 2.0)  # words of a document of prose, in lengths
NEEDLE_TRIES = 64  # questions drawn until prompt and answer together have exactly the asked tokens
FILLER_USES = 2  # how often, about, the filler of a question comes again in others


class DataError(ValueError):
    """The data cannot be built: one line that names the value, the limit and the fix."""


@dataclass(frozen=True)
class Job:
    """All that a worker must know."""

    source: str
    tokenizer: str
    length: int
    mode: str
    overlap: int
    slack: int
    seed: int
    checks: Checks


# ---- sources ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where documents come from. `name` is "prose", "needles", a path, or a dataset's name."""

    name: str
    column: str = "text"
    split: str = "train"

    @property
    def generated(self) -> bool:
        return self.name in GENERATED

    def items(self, skip: int = 0) -> Iterator[Any]:
        """Texts, or endless numbers for `prepare` to write texts from; without the first `skip`."""
        if self.generated:
            return iter(range(skip, 1 << 62))
        path = Path(self.name)
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            return islice(self._texts(path), skip, None)
        rows = self._rows()
        return (self._cell(row) for row in (rows.skip(skip) if skip else rows))

    def check(self) -> None:
        """Raises `DataError` unless there is at least one document."""
        for item in self.items():
            if self.generated or item.strip():
                return
        raise DataError(f"source {self.name} holds no text: give a folder of .txt or .md files, or a dataset with text")

    def fingerprint(self) -> list[list[Any]]:
        """Names and sizes of local files: a run is not resumed on another corpus."""
        path = Path(self.name)
        if self.generated or not path.exists():
            return []
        files = self._files(path) if path.is_dir() else [path]
        return [[file.name, file.stat().st_size] for file in files]

    def _files(self, folder: Path) -> list[Path]:
        files = (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        return sorted(files, key=lambda file: file.relative_to(folder).parts)

    def _texts(self, path: Path) -> Iterator[str]:
        if not path.exists():
            raise DataError(f"source {path} does not exist: give a folder or file of .txt or .md, or a dataset")
        files = self._files(path) if path.is_dir() else [path]
        if not files:
            raise DataError(
                f"no .txt or .md file below {path}: put text there, or name one .jsonl, .parquet or .csv file"
            )
        for file in files:
            yield from _parts(file)

    def _rows(self) -> Any:
        import datasets

        builder = BUILDERS.get(Path(self.name).suffix.lower())
        if builder and not Path(self.name).is_file():
            raise DataError(f"source file {self.name} does not exist: give a local file, a folder or a dataset's name")
        try:
            named: dict[str, Any] = {"path": builder, "data_files": {self.split: self.name}} if builder else {}
            rows = datasets.load_dataset(**(named or {"path": self.name}), split=self.split, streaming=True)
            columns = rows.column_names or list(next(iter(rows), {}))
        except Exception as error:  # load_dataset raises a dozen types, network errors among them
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"source {self.name!r} is neither a local folder or file nor a dataset that can be loaded "
                f"({type(error).__name__}: {reason}); check the name and the network, or use prose or needles"
            ) from None
        if columns and self.column not in columns:
            raise DataError(f"{self.name} has no column {self.column!r}: --column takes one of {', '.join(columns)}")
        return rows

    def _cell(self, row: dict[str, Any]) -> str:
        cell = row[self.column]
        if cell is None:
            return ""
        if not isinstance(cell, str):
            raise DataError(f"column {self.column!r} of {self.name} holds {type(cell).__name__}: name a column of text")
        return cell


def _parts(path: Path) -> Iterator[str]:
    """The text of a file, whole or, when it is long, parted behind a paragraph or at least a line or a space."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    held, empty = "", True
    with path.open("rb") as file:
        block = b"-"
        while block:
            block = file.read(1 << 20)
            try:
                held += decoder.decode(block, final=not block)
            except UnicodeDecodeError:
                raise DataError(f"{path} is not UTF-8: convert it (iconv -f latin1 -t utf-8) or take it out") from None
            while len(held) > DOCUMENT_CHARS:
                ends = (held.rfind(mark, DOCUMENT_CHARS // 2, DOCUMENT_CHARS) for mark in ("\n\n", "\n", " "))
                end = next((end + 1 for end in ends if end >= 0), DOCUMENT_CHARS)
                yield held[:end]
                held, empty = held[end:], False
    if held.strip() or empty:
        yield held


# ---- tokens -----------------------------------------------------------------------------------------------------

OTHER_BORDER = re.compile(f"[{quality.OTHER_MARKS}][\u300d\u300f\u201d\u2019)]*")


def sentence_borders(text: str) -> np.ndarray:
    """[N, 2]: where a sentence ends, and where the next one starts. Neither the text's begin nor its end is a border."""
    borders, position = [], 0
    for sentence in split_sentences(text):
        start = text.index(sentence, position)
        if position:
            borders.append((position, start))
        position = start + len(sentence)
    for match in OTHER_BORDER.finditer(text):
        start = match.end() + len(text[match.end() : match.end() + 100]) - len(text[match.end() :][:100].lstrip())
        if start < len(text):
            borders.append((match.end(), start))
    return np.array(sorted(set(borders)), np.int64).reshape(-1, 2)


class Encoder:
    """A tokenizer as it is needed here: ids with their characters, without special tokens of its own.

    Raises `DataError` for a tokenizer that is not fast or has no end-of-sequence token.
    """

    def __init__(self, tokenizer: Any) -> None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(f"tokenizer {name!r} is not a fast tokenizer: save it with a tokenizer.json")
        if tokenizer.eos_token_id is None:
            raise DataError(f"tokenizer {name!r} has no eos token, which parts documents: set tokenizer.eos_token")
        self.tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.eos = int(tokenizer.eos_token_id)
        first = self._backend.encode("a").ids[:1]  # with what the tokenizer itself puts before a text
        bos = tokenizer.bos_token_id
        self.bos = [bos] if bos is not None and (first == [bos] or getattr(tokenizer, "add_bos_token", False)) else []

    @cached_property
    def fingerprint(self) -> str:
        state = json.loads(self._backend.to_str()) | {"truncation": None, "padding": None}
        blob = json.dumps([state, self.eos, self.bos], sort_keys=True)
        return hashlib.sha256(blob.encode()).hexdigest()[:16]

    def encode(self, text: str, special: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """ids [T] and characters [T, 2] of a text. `special`: control tokens spelled out in it are recognised."""
        self._backend.encode_special_tokens = not special
        encoding = self._backend.encode(text, add_special_tokens=False)
        self._backend.encode_special_tokens = False  # others use this tokenizer too
        return np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int64).reshape(-1, 2)

    def encode_long(self, text: str, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same, block by block: a tokenizer takes 1 KB a token and more time for a long text than for its parts.

        Each block starts at a sentence and is tokenised with some characters around it. Where two blocks do not meet at
        the same border of tokens, the text is tokenised whole.
        """
        edges = [0]
        for start in borders[:, 1]:
            if start - edges[-1] >= BLOCK and len(text) - start >= BLOCK:
                edges.append(int(start))
        ids, chars, met = [], [], 0
        for start, end in pairwise([*edges, len(text)]):
            low = max(0, start - CONTEXT)
            block, spans = self.encode(text[low : end + CONTEXT])
            spans = spans + low
            first = int(np.searchsorted(spans[:, 1], start, "right")) if start else 0
            last = int(np.searchsorted(spans[:, 1], end, "right")) if end < len(text) else len(block)
            if start and (first == last or spans[first, 0] < met or text[met : spans[first, 0]].strip()):
                return self.encode(text)
            ids.append(block[first:last])
            chars.append(spans[first:last])
            met = int(spans[last - 1, 1]) if last else 0
        return np.concatenate(ids), np.concatenate(chars)


def token_cuts(chars: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """How many tokens lie before each sentence border; without borders that fall inside a token."""
    if not len(chars) or not len(borders):
        return np.zeros(0, np.int32)
    count = np.searchsorted(chars[:, 1], borders[:, 1], "right")  # blanks belong to the sentence before them
    inside = (count > 0) & (count < len(chars))
    count, ends = count[inside], borders[inside, 0]
    return np.unique(count[chars[count, 0] >= ends]).astype(np.int32)


@lru_cache(maxsize=4)
def load_encoder(name: str) -> Encoder:
    """The encoder of a tokenizer's folder or name; forked workers find it made."""
    try:
        return Encoder(load_tokenizer(name))
    except TokenizerError as error:
        raise DataError(str(error).replace("--env.tokenizer_name", "--tokenizer")) from None


# ---- units ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """What is judged and then kept or not: a document to be joined, or a row (a window, or a question)."""

    reason: str  # "" so far
    tokens: int
    ids: bytes = b""  # int32; nothing for a unit that is not kept
    cuts: bytes = b""  # int32; for a document
    signature: bytes = b""  # 128 uint16
    shared: int = -1  # tokens that a window shares with the one before it, kept or not; -1: there is none before
    cut: bool = False  # a window that ends within a sentence


FIELDS = tuple(Unit.__annotations__)


def prepare(batch: dict[str, list[Any]], job: Job) -> dict[str, list[Any]]:
    """Units of a batch of items, in order; the function that `Dataset.map` runs in its processes."""
    units = [unit for item in batch["item"] for unit in units_of(item, job)]
    return {field: [getattr(unit, field) for unit in units] for field in FIELDS}


def units_of(item: Any, job: Job) -> Iterator[Unit]:
    encoder = load_encoder(job.tokenizer)
    if job.source == "needles":
        yield _question(item, job, encoder)
        return
    text = write_prose(item, job) if job.source == "prose" else item
    text = text.encode("utf-8", "replace").decode()  # lone surrogates, which no tokenizer takes
    borders = sentence_borders(text)
    ids, chars = encoder.encode_long(text, borders)
    cuts = token_cuts(chars, borders)
    if job.mode == "window":
        yield from _windows(text, ids, chars, cuts, job, encoder)
        return
    whole = np.concatenate([encoder.bos, ids, [encoder.eos]]).astype(np.int32)
    if not len(ids) or len(whole) < job.checks.min_share * job.length:
        yield Unit("too_short", len(whole))
        return
    cuts = np.append(cuts + len(encoder.bos), len(whole)).astype(np.int32)
    yield _judged(text, Unit("", len(whole), whole.tobytes(), cuts.tobytes()), job.checks)


def _judged(text: str, unit: Unit, checks: Checks, complete: bool = False) -> Unit:
    ids = np.frombuffer(unit.ids, np.int32)
    if reason := quality.judge(text, ids, checks, complete):
        return replace(unit, reason=reason, ids=b"", cuts=b"")
    if not checks.near_duplicate:
        return unit
    return replace(unit, signature=quality.minhash(quality.shingles(ids)).tobytes())


def _windows(
    text: str, ids: np.ndarray, chars: np.ndarray, cuts: np.ndarray, job: Job, encoder: Encoder
) -> Iterator[Unit]:
    ids = np.append(ids, encoder.eos).astype(np.int32)
    room = job.length - len(encoder.bos)
    windows = plan_windows(np.append(cuts, len(ids)), room, job.overlap, job.slack, job.checks.truncated)
    end = 0
    for number, window in enumerate(windows):
        if window.start > end:  # no window of this length starts and ends at a sentence here
            yield Unit("truncated", window.start - end)
        last = min(window.start + room, len(chars)) - 1
        row = np.concatenate([encoder.bos, ids[window.start : window.start + room]]).astype(np.int32)
        shared = max(0, end - window.start) if number else -1
        end = window.start + room
        piece = text[chars[window.start, 0] : chars[last, 1]]
        unit = Unit("", len(row), row.tobytes(), shared=shared, cut=not window.whole)
        yield _judged(piece, unit, job.checks, complete=end < len(ids))  # the document itself may break off
    if end < len(ids):
        yield Unit("too_short" if len(ids) - end < room else "truncated", len(ids) - end)


# ---- texts that workers write -----------------------------------------------------------------------------------


def write_prose(number: int, job: Job) -> str:
    """Document `number` of the endless prose: half to twice the length, in words, so that there is something to recall."""
    words = int(job.length * Random(f"prose document {job.seed} {number}").uniform(*PROSE_SHARE))
    passages = []
    for passage in prose.passages((job.seed << 40) + number, "train"):
        passages.append(prose.join(passage))
        words -= passages[-1].count(" ") + 1
        if words <= 0:
            return "\n\n".join(passages)
    raise AssertionError("prose is endless")


@lru_cache(maxsize=2)
def _haystacks(tokenizer: str, length: int) -> Haystacks:
    pool = max(262_144, 2 * length)
    options = Options(pool_tokens=pool, seeds_per_pool=NEEDLE_TRIES * max(1, FILLER_USES * pool // length))
    try:
        return Haystacks(load_encoder(tokenizer).tokenizer, options)
    except TokenizerError as error:
        raise DataError(f"{error} (needles are asked with it)") from None


def _question(number: int, job: Job, encoder: Encoder) -> Unit:
    """A question of an environment with its right answer: a row of its own, of exactly the length, never judged for prose.

    The answer's tokens are known only when the question is drawn, so questions are drawn until the sum is right.
    """
    haystacks = _haystacks(job.tokenizer, job.length)
    tasks = [task for task in TASKS if task != "custom"]
    budget = job.length - 24
    for attempt in range(NEEDLE_TRIES):
        seed = (job.seed << 40) + number * NEEDLE_TRIES + attempt
        sample = haystacks.sample(seed, "train", tasks[number % len(tasks)], budget)
        said = "; ".join(sample.answer.values) or NONE
        messages = [*sample.messages, {"role": "assistant", "content": f"<answer>{said}</answer>"}]
        text = encoder.tokenizer.apply_chat_template(messages, tokenize=False).strip()
        tail, _ = encoder.encode(text[len(haystacks.tokens.render(sample.messages)) :], special=True)
        end = [] if len(tail) and tail[-1] == encoder.eos else [encoder.eos]
        if (guess := budget + len(tail) + len(end)) == job.length:
            row = np.append(encoder.encode(text, special=True)[0], end).astype(np.int32)
            if len(row) == job.length:
                return _judged(sample.messages[0]["content"], Unit("", len(row), row.tobytes()), job.checks, True)
        budget += job.length - guess
    return Unit("no_exact_fit", job.length)
