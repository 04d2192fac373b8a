"""Rows of a reader: what is learnt, where tokens stand, and that each answer is what its documents say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby, islice, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from environments.datasets.other_prompts import general_prompts
from environments.datasets.reader_rows import rows
from environments.datasets.reader_rows.answers import _read, answers_stand
from environments.datasets.reader_rows.chats import ask, prompts, read_chats
from environments.datasets.reader_rows.encoding import IGNORED, Row, RowEncoder, Turn, joined, skipped_positions
from environments.datasets.reader_rows.fillers import Fillers, stretch
from environments.datasets.reader_rows.plan import FORMS, MOST_PIECES, RowPlan, RowSettings, ladder, plan
from environments.datasets.reader_rows.questions import (
    EDGES,
    GAP_KINDS,
    MATCHES,
    WEIGHTS,
    WORDINGS,
    FactDraw,
    ReaderQuestion,
    Statement,
)
from environments.datasets.reader_rows.rows import ROOM, SHORT_TOKENS, RowMaker
from environments.haystack import question_wordings
from environments.haystack.facts import RELATION, in_split
from environments.haystack.filler import prose
from environments.haystack.tasks.linked_wordings import EVENTS, LINK
from environments.haystack.tasks.task import NONE
from environments.haystack.tokens import Tokens
from environments.haystack.wording import reader, sentence
from environments.inference.contracts import ServerAddress
from lift.document.document import Document
from lift.inference.generate import before_text, chat
from lift.tasks import Item, right
from lift.tasks.reading import read_statements
from lift.tasks.synthetic_document import unrelated
from longthread.errors import ConfigError, DataError
from tests.environments.haystack.tasks.test_linked_wordings import content_words
from tests.environments.loopback import ChatServer, choice
from tests.environments.tiny_model import tiny_tokenizer
from trainer_configs.longlora.attention.parallel_documents import parallel_mask, tails

LENGTH = 2048
CONVERSATIONS = [
    (Turn("What is 2 plus 2?", "4."),),
    (Turn("Hello!", "Hello."), Turn("And again?", "Hello again.")),
    (Turn("Hm?", "Hm."),),
]


@pytest.fixture(autouse=True, scope="module")
def _small_pools() -> Iterator[None]:
    """A pool costs a second for each 100,000 tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("environments.datasets.reader_rows.fillers.POOL_TOKENS", 16_384)
        yield


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    passages = prose.passages(99, "eval")
    (folder / "own.txt").write_text("\n\n".join(prose.join(next(passages)) for _ in range(30)))
    return folder


@pytest.fixture(scope="module")
def maker(gpt2: Any, texts: Path) -> RowMaker:
    return RowMaker(gpt2, RowSettings(12, LENGTH, LENGTH), str(texts))


def documents_and_tail(row: Row) -> tuple[list[list[int]], list[int]]:
    """The documents of a row and what follows all of them, by its positions alone, a token at a time."""
    pieces: list[list[int]] = []
    tail: list[int] = []
    last = None
    for token, position in zip(row.input_ids.tolist(), row.position_ids.tolist(), strict=True):
        if tail or (last is not None and position > last + 1):
            assert not tail or position == last + 1
            tail.append(token)
        elif last is None or position <= last:
            pieces.append([token])
        else:
            pieces[-1].append(token)
        last = position
    return pieces, tail


def learnt(row: Row, tokens: Tokens) -> list[str]:
    """Runs of labelled tokens, as text."""
    pairs = zip(row.labels.tolist(), row.input_ids.tolist(), strict=True)
    runs = groupby(pairs, lambda pair: pair[0] != IGNORED)
    return [tokens.decode([label for label, _ in run]) for here, run in runs if here]


def turns_in(text: str) -> list[tuple[str, str]]:
    """The conversation in a row's text, read with the template's own marks."""
    return re.findall(
        r"<\|im_start\|>user\n(.*?)<\|im_end\|>\n<\|im_start\|>assistant\n(.*?)<\|im_end\|>", text, re.DOTALL
    )


def named(prompt: str) -> tuple[str, str]:
    """The name and the question of a prompt in the form of `lift ask`."""
    name, question = re.fullmatch(r'(?:About "(.*?)": )?(.*)\nReply with the answer alone\.', prompt).groups("")
    return name, question


# ---- encoding -------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)


