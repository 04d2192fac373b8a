"""A group on its way to Atropos' API: checked, and packed so that sequences which share a prompt share its bytes.

The sequences of a group repeat the prompt in tokens, masks, log-probabilities and messages; atroposlib writes and
compresses it for each of them (gzip level 9, on the event loop: 5.9 s for 8 x 128k tokens). Here it is written and
compressed once: deflate blocks that end in a full flush refer to nothing outside themselves, so the same compressed bytes
may stand in a gzip stream as often as the text they stand for (RFC 1951, RFC 1952).
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from environments.rollouts.rollout import NOT_TRAINED
from longthread.chunked_json import dumps, elements

SEQUENCES = ("tokens", "masks", "inference_logprobs", "messages")  # one list a completion, with the same beginning
LEVEL = 1  # of gzip: 8 x 128k tokens take 73 ms for 3.9 MB; level 6 117 ms for 3.1 MB, level 9 256 ms for 3.0 MB
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time, unknown system


def flaw(group: Mapping[str, Any], group_size: int, longest: int, prompt: Sequence[int] = ()) -> str | None:
    """What Atropos' API or the trainer behind it would choke on, or None. `longest`: sequences must be shorter; -1 is any.
    `prompt`: tokens that the group leaves out (`RolloutGroup.scored_data`).

    Atropos checks none of it: a mask of another length is passed on, a NaN loses the whole batch that it is in.
    """
    tokens, masks, scores = group["tokens"], group["masks"], group["scores"]
    if not len(tokens) == len(masks) == len(scores) == len(group["messages"]) == group_size:
        return f"{len(tokens)} sequences and {len(scores)} scores instead of {group_size}"
    if not all(map(math.isfinite, scores)):
        return "a score that is not finite"
    masked = masks[0].count(NOT_TRAINED)
    for ids, mask in zip(tokens, masks, strict=True):
        if len(ids) != len(mask) or mask[:masked] != [NOT_TRAINED] * masked or mask[masked:] != ids[masked:]:
            return "masks that do not mask exactly the prompt"
        if 0 < longest <= (length := len(prompt) + len(ids)):
            return f"{length} tokens, where the trainer takes fewer than {longest}; start it with a longer maximum"
    if (logprobs := group.get("inference_logprobs")) is not None:
        if [*map(len, logprobs)] != [*map(len, tokens)]:
            return "log-probabilities that do not match the tokens"
        if not all(math.isfinite(p) for one in logprobs for p in one[masked:]):
            return "a log-probability that is not finite"
    return None


def pack(group: Mapping[str, Any], prompt: list[int] | None = None, level: int = LEVEL) -> bytes:
    """The group as gzipped JSON; `prompt`: tokens that it leaves out. Raises ValueError for NaN and infinity."""
    packed, size, checksum = [GZIP_HEADER], 0, 0
    known: dict[int, bytes] = {}  # by identity: `_pieces` yields one object for all that is shared
    kept = []  # so that no identity is used again
    for piece in _pieces(group, prompt or []):
        if id(piece) not in known:
            known[id(piece)] = _deflated(piece, level)
            kept.append(piece)
        packed.append(known[id(piece)])
        size, checksum = size + len(piece), zlib.crc32(piece, checksum)
    end = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS).flush(zlib.Z_FINISH)
    return b"".join([*packed, end, struct.pack("<LL", checksum, size & 0xFFFFFFFF)])


def _deflated(piece: bytes, level: int) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(piece) + stream.flush(zlib.Z_FULL_FLUSH)


def _pieces(group: Mapping[str, Any], prompt: list[int]) -> Iterator[bytes]:
    """The JSON text in pieces; what sequences share is one object."""
    first = {"tokens": prompt, "masks": [NOT_TRAINED] * len(prompt), "inference_logprobs": [1.0] * len(prompt)}
    rest = {name: value for name, value in group.items() if name not in SEQUENCES}
    yield dumps(rest)[:-1]
    for name in SEQUENCES:
        if group.get(name) is None:
            continue
        lists = group[name]
        shared = common(lists)
        head = elements(first.get(name, []) + lists[0][:shared]) if lists else b""
        yield f", {json.dumps(name)}: [".encode()
        for number, one in enumerate(lists):
            tail = elements(one[shared:])
            yield b", [" if number else b"["
            if head:
                yield head
            yield (b", " if head and tail else b"") + tail + b"]"
        yield b"]"
    yield b"}"


def common(lists: Sequence[list[Any]]) -> int:
    """How many leading elements all lists share. Slices are compared, halving what is left: linear, and in C."""
    low, high = 0, min(map(len, lists), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if all(one[low:middle] == lists[0][low:middle] for one in lists[1:]):
            low = middle
        else:
            high = middle - 1
    return low
