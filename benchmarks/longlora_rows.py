"""Training rows of `benchmarks.longlora_run`: a quarter plain text, the others haystacks with many questions.

A haystack of fiction or of the texts holds 48 facts, and 48 questions follow it. Loss is on all of a text, or on the answers
alone: with as many tokens of the haystack beside them, full attention found 44 % of the needles after 200 steps instead of
89 % after 300.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from environments.haystack.facts import BY_KIND, parse
from environments.haystack.sample import Haystacks, Options
from environments.haystack.tokens import Tokens, load_full_tokenizer

QUESTIONS, TURN_TOKENS = 48, 96  # of a row; tokens that a question, its answer and the chat's marks take on average
SPARE = 64  # tokens of a row left for turns that are longer than average
NOT_LEARNT = -100  # a label that the loss ignores
Row = dict[str, list[int]]  # input_ids, labels, attention_mask


@dataclass(frozen=True)
class Recipe:
    """Which rows to make. Lengths in tokens."""

    model: Path  # for its tokenizer
    texts: Path  # a folder
    count: int
    length: int
    questions: int  # of a row that asks
    pool: int  # tokens of the texts that haystacks are cut from

    def rows(self) -> tuple[list[Row], int]:
        """The rows in random order, and how many of them are plain text."""
        tokenizer, size = load_full_tokenizer(str(self.model)), 2 * self.length
        prose = Options(may_abstain=False, pool_tokens=max(size, Options.pool_tokens), seeds_per_pool=32)
        pool = max(size, self.pool)
        folder = Options(may_abstain=False, filler="folder", filler_path=str(self.texts), pool_tokens=pool)
        sources = [Haystacks(tokenizer, prose), Haystacks(tokenizer, folder)]
        with TemporaryDirectory() as scratch:
            rows = text_rows(self.texts, str(self.model), self.length, self.count // 4, Path(scratch) / "text")
        plain = len(rows)
        for seed in range(self.count - plain):
            rows.append(question_row(sources[seed % 2], seed, self.length, self.questions))
        Random(0).shuffle(rows)
        return rows, plain


def question_row(haystacks: Haystacks, seed: int, length: int, questions: int = QUESTIONS) -> Row:
    """One chat of nearly `length` tokens, never more: a haystack, and a question a turn about each of its facts."""
    kind = Random(f"longlora_run {seed}").choice(sorted(BY_KIND))
    options = replace(haystacks.options, queries=questions, distractors=0, value_kind=kind)
    room = length - questions * TURN_TOKENS
    row: Row = {}
    for _ in range(2):  # the second time with the tokens that the first one's turns took
        rng = Random(f"longlora_run {seed} {room}")
        messages = _chat(haystacks.variant(options), haystacks, seed, room, rng)
        row = chat_row(haystacks.tokens, messages)
        room += length - SPARE - len(row["input_ids"])
    while len(row["input_ids"]) > length:
        del messages[-2:]
        row = chat_row(haystacks.tokens, messages)
    return row


def _chat(asking: Haystacks, haystacks: Haystacks, seed: int, room: int, rng: Random) -> list[dict[str, str]]:
    text = asking.sample(seed, "train", "multi_query", room).messages[0]["content"].rpartition("\n\nQuestion: ")[0]
    form = haystacks.sample(seed, "train", "single", 1024).messages[0]["content"].rpartition("\n")[2]
    facts = parse(text)
    rng.shuffle(facts)
    messages: list[dict[str, str]] = []
    for person, relation, value in facts:
        question = f"Question: {_relation(relation).asked.format(e=person, s='', is_='is')}\n{form}"
        messages += [
            {"role": "user", "content": question if messages else f"{text}\n\n{question}"},
            {"role": "assistant", "content": f"<answer>{value}</answer>"},
        ]
    return messages


def _relation(name: str) -> Any:
    return next(relation for relation in BY_KIND.values() if relation.name == name)


def chat_row(tokens: Tokens, messages: list[dict[str, str]]) -> Row:
    """A chat with labels on the answers, and on the mark that ends each."""
    chat = tokens.tokenizer.apply_chat_template(messages, tokenize=False)
    ids, offsets = tokens.offsets(chat)
    labels = [NOT_LEARNT] * len(ids)
    start = position = 0
    for message in messages:
        start = chat.index(message["content"], start)
        end = start + len(message["content"])
        while offsets[position][0] < start:
            position += 1
        first = position
        while offsets[position][0] < end:
            position += 1
        if message["role"] == "assistant":
            labels[first : position + 1] = ids[first : position + 1]
        start = end
    return {"input_ids": ids, "labels": labels, "attention_mask": [1] * len(ids)}


def text_rows(texts: Path, model: str, length: int, rows: int, scratch: Path) -> list[Row]:
    """Rows of `longthread longlora data`, without their position_ids.

    These restart with each document, and no position beyond a document's length would be trained.
    """
    import pyarrow.parquet as pq

    from trainer_configs.longlora.data.build import Settings, build
    from trainer_configs.longlora.data.sources import Source

    build(Settings(Source(str(texts)), scratch, model, length, limit=rows))
    files = sorted((scratch / "data").glob("*.parquet"))
    columns = ["input_ids", "labels", "attention_mask"]
    return [row for file in files for row in pq.read_table(file, columns=columns).to_pylist()]


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as Axolotl reads tokenised ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"input_ids": pa.int32(), "labels": pa.int32(), "attention_mask": pa.int8()}
    columns = {name: pa.array([row[name] for row in rows], pa.list_(kind)) for name, kind in kinds.items()}
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=19, row_group_size=16)
