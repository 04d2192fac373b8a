"""Endless, seeded chats in which people tell each other what happened: the prose of `prose.py`, shared out among speakers.

Each paragraph is one turn, "NAME: …", of one to four sentences. A passage is a stretch of the chat about one topic.
"""

from collections.abc import Iterator

from environments.haystack.filler.prose import Passage, Writer
from environments.haystack.filler.prose_grammar import MEN, WOMEN

ENDINGS = f"{WOMEN} {MEN}".split()  # of the speakers' names
TURN = (2, 4)  # sentences of a turn; the last one of a paragraph of prose may be shorter


def passages(seed: int, split: str) -> Iterator[Passage]:
    """Yield endless passages of turns; the same arguments give the same chat, byte for byte.

    `split` ("train", "eval") picks the names of the speakers and of those spoken of: the two share none.
    """
    writer = Writer(seed, split)
    while True:
        paragraphs = writer.passage()
        speakers = [writer.name(ENDINGS) for _ in range(2 + int(writer.random() * 3))]
        turns: Passage = []
        for paragraph in paragraphs:
            start = 0
            while start < len(paragraph):
                size = TURN[0] + int(writer.random() * (TURN[1] - TURN[0] + 1))
                first, *rest = paragraph[start : start + size]
                turns.append([f"{speakers[len(turns) % len(speakers)]}: {first}", *rest])
                start += size
        yield turns
