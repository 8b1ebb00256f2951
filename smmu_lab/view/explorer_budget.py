"""How much a preview may simulate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count, islice
from time import sleep

from smmu_lab.scenario import Recorded, Scenario, Unmaps
from smmu_lab.sim.clock import Clock

BUDGET = 35_000
"""CPU time of a preview, all approaches and the drawing together, µs. 50 ms are allowed; a key is to become a changed
picture within 100, and the way to the browser and two of its frames take 50."""
DRAWING = 8_000
"""What a preview takes however few unmaps it has, µs, and some reserve."""
PER_UNMAP, PER_COMMAND = 18, 0.08
"""What an unmap, and each of its commands, takes under one approach, µs; measured times correct it."""
FEWEST = 2
"""Unmaps per vCPU, whatever they take."""
FLUSH = 256
"""Unmaps per vCPU in flush-queue mode, where they cost little: enough for a flush."""
PATIENCE = 256
"""Steps of a run in a thread, about 1 ms, before others have a turn; Python alone would take 5 ms."""


class Dropped(Exception):
    """The setting has changed, and nobody waits for this run any more."""


class Watched(Clock):
    """A clock of a run in a thread: it gives way to others, and stops when nobody waits for it any more."""

    def __init__(self, stale: Callable[[], bool]) -> None:
        super().__init__()
        look, turns = self.env.peek, count(1)

        def peek() -> float:
            if stale():
                raise Dropped
            if next(turns) % PATIENCE == 0:
                sleep(1e-6)
            return look()

        self.peek = peek


def asked(scenario: Scenario) -> int:
    """How many unmaps the scenario asks for, or operations of a recorded guest; neighbours' are not counted."""
    load, guests = scenario.workload, scenario.guests - scenario.neighbour.guests
    if isinstance(load, Recorded):
        return guests * sum(_lengths(scenario))
    return guests * scenario.vcpus * load.ops


def affordable(scenario: Scenario, paces: Iterable[float]) -> Scenario:
    """The scenario with as many unmaps as the budget allows, with that which a fault strikes, and never more than all.

    Args:
        scenario: all of it.
        paces: of each approach how many times as long it takes as `work` says.
    """
    load, vcpus = scenario.workload, scenario.guests * scenario.vcpus
    longest = max(_lengths(scenario), default=0) if isinstance(load, Recorded) else load.ops
    lazy = isinstance(load, Unmaps) and load.lazy
    allowed = int((BUDGET - DRAWING) / (work(scenario) * vcpus * sum(paces)))
    struck = scenario.fault.op + 1 if scenario.fault else 0
    return scenario.but({"workload.ops": max(1, min(longest, max(FLUSH if lazy else FEWEST, allowed, struck)))})


def work(scenario: Scenario) -> float:
    """What one unmap takes under an approach, µs, as far as can be told beforehand: its simulation, and its figures."""
    load, reaches = scenario.workload, scenario.reaches(0, 0)
    if isinstance(load, Recorded):
        some = [each.batches for each in islice(load.operations(0, scenario.smmu.ril, reaches), 100)]
        commands = sum(sum(batch[:4]) + 1 for batches in some for batch in batches) / max(1, len(some))
    else:
        commands = sum(sum(batch[:4]) + 1 for batch in load.batches(scenario.smmu.ril, reaches))
        if load.lazy:
            return PER_UNMAP / 4
    return PER_UNMAP + PER_COMMAND * commands


def _lengths(scenario: Scenario) -> list[int]:
    load = scenario.workload
    assert isinstance(load, Recorded)
    return [len(load.operations(vcpu, load.ril, ())) for vcpu in range(load.vcpus)]
