"""How much a preview may simulate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count, islice
from time import sleep

from smmu_lab.scenario import Approach, Recorded, Scenario, Unmaps
from smmu_lab.sim.clock import Clock

BUDGET = 35_000
"""CPU time of a preview, all approaches and the drawing together, µs. A key is to become a changed picture in 100 ms,
and the way to the browser and two of its frames take 50."""
MOST = 50_000
"""A setting whose smallest preview takes longer, µs, has none."""
DRAWING = 8_000
"""What a preview takes however few unmaps it has, µs, and some reserve."""
PER_UNMAP, PER_COMMAND, PER_CALL = 18, 0.08, 6
"""What an unmap, each of its commands, and each host call that may meet those of other guests take under one approach,
µs; measured times correct it."""
FEWEST = 2
"""Unmaps per vCPU: less is no preview."""
FLUSH = 256
"""Unmaps per vCPU in flush-queue mode, where they cost little: enough for a flush."""
PATIENCE = 256
"""Steps of a run in a thread, about 1 ms, before others have a turn; Python alone would take 5 ms."""


class TooMuch(Exception):
    """No preview of this setting fits into the budget; `str` is what to say."""


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


def affordable(scenario: Scenario, rows: Sequence[Approach], paces: Sequence[float]) -> Scenario:
    """The scenario with as many unmaps as the budget allows, with that which a fault strikes, and never more than all.

    Args:
        scenario: all of it.
        rows: the approaches.
        paces: of each how many times as long it takes as `work` says.

    Raises:
        TooMuch: even the fewest would take too long.
    """
    load, vcpus = scenario.workload, scenario.guests * scenario.vcpus
    longest = max(_lengths(scenario), default=0) if isinstance(load, Recorded) else load.ops
    lazy = isinstance(load, Unmaps) and load.lazy
    each = vcpus * sum(pace * takes for pace, takes in zip(paces, work(scenario, rows), strict=True))
    struck = scenario.fault.op + 1 if scenario.fault else 0
    fewest = max(1, min(longest, max(FLUSH if lazy else FEWEST, struck)))
    if (takes := DRAWING + fewest * each) > MOST:
        noun = "operations" if isinstance(load, Recorded) else "unmaps"
        under = f"{len(rows)} approaches" if len(rows) > 1 else rows[0].name
        raise TooMuch(
            f"Too much for a preview: {fewest:,} {noun} on each of {vcpus:,} vCPUs under {under} take about "
            f"{takes / 1e3:,.0f} ms, and {MOST / 1e3:.0f} ms are allowed. The full run follows."
        )
    return scenario.but({"workload.ops": max(fewest, min(longest, int((BUDGET - DRAWING) / each)))})


def work(scenario: Scenario, rows: Iterable[Approach]) -> list[float]:
    """What an unmap takes under each approach, µs, as far as can be told beforehand: its simulation and its figures."""
    load, reaches = scenario.workload, scenario.reaches(0, 0)
    each: float = PER_UNMAP
    if isinstance(load, Recorded):
        some = [each.batches for each in islice(load.operations(0, scenario.smmu.ril, reaches), 100)]
        commands = sum(sum(batch[:4]) + 1 for batches in some for batch in batches) / max(1, len(some))
    elif load.lazy:
        each, commands = PER_UNMAP / 4, 0
    else:
        commands = sum(sum(batch[:4]) + 1 for batch in load.batches(scenario.smmu.ril, reaches))
    shared = commands if scenario.guests > 1 else 0
    calls = [shared if row.handoff in ("marshalled", "per-command") else 0 for row in rows]
    return [each + PER_COMMAND * commands + PER_CALL * number for number in calls]


def _lengths(scenario: Scenario) -> list[int]:
    load = scenario.workload
    assert isinstance(load, Recorded)
    return [len(load.operations(vcpu, load.ril, ())) for vcpu in range(load.vcpus)]
