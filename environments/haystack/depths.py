"""Where needles shall stand: depths from 0, the very beginning of the haystack, to 1, its very end."""

from math import exp
from random import Random

from longthread.errors import ConfigError

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
