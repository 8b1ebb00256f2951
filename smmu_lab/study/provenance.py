"""Which costs a stage is made of, found by experiment: one cost at a time is made larger, and the stages looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import attrs

from smmu_lab.record import Sample
from smmu_lab.scenario import Approach, InvalidInput, Scenario, Unmaps
from smmu_lab.scenario.fault import Fault
from smmu_lab.scenario.neighbour import Neighbour
from smmu_lab.sim import simulate
from smmu_lab.study.compare import costs_of

OPS, LAZY_OPS = 8, 300
"""Operations of an experiment; in flush-queue mode enough for a flush."""
SERVED = ("consume", "handoff", "queue", "execute")
WAITS = ("gather", "space", "lock", "wake", "queue")


@attrs.frozen
class Made:
    """What the time of a stage is made of.

    Attributes:
        own: cost to its share of the stage, or to None where a poll's steps decide, not a sum.
        ahead: costs of whoever is ahead, where the stage is longer than it is alone.
    """

    own: Mapping[str, float | None]
    ahead: tuple[str, ...] = ()


def made_of(sample: Sample) -> dict[str, Made]:
    """The costs behind each stage that takes time under an approach.

    Shares are those of `alone`: with several vCPUs everything moves everything. They are given where the stage is a sum
    of its costs; where it is not, as while CONS is polled, the costs are those of `costs_of`, which the tests hold to
    the same experiment.
    """
    scenario, row = sample.runs[0].scenario, sample.approach
    means, moved = _experiment(alone(scenario), row)
    found = {}
    for stage, mean in sample.breakdown.items():
        shares = moved.get(stage, {})
        if not mean:
            continue
        own: Mapping[str, float | None] = dict.fromkeys(costs_of(stage, row) if means[stage] else ())
        if shares and min(shares.values()) >= 0 and abs((total := sum(shares.values())) - 1) < 0.01:
            own = {cost: share / total for cost, share in shares.items()}
        ahead: set[str] = set()
        if stage in WAITS and mean > 1.05 * means[stage]:
            ahead = {cost for each in _ahead(stage, row) for cost in moved.get(each, ())} | set(_parts(stage, row))
        found[stage] = Made(own, tuple(cost for cost in scenario.costs if cost in ahead))
    return found


def alone(scenario: Scenario) -> Scenario:
    """The scenario with one vCPU, a few unmaps, and nothing left to chance; a recorded guest's are unmaps like any."""
    load = scenario.workload if isinstance(scenario.workload, Unmaps) else Unmaps()
    load = load.but(ops=LAZY_OPS if load.lazy else OPS, spread="constant")
    return scenario.but(workload=load, guests=1, vcpus=1, fault=Fault(), neighbour=Neighbour())


def _ahead(stage: str, row: Approach) -> tuple[str, ...]:
    """Stages of whoever is ahead that pass during a wait."""
    if stage == "queue":
        return ("execute",)
    if stage == "space" or (stage == "lock" and row.front == "virtio-iommu"):  # the ring's, held until the answer
        return ("build", "doorbell", "wake", *SERVED, "complete")
    in_exit = row.consumer == "vmm" or row.doorbell == "kernel-call"
    return ("build", "doorbell", *(SERVED if in_exit else ())) if stage == "gather" else SERVED


def _parts(stage: str, row: Approach) -> tuple[str, ...]:
    """Parts of larger costs that make others wait, and nobody who is alone."""
    return ("sync_occ",) if stage == "queue" else ("vmm_lock",) if stage == "lock" and row.consumer == "vmm" else ()


@cache
def _experiment(scenario: Scenario, row: Approach) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Means of the stages, and by stage what a cost adds when it is doubled, over the mean, as a 1 % nudge says."""
    means = simulate(scenario, row).breakdown
    moved: dict[str, dict[str, float]] = {}
    for name, cost in scenario.costs.items():
        try:
            more = _nudged(scenario, name, 1)
        except InvalidInput:  # a part as large as its whole
            more = _nudged(scenario, name, -1)
        step = more.costs[name].value - cost.value
        for stage, mean in simulate(more, row).breakdown.items():
            if mean != means[stage]:
                slope = (mean - means[stage]) / step
                moved.setdefault(stage, {})[name] = slope * cost.value / means[stage] if means[stage] else 0.0
    return means, moved


def _nudged(scenario: Scenario, name: str, sign: int) -> Scenario:
    """With a cost and its range 1 % larger or smaller, at least by a ns."""
    cost = scenario.costs[name]
    low, value, high = (max(0, ns + sign * max(1, ns // 100)) for ns in (cost.low, cost.value, cost.high))
    return scenario.but(costs=scenario.costs.but({name: {"low": low, "value": value, "high": high}}))
