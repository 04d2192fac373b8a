"""Generate documents with known facts, and material to compare with: neutral text, general questions, another document.

    document, facts = generate(load_tokenizer("..."), 8192, seed=0)

A document is fiction by `environments.haystack.filler.prose` with 16 single facts, one in each sixteenth of its tokens, and
4 chains of two facts. Its first and its last sentence are facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random
from typing import NamedTuple, TypeVar

import numpy as np

from environments.haystack.facts import BY_KIND, RELATION, Fact, draw_values, state
from environments.haystack.filler import prose
from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, lay_out
from environments.haystack.sample import Options
from environments.haystack.tasks.linked_wordings import LINKS, Link
from environments.haystack.tasks.task import Draw
from environments.haystack.tokens import Tokens
from environments.haystack.wording import sentence
from lift.document.document import Document, Span
from lift.document.token_spans import TokenSpans
from lift.tasks.items import Item
from longthread.errors import ConfigError
from longthread.language_model import ChatTokenizer

SPLIT = "eval"  # of people, values and prose: none of them stands in anything that a model is trained on elsewhere
SINGLES, CHAINS = 16, 4
KINDS = ("numbers", "words") * 7 + ("names", "dates")  # mostly short: the reply of a small model
CHAIN_KINDS = ("numbers", "words") * 2
TOLERANCE = 0.01  # of the tokens asked for
MARGIN = 0.3  # of its stratum that a fact keeps from each border, as it moves to the end of a sentence
ENOUGH, ENOUGH_DRAWS, ENOUGH_STEP = 2.5, 8, 256  # above the 2 that are required: drafts differ in length
OTHER_TOKENS = 2048  # of another document to set against one, or more where its facts take more
TRIES = 40  # layouts, until every fact stands in its stratum
NEUTRAL_PASSAGES = 5  # some 400 tokens each
NEUTRAL_SEED = 1_000_000  # a stream of prose that no document is cut from

T = TypeVar("T")


@dataclass(frozen=True)
class PlantedFact:
    """A fact as it stands in the document. `kind`: "single", or "two-hop": the first sentence leads to the second."""

    kind: str
    sentences: tuple[str, ...]
    spans: tuple[Span, ...]  # characters of each sentence in the text
    depths: tuple[float, ...]  # of each: the share of all other tokens that stand before it; 0 is the start, 1 the end
    people: tuple[str, ...]
    question: str  # shares no content word with the sentences
    answer: str


class DocumentQuestions(NamedTuple):
    """A document with questions about it."""

    document: Document
    items: Sequence[Item]


@dataclass(frozen=True)
class ControlSet:
    """Material unrelated to a memory's document.

    Neutral text, questions of general knowledge, and another document with its questions.
    """

    neutral: str
    unrelated: Sequence[Item]
    other: DocumentQuestions


def generate(tokenizer: ChatTokenizer, tokens: int, seed: int) -> tuple[Document, list[PlantedFact]]:
    """Return a document of `tokens` tokens within 1 %, and its facts: the singles in order of depth, then the chains.

    No value occurs twice. A person occurs in two facts only to join a chain. Raises `ConfigError` if the document is too
    short for its facts, naming a length that is not.
    """
    rng = Random(f"lift document {tokens} {seed}")
    counter = Tokens(tokenizer)
    pool = Pool(counter, prose.passages(seed, SPLIT), 2 * tokens)
    budget = tokens
    for _ in range(TRIES):
        drafts = draft_facts(rng)
        texts = [text for draft in drafts for text in draft.sentences]
        strata = [*range(SINGLES), *rng.sample(range(2 * CHAINS), 2 * CHAINS)]
        costs = np.array(counter.mid(texts))
        if 2 * costs.sum() > tokens:
            raise ConfigError(
                f"a document of {tokens} tokens is too short for {costs.sum()} tokens of facts: "
                f"ask for {enough(tokenizer)}"
            )
        laid = lay_out(pool, Hidden(texts, _places(strata, costs, tokens, rng)), budget, rng)
        in_tokens = TokenSpans(laid.text, *counter.offsets(laid.text))
        count = len(in_tokens.ids)
        budget += tokens - count  # the blank line behind it; more where the tokenizer's counts do not add up
        if abs(count - tokens) > TOLERANCE * tokens:
            continue
        spans = [(int(at), int(at) + len(text)) for at, text in zip(laid.chars, texts, strict=True)]
        depths = [in_tokens.depth(span) for span in spans]
        in_strata = all(int(depth * SINGLES) in (k, k + (depth == 1)) for k, depth in enumerate(depths[:SINGLES]))
        if in_strata and all(draft.stands_once(laid.text) for draft in drafts):
            return Document(f"chronicle-{tokens}-{seed}", laid.text), planted(drafts, spans, depths)
    raise ConfigError(f"no document of {tokens} tokens came out in {TRIES} tries: ask for more tokens")


def enough(tokenizer: ChatTokenizer) -> int:
    """Return a number of tokens that is enough for the facts, whichever are drawn.

    Tokenizers of bytes need thousands more.
    """
    counter, rng = Tokens(tokenizer), Random("lift document enough")
    drawn = ([text for draft in draft_facts(rng) for text in draft.sentences] for _ in range(ENOUGH_DRAWS))
    return ENOUGH_STEP * -(-int(ENOUGH * max(sum(counter.mid(texts)) for texts in drawn)) // ENOUGH_STEP)


def items(facts: Sequence[PlantedFact]) -> list[Item]:
    """Turn planted facts into questions of kind "needle" for single facts and kind "linked" for chains of two."""
    kinds = {"single": "needle", "two-hop": "linked"}
    return [Item(kinds[fact.kind], fact.question, fact.answer, fact.spans) for fact in facts]


def passage_with_facts(seed: int, facts: int) -> DocumentQuestions:
    """Return one passage of prose, some 500 tokens, with single facts of as many people, and a question about each."""
    rng = Random(f"lift passage {seed}")
    draw, sentences = Draw(Options(), SPLIT, rng), next(prose.passages(seed, SPLIT))
    kinds = rng.sample(KINDS, facts)
    values = {kind: draw_values(kind, kinds.count(kind), SPLIT, rng) for kind in sorted(set(kinds))}
    drafts = [_draft(draw, kind, values[kind].pop(), None) for kind in kinds]
    for draft in drafts:
        paragraph = rng.choice(sentences)
        paragraph.insert(rng.randint(0, len(paragraph)), *draft.sentences)
    questions = [Item("needle", draft.question, draft.answer, ()) for draft in drafts]
    return DocumentQuestions(Document(f"passage-{seed}", prose.join(sentences)), questions)


@dataclass(frozen=True)
class FactDraft:
    """A fact that is not planted yet: its sentences, the people in it, and the question about it with its answer."""

    sentences: tuple[str, ...]
    people: tuple[str, ...]
    question: str
    answer: str

    def stands_once(self, text: str) -> bool:
        """Return whether the text names the answer once, and the people in this fact alone."""
        stated = " ".join(self.sentences)
        return text.count(self.answer) == 1 and all(text.count(name) == stated.count(name) for name in self.people)


def draft_facts(rng: Random, singles: int = SINGLES, chains: int = CHAINS) -> list[FactDraft]:
    """Draw single facts and chains of two, each about other people; the singles come first. No value is drawn twice."""
    draw = Draw(Options(), SPLIT, rng)
    kinds = rng.sample(_repeated(KINDS, singles), singles) + _repeated(CHAIN_KINDS, chains)[:chains]
    values = {kind: draw_values(kind, kinds.count(kind), SPLIT, rng) for kind in sorted(set(kinds))}
    links = rng.sample(_repeated(LINKS, chains), chains)
    return [
        _draft(draw, kind, values[kind].pop(), links[i - singles] if i >= singles else None)
        for i, kind in enumerate(kinds)
    ]


def _repeated(each: Sequence[T], least: int) -> list[T]:
    """Return the sequence as often as gives `least` of them, at least once."""
    return list(each) * max(1, -(-least // len(each)))


def _draft(draw: Draw, kind: str, value: str, link: Link | None) -> FactDraft:
    """Draw a fact of a new person, and with `link` a second new person who is linked to the first."""
    relation, owner = BY_KIND[kind].name, draw.person()
    sentences, people, described = [state(Fact(owner, relation, value), False, draw.rng)], [owner.told], owner.asked
    if link:
        head = draw.person()
        sentences.insert(0, sentence(draw.rng.choice(link.told), e=head.told, v=owner.told))
        people.insert(0, head.told)
        described = link.asked_gap.format(x=head.asked)
    question = RELATION[relation].asked_gap.format(e=described, s="", is_="is")
    return FactDraft(tuple(sentences), tuple(people), question, value)


def _places(strata: list[int], costs: np.ndarray, tokens: int, rng: Random) -> list[float]:
    """Return for each sentence the share of the filler to put before it, so that it stands in its stratum of all
    tokens."""
    n = np.array([SINGLES] * SINGLES + [2 * CHAINS] * 2 * CHAINS)
    within = np.array([rng.uniform(MARGIN, 1 - MARGIN) for _ in strata])
    depths = (np.array(strata) + within) / n
    depths[[0, SINGLES - 1]] = 0, 1
    order = np.argsort(depths)
    before = np.zeros(len(costs))
    before[order] = np.cumsum(costs[order]) - costs[order]
    shares = (depths * (tokens - costs) - before) / (tokens - costs.sum())
    shares = shares.clip(1e-6, 1 - 1e-6)  # 0 and 1 are paragraphs of their own: the first sentence and the last
    shares[[0, SINGLES - 1]] = 0, 1
    return shares.tolist()


def planted(drafts: Sequence[FactDraft], spans: Sequence[Span], depths: Sequence[float]) -> list[PlantedFact]:
    """Return the facts with the places of their sentences, which are given in the order of the drafts' sentences."""
    facts: list[PlantedFact] = []
    at = 0
    for draft in drafts:
        n = len(draft.sentences)
        kind = "single" if n == 1 else "two-hop"
        where = tuple(spans[at : at + n]), tuple(depths[at : at + n])
        facts.append(PlantedFact(kind, draft.sentences, *where, draft.people, draft.question, draft.answer))
        at += n
    return facts


