"""A text of any length for `benchmarks.lift_novels`: passages of novels, with facts and chains of two planted in it.

The passages stand in random order. Where the novels are too short the fiction of `environments.haystack.filler.prose` goes
on: a passage that stood twice would be read once. The sentences of a chain stand half of the text apart.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from environments.haystack.filler import prose
from environments.haystack.filler.corpora import folder_passages
from environments.haystack.filler.passages import Passage
from environments.haystack.filler.pool import Pool
from environments.haystack.layout import Hidden, lay_out
from environments.haystack.tokens import Tokens
from lift.document.document import Document
from lift.document.repeats import read_once
from lift.document.token_spans import TokenSpans
from lift.tasks.synthetic_document import SPLIT, TRIES, PlantedFact, draft_facts, planted
from longthread.errors import ConfigError
from longthread.files import write_json

MORE = 1.25  # times the text's tokens, of filler to draw from
MARGIN = 0.1  # of its stratum that a sentence keeps from both borders
TEXT, FACTS, READ = "text.json", "facts.json", "read.json"


class PlantedText(NamedTuple):
    """A document and its facts: the singles, then the chains. `read`: the document with what stands twice left out."""

    document: Document
    facts: list[PlantedFact]
    read: Document

    def save(self, folder: Path) -> None:
        """Write the text into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / TEXT, asdict(self.document))
        write_json(folder / READ, asdict(self.read))
        write_json(folder / FACTS, [asdict(fact) for fact in self.facts])

    @classmethod
    def load(cls, folder: Path) -> "PlantedText":
        """Return the text that `save` has written."""
        document, read = (Document(**json.loads((folder / name).read_text())) for name in (TEXT, READ))
        return cls(document, [_fact(stated) for stated in json.loads((folder / FACTS).read_text())], read)


def planted_text(tokenizer: Any, tokens: int, novels: Path | None, singles: int, chains: int, seed: int) -> PlantedText:
    """Return a text of `tokens` tokens, about, with so many single facts and chains. Without `novels` all is generated.

    Raises `ConfigError` for a text that is too short for its facts, and `DataError` for novels that cannot be read.
    """
    rng, counter = Random(f"lift novels {tokens} {seed}"), Tokens(tokenizer)
    pool = Pool(counter, _filler(novels, seed), int(MORE * tokens), str(novels) if novels else "")
    for _ in range(TRIES):
        drafts = draft_facts(rng, singles, chains)
        texts = [text for draft in drafts for text in draft.sentences]
        if 2 * (cost := sum(counter.mid(texts))) > tokens:
            raise ConfigError(
                f"{tokens:,} tokens are too few for {cost:,} tokens of facts: give at least {2 * cost:,}, or fewer facts",
                setting=("tokens", "facts", "chains"),
            )
        laid = lay_out(pool, Hidden(texts, depths(singles, chains, rng)), tokens, rng)
        if all(draft.stands_once(laid.text) for draft in drafts):
            spans = [(int(at), int(at) + len(text)) for at, text in zip(laid.chars, texts, strict=True)]
            document = Document(f"novels-{tokens}-{seed}", laid.text)
            in_tokens = TokenSpans.encode(tokenizer, document.text)
            facts = planted(drafts, spans, [in_tokens.depth(span) for span in spans])
            return PlantedText(document, facts, read_once(document))
    raise ConfigError(f"no text of {tokens} tokens came out in {TRIES} tries: ask for fewer facts", setting="facts")


def _filler(novels: Path | None, seed: int) -> Iterator[Passage]:
    generated = prose.passages(seed, SPLIT)
    return chain(folder_passages(novels), generated) if novels else generated


def depths(singles: int, chains: int, rng: Random) -> list[float]:
    """Return the depth of each single fact and of both sentences of each chain, each in a stratum of its own.

    Strata are of one length. Those of a chain are half of all strata apart, and either sentence may come first.
    """
    n = singles + 2 * chains
    half = n // 2
    first = rng.sample(range(half), chains)
    paired = [at for pair in ((k, k + half) for k in first) for at in rng.sample(pair, 2)]
    alone = rng.sample([k for k in range(n) if k not in set(paired)], singles)
    return [(stratum + rng.uniform(MARGIN, 1 - MARGIN)) / n for stratum in (*alone, *paired)]


def _fact(stated: dict[str, Any]) -> PlantedFact:
    spans = tuple((first, behind) for first, behind in stated["spans"])
    lists = {name: tuple(stated[name]) for name in ("sentences", "depths", "people")}
    return PlantedFact(stated["kind"], question=stated["question"], answer=stated["answer"], spans=spans, **lists)
