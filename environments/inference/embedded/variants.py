"""The seam for a server with several models in one set of weights: a base model, and variants of it told apart by name.

The server asks for the variant of each request before its prompt is read, and the engine runs every forward pass through
`Variants.forward`, which learns each row's variant. Rows of different variants stand in one batch.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from longthread.files import JsonObject
from longthread.language_model import ModelOutput

BASE = None  # the variant of a row that runs the base model


class Forward(Protocol):
    """A forward pass of a batch whose rows may be of different variants."""

    def __call__(self, variants: Sequence[Hashable], **inputs: Any) -> ModelOutput:
        """Run the model on `inputs`, with the variant of each row in `variants`, first row first."""
        ...


class Variants(Protocol):
    """What a server has beside its base model. Variants are hashable; equal ones may share a prompt's keys and values."""

    def cards(self) -> list[JsonObject]:
        """Return what /v1/models says of each variant that can be listed: its name as "id", and what else is to be known."""
        ...

    def variant(self, names: Sequence[str], text: str) -> Hashable:
        """Return the variant that a request names, by one name or several, for a prompt whose question is in `text`.

        Raises `RequestError`: with status 404 for an unknown name.
        """
        ...

    def forward(self, variants: Sequence[Hashable], **inputs: Any) -> ModelOutput:
        """Run a forward pass: see `Forward`. Called from the engine's thread alone, `BASE` among the variants."""
        ...