@cache
def neutral(split: str) -> str:
    """Return some 2,000 tokens of other fiction by the same generator, without facts. `split`: "train" or "eval"."""
    return "\n\n".join(map(prose.join, islice(prose.passages(NEUTRAL_SEED, split), NEUTRAL_PASSAGES)))


def unrelated() -> list[Item]:
    """Return 40 general questions with short answers, some of which a model of 135M parameters knows."""
    return [
        Item("unrelated", question, right, (), tuple(others))
        for question, right, *others in (line.split(" = ") for line in UNRELATED.strip().splitlines())
    ]


def control_set(tokenizer: ChatTokenizer) -> ControlSet:
    """Return neutral text, general questions, and another document with questions about its facts."""
    other, facts = generate(tokenizer, max(OTHER_TOKENS, enough(tokenizer)), 1)
    return ControlSet(neutral("eval"), unrelated(), DocumentQuestions(other, items(facts)))


UNRELATED = """
What is the capital of France? = Paris
What is the capital of Italy? = Rome
What is the capital of Germany? = Berlin
What is the capital of Spain? = Madrid
What is the capital of Japan? = Tokyo
What is the capital of Russia? = Moscow
What is the capital of Egypt? = Cairo
What is the capital of China? = Beijing = Peking
What is the capital of Greece? = Athens
What is the capital of England? = London
What colour is the sky on a clear day? = Blue
What colour is fresh snow? = White
What colour is grass? = Green
What colour is a ripe banana? = Yellow
What colour is coal? = Black
What colour do red and yellow paint make when mixed? = Orange
What is 2 + 2? = 4 = Four
What is 5 + 3? = 8 = Eight
What is 10 - 4? = 6 = Six
What is 3 times 3? = 9 = Nine
What is 10 times 10? = 100 = One hundred = A hundred
What is half of 20? = 10 = Ten
What is the opposite of hot? = Cold
What is the opposite of up? = Down
What is the opposite of big? = Small = Little
What is the opposite of day? = Night
What is the opposite of left? = Right
What is the opposite of early? = Late
What is the opposite of wet? = Dry
Which planet do we live on? = Earth = The Earth
Which is the largest planet of the solar system? = Jupiter
At how many degrees Celsius does water boil? = 100 = One hundred
How many days are there in a week? = 7 = Seven
How many months are there in a year? = 12 = Twelve
How many legs does a spider have? = 8 = Eight
Who wrote the play Romeo and Juliet? = Shakespeare = William Shakespeare
What is frozen water called? = Ice
Which animal says meow? = Cat = A cat = The cat
What do bees make? = Honey
Which day comes after Monday? = Tuesday
"""
