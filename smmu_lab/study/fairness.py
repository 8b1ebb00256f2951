"""Who gets how much of what is shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from smmu_lab.record import Run


def jain(shares: Iterable[float]) -> float:
    """Jain's fairness index: 1 where all get the same, 1/n where one of n gets everything.

    Source: R. Jain, D.-M. Chiu and W. Hawe, A Quantitative Measure of Fairness, DEC-TR-301, 1984:
    (sum x)^2 / (n sum x^2).

    >>> jain([5, 5]), jain([1, 0, 0, 0]), round(jain([1, 2, 3]), 4)
    (1.0, 0.25, 0.8571)
    """
    got = list(shares)
    squares = sum(each * each for each in got)
    return sum(got) ** 2 / (len(got) * squares) if squares else 1.0


def rates(run: Run) -> dict[tuple[int, int], float]:
    """Operations per second of each (guest, vCPU), neighbours' too, while all measured vCPUs are at work.

    That is from the beginning until the first of them is through: whoever is served worse then still has others beside
    it. An operation counts when it has ended.
    """
    ops = run.ops
    if not run.measured:
        return {}
    wanted = ops["kind"][run.measured[0]]
    ended: dict[tuple[int, int], list[int]] = defaultdict(list)
    for guest, vcpu, kind, start, latency in zip(
        ops["guest"], ops["vcpu"], ops["kind"], ops["start"], run.latencies, strict=True
    ):
        if kind == wanted:
            ended[guest, vcpu].append(start + latency)
    window = min(max(ends) for (guest, _), ends in ended.items() if not run.scenario.is_neighbour(guest))
    return {who: sum(end <= window for end in ended[who]) * 1e9 / window for who in sorted(ended)}


def by_guest(rates: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """The same of each guest."""
    total: dict[int, float] = defaultdict(float)
    for (guest, _), rate in rates.items():
        total[guest] += rate
    return total
