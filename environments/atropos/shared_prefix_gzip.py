"""A group on its way to Atropos' API: checked, and compressed so that sequences which share a prompt share its bytes.

The sequences of a group repeat the prompt in tokens, masks, log-probabilities and messages; atroposlib writes and
compresses it for each of them (gzip level 9, on the event loop: 5.9 s for 8 x 128k tokens). Here it is written and
compressed once: deflate blocks that end in a full flush refer to nothing outside themselves, so the same compressed bytes
may stand in a gzip stream as often as the text they stand for (RFC 1951, RFC 1952).
"""

import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from environments.rollouts.rollout import NOT_TRAINED
from longthread.chunked_json import dumps, elements
from longthread.files import JsonObject

SEQUENCES = ("tokens", "masks", "inference_logprobs", "messages")  # one list a completion, with the same beginning
LEVEL = 1  # of gzip: 8 x 128k tokens take 73 ms for 3.9 MB; level 6 117 ms for 3.1 MB, level 9 256 ms for 3.0 MB
GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no name, no time, unknown system


def validation_error(
    group: JsonObject, group_size: int, longest: int, prompt: Sequence[int] = (), several_turns: bool = False
) -> str | None:
    """Return why Atropos' API, or the trainer behind it, could not use the group, in a few words; None if it can.

    Atropos checks none of it: a mask of another length is passed on, a NaN loses the whole batch that it is in.
    `longest`: sequences must be shorter, in tokens; -1: any. `prompt`: tokens that the group leaves out. `several_turns`:
    more than the beginning of a sequence may be masked.
    """
    tokens, masks, scores = group["tokens"], group["masks"], group["scores"]
    if not len(tokens) == len(masks) == len(scores) == len(group["messages"]) == group_size:
        return f"{len(tokens)} sequences and {len(scores)} scores instead of {group_size}"
    if not all(map(math.isfinite, scores)):
        return "a score that is not finite"
    masked = masks[0].count(NOT_TRAINED)
    for ids, mask in zip(tokens, masks, strict=True):
        if len(ids) != len(mask) or not (several_turns or _masks_only(masked, mask, ids)):
            return "masks that do not mask exactly the prompt"
        if several_turns and any(m not in (NOT_TRAINED, i) for m, i in zip(mask, ids, strict=True)):
            return "masks that are neither -100 nor the token"
        if 0 < longest <= (length := len(prompt) + len(ids)):
            return f"{length} tokens, where the trainer takes fewer than {longest}; start it with a longer maximum"
    if (logprobs := group.get("inference_logprobs")) is not None:
        if [*map(len, logprobs)] != [*map(len, tokens)]:
            return "log-probabilities that do not match the tokens"
        if not all(math.isfinite(p) for sequence in logprobs for p in sequence[0 if several_turns else masked :]):
            return "a log-probability that is not finite"
    return None


def _masks_only(count: int, mask: list[int], ids: list[int]) -> bool:
    return mask[:count] == [NOT_TRAINED] * count and mask[count:] == ids[count:]


class Block(NamedTuple):
    """A piece of text, and the same as deflate blocks that may stand anywhere in a stream, any number of times."""

    text: bytes
    deflated: bytes


def compress(text: bytes, level: int = LEVEL) -> Block:
    """Return the text with its deflate blocks, compressed at that gzip level."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Block(text, stream.compress(text) + stream.flush(zlib.Z_FULL_FLUSH))


def encode_group(group: JsonObject, prompt: Sequence[int] = (), level: int = LEVEL) -> bytes:
    """Return the group as gzipped JSON. Raises ValueError for NaN and infinity.

    `prompt`: tokens that the group leaves out; its sequences are written with them.
    """
    prefixes: dict[str, list[object]] = {
        "tokens": list(prompt),
        "masks": [NOT_TRAINED] * len(prompt),
        "inference_logprobs": [1.0] * len(prompt),
    }
    blocks = [compress(dumps({name: value for name, value in group.items() if name not in SEQUENCES})[:-1], level)]
    for name in SEQUENCES:
        if group.get(name) is not None:
            blocks += _sequences(name, group[name], prefixes.get(name, []), level)
    return _gzip([*blocks, compress(b"}", level)], level)


def _sequences(name: str, sequences: Sequence[list[object]], prefix: list[object], level: int) -> Iterator[Block]:
    """Yield `, "name": [[prefix, tail], [prefix, tail]]` in blocks; what all sequences begin with is compressed once."""
    shared = common_length(sequences)
    beginning = compress(elements(prefix + sequences[0][:shared]) if sequences else b"", level)
    between = f", {json.dumps(name)}: [".encode()
    for sequence in sequences:
        yield compress(between + b"[", level)
        yield beginning
        tail = elements(sequence[shared:])
        yield compress((b", " if beginning.text and tail else b"") + tail, level)
        between = b"], "
    yield compress(b"]]" if sequences else between + b"]", level)


def _gzip(blocks: Sequence[Block], level: int) -> bytes:
    size, checksum = 0, 0
    for block in blocks:
        size, checksum = size + len(block.text), zlib.crc32(block.text, checksum)
    end = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS).flush(zlib.Z_FINISH)
    deflated = (block.deflated for block in blocks)
    return b"".join([GZIP_HEADER, *deflated, end, struct.pack("<LL", checksum, size & 0xFFFFFFFF)])


def common_length(lists: Sequence[list[object]]) -> int:
    """Return how many leading elements all lists share. Slices are compared, halving what is left: linear, and in C."""
    low, high = 0, min(map(len, lists), default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if all(one[low:middle] == lists[0][low:middle] for one in lists[1:]):
            low = middle
        else:
            high = middle - 1
    return low
