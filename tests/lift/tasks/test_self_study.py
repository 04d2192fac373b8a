"""Self-study with scripted models, the tiny local one, and a chat server on a real socket."""

from random import Random
from typing import Any

import pytest
import torch
from aiohttp import web

from environments.haystack.facts import in_split
from lift.document.document import Document
from lift.tasks import coverage, right
from lift.tasks.items import Item
from lift.tasks.self_study import (
    CHUNK_CHARACTERS,
    CHUNK_SENTENCES,
    Reply,
    SelfStudy,
    alike,
    chunks,
    endpoint,
    local,
    names_referent,
    proposal,
)
from longthread.errors import LongthreadError
from tests.environments.loopback import ChatServer, choice, said
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

TEXT = (
    "The mill at Farley stood empty. In May the miller Oswin Hale\nsold it to a widow for ninety crowns. Nobody knew her. "
    "She came from Brenock, where Marta Quill had kept an inn. The wheel turned again in June."
)
SOLD = "In May the miller Oswin Hale sold it to a widow for ninety crowns."
INN = "She came from Brenock, where Marta Quill had kept an inn."


def form(question: str, answer: str, evidence: str) -> str:
    return f"Question: {question}\nAnswer: {answer}\nEvidence: {evidence}"


PRICE = form("For how much did Oswin Hale sell the mill?", "ninety crowns", SOLD)
HOUSE = form("What had Marta Quill kept?", "an inn", INN)
BUYER = form("To whom did the miller Oswin Hale give up the mill?", "a widow", SOLD)
MONTH = form("In which month did Oswin Hale get rid of the mill at Farley?", "May", SOLD)
ANSWERS = {"For how much": "ninety crowns", "kept": "It was an inn.", "To whom": "a widow", "which month": "May"}


def split_of(form: str) -> str:
    question = form.splitlines()[0].removeprefix("Question: ")
    return next(split for split in ("train", "eval") if in_split(question, split))


def scripted(*proposals: str, known: str = "", lost: str = "") -> Reply:
    """A model that proposes these; it answers with the text at hand, unless `lost`, and without it what is `known`."""

    def reply(messages: list[dict[str, str]], n: int) -> list[str]:
        content = messages[-1]["content"]
        if n > 1:
            assert "Oswin Hale\nsold" in content
            return list(proposals)
        text, _, question = content.rpartition("The wheel turned again in June.")
        word = next(word for word in ANSWERS if word in question)
        has_text = bool(text)
        return [ANSWERS[word] if (has_text and word != lost) or word == known else "I do not know."]

    return reply


def study(split: str, *proposals: str, n: int = 10, rounds: int = 1, **model: str) -> tuple[list[Item], dict[str, int]]:
    items, tally = SelfStudy(scripted(*proposals, **model), rounds=rounds).study(DOCUMENT, n, split, Random(0))
    return items, dict(tally)


DOCUMENT = Document("mill", TEXT)


def test_what_holds_up_is_kept_with_its_place() -> None:
    (item,), tally = study(split_of(PRICE), PRICE)
    assert tally == {"kept": 1}
    assert (item.kind, item.answer) == ("self_study", "ninety crowns")
    assert " ".join(DOCUMENT.text[slice(*item.evidence[0])].split()) == SOLD  # though a line ends within it
    assert right(item, item.answer) and not right(item, "a widow")
    assert coverage(DOCUMENT, [item]).covered == 1


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("What did he sell?", "not in form"),
        (form("What did Oswin Hale sell?", "the mill", "The mill at Farley was sold."), "evidence not in the text"),
        (form("What did Oswin Hale sell?", "the mill", SOLD), "answer not in the evidence"),
        (form("Did Oswin Hale own ten crowns?", "ten crown", SOLD), "answer not in the evidence"),
        (form("Is it so that Oswin Hale had no mill?", "No", "Nobody knew her."), "answer not in the evidence"),
        (form("To whom did Oswin Hale sell?", "a", SOLD), "trivial answer"),
        (form("What had Marta Quill kept, an inn or a mill?", "an inn", INN), "answer in the question"),
        (form("What had she kept?", "an inn", INN), "names no referent"),
        (form("What does the text say Marta Quill kept?", "an inn", INN), "names no referent"),
    ],
)
def test_filters_of_a_proposal(reply: str, why: str) -> None:
    assert proposal("self_study", DOCUMENT, (0, len(TEXT)), reply) == why


def test_evidence_beyond_the_chunk_does_not_count() -> None:
    assert proposal("self_study", DOCUMENT, (0, 60), HOUSE) == "evidence not in the text"


def test_what_the_model_knows_anyway_or_cannot_find_is_dropped() -> None:
    split = split_of(PRICE)
    assert study(split, PRICE, known="For how much") == ([], {"right without the text": 1})
    assert study(split, PRICE, lost="For how much") == ([], {"wrong with the text": 1})


def test_a_bare_question_is_completed_where_one_sentence_holds_the_answer() -> None:
    bare = PRICE.splitlines()[0]
    split = split_of(PRICE)
    (item,), tally = study(split, bare)
    assert tally == {"kept": 1} and item == study(split, PRICE)[0][0]
    assert study(split, bare, lost="For how much") == ([], {"not in form": 1})  # "I do not know." stands nowhere
    everywhere = Document("mill", TEXT + " They were ninety crowns indeed.")
    assert SelfStudy(scripted(bare), rounds=1).study(everywhere, 5, split, Random(0))[1] == {"not in form": 1}


