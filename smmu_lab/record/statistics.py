"""Figures with intervals: batch means for averages, order statistics for quantiles. No library, no random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from math import ceil, floor, sqrt
from statistics import NormalDist, fmean, stdev

import attrs

from smmu_lab.units import show_time

CONFIDENCE = 0.95
MOST_BATCHES = 20
"""Batches of a run for batch means: enough for a stable interval, few enough to be independent (Schmeiser 1982)."""
FEWEST = 5

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@attrs.frozen
class Estimate:
    """A figure and its 95 % interval; an end that the data cannot bound is None."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def __str__(self) -> str:
        if self.low is None and self.high is None:
            return show_time(self.value)
        low, high = ("?" if end is None else show_time(end) for end in (self.low, self.high))
        return f"{show_time(self.value)} ({low} .. {high})"


def student(freedom: int) -> float:
    """The factor of a two-sided 95 % t interval, by the expansion of Abramowitz and Stegun 26.7.5.

    >>> [round(student(n), 2) for n in (4, 9, 19)]
    [2.78, 2.26, 2.09]
    """
    z, n = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def batch_means(values: Sequence[float]) -> Estimate:
    """The mean of a sequence in time order, with a t interval over the means of up to 20 batches.

    Batching keeps the correlation between neighbours inside the batches. Fewer than 10 values bound nothing.

    >>> batch_means([7] * 100)
    Estimate(value=7.0, low=7.0, high=7.0)
    """
    if not values:
        return Estimate(0.0)
    mean = fmean(values)
    batches = min(MOST_BATCHES, len(values) // 2)
    if batches < FEWEST:
        return Estimate(mean)
    cuts = [k * len(values) // batches for k in range(batches + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(cuts)]
    half = student(batches - 1) * stdev(means) / sqrt(batches)
    return Estimate(mean, mean - half, mean + half)


def quantile(ordered: Sequence[int], q: float) -> Estimate:
    """A quantile of sorted values, with the interval between two order statistics.

    It assumes nothing about the distribution, but independent values; an end beyond the data is None.

    >>> quantile(range(1, 1001), 0.5)
    Estimate(value=500, low=469, high=532)
    >>> quantile(range(1, 1001), 0.999)
    Estimate(value=999, low=997, high=None)
    """
    n = len(ordered)
    spread = _Z * sqrt(n * q * (1 - q))
    low, high = floor(n * q - spread), ceil(n * q + spread) + 1
    return Estimate(
        ordered[max(1, ceil(n * q)) - 1],
        ordered[low - 1] if low >= 1 else None,
        ordered[high - 1] if high <= n else None,
    )


class Distribution:
    """Latencies of one run, ns; the values are in the order of time."""

    def __init__(self, values: Sequence[int]) -> None:
        self.values = values

    @cached_property
    def ordered(self) -> list[int]:
        """The values, sorted."""
        return sorted(self.values)

    @cached_property
    def mean(self) -> Estimate:
        """Mean, with an interval from batch means."""
        return batch_means(self.values)

    def quantile(self, q: float) -> Estimate:
        """A quantile, 0 < q < 1."""
        return quantile(self.ordered, q)

    @property
    def p50(self) -> Estimate:
        """The median."""
        return self.quantile(0.5)

    @property
    def p99(self) -> Estimate:
        """Exceeded by one in a hundred."""
        return self.quantile(0.99)

    @property
    def p999(self) -> Estimate:
        """Exceeded by one in a thousand."""
        return self.quantile(0.999)

    @property
    def max(self) -> int:
        """The largest."""
        return self.ordered[-1]

    def to_dict(self) -> dict[str, object]:
        """Mean, quantiles and maximum as plain data, ns."""
        return {name: attrs.asdict(getattr(self, name)) for name in ("mean", "p50", "p99", "p999")} | {"max": self.max}

    def __repr__(self) -> str:
        return f"mean {self.mean}, p99 {self.p99}" if self.values else "no values"
