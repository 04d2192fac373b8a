"""Texts and fits at toy size, for tests of documents with several segments."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from lift.document.document import Document
from lift.library.base_model import fingerprint
from lift.library.library import Entry, Library
from lift.training import fit
from lift.training.job import FitOptions
from lift.training.recipes import RECIPES, Recipe
from tests.environments.tiny_model import tiny_model, tiny_tokenizer

PEOPLE = ("Maro Fenth", "Lisa Kord", "Timo Varga", "Anna Selim", "Josef Brandt", "Nora Quist")
OTHERS = ("Ilse Marn", "Piet Olden", "Rosa Tervo", "Karl Immer", "Vera Sundt", "Otto Relph")


def text_of(people: tuple[str, ...], first: int) -> str:
    return " ".join(
        f"The combination that {person} uses for the safe is {first + 7919 * i}." for i, person in enumerate(people)
    )


MILL, PORT = Document("mill", text_of(PEOPLE, 4829104756)), Document("port", text_of(OTHERS, 2710493322))


def toy(**changes: Any) -> Recipe:
    small = {"queries": 100, "items": 6, "share": 0.2, "tasks": ("needle", "absent"), "segment": 150}
    return replace(RECIPES["compact"], **small | changes)


def fitted(out: Path, document: Document = MILL, recipe: Recipe | None = None, **changes: Any) -> fit.Fitted:
    options = FitOptions(out, progress=False, **changes)
    return fit.fit(document, tiny_model(), tiny_tokenizer(), recipe or toy(), options)


def add(library: Library, adapter: Path, document: Document) -> Entry:
    return library.add(adapter, Entry(
        name=document.name, digest=document.digest, tokens=len(document.text), words=len(document.text.split()),
        recipe="compact", base_model="tiny", fingerprint=fingerprint(tiny_model()),
    ))  # fmt: skip
