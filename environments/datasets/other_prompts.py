"""Prompts about other things than a document: what a model that learns documents should go on answering as before.

Each is a name and a question, as `haystack.document_prompt` takes them, with the text that stands before it, if any.
"""

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from environments.datasets.general_questions import GENERAL
from environments.haystack.document_prompt import behind_text, request
from environments.haystack.facts import BY_KIND, Fact, draw_entity, draw_value, state
from environments.haystack.filler import prose


class OtherPrompt(NamedTuple):
    """A question under a name, and the text before it: "" for none."""

    name: str
    question: str
    text: str = ""

    @property
    def content(self) -> str:
        """Return the prompt as a user's message."""
        asked = request(self.name, self.question)
        return behind_text(self.text, asked) if self.text else asked


def general_prompts(rng: Random) -> Iterator[OtherPrompt]:
    """Yield general questions."""
    while True:
        name, question = rng.choice(GENERAL)
        yield OtherPrompt(name, question(rng))


def prompts_about_text(rng: Random, around: tuple[int, int]) -> Iterator[OtherPrompt]:
    """Yield questions about a fact in another text, which stands before them.

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
        yield OtherPrompt(f"letter {rng.randrange(1000)}", question, " ".join(text))


def prompts_about_nothing(rng: Random) -> Iterator[OtherPrompt]:
    """Yield questions about a fact of a text that is not there, under another document's name."""
    while True:
        kind = rng.choice(sorted(BY_KIND))
        question = BY_KIND[kind].asked.format(e=draw_entity("train", False, rng).asked, s="", is_="is")
        yield OtherPrompt(f"letter {rng.randrange(1000)}", question)
