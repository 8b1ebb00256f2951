"""What an approach promises a guest about the others, and whether that holds.

A promise follows from the columns of the row, is tested on what was seen, and may be broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import attrs

from smmu_lab.record import sectioned
from smmu_lab.scenario import Approach, Scenario, Unmaps
from smmu_lab.study.figures import show_margin
from smmu_lab.units import show_time

TOLERATED = 0.01
"""A part of the stall: more in the mean says that at least one operation in a hundred was held up for all of it."""


STANDING = 0.1
"""A part of the time: a device that is stalled for less could go unnoticed in any queue."""


class Op(NamedTuple):
    """An operation of the quiet guest: who, when, what, and how long; `engine` is from the PROD write's arrival on."""

    vcpu: int
    start: int
    kind: str
    latency: int
    engine: int
    commands: int


@attrs.frozen
class Evidence:
    """What was seen of one approach.

    Attributes:
        scenario: the quiet guest's.
        row: the approach.
        ops: by company, the quiet guest's operations of each replication, vCPU by vCPU.
        stall: how late the neighbour's device answers, ns.
        standing: share of the time for which that device is stalled.
        others: operations of neighbours, of all companies.
        backlog: time that the engine needs for one unmap of each of the flood's vCPUs, ns.
        instances: vSMMUs of a guest that have queues on one SMMU, at most.
    """

    scenario: Scenario
    row: Approach
    ops: Mapping[str, Sequence[Sequence[Op]]]
    stall: int
    standing: float
    others: int
    backlog: int = 0
    instances: int = 1


@attrs.frozen
class Outcome:
    """What the test of a promise says.

    Attributes:
        answer: ``holds``, ``broken``, ``cannot tell`` or ``not tested``.
        measured: what that rests on, in words.
    """

    answer: str
    measured: str


@attrs.frozen
class Promise:
    """What an approach promises a guest about the others.

    Attributes:
        name: in a word or two.
        statement: what is promised.
        test: how it is decided whether that holds.
        check: decides it.
    """

    name: str
    statement: str
    test: str
    check: Callable[[Evidence], Outcome]


def _private_queue(seen: Evidence) -> Outcome:
    """No CMD_SYNC waits for the neighbour's ATC_INV."""
    if seen.standing < STANDING:
        shown = f"the device is stalled for {seen.standing:.1%} of the time, and {STANDING:.0%} would show"
        return Outcome("not tested", shown)
    stalled, free = ([_unmaps(ops) for ops in seen.ops[name]] for name in ("stalled", "ats"))
    later = [fmean(a.latency - b.latency for a, b in zip(*ops, strict=True)) for ops in zip(stalled, free, strict=True)]
    harm, most = sectioned(fmean(later), later), TOLERATED * seen.stall
    measured = f"{show_margin(harm, '+')} by the stall, tolerated {show_time(most)}"
    if harm.low is None or harm.high is None:
        return Outcome("not tested", f"{measured}; no interval")
    return Outcome("holds" if harm.high <= most else "broken" if harm.low > most else "cannot tell", measured)


def _turns(seen: Evidence) -> Outcome:
    """Each command of an unmap, and of those in its queue before it, waits for one command of each other queue."""
    costs, row, scenario = seen.scenario.costs, seen.row, seen.scenario
    own = scenario.vcpus if row.queues == "ecmdq" else max(1, row.vcmdqs)
    sharing = -(-scenario.vcpus // own)
    queues = 2 * own * max(1, seen.instances) + 1  # both guests', and the host's
    turn = queues * max(costs.t_tlbi, costs.t_atc, costs.sync_occ)
    reaches = [scenario.reaches(0, v, row.on_metal) for v in range(scenario.vcpus)]
    atc = any(sum(reach.ats) for each in reaches for reach in each)
    syncs = max(map(len, reaches)) * (1 + atc)
    unmaps = [op for replications in seen.ops.values() for ops in replications for op in _unmaps(ops)]
    commands = max(op.commands for op in unmaps) + syncs
    allowed = sharing * commands * turn + syncs * (costs.t_sync - costs.sync_occ + atc * costs.atc_rtt)
    longest = max(op.engine for op in unmaps)
    measured = f"{show_time(longest)} at the SMMU, allowed {show_time(allowed)}"
    if longest > allowed:
        return Outcome("broken", measured)
    if seen.backlog <= allowed:
        told = f"the flood's lists take {show_time(seen.backlog)} at once: no order would show"
        return Outcome("not tested", f"{measured}; {told}")
    return Outcome("holds", measured)


def _private_engine(seen: Evidence) -> Outcome:
    """Every operation starts and lasts as it does alone."""
    pairs = [
        pair
        for name in seen.ops
        if name != "alone"
        for ours, theirs in zip(seen.ops[name], seen.ops["alone"], strict=True)
        for pair in zip(ours, theirs, strict=True)
    ]
    differ = sum(here != alone for here, alone in pairs)
    measured = f"{differ:,} of {len(pairs):,} operations differ, beside {seen.others:,} of neighbours"
    return Outcome("broken" if differ else "holds", measured)


def _unmaps(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if op.kind == "unmap"]


QUEUE = Promise(
    "private queue",
    "no ATC_INV of another guest holds up a CMD_SYNC of its own queues; the engine is shared",
    f"paired differences of unmaps, stalled or not: their 95 % interval ends below {TOLERATED:.0%} of the stall",
    _private_queue,
)


TURNS = Promise(
    "turns",
    "a command waits for at most one command of each other hardware queue",
    "the longest time of any unmap at the SMMU, in all company, against that bound",
    _turns,
)


ENGINE = Promise(
    "private engine",
    "nothing that another guest does is felt",
    "exact: every operation starts and lasts as it does alone, in all company",
    _private_engine,
)


def promises(row: Approach, scenario: Scenario) -> tuple[Promise, ...]:
    """What an approach promises a guest about the others, by its columns.

    Commands that go through the host's CMDQ wait for whatever is in it. So do those that a VCMDQ does not take; below
    an overlay others of the guest then wait for these.

    >>> from smmu_lab.scenario import approach
    >>> [each.name for each in promises(approach("vcmdq"), Scenario())], promises(approach("batched"), Scenario())
    (['private queue'], ())
    """
    load = scenario.workload
    traps = isinstance(load, Unmaps) and load.cd_every > 0 and not row.on_metal
    if row.host_queue == "cmdq":
        return ()
    if row.execution == "parallel" and not traps:
        return (ENGINE,)
    in_turns = row.arbitration == "round-robin" and not (traps and row.unsupported == "stop-and-fix")
    return (QUEUE, TURNS) if in_turns else (QUEUE,)