@given(
    turns=st.lists(st.builds(Turn, words, words, st.just("") | words), min_size=1, max_size=4),
    documents=st.lists(words, min_size=2, max_size=5),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replies_and_their_ends_are_learnt_and_documents_end_together(
    tokenizer_name: str,
    tokenizer_of: Callable[[str], Any],
    turns: list[Turn],
    documents: list[str],
) -> None:
    tokens = Tokens(tokenizer_of(tokenizer_name))
    encoder = RowEncoder(tokens)
    end = "</s>" if tokenizer_name == "mistral" else "<|im_end|>"
    alone, row = encoder.chat(turns), encoder.parallel(documents, turns)
    for one in (alone, row):
        same = one.labels == one.input_ids
        assert ((one.labels == IGNORED) | same).all()
        # Runs of replies: each is a prompt apart from the next.
        assert [run.strip() for run in learnt(one, tokens)] == [
            tokens.decode(tokens.encode(turn.reply + end)).strip() for turn in turns
        ]
    assert alone.position_ids.tolist() == list(range(len(alone)))
    pieces, tail = documents_and_tail(row)
    assert pieces == [tokens.encode(document) for document in documents]
    assert tail == alone.input_ids.tolist()
    prompt = encoder.prompt(turns[0].user, turns[0].given)
    assert tail[: len(prompt)] == prompt and (alone.labels[: len(prompt) + 1] == IGNORED).sum() == len(prompt)
    longest = max(map(len, pieces))
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    assert (row.position_ids[ends] == longest - 1).all() and row.position_ids.min() == 0
    assert row.position_ids[len(row) - len(tail)] == longest + 1
    assert (row.labels[: len(row) - len(tail)] == IGNORED).all()


@pytest.mark.parametrize("name", ["gpt2", "cl100k-like"])
def test_a_prompt_is_that_of_lift_ask(name: str, tokenizer_of: Callable[[str], Any]) -> None:
    tokenizer = tokenizer_of(name)
    maker = RowMaker(tokenizer, RowSettings(2, LENGTH, LENGTH, forms=("plain",)))
    beside = maker.row(RowPlan(0, "parallel", LENGTH, "plain"))
    _, tail = documents_and_tail(beside)
    asked = [named(prompt) for prompt, _ in turns_in(maker.tokens.decode(tail))]
    others = (documents_and_tail(maker.row(RowPlan(n, "parallel", LENGTH, "plain")))[1] for n in range(2, 5))
    every = asked + [named(prompt) for other in others for prompt, _ in turns_in(maker.tokens.decode(other))]
    assert len({name for name, _ in every}) > 2 and any(not name for name, _ in every)  # some name no document
    prompt = chat(tokenizer, *asked[0])
    assert tail[: len(prompt)] == prompt  # of a memory: no text in it
    whole = maker.row(RowPlan(1, "document", LENGTH, "plain"))
    start = before_text(tokenizer)
    assert whole.input_ids[: len(start)].tolist() == start
    content = turns_in(maker.tokens.decode(whole.input_ids.tolist()))[0][0]
    text, _, request = content.removeprefix("Text:\n").rpartition("\n\n")
    prompt = chat(tokenizer, *named(request), text)
    assert whole.input_ids[: len(prompt)].tolist() == prompt
    assert whole.labels[len(prompt) - 1] == IGNORED != whole.labels[len(prompt)]


def test_conversations_of_a_row_do_not_see_each_other(gpt2: Any) -> None:
    encoder = RowEncoder(Tokens(gpt2))
    row = encoder.packed(CONVERSATIONS)
    pieces, tail = documents_and_tail(row)
    assert not tail
    assert pieces == [encoder.chat(turns).input_ids.tolist() for turns in CONVERSATIONS]
    assert learnt(row, encoder.tokens) == [f"{reply}<|im_end|>" for turns in CONVERSATIONS for _, reply, _ in turns]


def seen(row: Row) -> np.ndarray:
    """Which tokens each token of a row sees, as full attention is specified."""
    return parallel_mask(torch.tensor(row.position_ids)[None], 1, 1)[0, 0].numpy()


def begins(row: Row, first: Row) -> bool:
    pairs = zip(vars(row).values(), vars(first).values(), strict=True)
    return len(row) >= len(first) and all((a[: len(first)] == b).all() for a, b in pairs)


@given(
    sizes=st.lists(st.tuples(st.lists(st.integers(1, 6), max_size=4), st.integers(1, 5)), min_size=1, max_size=5),
    number=st.randoms(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_in_one_do_not_see_each_other(gpt2: Any, sizes: list[tuple[list[int], int]], number: Random) -> None:
    encoder = RowEncoder(Tokens(gpt2))

    def made(documents: list[int], turns: int) -> Row:
        conversation = [Turn(f"{number.random()}", "Yes.")] * turns
        return (
            encoder.parallel([" a" * size for size in documents], conversation)
            if documents
            else encoder.chat(conversation)
        )

    rows = [made(*size) for size in sizes]
    whole = joined(rows)
    assert sorted(map(tuple, zip(*vars(whole).values(), strict=True))) == sorted(
        place for row in rows for place in zip(*vars(row).values(), strict=True)
    )
    tails(torch.tensor(whole.position_ids)[None])  # which names a malformed row
    sees, wanted, start = seen(whole), np.zeros((len(whole), len(whole)), bool), 0
    left = list(rows)
    while start < len(whole):
        here = Row(*(column[start:] for column in vars(whole).values()))
        row = next(row for row in left if begins(here, row))
        left = [other for other in left if other is not row]
        wanted[start : start + len(row), start : start + len(row)] = seen(row)
        start += len(row)
    assert (sees == wanted).all() and not left


def test_short_rows_are_joined_to_long_ones(maker: RowMaker) -> None:
    for kind in ("document", "parallel", "text"):
        row = maker.row(RowPlan(1, kind, LENGTH, "tags", 3))
        assert 2.6 * LENGTH < len(row) <= 3 * LENGTH
        positions = row.position_ids.tolist()
        assert sum(b > a + 1 for a, b in zip(positions, positions[1:], strict=False)) == (
            3 if kind == "parallel" else 0
        )
        assert kind == "parallel" or positions.count(0) == 3
    pieces = {row.length: row.pieces for row in plan(RowSettings(20, 2048, 32_768))}
    assert pieces == {2048: MOST_PIECES, 4096: 8, 8192: 4, 16_384: 2, 32_768: 1}


def test_a_cut_chain_names_whom_it_passes(gpt2: Any) -> None:
    replies = set()
    for seed in range(8):
        _, questions = drawn("absent", seed)
        for question in questions:
            assert len(question.claims) == len(question.steps) < question.hops
            assert [claim[2] for claim in question.claims] == list(question.steps)
            replies.add(len(question.steps))
    assert replies >= {0, 1, 2}


def test_a_template_that_ends_no_reply_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    with pytest.raises(ConfigError, match="no special token behind a reply"):
        RowEncoder(Tokens(tokenizer))


def test_thinking_is_off_in_every_turn() -> None:
    """As Qwen3's template: only a last reply may think, and a prompt without thinking holds an empty thought."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "assistant\n' }}", "assistant\n' + ('<think>\n\n</think>\n\n' if enable_thinking is false else '') }}"
    )
    tokens = Tokens(tokenizer, {"enable_thinking": False})
    text = tokens.decode(RowEncoder(tokens).chat([Turn("A?", "B."), Turn("C?", "D.")]).input_ids.tolist())
    assert text.count("assistant\n<think>\n\n</think>\n\n") == 2


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["document", "parallel"])
@pytest.mark.parametrize("form", FORMS)
def test_every_answer_stands_in_one_document(maker: RowMaker, kind: str, form: str) -> None:
    kinds: Counter[str] = Counter()
    asked_for_steps = set()
    for number in range(4):
        row = maker.row(RowPlan(number, kind, LENGTH, form))
        assert 0.9 * LENGTH < len(row) <= LENGTH
        pieces, tail = documents_and_tail(row)
        documents = [maker.tokens.decode(piece) for piece in pieces]
        turns = turns_in(maker.tokens.decode(tail or pieces[0]))
        if kind == "document":
            documents = [turns[0][0].rpartition("\n\n")[0]]
        else:
            assert 2 <= len(documents) <= 8
        assert [f"{reply}<|im_end|>" for _, reply in turns] == learnt(row, maker.tokens)
        assert len(turns) > 4
        for asked, reply in turns:
            assert ("<answer>" in reply) == ("<answer>" in asked) == (form == "tags")
            answer = (
                re.fullmatch(r"(?:<steps>.*</steps> )?<answer>(.*)</answer>", reply)[1] if form == "tags" else reply
            )
            steps = re.findall(r"<steps>(.*)</steps>", reply)
            assert bool(steps) <= ("<steps>" in asked)
            for person in "; ".join(steps).split("; ") if steps else ():
                assert any(person in text for text in documents)
            if answer == NONE or answer.isdigit() and len(answer) == 1:
                kinds[answer if answer == NONE else "count"] += 1
                continue
            kinds["value" if not steps else "linked"] += 1
            if not steps:
                asked_for_steps.add("<steps>" in asked)
            assert sum(text.count(answer) for text in documents) == 1
            assert in_split(answer, "train")
    assert kinds["value"] > 4 and kinds[NONE] > 1
    assert kinds["linked"] > 3 or form == "plain"
    assert asked_for_steps == {True, False} or form == "plain"  # of a single fact there are none to name


def test_some_facts_open_and_close_their_document(gpt2: Any) -> None:
    """Environments ask for needles at depth 0 and 1, which are paragraphs of their own: rows have these places too."""
    drawn = [FactDraw(Random(seed)) for seed in range(20)]
    for facts in drawn:
        facts.questions(60, ("single", "linked"))
    depths = Counter(s.depth if s.depth in (0, 1) else "inside" for facts in drawn for s in facts.statements)
    assert all(abs(depths[edge] / depths.total() - EDGES / 2) < EDGES / 4 for edge in (0, 1))
    maker = RowMaker(gpt2, RowSettings(8, LENGTH, LENGTH, kinds=("single",), forms=("plain",)))
    opened, closed = 0, 0
    for number in range(8):
        [(content, _), *_] = turns_in(
            maker.tokens.decode(maker.row(RowPlan(number, "document", LENGTH, "plain")).input_ids)
        )
        first, *_, last, _ = content.removeprefix("Text:\n").split("\n\n")
        opened, closed = opened + bool(_read(first)), closed + bool(_read(last))
    assert 0 < opened < 8 and 0 < closed < 8


def test_lift_reads_the_same_answers_in_the_documents(gpt2: Any) -> None:
    """Its own reader of documents finds for each person the value that a row teaches, in the document that it names."""
    maker = RowMaker(gpt2, RowSettings(4, LENGTH, LENGTH, kinds=("single", "multi_key"), forms=("plain",)))
    checked = 0
    for number in range(3):
        pieces, tail = documents_and_tail(maker.row(RowPlan(number, "parallel", LENGTH, "plain")))
        facts = {
            (fact.subject, fact.value): i
            for i, piece in enumerate(pieces)
            for fact in read_statements(Document(str(i), maker.tokens.decode(piece))).facts
        }
        homes: dict[str, set[int]] = {}
        for asked, reply in turns_in(maker.tokens.decode(tail)):
            name, question = named(asked)
            [(person, home)] = [(person, i) for (person, value), i in facts.items() if value == reply]
            assert person in question
            assert right(Item("needle", question, reply, ()), reply)
            if name:
                homes.setdefault(name, set()).add(home)
            checked += 1
        assert all(len(places) == 1 for places in homes.values()) and len(homes) > 1
    assert checked > 20


def test_a_row_depends_on_its_number_and_the_seed_alone(gpt2: Any, texts: Path, maker: RowMaker) -> None:
    row = RowPlan(3, "parallel", LENGTH, "tags")
    first = maker.row(row)
    maker.row(RowPlan(40, "document", LENGTH, "tags"))  # of another pool
    again = RowMaker(gpt2, maker.settings, str(texts)).row(row)
    assert all((a == b).all() for a, b in zip(vars(first).values(), vars(again).values(), strict=True))
    other = RowMaker(gpt2, replace(maker.settings, seed=1), str(texts)).row(row)
    assert first.input_ids.tolist() != other.input_ids.tolist()


HELD_OUT = [
    reader(wording.rstrip("?."))
    for name in RELATION
    for wording in question_wordings.FACTS[name].of("eval")
    if not wording.startswith("{e}")
]


@pytest.mark.parametrize(("wordings", "held_out"), [("train", False), ("environments", True)])
def test_no_wording_of_an_evaluation_is_trained_on_unless_asked_for(gpt2: Any, wordings: str, held_out: bool) -> None:
    given = RowSettings(2, 4096, 4096, kinds=("single", "linked"), wordings=wordings)
    maker = RowMaker(gpt2, given)
    turns = [
        turn
        for number, form in enumerate(FORMS * 2)
        for turn in turns_in(maker.tokens.decode(maker.row(RowPlan(number, "document", 4096, form)).input_ids.tolist()))
    ]
    questions = " ".join(asked.rpartition("\n\n")[2] for asked, _ in turns)
    assert any(pattern.search(questions) for pattern in HELD_OUT) == held_out


def test_text_is_learnt_whole_from_the_folder_or_fiction(maker: RowMaker, texts: Path) -> None:
    own = (texts / "own.txt").read_text()
    from_folder = []
    for number in range(8):
        row = maker.row(RowPlan(number, "text", LENGTH, "tags"))
        assert len(row) == LENGTH and (row.labels == row.input_ids).all()
        assert row.position_ids.tolist() == list(range(LENGTH))
        sentences = re.split(r"(?<=[.!?])\s+", maker.tokens.decode(row.input_ids.tolist()))
        found = {sentence in own for sentence in sentences[:-1] if len(sentence) > 40}
        assert len(sentences) > 30 and len(found) == 1  # a row's text is of one source
        from_folder += found
    assert set(from_folder) == {True, False}


@pytest.mark.parametrize("kind", ["document", "parallel", "text"])
def test_conversations_stand_in_every_row_and_do_not_see_it(gpt2: Any, texts: Path, maker: RowMaker, kind: str) -> None:
    chatting = RowMaker(gpt2, maker.settings, str(texts), CONVERSATIONS)
    row = chatting.row(RowPlan(6, kind, LENGTH, "tags", 2))
    ends = [f"{reply}<|im_end|>" for turns in CONVERSATIONS for _, reply, _ in turns]
    chats = sum(len(maker.encoder.chat(turns)) for turns in CONVERSATIONS)
    last = Row(*(column[len(row) - chats :] for column in vars(row).values()))
    assert sorted(learnt(last, maker.tokens)) == sorted(ends)
    assert not seen(row)[len(row) - chats :, : len(row) - chats].any()
    assert LENGTH < len(row) <= 2 * LENGTH


@pytest.mark.parametrize("kind", ["document", "parallel", "text"])
def test_long_rows_have_a_short_text_which_does_not_see_them(gpt2: Any, texts: Path, kind: str) -> None:
    length = ROOM * SHORT_TOKENS[1]
    maker = RowMaker(gpt2, RowSettings(count=1, shortest=length, longest=length), str(texts), CONVERSATIONS)
    plan = RowPlan(6, kind, length, "plain")
    row, [short] = maker.row(plan), maker._short_text(plan, "0 6 short")
    chats = sum(len(maker.encoder.chat(turns)) for turns in CONVERSATIONS)
    begins, ends = len(row) - chats - len(short), len(row) - chats
    assert SHORT_TOKENS[0] / 2 < len(short) <= SHORT_TOKENS[1] and len(row) <= length
    for whole, part in zip(vars(row).values(), vars(short).values(), strict=True):
        assert (whole[begins:ends] == part).all()
    assert not seen(row)[begins:ends, :begins].any() and not seen(row)[ends:, begins:ends].any()
    assert learnt(short, maker.tokens) and maker.tokens.decode(short.input_ids.tolist()).count("Text:") == 1


def test_short_texts_come_with_conversations_and_only_where_there_is_room_for_one(
    gpt2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    length = ROOM * SHORT_TOKENS[1]
    settings, plan = RowSettings(count=1, shortest=length, longest=length), RowPlan(6, "document", length, "tags")
    bare = RowMaker(gpt2, settings).row(plan)
    assert (np.diff(bare.position_ids) == 1).all()  # one document, as some kinds of attention ask for
    monkeypatch.setattr(rows, "SHORT_TOKENS", (60, 60))
    maker = RowMaker(gpt2, settings, chats=CONVERSATIONS)
    starts = 1 + (np.diff(maker.row(plan).position_ids) != 1).sum()
    assert maker._short_text(plan, "0 6 short") == [] and starts == 1 + len(CONVERSATIONS)


def test_a_conversation_longer_than_its_share_of_a_row_is_refused(gpt2: Any, maker: RowMaker) -> None:
    long = RowMaker(gpt2, maker.settings, chats=[(Turn("Tell me all.", "So be it. " * LENGTH),)])
    with pytest.raises(ConfigError, match="no conversation has 512 tokens or fewer"):
        long.check()


def test_a_stretch_of_text_is_in_its_own_order(maker: RowMaker) -> None:
    pool = maker.fillers.pool("texts", 0)
    text = stretch(pool, 3000, Random(0))
    joined = "\n\n".join(passage.text for passage in pool.passages * 2)
    assert text in joined and len(maker.tokens.encode(text)) >= 3000


def test_other_pools_begin_elsewhere_and_too_little_text_is_refused(gpt2: Any, texts: Path) -> None:
    fillers = Fillers(Tokens(gpt2), str(texts), 512, 0)
    assert fillers.pool("texts", 0).passages[0].text != fillers.pool("texts", 1).passages[0].text
    assert fillers.pool("prose", 0).digest != fillers.pool("prose", 1).digest
    with pytest.raises(ConfigError, match="holds fewer than 2,000,000 tokens"):
        Fillers(Tokens(gpt2), str(texts), 1_000_000, 0)


def test_a_row_too_short_for_a_question_is_refused() -> None:
    maker = RowMaker(tiny_tokenizer(), RowSettings(1, 512, 512, kinds=("linked",)))
    with pytest.raises(ConfigError, match="no text of 512 tokens with a question came out"):
        maker.check()


# ---- answers, read back ---------------------------------------------------------------------------------------------


def written(draw: FactDraw) -> list[str]:
    """Documents of statements alone, in the order of their depths."""
    documents: list[list[Statement]] = [[] for _ in range(draw.documents)]
    for statement in draw.statements:
        documents[statement.document].append(statement)
    return [" ".join(s.text for s in sorted(stated, key=lambda s: s.depth)) for stated in documents]


def drawn(kind: str, seed: int, documents: int = 3, **options: Any) -> tuple[FactDraw, list[ReaderQuestion]]:
    draw = FactDraw(Random(seed), documents, **options)
    return draw, draw.questions(6, (kind,))


@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(sorted(WEIGHTS)),
    across=st.booleans(),
    wordings=st.sampled_from(WORDINGS),
    gap=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=120, deadline=None)
def test_what_is_drawn_stands_and_without_any_statement_it_does_not(
    seed: int, kind: str, across: bool, wordings: str, gap: float
) -> None:
    draw, questions = drawn(kind, seed, wordings=wordings, across=across, lexical_gap=gap)
    documents = written(draw)
    assert answers_stand(documents, draw.statements, questions)
    if draw.statements:
        gone = draw.statements[seed % len(draw.statements)]
        cut = [text.replace(gone.text, "") for text in documents]
        assert not answers_stand(cut, draw.statements, questions)


@pytest.mark.parametrize("kind", GAP_KINDS)
def test_with_a_lexical_gap_a_question_shares_no_word_with_what_it_rests_on(kind: str) -> None:
    """In the environments' wordings; in those of training the person alone is told otherwise."""
    for seed in range(8):
        draw, questions = drawn(kind, seed, wordings="environments", lexical_gap=1.0)
        for question in questions:
            heads = {person for person, *_ in question.claims or question.unsaid}
            about = [s.text for s in draw.statements if any(head in s.text for head in heads)]
            words = content_words(question.text)
            assert not any(words & content_words(text.replace(question.answer, "")) for text in about)
            assert all(head.startswith("the ") and in_split(head, "train") for head in heads)
            assert not any(head in question.text for head in heads)


def test_a_share_of_the_questions_has_a_lexical_gap() -> None:
    def described(share: float, kind: str) -> float:
        asked = [q for seed in range(20) for q in drawn(kind, seed, lexical_gap=share)[1]]
        return sum(" by the " in q.text for q in asked) / len(asked)

    assert described(0.0, "single") == 0 and described(1.0, "single") == 1
    assert 0.2 < described(0.4, "single") < 0.6
    assert described(1.0, "order") == 0  # whose answer is how the document names somebody


def told(name: str, person: str, value: str) -> str:
    return sentence(RELATION[name].told[0], e=person, v=value)


@pytest.mark.parametrize("kind", ["single", "multi_key", "linked"])
def test_another_value_of_the_same_person_is_found(kind: str) -> None:
    draw, questions = drawn(kind, 1)
    person, relation, value = questions[0].claims[-1]
    documents = written(draw)
    other = value[:-1] + ("8" if value[-1] != "8" else "7") if relation == "combination" else value
    documents[0] += " " + told(relation, person, f"{other}9" if relation != "contract" else f"{other[:-1]}0")
    assert not answers_stand(documents, draw.statements, questions)


def test_an_answer_that_is_stated_after_all_is_found() -> None:
    for seed in range(6):
        draw, questions = drawn("absent", seed)
        people = [(person, name) for question in questions for person, name in question.unsaid if name in RELATION]
        documents = written(draw)
        documents[-1] += " " + told(people[0][1], people[0][0], "new-words-in-here")
        assert not answers_stand(documents, draw.statements, questions)


def test_another_order_and_another_count_are_found() -> None:
    draw, questions = drawn("order", 2, documents=1)
    [text] = written(draw)
    early, late = (next(s.text for s in draw.statements if name in s.text) for name in questions[0].named)
    swapped = text.replace(early, "\0").replace(late, early).replace("\0", late)
    assert not answers_stand([swapped], draw.statements, questions)
    draw, questions = drawn("count", 2, documents=1)
    [text] = written(draw)
    event, place = questions[0].meet
    more = sentence(next(e for e in EVENTS if e.name == event).told[0], e="Bel Torwin", p=place)
    assert not answers_stand([f"{text} {more}"], draw.statements, questions)
    assert all(MATCHES[0] <= int(question.answer) <= MATCHES[1] for question in questions)


def test_links_lead_over_two_to_four_facts_and_into_other_documents_only_if_told_to() -> None:
    for across in (False, True):
        draw, questions = drawn("linked", 3, across=across)
        homes = {s.text: s.document for s in draw.statements}
        spread = []
        for question in questions:
            assert 2 <= question.hops <= 4 and len(question.claims) == question.hops == len(question.steps) + 1
            heads = [claim[0] for claim in question.claims]
            stated = [
                next(text for text in homes if head in text and value in text) for head, _, value in question.claims
            ]
            assert heads[1:] == list(question.steps)
            spread.append(len({homes[text] for text in stated}))
        assert (max(spread) > 1) == across


def test_half_of_the_chains_have_facts_beside_them_that_lead_astray() -> None:
    apart = named_alike = plain = 0
    for seed in range(12):
        draw, questions = drawn("linked", seed, documents=1)
        stated = [fact for text in written(draw) for fact in _read(text)]
        for question in questions:
            heads = [claim[0] for claim in question.claims]
            others = [fact for fact in stated if fact[0] in heads and fact not in question.claims]
            assert len(others) <= 1 and all(fact[1] in LINK for fact in others)
            apart += len(others)
            plain += not others
            links = {claim[1] for claim in question.claims[:-1]}
            near = {fact for fact in stated if fact[1] in links and any(alike(fact[0], head) for head in heads)}
            named_alike += bool(near)
    assert min(apart, plain, named_alike) > 10


def near(person: str, other: str) -> bool:
    """Whether two different names of as many letters differ in one or two of them."""
    return len(person) == len(other) and 0 < sum(a != b for a, b in zip(person, other, strict=True)) <= 2


def test_a_link_that_holds_both_ways_is_never_what_the_documents_leave_out() -> None:
    """Whose neighbour someone is, is theirs: nothing is said to be absent, and no chain goes there and back."""
    seen = 0
    for seed in range(60):
        draw = FactDraw(Random(seed), 1)
        questions = draw.questions(24, ("linked", "absent"))
        stated = {fact for text in written(draw) for fact in _read(text)}
        back = {(value, name) for _, name, value in stated if name in LINK and LINK[name].mutual}
        assert not back & {unsaid for question in questions for unsaid in question.unsaid}
        for question in questions:
            names = [claim[1] for claim in question.claims] + [name for _, name in question.unsaid]
            assert not any(a == b and LINK[a].mutual for a, b in pairwise(names) if a in LINK)
        seen += len(back)
    assert seen > 60


def test_people_of_nearly_the_same_name_have_what_is_asked_for() -> None:
    """Of keys one to three others; of what is absent, in a part of the questions, as in the environments, these alone."""
    others: Counter[int] = Counter()
    asked: Counter[int] = Counter()
    mistaken: Counter[bool] = Counter()
    for seed in range(30):
        _, keys = drawn("multi_key", seed)
        for question in keys:
            others[len(question.claims) - 1] += 1
            asked[[value for *_, value in question.claims].index(question.answer)] += 1
            assert len({relation for _, relation, _ in question.claims}) == 1
            assert len({value for *_, value in question.claims}) == len(question.claims)
        draw, absent = drawn("absent", seed)
        stated = {fact for text in written(draw) for fact in _read(text)}
        for question in absent:
            [(person, name)] = question.unsaid
            assert not any(head == person and kind == name for head, kind, _ in stated)
            mistaken[any(near(person, head) and kind == name for head, kind, _ in stated)] += 1
    assert set(others) == {1, 2, 3} and min(others.values()) > 30
    assert set(asked) == {0, 1, 2, 3} and asked[0] < asked.total() / 2
    assert 0.15 < mistaken[True] / mistaken.total() < 0.4


def alike(person: str, other: str) -> bool:
    """Whether two different people share one of two names."""
    return person != other and len(set(person.split()) & set(other.split())) == 1


def test_links_are_asked_for_alone_where_links_are_asked_for() -> None:
    kinds = ("single", "absent", "linked")
    asked: dict[tuple[str, ...], Counter[tuple[str, bool]]] = {}
    for wordings, chosen in (("train", kinds), ("train", kinds[:2]), ("environments", kinds)):
        names = asked.setdefault((wordings, *chosen[2:]), Counter())
        for seed in range(12):
            questions = FactDraw(Random(seed), 1, wordings).questions(12, chosen)
            alone = [q for q in questions if q.hops == 1]
            names.update((q.kind, (q.claims or q.unsaid)[-1][1] in LINK) for q in alone)
    of_links = {how: {kind for kind, is_link in names if is_link} for how, names in asked.items()}
    assert of_links == {("train", "linked"): {"single", "absent"}, ("train",): set(), ("environments", "linked"): set()}
    every = {kind for names in asked.values() for kind, is_link in names if not is_link}
    assert every == {"single", "absent"}


def test_all_people_are_of_the_training_split() -> None:
    for kind in WEIGHTS:
        _, questions = drawn(kind, 5)
        people = {claim[0] for question in questions for claim in question.claims} | {
            person for question in questions for person, _ in question.unsaid
        }
        assert all(in_split(person, "train") for person in people)
        assert people or kind == "count"


@pytest.mark.parametrize("length", [256, 1024])
def test_conversations_in_rows_of_their_own_are_turns_of_one_chat(gpt2: Any, texts: Path, length: int) -> None:
    chats = [(Turn(f"What is {n} plus 1?", f"It is {n + 1}."),) for n in range(100)]
    chatting = RowMaker(gpt2, RowSettings(2, LENGTH, LENGTH, conversations=3), str(texts), chats)
    row = chatting.row(RowPlan(5, "chat", length, "tags"))
    assert row.position_ids.tolist() == list(range(len(row))) and 0.8 * length < len(row) <= length
    turns = turns_in(chatting.tokens.decode(row.input_ids.tolist()))
    assert len(turns) > 5 and {turn for [turn] in chats} >= {Turn(user, reply) for user, reply in turns}
    replies = [reply.removesuffix("<|im_end|>") for reply in learnt(row, chatting.tokens)]
    assert replies == [reply for _, reply in turns]
    document = chatting.row(RowPlan(6, "document", LENGTH, "tags"))
    assert "plus 1?" not in chatting.tokens.decode(document.input_ids.tolist())
    assert (document.position_ids == np.arange(len(document))).all()
    planned = plan(replace(chatting.settings, parallel=0.0))
    assert Counter((row.kind, row.length) for row in planned)["chat", 1024] == 3 and len(planned) == 5


# ---- skipped positions ----------------------------------------------------------------------------------------------


@given(tokens=st.integers(2, 60), beyond=st.integers(0, 200), seed=st.integers(0, 1000))
def test_positions_skip_ahead_once_and_stay_in_the_window(tokens: int, beyond: int, seed: int) -> None:
    positions = skipped_positions(tokens, tokens + beyond, Random(seed)).tolist()
    steps = [b - a for a, b in pairwise(positions)]
    assert positions[0] == 0 and positions[-1] < tokens + beyond
    assert sorted(steps)[:-1] == [1] * (tokens - 2) and steps and max(steps) >= 1


def test_skips_reach_every_token_and_the_whole_window() -> None:
    rng = Random(0)
    drawn = [skipped_positions(4, 8, rng).tolist() for _ in range(400)]
    assert {next((i for i in range(1, 4) if p[i] - p[i - 1] > 1), 0) for p in drawn} == {0, 1, 2, 3}
    assert {p[-1] for p in drawn} == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("kind", ["document", "register", "text"])
def test_a_row_with_skipped_positions_is_else_the_same_and_what_stands_beside_it_has_none(
    gpt2: Any, texts: Path, kind: str
) -> None:
    given_settings = RowSettings(0, 32_768, 32_768, 0.0, 0.1, registers=0.1, pose=4, pose_length=LENGTH)
    maker, reached = RowMaker(gpt2, given_settings, str(texts), CONVERSATIONS), []
    maker.check()
    for number in range(4):
        row, natural = (maker.row(RowPlan(number, kind, LENGTH, "tags", 1, reach)) for reach in (32_768, 0))
        assert (row.input_ids == natural.input_ids).all() and (row.labels == natural.labels).all()
        change = row.position_ids - natural.position_ids
        starts = np.flatnonzero(row.position_ids == 0).tolist()
        assert starts == np.flatnonzero(natural.position_ids == 0).tolist() and len(starts) >= 3
        piece, beside = change[: starts[1]], change[starts[1] :]
        assert not beside.any() and set(piece.tolist()) == {0, int(piece[-1])} and (np.diff(piece) >= 0).all()
        assert row.position_ids.max() < 32_768
        reached.append(int(piece[-1]))
    assert len(set(reached)) == 4


# ---- plans ----------------------------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 300),
    parallel=st.floats(0, 1),
    part=st.floats(0, 1),
    rungs=st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_shares_and_lengths_are_as_asked(count: int, parallel: float, part: float, rungs: int) -> None:
    ordinary = (1 - parallel) * part
    given_settings = RowSettings(count, 512, 512 << (rungs - 1), parallel, ordinary)
    given_settings.check()
    rows = plan(given_settings)
    assert [row.number for row in rows] == list(range(count))
    kinds = Counter(row.kind for row in rows)
    assert abs(kinds["parallel"] - count * parallel) <= 0.5
    assert abs(kinds["text"] - count * ordinary) <= 1
    for kind, number in kinds.items():
        lengths = Counter(row.length for row in rows if row.kind == kind)
        assert set(lengths) <= set(ladder(512, 512 << (rungs - 1))) and len(ladder(512, 512 << (rungs - 1))) == rungs
        assert max(lengths.values()) - min(lengths.values()) <= 1 or len(lengths) < rungs
        assert sum(lengths.values()) == number
    assert rows == plan(given_settings)


@given(count=st.integers(1, 60), short=st.integers(0, 60), longest=st.integers(512, 131_072), seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_short_texts_are_further_rows_of_one_text_each(count: int, short: int, longest: int, seed: int) -> None:
    given_settings = RowSettings(count, longest, longest, 0.0, 0.25, seed=seed, short_texts=short)
    given_settings.check()
    rows = plan(given_settings)
    assert [row.number for row in rows] == list(range(given_settings.rows)) and given_settings.rows == count + short
    without = plan(replace(given_settings, short_texts=0))
    more = Counter((row.kind, row.length, row.form, row.pieces) for row in rows)
    more -= Counter((row.kind, row.length, row.form, row.pieces) for row in without)
    assert {(kind, pieces) for kind, _, _, pieces in more} <= {("text", 1)} and sum(more.values()) == short
    lengths = Counter({length: number for (_, length, _, _), number in more.items()})
    assert set(lengths) <= {length for length in (2048, 4096, 8192, longest) if length <= min(8192, longest)}
    assert max(lengths.values(), default=0) - min(lengths.values(), default=0) <= 1


@given(count=st.integers(0, 40), pose=st.integers(1, 60), longest=st.integers(1025, 131_072), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_rows_whose_positions_skip_are_further_rows_in_the_same_shares(
    count: int, pose: int, longest: int, seed: int
) -> None:
    shares = {"ordinary": 0.25, "registers": 0.25}
    given_settings = RowSettings(
        count, longest, longest, 0.0, seed=seed, short_texts=3, pose=pose, pose_length=1024, **shares
    )
    given_settings.check()
    rows = plan(given_settings)
    assert [row.number for row in rows] == list(range(given_settings.rows)) and given_settings.rows == count + pose + 3
    skipping = [row for row in rows if row.reach]
    assert len(skipping) == pose and {(row.length, row.reach, row.pieces) for row in skipping} == {(1024, longest, 1)}
    kinds = Counter(row.kind for row in skipping)
    assert set(kinds) <= {"document", "text", "register"}
    assert all(abs(kinds[kind] - 0.25 * pose) <= 1 for kind in ("text", "register"))
    assert given_settings.least == 1024


def test_a_ladder_ends_at_the_longest() -> None:
    assert ladder(2048, 32_768) == [2048, 4096, 8192, 16_384, 32_768]
    assert ladder(2048, 3000) == [2048, 3000] and ladder(2048, 2048) == [2048]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"shortest": 100}, "shortest must be at least 512"),
        ({"longest": 600}, "longest 600 must be at least shortest, 2048"),
        ({"parallel": 0.9, "ordinary": 0.2}, "must not be more than 1 together"),
        ({"kinds": ("single", "riddle")}, "kinds must be some of single, multi_key"),
        ({"kinds": ()}, "kinds must be some of"),
        ({"forms": ("tags", "tags")}, "each once"),
        ({"wordings": "eval"}, "wordings must be one of train, environments"),
        ({"questions": 0}, "questions must be from 1 to 256"),
        ({"lexical_gap": 1.5}, "lexical_gap must be from 0 to 1"),
        ({"lexical_gap": float("nan")}, "lexical_gap must be from 0 to 1"),
        ({"registers": float("nan")}, "registers must be from 0 to 1"),
        ({"lexical_gap": 0.5, "kinds": ("order", "count")}, "needs one of the kinds single, multi_key"),
        ({"short_texts": -1}, "short_texts must be at least 0"),
        ({"conversations": -1}, "conversations must be at least 0"),
        ({"pose": -1}, "pose must be at least 0"),
        ({"pose": 2, "pose_length": 100}, "pose_length must be at least 512"),
        ({"pose": 2, "pose_length": 32_768}, "pose_length 32768 must be below longest, 32768"),
        ({"pose": 2}, "parallel 0.333 must be 0 with pose"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowSettings(**{"count": 4} | wrong).check()


# ---- conversations --------------------------------------------------------------------------------------------------


def address(server: ChatServer) -> ServerAddress:
    return ServerAddress(server.url, "x", "m")


def test_a_served_model_is_asked_once_and_greedily(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    with ChatServer(lambda body, _: [choice(f"I say {len(body['messages'][0]['content'])}.")]).running() as server:
        assert ask(address(server), 5, 0, path) == 0
        first = path.read_text()
        assert ask(address(server), 5, 0, path) == 0 and path.read_text() == first
        with path.open("a") as file:
            file.write('{"messages": [{"role": "us')  # a killed run's
        assert ask(address(server), 7, 0, path) == 0
    asked = [request["messages"][0]["content"] for request in server.requests]
    assert asked == prompts(7, 0) and len(set(asked)) == 7
    assert {request["temperature"] for request in server.requests} == {0.0}
    assert path.read_text().startswith(first)
    assert read_chats(path) == [(Turn(prompt, f"I say {len(prompt)}."),) for prompt in asked]
    assert sum("Reply with the answer alone." in prompt for prompt in asked) == 3


def test_replies_cut_off_or_empty_are_left_out(tmp_path: Path) -> None:
    replies = ["Yes.", ("No, and", "length"), "<think>hm</think>  ", "Sure.", "<think>hm</think>Well."]

    def reply(body: dict[str, Any], _: int) -> Any:
        said = replies[prompts(5, 0).index(body["messages"][0]["content"])]
        return [choice(*said) if isinstance(said, tuple) else choice(said)]

    with ChatServer(reply).running() as server:
        assert ask(address(server), 5, 0, tmp_path / "chats.jsonl") == 2
    assert [turns[0].reply for turns in read_chats(tmp_path / "chats.jsonl")] == ["Yes.", "Sure.", "Well."]
    with (
        ChatServer(lambda *_: [choice("and so on and", "length")]).running() as server,
        pytest.raises(DataError, match="ended 0 of 5 replies within 256 tokens"),
    ):
        ask(address(server), 5, 0, tmp_path / "none.jsonl")


def test_a_server_that_refuses_is_one_line(tmp_path: Path) -> None:
    server = ChatServer(models=lambda _: web.Response(status=401))
    with server.running(), pytest.raises(ConfigError, match="refused the API key"):
        ask(address(server), 2, 0, tmp_path / "chats.jsonl")
    assert not (tmp_path / "chats.jsonl").exists()


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": " "}, {"role": "assistant", "content": "b"}],
        [{"role": "user", "content": ["a"]}, {"role": "assistant", "content": "b"}],
    ],
    ids=["none", "empty", "half", "turned", "blank", "parts"],
)
def test_a_line_that_is_no_conversation_is_named(tmp_path: Path, messages: object) -> None:
    path = tmp_path / "own.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}]}
    path.write_text(json.dumps(good) + "\n")
    assert read_chats(path) == [(Turn("a", "b"),)]
    path.write_text(json.dumps(good) + "\n" + json.dumps({"messages": messages}) + "\n")
    with pytest.raises(DataError, match=r"own.jsonl:2: not a conversation"):
        read_chats(path)


def test_general_questions_are_none_of_those_that_measure_general_knowledge() -> None:
    drawn = {prompt.question for prompt in islice(general_prompts(Random(0)), 30_000)}
    assert len(drawn) > 5_000
    assert not drawn & {item.question for item in unrelated()}


def test_general_prompts_are_those_that_lift_asks(gpt2: Any) -> None:
    prompt = next(islice(general_prompts(Random(0)), 3, None))
    encoder = RowEncoder(Tokens(gpt2))
    assert encoder.prompt(prompt.content) == chat(gpt2, *prompt)
    about = prompt._replace(text="Some text.")
    assert encoder.prompt(about.content) == chat(gpt2, *about)


def test_more_questions_than_there_are_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("environments.datasets.other_prompts.GENERAL", (("one", lambda rng: "Who?"),))
    with pytest.raises(ConfigError, match="more than the 2 different questions"):
        prompts(3, 0)
