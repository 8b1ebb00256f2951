"""Figures with intervals, and how much of a run's beginning to leave out. No library, no random numbers.

One run: batch means for averages, order statistics for quantiles. Several replications: t intervals over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain, pairwise
from math import ceil, floor, sqrt
from statistics import NormalDist, fmean

import attrs

from smmu_lab.units import show_time

CONFIDENCE = 0.95
MOST_BATCHES = 20
"""Batches of a run for batch means: enough for a stable interval, few enough to be independent (Schmeiser 1982)."""
FEWEST = 5
"""Batches, or replications, that bound a figure at all."""
MSER_BATCH = 5
"""Values in a batch of MSER-5."""
MSER_FEWEST = 100
"""Values that MSER-5 judges at all: of 50 independent ones, it calls one sequence in 8 unsettled; of 100, one in 30."""

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


def sectioned(value: float, sections: Sequence[float]) -> Estimate:
    """A figure of all data, with a t interval from how the same figure of equal sections scatters about it.

    It assumes that the sections are independent: batches that are long against the correlation of neighbours, or
    replications with seeds of their own. Fewer than 5 bound nothing.

    Source: sectioning, S. Asmussen and P. W. Glynn, Stochastic Simulation, 2007, III.5; for a mean it is the usual t
    interval.

    >>> round(sectioned(10.0, [9, 10, 11, 10, 10]).half_width, 2)
    0.88
    """
    n = len(sections)
    if n < FEWEST:
        return Estimate(value)
    half = student(n - 1) * sqrt(sum((each - value) ** 2 for each in sections) / (n - 1) / n)
    return Estimate(value, value - half, value + half)


def batch_means(values: Sequence[float]) -> Estimate:
    """The mean of a sequence in time order, with a t interval over the means of up to 20 batches.

    Batching keeps the correlation between neighbours inside the batches. Fewer than 10 values bound nothing.

    >>> batch_means([7] * 100)
    Estimate(value=7.0, low=7.0, high=7.0)
    """
    if not values:
        return Estimate(0.0)
    batches = min(MOST_BATCHES, len(values) // 2)
    cuts = [k * len(values) // batches for k in range(batches + 1)] if batches else []
    return sectioned(fmean(values), [fmean(values[a:b]) for a, b in pairwise(cuts)])


@attrs.frozen
class Warmup:
    """The beginning of a run that is not yet like the rest.

    Attributes:
        length: operations to leave out.
        settled: the rest is alike; if not, the run is too short to tell.
    """

    length: int = 0
    settled: bool = True


def mser5(values: Sequence[int]) -> Warmup:
    """The beginning to leave out: what makes the standard error of the mean of the rest the smallest.

    The rule looks at batches of 5, leaves out whole ones, of equals the fewest, and never more than half. A minimum at
    the half says that the sequence has not settled. Fewer than 100 values are all kept. All is done in whole numbers.

    Source: K. P. White, Simulation 69(6), 1997; K. P. White, M. J. Cobb and S. C. Spratt, WSC 2000 (MSER-5).

    >>> mser5([90, 60, 30, 20, 15] + [10, 12] * 100)
    Warmup(length=5, settled=True)
    >>> mser5(range(100))
    Warmup(length=50, settled=False)
    """
    if len(values) < MSER_FEWEST:
        return Warmup()
    batches = [sum(values[k : k + MSER_BATCH]) for k in range(0, len(values) - MSER_BATCH + 1, MSER_BATCH)]
    half = len(batches) // 2
    total, squares = sum(batches), sum(each * each for each in batches)
    best, least, scale = 0, 0, 0
    for cut in range(half + 1):
        left = len(batches) - cut
        error = left * squares - total * total  # left**3 times the squared standard error
        if not scale or error * scale < least * left**3:
            best, least, scale = cut, error, left**3
        total -= batches[cut]
        squares -= batches[cut] ** 2
    return Warmup(best * MSER_BATCH, best < half)


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
    """Latencies of one approach, ns: of one run, or of several replications that are pooled.

    Args:
        replications: the values of each, in the order of time.
    """

    def __init__(self, *replications: Sequence[int]) -> None:
        self.replications = replications

    @cached_property
    def values(self) -> Sequence[int]:
        """All values, replication after replication."""
        first, *more = self.replications
        return list(chain(first, *more)) if more else first

    @cached_property
    def ordered(self) -> list[int]:
        """The values, sorted."""
        return sorted(self.values)

    @cached_property
    def mean(self) -> Estimate:
        """Mean; its interval is from batch means of one run, or from the means of the replications."""
        if len(self.replications) == 1 or not self.values:
            return batch_means(self.values)
        return sectioned(fmean(self.values), [fmean(each) for each in self.replications])

    def quantile(self, q: float) -> Estimate:
        """A quantile, 0 < q < 1.

        Of one run, its interval takes the operations as independent (`quantile`), and is too narrow where neighbours
        are alike. Of replications, it is from the same quantile of each, which only takes the replications as
        independent; where one of them is too short to have that quantile, nothing bounds it.
        """
        if len(self.replications) == 1:
            return quantile(self.ordered, q)
        value = quantile(self.ordered, q).value
        if any(len(each) * min(q, 1 - q) < 1 for each in self.replications):
            return Estimate(value)
        return sectioned(value, [quantile(each, q).value for each in self._sorted])

    @cached_property
    def _sorted(self) -> list[list[int]]:
        return list(map(sorted, self.replications))

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
