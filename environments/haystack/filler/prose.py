"""Endless, seeded, fictional English prose: the default filler of a haystack.

    python -m environments.haystack.filler.prose [--seed 0] [--split train] [--mode coherent]    # a sample and its statistics

A passage stands alone: a topic, a place, two to four named people with roles, past tense, paragraphs that go from
setting over action and complication to reflection. Sentences grow from a grammar (`grammar.py`);
every choice draws from a shuffled deck, without replacement until the deck is empty, so phrases come back as late as
they can. Only `Random.random()` is used, whose values are the same on every machine and Python version.
"""

from __future__ import annotations

import argparse
import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, islice, product
from random import Random
from typing import TypeVar

from environments.haystack.filler.grammar import Choice, Node, Slot, grammar
from environments.haystack.filler.prose_grammar import FAMILIES, MEN, MIDDLES, ONSETS, PLACES, WOMEN
from environments.haystack.wording import capitalised

T = TypeVar("T")
Passage = list[list[str]]  # paragraphs, each a list of sentences

SPLITS = tuple(ONSETS)
MODES = ("coherent", "shuffled")
WORDS = (180, 260)  # the words a passage aims at; the last sentence of each paragraph goes beyond its share
FOCUS = {
    "trouble": 3,
    "matter": 4,
    "thing": 7,
    "things": 6,
    "loc": 7,
}  # how many of a topic's items a passage dwells on
SENTENCES = (3, 7)  # in a paragraph
SHUFFLE_WINDOW = 16  # passages whose sentences are mixed in the mode "shuffled"
NO_REPEAT_WORDS = 1_000_000  # no sentence comes twice within so many words


# ---- names ------------------------------------------------------------------------------------------------------


@cache
def _names(split: str) -> frozenset[str]:
    endings = f"{WOMEN} {MEN} {FAMILIES} {PLACES}".split()
    return frozenset(map("".join, product(ONSETS[split].split(), MIDDLES.split(), endings)))


def is_name(word: str, split: str) -> bool:
    """Return True when `word` can stand in the prose of `split` as the name of a person or a place."""
    _check("split", split, SPLITS)
    return word in _names(split)


def _check(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"unknown prose {what} {value!r}: use one of {', '.join(allowed)}")


# ---- writing ----------------------------------------------------------------------------------------------------

