"""Figures of replications: ratios with their intervals, how they are written, and when there are too few."""

from __future__ import annotations

from collections.abc import Sequence
from operator import truediv
from typing import Any

from smmu_lab.record import Estimate, Run, sectioned, settling
from smmu_lab.scenario import InvalidInput
from smmu_lab.scenario.fields import POSITIVE, invalid
from smmu_lab.units import show_number, show_time


def read_replications(value: Any) -> int:
    """How often to run everything.

    Raises:
        InvalidInput: it is no positive integer.
    """
    try:
        number: int = POSITIVE.read(value)
    except ValueError:
        raise InvalidInput([invalid("replications", value, POSITIVE.valid)]) from None
    return number


def ratio(ours: Sequence[float], theirs: Sequence[float], pooled: tuple[float, float] | None = None) -> Estimate:
    """How many times one figure is another one, both measured in the same replications.

    Args:
        ours: the figure of each replication.
        theirs: what it is divided by.
        pooled: both figures of all data; by default the sums.
    """
    if not all(theirs):
        return Estimate(float("inf") if any(ours) else 1.0)
    here, there = pooled or (sum(ours), sum(theirs))
    return sectioned(here / there, list(map(truediv, ours, theirs)))


def show_ratio(estimate: Estimate) -> str:
    """Write a number with its margin.

    >>> show_ratio(Estimate(17.234, 17.1, 17.4)), show_ratio(Estimate(1.0, 1.0, 1.0)), show_ratio(Estimate(2.5))
    ('17.2 ± 0.15', '1', '2.5')
    """
    if not estimate.half_width or estimate.half_width < 1e-12 * abs(estimate.value):  # nothing but rounding
        return show_number(estimate.value)
    return f"{show_number(estimate.value)} ± {estimate.half_width:.2g}"


def show_margin(estimate: Estimate, sign: str = "") -> str:
    """Write a time with its margin; `sign` ``+`` is for differences.

    >>> show_margin(Estimate(1500.0, 1400.0, 1600.0)), show_margin(Estimate(200.0, 200.0, 200.0), "+")
    ('1.5 µs ± 100 ns', '+200 ns')
    """
    plus = sign if estimate.value >= 0 else ""
    margin = f" ± {show_time(estimate.half_width)}" if estimate.half_width else ""
    return f"{plus}{show_time(estimate.value)}{margin}"


def too_few(replications: int, operations: int) -> tuple[str, ...]:
    """Why some figures have no interval: too few replications, or operations in one after the warm-up."""
    if replications < 5:
        return (f"Not every figure has an interval: that takes 5 replications, and there are {replications}.",)
    if operations < 100:
        return (f"No p99 has an interval: that takes 100 operations in a replication, and there are {operations}.",)
    return ()


def unsure(runs: Sequence[Run]) -> tuple[str, ...]:
    """What makes the figures of some replications less than they seem."""
    said = {
        "latency has not settled in half of the run: more operations are needed.": not settling(runs).settled,
        "some waits were longer than the driver's timeout of 1 s.": any(run.counts.timeouts for run in runs),
    }
    return tuple(line for line, so in said.items() if so)
