"""Other text, on which a model is to stay as it was: fiction, and questions that are not about the document, with the base
model's own replies; or a model that is taught nothing but a document's answers gives them to everything."""

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random
from typing import Any

from environments.haystack.facts import BY_KIND, WORDS, Fact, draw_entity, draw_value, state
from environments.haystack.filler import prose
from lift.document.segments import IGNORED
from lift.inference.generate import answers, chat, ends
from lift.training.batches import LONG, WIDTHS, Row

PROSE_KEPT = 256  # tokens of a row, its last
REPLY_TOKENS = 24
SENTENCES = (2, 40)  # around a fact, in a text that is asked about: up to some 900 tokens
DRAWS = 4  # prompts drawn for each that is to be short enough


def prose_rows(tokenizer: Any, rows: int, seed: int) -> list[Row]:
    """Fiction in rows of `PROSE_KEPT` tokens and two, three, four times as many: all places up to `LONG` are kept alike."""
    story = (
        tokenizer(prose.join(passage) + "\n\n", add_special_tokens=False)["input_ids"]
        for passage in prose.passages(1_000_000 + seed, "train")
    )
    parts = islice(_parts(story, cycle(range(PROSE_KEPT, LONG + 1, PROSE_KEPT))), rows)
    return [Row(ids, [IGNORED] * len(ids), kept=PROSE_KEPT) for ids in parts]


def _parts(texts: Iterator[list[int]], lengths: Iterator[int]) -> Iterator[list[int]]:
    held: list[int] = []
    for length in lengths:
        while len(held) < length:
            held += next(texts)
        yield held[:length]
        held = held[length:]


def talk_rows(model: Any, tokenizer: Any, rows: int, seed: int) -> list[Row]:
    """Questions, half of them about a sentence or two, with the replies of the model, as it is, which are kept."""
    rng = Random(f"talk {seed}")
    general = _short(_general(tokenizer, rng), rows - rows // 2, WIDTHS[0])
    return _replied(model, tokenizer, general + _short(_stranger(tokenizer, rng, (0, 1)), rows // 2, WIDTHS[0]))


def reading_rows(model: Any, tokenizer: Any, rows: int, seed: int) -> list[Row]:
    """Questions about a text that fills the window, with the replies of the model, as it is, which are kept."""
    prompts = _stranger(tokenizer, Random(f"reading {seed}"), SENTENCES)
    return _replied(model, tokenizer, _short(prompts, rows, LONG))


def _replied(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[Row]:
    stop = ends(model, tokenizer)[:1]
    made = []
    for prompt, reply in zip(prompts, answers(model, tokenizer, prompts, REPLY_TOKENS), strict=True):
        ids = [*prompt, *tokenizer(reply, add_special_tokens=False)["input_ids"][:REPLY_TOKENS], *stop]
        made.append(Row(ids, [IGNORED] * len(ids), kept=min(REPLY_TOKENS, len(ids))))
    return made


def _short(prompts: Iterator[list[int]], count: int, width: int) -> list[list[int]]:
    """Those first that leave a reply room in the width."""
    short: list[list[int]] = []
    longer: list[list[int]] = []
    for prompt in islice(prompts, DRAWS * count):
        (short if len(prompt) + REPLY_TOKENS + 1 <= width else longer).append(prompt)
        if len(short) == count:
            break
    return (short + longer)[:count]


GENERAL = (
    ("sums", lambda rng: f"What is {rng.randrange(2, 60)} plus {rng.randrange(2, 60)}?"),
    ("numbers", lambda rng: f"Which number comes after {rng.randrange(10, 1000)}?"),
    ("words", lambda rng: f"Use the word {rng.choice(WORDS)} in a sentence."),
    ("spelling", lambda rng: f"With which letter does the word {rng.choice(WORDS)} begin?"),
    ("rhymes", lambda rng: f"Name a word that rhymes with {rng.choice(WORDS)}."),
    ("everyday things", lambda rng: f"What is {rng.choice(WORDS)} used for?"),
    ("kinds of things", lambda rng: f"What kind of thing is {rng.choice(WORDS)}?"),
    ("languages", lambda rng: f"What is the French word for {rng.choice(WORDS)}?"),
    ("the world", lambda rng: f"Where would one find {rng.choice(WORDS)}?"),
    ("trade", lambda rng: f"Which country is known for {rng.choice(WORDS)}?"),
    ("work", lambda rng: f"Who needs {rng.choice(WORDS)} at work?"),
    ("stories", lambda rng: f"What could a story about {rng.choice(WORDS)} be called?"),
)


def _general(tokenizer: Any, rng: Random) -> Iterator[list[int]]:
    while True:
        name, ask = rng.choice(GENERAL)
        yield chat(tokenizer, name, ask(rng))


def _stranger(tokenizer: Any, rng: Random, around: tuple[int, int]) -> Iterator[list[int]]:
    """About another text, which stands in the window: a fact and, around it, so many sentences."""
    stories = prose.passages(rng.randrange(10**9), "train")
    sentences = (sentence for story in stories for paragraph in story for sentence in paragraph)
    while True:
        kind = rng.choice(sorted(BY_KIND))
        fact = Fact(draw_entity("train", False, rng), BY_KIND[kind].name, draw_value(kind, "train", rng))
        told = list(islice(sentences, rng.randint(*around)))
        told.insert(rng.randint(0, len(told)), state(fact, False, rng))
        question = BY_KIND[kind].asked.format(e=fact.entity.asked, s="", is_="is")
        yield chat(tokenizer, f"letter {rng.randrange(1000)}", question, " ".join(told))
