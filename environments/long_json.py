"""JSON of long lists, written in pieces: json.dumps holds the interpreter, and every thread, for as long as it writes."""

import json
from collections.abc import Sequence
from typing import Any

PIECE = 16_384  # elements at a time: about a millisecond of integers


def dumps(value: Any) -> bytes:
    """JSON in UTF-8. Raises ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False).encode()


def elements(values: Sequence[Any]) -> bytes:
    """The elements of a JSON list, without its brackets."""
    if values and values.count(values[0]) == len(values):  # masks and log-probabilities of a prompt
        return b", ".join([dumps(values[0])] * len(values))
    pieces = (values[i : i + PIECE] for i in range(0, len(values), PIECE))
    return b", ".join(dumps(piece)[1:-1] for piece in pieces)
