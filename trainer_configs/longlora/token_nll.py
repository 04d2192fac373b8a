"""The NLL of each token of rows: given all of its row before it, or the last tokens alone, by sliding windows.

Rows and windows of one call have one length, so batches need no padding and no mask. NLLs are in nats, in fp32, on the CPU:
column i of (N, L-1) is of token i + 1.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from longthread.errors import DataError

if TYPE_CHECKING:  # torch is imported where it is used: a command's `--help` does not need it
    from torch import Tensor

    from longthread.language_model import CausalLM

SCORED = 4096  # logits (of one token each) that are held in fp32 at a time
LOGITS = 1 << 31  # numbers that the logits of a batch may have: 4 GiB in bf16
MAX_BATCH = 32


def windows(documents: Sequence[Sequence[int]], length: int, rows: int) -> "Tensor":
    """Return up to `rows` windows of `length` tokens, (N, length), taken from the documents in turn without overlap.

    No window crosses a document's end. Raises `DataError` when no document has `length` tokens.
    """
    import torch

    cut = [[ids[start : start + length] for start in range(0, len(ids) - length + 1, length)] for ids in documents]
    in_turn = [parts[i] for i in range(max(map(len, cut), default=0)) for parts in cut if i < len(parts)]
    if not in_turn:
        longest = max(map(len, documents), default=0)
        fault = f"length {length} is more than the longest text has ({longest} tokens): give longer text"
        raise DataError(fault, setting="length")
    return torch.tensor(in_turn[:rows])


class Span(NamedTuple):
    """A sliding window: it holds the tokens from `start` to before `end`, and those from `first` on are scored in it."""

    start: int
    first: int
    end: int


def spans(length: int, window: int, stride: int) -> list[Span]:
    """Return the sliding windows of a row of `length` tokens, all of `window` tokens.

    Every token but the row's first is scored once: given all before it in the first window, and from then on given at least
    the last `window - stride` tokens. The last window ends with the row, so it may move by less than `stride`.
    """
    found = [Span(0, 1, window)]
    while (end := found[-1].end) < length:
        start = min(found[-1].start + stride, length - window)
        found.append(Span(start, end, start + window))
    return found


def batch_size(scored: int, vocabulary: int, device: str) -> int:
    """Return how many rows the model reads at once, where `scored` tokens of each are scored: 1 on the CPU."""
    if device == "cpu":
        return 1
    return max(1, min(MAX_BATCH, LOGITS // ((scored + 1) * vocabulary)))


def nll_of_last(model: "CausalLM", ids_BL: "Tensor", scored: int) -> "Tensor":
    """Return the NLL of the last `scored` tokens of each row, each given all before it in its row: (B, scored).

    The model runs once. Where it can, it computes the logits of these tokens alone; they are held once in its dtype: for
    32,768 tokens and 49,152 words in bf16, 3.2 GB a row. In fp32 they are held a piece at a time.
    """
    import torch
    from torch.nn.functional import cross_entropy

    takes = inspect.signature(getattr(model, "forward", model)).parameters
    kept = {"logits_to_keep": scored + 1} if "logits_to_keep" in takes else {}
    with torch.inference_mode():
        ids_BL = ids_BL.to(model.device)
        logits = model(input_ids=ids_BL, use_cache=False, **kept).logits[:, -scored - 1 : -1]  # (B, scored, V)
        pieces = [
            cross_entropy(piece.float(), labels, reduction="none")
            for row, wanted in zip(logits, ids_BL[:, -scored:], strict=True)
            for piece, labels in zip(row.split(SCORED), wanted.split(SCORED), strict=True)
        ]
        return torch.cat(pieces).view(len(ids_BL), scored).cpu()


def nll_by_token(model: "CausalLM", rows_NL: "Tensor") -> "Tensor":
    """Return the NLL of tokens 1 to L-1 of each row, each given all of the row before it: (N, L-1)."""
    import torch

    scored = rows_NL.shape[1] - 1
    parts = list(_batches(model, rows_NL, scored, "rows"))
    return torch.cat([nll_of_last(model, rows, scored) for rows in parts])


def sliding_nll(model: "CausalLM", rows_NL: "Tensor", window: int, stride: int) -> "Tensor":
    """Return the NLL of tokens 1 to L-1 of each row, each given what stands before it in its sliding window: (N, L-1).

    With `window - stride` of 4,096 and a stride of 1,024 it is the loss with a short context of LongPPL (arXiv 2410.23771).
    """
    import torch

    count, length = rows_NL.shape
    nll_NL = torch.empty(count, length - 1)
    first, *later = spans(length, window, stride)
    nll_NL[:, : first.end - 1] = nll_by_token(model, rows_NL[:, : first.end])
    if not later:
        return nll_NL
    slid_ML = torch.cat([rows_NL[:, span.start : span.end] for span in later])  # span by span, each of all rows
    parts = [nll_of_last(model, rows, stride) for rows in _batches(model, slid_ML, stride, "windows")]
    for span, nll_NS in zip(later, torch.cat(parts).split(count), strict=True):
        nll_NL[:, span.first - 1 : span.end - 1] = nll_NS[:, stride - (span.end - span.first) :]
    return nll_NL


def _batches(model: "CausalLM", rows_NL: "Tensor", scored: int, unit: str) -> "Iterator[Tensor]":
    """Yield the rows in batches, with a bar on a terminal."""
    size = batch_size(scored, model.config.get_text_config().vocab_size, model.device.type)
    yield from tqdm(rows_NL.split(size), desc=unit, unit="batch", leave=False, disable=None)
