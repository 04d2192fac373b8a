"""Make rows of other text, on which a model should predict as before.

They are fiction, and questions about other things with the base model's replies.

A model that is only taught a document's answers would give them to every question.
"""

from collections.abc import Iterator
from itertools import cycle, islice
from random import Random

from environments.haystack.facts import BY_KIND, WORDS, Fact, draw_entity, draw_value, state
from environments.haystack.filler import prose
from lift.inference.generate import answers, chat, stop_token_ids
from lift.training.batches import LONG, WIDTHS, RegularizationRow
from longthread.language_model import CausalLM, ChatTokenizer

PROSE_KEPT = 256  # tokens of a row, its last
REPLY_TOKENS = 24
SENTENCES = (2, 40)  # around a fact, in a text that is asked about: up to some 900 tokens
DRAWS = 4  # prompts drawn for each that is to be short enough


def prose_rows(tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of fiction of 1 to 4 times `PROSE_KEPT` tokens, so that positions up to `LONG` are covered alike."""
    stories = (
        tokenizer(prose.join(passage) + "\n\n", add_special_tokens=False)["input_ids"]
        for passage in prose.passages(1_000_000 + seed, "train")
    )
    pieces = _cut(stories, cycle(range(PROSE_KEPT, LONG + 1, PROSE_KEPT)))
    return [RegularizationRow(ids, PROSE_KEPT) for ids in islice(pieces, rows)]


def _cut(stories: Iterator[list[int]], lengths: Iterator[int]) -> Iterator[list[int]]:
    """Yield pieces of these lengths, cut from the joined stories."""
    ids: list[int] = []
    for length in lengths:
        while len(ids) < length:
            ids += next(stories)
        yield ids[:length]
        ids = ids[length:]


def other_prompts(tokenizer: ChatTokenizer, count: int, seed: int) -> list[list[int]]:
    """Return prompts about other things: general questions, and questions about facts of other texts, in turn.

    Of the latter some have their text in the window and some have not.
    """
    rng = Random(f"other prompts {seed}")
    about_text = _prompts_about_text(tokenizer, rng, SENTENCES)
    kinds = cycle((_general_prompts(tokenizer, rng), about_text, _prompts_about_nothing(tokenizer, rng)))
    return [next(kind) for kind in islice(kinds, count)]


def talk_rows(model: CausalLM, tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of short questions with the model's replies, half of them about a sentence or two in the window."""
    rng = Random(f"talk {seed}")
    general = _short(_general_prompts(tokenizer, rng), rows - rows // 2, WIDTHS[0])
    about_text = _short(_prompts_about_text(tokenizer, rng, (0, 1)), rows // 2, WIDTHS[0])
    return _with_replies(model, tokenizer, general + about_text)


def reading_rows(model: CausalLM, tokenizer: ChatTokenizer, rows: int, seed: int) -> list[RegularizationRow]:
    """Return rows of questions with the model's replies, about texts of all lengths in the window.

    A row has up to `LONG` tokens.
    """
    prompts = _prompts_about_text(tokenizer, Random(f"reading {seed}"), SENTENCES)
    return _with_replies(model, tokenizer, _short(prompts, rows, LONG))


def _with_replies(model: CausalLM, tokenizer: ChatTokenizer, prompts: list[list[int]]) -> list[RegularizationRow]:
    stop = stop_token_ids(model, tokenizer)[:1]
    rows = []
    for prompt, reply in zip(prompts, answers(model, tokenizer, prompts, REPLY_TOKENS), strict=True):
        ids = [*prompt, *tokenizer(reply, add_special_tokens=False)["input_ids"][:REPLY_TOKENS], *stop]
        rows.append(RegularizationRow(ids, min(REPLY_TOKENS, len(ids))))
    return rows


def _short(prompts: Iterator[list[int]], count: int, width: int) -> list[list[int]]:
    """Return the first prompts that leave room for a reply within the width, and longer ones if those are too few."""
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


def general_questions(rng: Random, count: int) -> list[str]:
    """Return general questions, which no document answers."""
    return [rng.choice(GENERAL)[1](rng) for _ in range(count)]


def _general_prompts(tokenizer: ChatTokenizer, rng: Random) -> Iterator[list[int]]:
    while True:
        name, question = rng.choice(GENERAL)
        yield chat(tokenizer, name, question(rng))


def _prompts_about_text(tokenizer: ChatTokenizer, rng: Random, around: tuple[int, int]) -> Iterator[list[int]]:
    """Yield questions about a fact in another text, which stands in the window.

    `around` is the range of the number of sentences around the fact.
    """
    stories = prose.passages(rng.randrange(10**9), "train")
    sentences = (sentence for story in stories for paragraph in story for sentence in paragraph)
    while True:
        kind = rng.choice(sorted(BY_KIND))
        fact = Fact(draw_entity("train", False, rng), BY_KIND[kind].name, draw_value(kind, "train", rng))
        text = list(islice(sentences, rng.randint(*around)))
        text.insert(rng.randint(0, len(text)), state(fact, False, rng))
        question = BY_KIND[kind].asked.format(e=fact.entity.asked, s="", is_="is")
        yield chat(tokenizer, f"letter {rng.randrange(1000)}", question, " ".join(text))


def _prompts_about_nothing(tokenizer: ChatTokenizer, rng: Random) -> Iterator[list[int]]:
    """Yield questions about a fact of a text that is not there, under another document's name."""
    while True:
        kind = rng.choice(sorted(BY_KIND))
        question = BY_KIND[kind].asked.format(e=draw_entity("train", False, rng).asked, s="", is_="is")
        yield chat(tokenizer, f"letter {rng.randrange(1000)}", question)
