"""Rank in two levels: sections by what a model says they are about, then the chunks within the best of them.

For questions about the matter of a section rather than its words. Sections are large chunks, from `semantic_chunks` with a
size of some thousands of tokens.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from environments.inference.completions import request_group
from environments.inference.contracts import CompletionRequest, PlainServer, ServerAddress
from environments.inference.endpoint import Endpoint
from environments.retrieval.chunking import Chunk
from environments.retrieval.ranking import Hit, Ranking
from environments.rollouts.thinking import without_thinking

logger = logging.getLogger(__name__)

OPENED = 3  # sections within which chunks are found
SUMMARY_TOKENS = 200
INSTRUCTION = (
    "Summarise the following section in at most three sentences. Name the people, places, numbers and matters that it is "
    "about.\n\n"
)

Summarise = Callable[[Sequence[str]], list[str]]
Split = Callable[[Chunk], Sequence[Chunk]]


class Sections:
    """Ranks sections by their summaries in one ranking, and the chunks of the best sections in another."""

    def __init__(self, by_summary: Ranking, by_text: Ranking, summarise: Summarise, split: Split, opened: int = OPENED):
        """`split` cuts a section into the chunks that are found; to find sections whole it returns them as they are."""
        self.by_summary, self.by_text = by_summary, by_text
        self.summarise, self.split, self.opened = summarise, split, opened
        self._section_of: dict[Chunk, tuple[str, int]] = {}

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Add sections: have them summarised, and cut into chunks."""
        summaries = self.summarise([section.text for section in chunks]) if chunks else []
        for section, summary in zip(chunks, summaries, strict=True):
            self.by_summary.add([replace(section, text=summary)])
            parts = self.split(section)
            self._section_of |= dict.fromkeys(parts, (section.document, section.start))
            self.by_text.add(parts)

    def search(self, question: str, k: int) -> list[Hit]:
        """Return the at most `k` chunks of the best sections that rank highest for the question, best first."""
        best = self.by_summary.search(question, self.opened)
        opened = {(hit.chunk.document, hit.chunk.start) for hit in best}
        depth, hits = max(k, 1), list[Hit]()
        while opened and len(hits) < k:
            ranked = self.by_text.search(question, depth)
            hits = [hit for hit in ranked if self._section_of[hit.chunk] in opened]
            if len(ranked) < depth:
                break
            depth *= 4
        return hits[:k]


def summaries_by(address: ServerAddress, tokens: int = SUMMARY_TOKENS) -> Summarise:
    """Return a function that has texts summarised by the model of a chat server, each in at most `tokens` tokens.

    Where the model says nothing beyond its thinking, the text stands for its summary, with a warning. Raises
    `CompletionError`. Not for use within an event loop.
    """

    def summarise(texts: Sequence[str]) -> list[str]:
        return asyncio.run(_summaries(Endpoint(PlainServer(address), None), texts, tokens))

    return summarise


async def _summaries(endpoint: Endpoint, texts: Sequence[str], tokens: int) -> list[str]:
    return list(await asyncio.gather(*(_summary(endpoint, text, tokens) for text in texts)))


async def _summary(endpoint: Endpoint, text: str, tokens: int) -> str:
    request = CompletionRequest([{"role": "user", "content": INSTRUCTION + text}], [], tokens, 0.0, "eval")
    [completion] = await request_group([endpoint], request, 1)
    summary = without_thinking(completion.text).strip()
    if not summary:
        logger.warning("%s gave no summary of a section: its own text stands for it", endpoint.url)
    return summary or text