def test_duplicates_and_more_than_enough_of_one_sentence_are_dropped() -> None:
    split = split_of(PRICE)
    again = PRICE.replace("For how much did", "So for how much did")
    near = next(text for text in (again, again.replace("So", "And"), again.replace("So", "Now"), again.replace("So", "Oh"))
                if split_of(text) == split)  # fmt: skip
    kept, tally = study(split, PRICE, near)
    assert len(kept) == 1 and tally == {"kept": 1, "duplicate": 1}
    same = (PRICE, BUYER, MONTH)
    for text in same:
        model = SelfStudy(scripted(*same), per_sentence=1, rounds=1)
        kept, tally = model.study(DOCUMENT, 10, split_of(text), Random(0))
        assert len(kept) == 1
        mine = [other for other in same if split_of(other) == split_of(text)]
        assert tally["sentence asked about enough"] == len(mine) - 1


def test_every_question_belongs_to_one_split() -> None:
    forms = (PRICE, HOUSE, BUYER, MONTH)
    asked = {split: {item.question for item in study(split, *forms)[0]} for split in ("train", "eval")}
    assert not asked["train"] & asked["eval"]
    assert len(asked["train"] | asked["eval"]) == 4
    tally = study("train", *forms)[1]
    assert tally["of split eval"] == len(asked["eval"])


def test_no_more_than_asked_for_and_all_counted() -> None:
    split = split_of(PRICE)
    assert study(split, PRICE, HOUSE, BUYER, n=0) == ([], {})
    items, tally = study(split, PRICE, "nonsense", rounds=3)
    assert len(items) == 1 and sum(tally.values()) == 6
    assert SelfStudy(scripted(PRICE)).items(DOCUMENT, 1, 0, split) == items


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("Where did Marta Quill keep an inn?", True),
        ("Where did Marta Quill keep her inn?", True),
        ("What happened in 1814?", True),
        ("Where did she keep an inn when Marta Quill came?", False),
        ("Who kept an inn?", False),
        ("Who kept an inn according to Marta?", False),
        ("What does this passage say of Marta Quill?", False),
    ],
)
def test_a_question_names_its_referent(question: str, named: bool) -> None:
    assert names_referent(question) is named


def test_likeness_is_jaccard_of_ngrams() -> None:
    one, two = (Item("s", question, "x", ()) for question in ("a b c", "a b d"))  # ab bc cx; ab bd dx
    assert alike(one, one) == 1 and alike(one, two) == 1 / 5


def test_chunks_are_whole_sentences_that_cover_the_document() -> None:
    sentences = [f"Sentence {at} {'is long and ' * (at % 40)}ends here." for at in range(300)]
    document = Document("d", " ".join(sentences))
    made = sorted(chunks(document, Random(0)))
    assert [made[0][0], made[-1][1]] == [0, len(document.text)]
    starts, ends = zip(*document.sentences, strict=True)
    for (start, end), (following, _) in zip(made, [*made[1:], (len(document.text) + 1, 0)], strict=True):
        assert start in starts and end in ends and following == end + 1
        assert end - start <= CHUNK_CHARACTERS
        assert sum(start <= at < end for at in starts) <= CHUNK_SENTENCES
    assert list(chunks(document, Random(0))) != made  # shuffled
    assert list(chunks(Document("d", "x " * 9000), Random(0))) == [(0, 2 * CHUNK_CHARACTERS)]


def test_a_local_model_replies_the_same_again() -> None:
    reply = local(tiny_model(), tiny_tokenizer(), max_new_tokens=6)
    messages = [{"role": "user", "content": "hello"}]
    drawn, (greedy,) = reply(messages, 3), reply(messages, 1)
    assert len(drawn) == 3 and len(set(drawn)) > 1
    torch.manual_seed(99)  # what was drawn elsewhere changes nothing here, and nothing here changes that
    state = torch.get_rng_state()
    assert reply(messages, 3) == drawn and reply(messages, 1) == [greedy]
    assert torch.equal(torch.get_rng_state(), state)
    assert reply([{"role": "user", "content": "hello!"}], 3) != drawn


def test_an_endpoint_is_asked_as_a_local_model_is() -> None:
    split = split_of(PRICE)
    model = scripted(PRICE, HOUSE)

    def reply(body: dict[str, Any], _: int) -> list[Any]:
        n = body.get("n", 1)
        return [choice(text) for text in (model(body["messages"], n) * n)[:n]]

    server = ChatServer(reply)
    with server.running():
        items = SelfStudy(endpoint(server.url, "m", "secret"), rounds=1).items(DOCUMENT, 5, 0, split)
    assert items == SelfStudy(model, rounds=1).items(DOCUMENT, 5, 0, split)
    assert server.keys == {"Bearer secret"}
    assert [(body["n"], body["temperature"] > 0) for body in server.requests][:2] == [(4, True), (1, False)]


def test_an_endpoint_that_refuses_gives_one_line_without_the_key() -> None:
    with (
        ChatServer(lambda *_: web.Response(status=401)).running() as server,
        pytest.raises(LongthreadError, match=r"^http://127[^\n]+HTTP 401; set LONGTHREAD_API_KEY[^\n]+$") as caught,
    ):
        endpoint(server.url, "m", "secret")([{"role": "user", "content": "hello"}], 1)
    assert "secret" not in str(caught.value)
    with ChatServer(said(None)).running() as server:
        assert endpoint(server.url, "m", "k")([{"role": "user", "content": "hello"}], 2) == ["", ""]