FEMALE = re.compile(r"wife|woman|lady|mistress|matron|widow|daughter|girl|maid|laundress|soprano|alto")
MALE = re.compile(r"man\b|master|boy|parson|chaplain|canon|bass |verger|abbot|bargee|king")
PRONOUNS = {
    True: {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    False: {"he": "he", "him": "him", "his": "his", "himself": "himself"},
}
GAP = re.compile(r" (?=[,.?!])")  # left by an empty alternative
ARTICLE = re.compile(r"(?<=\ba)@(?= (?:[aeio]|u[^n]|un[^i]|hour|honest))", re.IGNORECASE)


class Person:
    """One character of a passage; `mention` is how sentences call them: by a full introduction, then by their name."""

    __slots__ = ("female", "name", "introduction", "mention")

    def __init__(self, name: str, family: str, role: str, female: bool) -> None:
        self.name, self.female = name, female
        self.introduction = f"{name} {family}, the {role},"
        self.mention = self.introduction


class Writer:
    """Writes the passages of one stream; keeps its decks of phrases, the characters, and the sentences written of late."""

    def __init__(self, seed: int, split: str) -> None:
        self.random = Random(f"prose/{split}/{seed}").random
        self.general, self.topics = grammar()
        self.focus = {name: Choice([], Choice.total + number) for number, name in enumerate(FOCUS)}
        self.decks: list[list[Node]] = [[] for _ in range(Choice.total + len(FOCUS))]
        self.topic_deck: list[str] = []
        self.onsets, self.middles = ONSETS[split].split(), MIDDLES.split()
        self.env: dict[str, Node] = {}
        self.cast: list[Person] = []
        self.places: list[str] = []
        self.absent: list[str] = []
        self.subject: Person | None = None  # whom a pronoun would mean in the next sentence
        self.seen: set[int] = set()  # crc32 of sentences: the same in every process, unlike hash()
        self.seen_before: set[int] = set()
        self.words = 0

    def pick(self, items: list[T]) -> T:
        """Return one of the items, each with the same probability."""
        return items[int(self.random() * len(items))]

    def draw(self, deck: list[T], options: list[T]) -> T:
        """Take the next card off a deck and return it; an empty deck is first refilled with `options` and shuffled."""
        if not deck:
            deck.extend(options)
            shuffle(deck, self.random)
        return deck.pop()

    def expand(self, node: Node) -> str:
        """Return the text of a node of the grammar: its symbols are looked up, its alternatives drawn."""
        while True:
            kind = type(node)
            if kind is str:
                return node  # type: ignore[return-value]
            if kind is Slot:
                node = self.env[node]  # type: ignore[index]
            elif kind is Choice:
                deck = self.decks[node.number]  # type: ignore[union-attr]
                node = deck.pop() if deck else self.draw(deck, node.options)  # type: ignore
            else:
                expand = self.expand
                return "".join([part if type(part) is str else expand(part) for part in node])  # type: ignore

    def name(self, endings: list[str]) -> str:
        """Return an invented name that ends in one of the endings."""
        return f"{self.pick(self.onsets)}{self.pick(self.middles)}{self.pick(endings)}"

    def new_passage(self) -> None:
        """Choose the topic, the places and the characters of the next passage."""
        topic = self.draw(self.topic_deck, list(self.topics))
        self.env = self.general | self.topics[topic]
        for name, size in FOCUS.items():
            few, every = self.focus[name], self.env[name]
            assert isinstance(every, Choice)
            few.options = [self.draw(self.decks[every.number], every.options) for _ in range(size)]
            self.decks[few.number].clear()
            self.env[name] = few
        self.places = [self.name(PLACES.split()) for _ in range(4)]
        self.env["town"] = self.places.pop()
        roles: list[str] = []
        while len(roles) < 2 + int(self.random() * 3):
            role = self.expand(Slot("role"))
            if role not in roles:
                roles.append(role)
        self.cast = []
        for role in roles:
            female = bool(FEMALE.search(role) or (not MALE.search(role) and self.random() < 0.5))
            self.cast.append(
                Person(self.name((WOMEN if female else MEN).split()), self.name(FAMILIES.split()), role, female)
            )
        self.absent = [f"{self.name((WOMEN, MEN)[n].split())} {self.name(FAMILIES.split())}" for n in (0, 1)]
        self.subject = None

    def sentence(self, kind: str) -> str:
        """Return a sentence of that kind not written of late; note who was named and whom a pronoun may mean next."""
        for attempt in range(1000):
            subject = self.subject if self.subject and self.random() < 0.7 else self.pick(self.cast)
            other = self.pick([person for person in self.cast if person is not subject])
            pronoun = PRONOUNS[subject.female]
            named = subject is not self.subject or kind in ("ask", "close", "scene", "opening") or self.random() < 0.25
            self.env.update(
                pronoun,
                S=subject.mention if named else pronoun["he"],
                N=subject.mention,
                O=other.mention,
                elsewhere=self.pick(self.places),
                absent=self.pick(self.absent),
            )
            unknown = kind in ("deed", "brief") and subject.mention is subject.introduction
            text = finish(
                self.expand(self.env["intro" if unknown else kind if attempt < 20 else "deed"]), (subject, other)
            )
            check = zlib.crc32(text.encode())
            if check not in self.seen and check not in self.seen_before:
                break
        else:
            raise RuntimeError(f"no new {kind!r} sentence in 1000 draws: enlarge the grammar of prose_grammar.py")
        self.seen.add(check)
        self.words += text.count(" ") + 1
        if self.words >= NO_REPEAT_WORDS:
            self.seen, self.seen_before, self.words = set(), self.seen, 0
        for person in (subject, other):
            if person.name in text:
                person.mention = person.name
        he = pronoun["he"]
        clear = subject.name in text or f" {he} " in text or text.startswith(f"{he.capitalize()} ")
        self.subject = subject if clear and (other.female != subject.female or other.name not in text) else None
        return text

    def passage(self) -> Passage:
        """Return a new passage: three to five paragraphs about the same people and the same topic."""
        self.new_passage()
        count = 3 + int(self.random() * 3)
        plans = {3: ("setting", "complication", "reflection"), 4: ("setting", "action", "complication", "reflection")}
        budget = WORDS[0] + self.random() * (WORDS[1] - WORDS[0])
        paragraphs: Passage = []
        for plan in plans.get(count, ("setting", "action", "dealings", "complication", "reflection")):
            paragraphs.append(self.paragraph(plan, budget / count))
        return paragraphs

    def paragraph(self, plan: str, budget: float) -> list[str]:
        """Return three to seven sentences: one that fits the plan, others of mixed kinds, and a close in "reflection"."""
        self.subject = None
        first = {"setting": "opening", "complication": "snag", "reflection": "thought"}.get(plan, "deed")
        sentences = [self.sentence(first)]
        words = sentences[0].count(" ") + 1
        last = SENTENCES[1] - (plan == "reflection")
        while len(sentences) < last and (len(sentences) < SENTENCES[0] - (plan == "reflection") or words < budget):
            sentences.append(self.sentence(self.expand(self.env[plan])))
            words += sentences[-1].count(" ") + 1
        if plan == "reflection":
            sentences.append(self.sentence("close"))
        return sentences


def finish(text: str, people: tuple[Person, Person]) -> str:
    """Return the sentence with spaces, commas, articles and the capital put right; nobody is introduced twice in it."""
    for person in people:
        if person.mention is person.introduction and text.count(person.introduction) > 1:
            head, tail = text.split(person.introduction, 1)
            text = head + person.introduction + tail.replace(person.introduction, person.name)
    text = " ".join(text.split())
    if "@" in text:
        text = ARTICLE.sub("n", text).replace("@", "")
    text = GAP.sub("", text).replace(",,", ",")
    if text[-2] == ",":  # an introduction at the end: "the mason,." or "the mason,?"
        text = text[:-2] + text[-1]
    return capitalised(text)


def shuffle(items: list[T], random: Callable[[], float]) -> None:
    """Shuffle the list in place, by `random()` alone: `Random.shuffle` may change between Python versions."""
    for i in range(len(items) - 1, 0, -1):
        j = int(random() * (i + 1))
        items[i], items[j] = items[j], items[i]


def passages(seed: int, split: str, mode: str = "coherent") -> Iterator[Passage]:
    """Yield endless passages; the same arguments give the same stream, byte for byte.

    `split` ("train", "eval") picks the names: the two share none. `mode` "shuffled" holds the sentences of the coherent
    stream, mixed among 16 passages at a time and regrouped to the same shapes (shuffled haystacks are easier: Chroma,
    "Context Rot"). ASCII without digits and brackets; no sentence comes twice within a million words.
    """
    _check("split", split, SPLITS)
    _check("mode", mode, MODES)
    writer = Writer(seed, split)
    stream = iter(writer.passage, None)
    return stream if mode == "coherent" else shuffled(stream, seed)


def shuffled(source: Iterable[Passage], seed: int) -> Iterator[Passage]:
    """Yield the passages of any source with their sentences mixed, 16 passages at a time.

    Paragraphs keep their number of sentences.
    """
    stream, random = iter(source), Random(f"shuffled/{seed}").random
    while window := list(islice(stream, SHUFFLE_WINDOW)):
        sentences = [sentence for passage in window for paragraph in passage for sentence in paragraph]
        shuffle(sentences, random)
        mixed = iter(sentences)
        for passage in window:
            yield [list(islice(mixed, len(paragraph))) for paragraph in passage]


# ---- statistics -------------------------------------------------------------------------------------------------


def join(passage: Passage) -> str:
    """Return a passage as text: sentences joined by a space, paragraphs by an empty line."""
    return "\n\n".join(" ".join(paragraph) for paragraph in passage)


def statistics(text: str) -> dict[str, float]:
    """Return five measures of how rich a text is. Compare texts of equal length: the other four change with it.

    words; type_token_ratio (distinct words / words, in lower case); repeated_5grams (share of 5-grams which occurred
    before); gzip_ratio (compressed / raw bytes); sentence_words (mean words per sentence).
    """
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())
    if not words:
        raise ValueError("a text without a word cannot be measured: give at least one word")
    grams = list(zip(*(words[i:] for i in range(5)), strict=False))
    raw = " ".join(text.split()).encode()
    sentences = len(re.findall(r"[.?!]+['\"]?(?=\s|$)", text)) or 1
    return {
        "words": len(words),
        "type_token_ratio": len(set(words)) / len(words),
        "repeated_5grams": 1 - len(set(grams)) / len(grams) if grams else 0.0,
        "gzip_ratio": len(gzip.compress(raw, 9, mtime=0)) / len(raw),
        "sentence_words": len(words) / sentences,
    }


def sample(words: int, seed: int = 0, split: str = "train", mode: str = "coherent") -> str:
    """Return the first `words` words of a stream, as text."""
    texts: list[str] = []
    count = 0
    for text in map(join, passages(seed, split, mode)):
        texts.append(text)
        count += len(text.split())
        if count >= words:
            break
    return " ".join(list(chain.from_iterable(text.split() for text in texts))[:words])


def main() -> None:
    """Print a sample of the prose, or its statistics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--mode", default="coherent", choices=MODES)
    args = parser.parse_args()
    print(join(next(passages(args.seed, args.split, args.mode))), end="\n\n")
    for name, value in statistics(sample(20_000, args.seed, args.split, args.mode)).items():
        print(f"{name:18}{value:10.3f}")


if __name__ == "__main__":
    main()
