"""Means with their errors, and intervals of shares."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Z95 = 1.959963984540054  # standard errors to each side of 95 % of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error (sample deviation / sqrt n; NaN below two values), and the number `n` of values."""

    mean: float
    stderr: float
    n: int

    def __str__(self) -> str:
        """Return "0.75±0.25" for mean and standard error; "0.75" for one value, "–" for none."""
        if not self.n:
            return "–"
        return f"{self.mean:.2f}" if math.isnan(self.stderr) else f"{self.mean:.2f}±{self.stderr:.2f}"


def estimate(values: Iterable[float]) -> Estimate:
    """Return the values' mean and standard error. A share is the mean of zeros and ones, with the same formula."""
    numbers = [float(value) for value in values]
    n = len(numbers)
    mean = math.fsum(numbers) / n if n else math.nan
    squares = math.fsum((number - mean) ** 2 for number in numbers)
    return Estimate(mean, math.sqrt(squares / (n - 1) / n) if n > 1 else math.nan, n)


@dataclass(frozen=True)
class Share:
    """A count of questions: `right` of the `asked` ones were answered correctly."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: "Share") -> "Share":
        """Return a share with the counts of both added up."""
        return Share(self.right + other.right, self.asked + other.asked)

    @property
    def value(self) -> float | None:
        """The share `right / asked`, from 0 to 1; None where nothing was asked."""
        return self.right / self.asked if self.asked else None

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of Wilson's 95 % interval (E. B. Wilson, 1927): the shares from which the count is less than
        1.96 standard errors away. It is 0 to 1 where nothing was asked."""
        if not self.asked:
            return 0.0, 1.0
        n, p, z2 = self.asked, self.right / self.asked, Z95**2
        centre, reach = p + z2 / (2 * n), Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        # None right and all right reach 0 and 1 exactly, which rounding would miss.
        low = (centre - reach) / (1 + z2 / n) if self.right else 0.0
        high = (centre + reach) / (1 + z2 / n) if self.right < n else 1.0
        return low, high
