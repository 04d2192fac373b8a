"""JSON of long lists, written in pieces: json.dumps holds the interpreter, and every thread, for as long as it writes."""

import json
from collections.abc import Sequence
from typing import Any

PIECE = 4_096  # elements at a time: a third of a millisecond of integers


def dumps(value: Any) -> bytes:
    """Return the value as JSON, in UTF-8 bytes. Raises ValueError for NaN and infinity."""
    return json.dumps(value, allow_nan=False).encode()


def elements(values: Sequence[Any]) -> bytes:
    """Return the values as the elements of a JSON list, in UTF-8 bytes: separated by commas, without the brackets."""
    pieces = (values[i : i + PIECE] for i in range(0, len(values), PIECE))
    return b", ".join(map(_piece, pieces))


def _piece(values: Sequence[Any]) -> bytes:
    if values.count(values[0]) == len(values):  # of a prompt's mask or log-probabilities
        return b", ".join([dumps(values[0])] * len(values))
    return dumps(values)[1:-1]
