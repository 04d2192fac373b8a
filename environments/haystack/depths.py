"""Where needles shall stand: depths from 0, the very beginning of the haystack, to 1, its very end."""

from collections.abc import Mapping
from itertools import pairwise
from math import exp
from random import Random

from longthread.errors import ConfigError

APART = 1e-9  # of the haystack, over which needles in order differ at least: less than a token
STEEPNESS = 12  # of the logistic curve that "sigmoid" draws from: it is read over (-6, 6)


def parse_depths(spec: str) -> list[float]:
    """Return the depths of a grid or a list: "11" is eleven from 0 to 1, "0.1,0.5" those two. Raises `ConfigError`."""
    parts = [part.strip() for part in str(spec).split(",") if part.strip()]
    if len(parts) == 1 and parts[0].isdigit() and int(parts[0]) > 1:
        return [round(i / (int(parts[0]) - 1), 6) for i in range(int(parts[0]))]
    try:
        depths = [float(part) for part in parts]
    except ValueError:
        depths = []
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise ConfigError(
            f"depths {spec!r} must be numbers from 0 to 1 separated by commas (0.1,0.5), the size of a grid (11), "
            "uniform or sigmoid"
        )
    return depths


def draw_depths(rule: str, n: int, rng: Random) -> list[float]:
    """Draw `n` depths by a rule: "uniform"; "sigmoid" (dense at both ends); or from the list or grid that it names."""
    if rule == "uniform":
        return [rng.random() for _ in range(n)]
    if rule == "sigmoid":
        # The logistic curve, scaled to 0…1: most needles near the ends, where models look first.
        low, high = 1 / (1 + exp(STEEPNESS / 2)), 1 / (1 + exp(-STEEPNESS / 2))
        return [(1 / (1 + exp(-STEEPNESS * (rng.random() - 0.5))) - low) / (high - low) for _ in range(n)]
    depths = parse_depths(rule)
    return [rng.choice(depths) for _ in range(n)]


def stretch(depths: list[float], span: float, rng: Random) -> list[float]:
    """Return the depths, moved apart to at least `span` if the first and the last are closer; their order stays."""
    low, high = min(depths, default=0.0), max(depths, default=0.0)
    if len(depths) < 2 or high - low >= span:
        return depths
    stretched = span + rng.random() * (1 - span)
    start = rng.random() * (1 - stretched)
    if high > low:
        shares = [(depth - low) / (high - low) for depth in depths]
    else:  # all in one place
        shares = [i / (len(depths) - 1) for i in range(len(depths))]
    return [start + stretched * share for share in shares]


def in_order(depths: list[float], fixed: Mapping[int, float]) -> list[float]:
    """Return depths that rise with their index: sorted, and stretched between those of `fixed`, which rise too.

    All differ, and lie within 0 and 1 but for the first and the last: several needles at one place, or at either end,
    would stand in random order.
    """
    n, free = len(depths), sorted(depths)
    anchors = [(-1, 0.0, 0.0), *((i, free[i], depth) for i, depth in sorted(fixed.items())), (n, 1.0, 1.0)]
    ordered = [fixed.get(i, 0.0) for i in range(n)]
    for (i, low, start), (j, high, end) in pairwise(anchors):
        for k in range(i + 1, j):
            share = (free[k] - low) / (high - low) if high > low else (k - i) / (j - i)
            ordered[k] = start + share * (end - start)
    apart, previous = APART / max(n, 1), -1.0
    for i, depth in enumerate(ordered):
        previous = ordered[i] = max(min(depth, 1 - (n - 1 - i) * apart), i * apart, previous + apart)
    return ordered
