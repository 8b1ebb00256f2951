"""What one run cannot show: without software, with dearer steps, with a device that answers late, with real commands.

Numbers such as I-18 are those of PATHS section 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import attrs

from smmu_lab.record import Run
from smmu_lab.scenario import Approach, Costs, Fault, Scenario, Smmu, Unmaps
from smmu_lab.study import isolation
from smmu_lab.study.evidence import NEVER, Breach, Ended, Evidence, Listed, observe
from smmu_lab.units import show_time

HARDWARE = frozenset({"t_tlbi", "t_atc", "atc_rtt", "t_sync", "sync_occ"})
"""Costs of the SMMU and of devices."""
PARTS = {"sync_occ": "t_sync", "vmm_lock": "exit_user"}
"""Costs that are a part of another: what makes the part dearer makes the whole dearer."""


@attrs.frozen
class Trial:
    """A name, a sentence, and what looks for a breach; `excuse` says why that is nothing under an approach."""

    name: str
    statement: str
    breaches: Callable[[Approach, int], Iterable[Breach]]
    excuse: Callable[[Approach], str] = lambda row: ""


def _alone(row: Approach, seed: int, **load: Any) -> Scenario:
    """One vCPU that finds all queues idle."""
    idle = Unmaps(think=1_000_000, spread="constant", ops=2)
    return Scenario(workload=idle.but(load), smmu=Smmu(ril=False), seed=seed)


def _through(scenario: Scenario, row: Approach) -> Evidence:
    """A run to its end.

    Raises:
        Ended: it does not come there.
    """
    case = observe(scenario, row)
    if case.error is not None or case.missing:
        raise Ended(case)
    return case


# -- without software --------------------------------------------------------------------------------------------------


class _Engine:
    """The SMMU alone, with one queue: what a list costs when nothing else does.

    Source: docs/model.md; ATC_INVs are answered after `atc_rtt`, CMD_SYNCs wait for that and complete in order.
    """

    def __init__(self, costs: Costs) -> None:
        self.costs = costs
        self.free = self.answered = self.completed = 0

    def run(self, arrival: int, tlbi: int, atc: int, tail: int, sync: int) -> int:
        """Commands arrive: returns when they are done."""
        c = self.costs
        self.free = max(self.free, arrival) + (tlbi * c.t_tlbi + atc * c.t_atc)
        if atc:
            self.answered = self.free - tail * c.t_tlbi + c.atc_rtt
        if not sync:
            return self.free
        self.free += c.sync_occ
        self.completed = max(self.completed, max(self.free, self.answered) + c.t_sync - c.sync_occ)
        return self.completed


def zero_cost_limit(row: Approach, seed: int) -> Iterator[Breach]:
    """Nothing is left but the hardware, fed with what this approach feeds it."""
    for pages, devices in ((8, 2), (130, 1)):
        scenario = _alone(row, seed, pages=pages, ats_devices=devices)
        nothing = {name: 0 for name in scenario.costs if name not in HARDWARE} | {"wake": {"low": 0, "value": 0}}
        scenario = scenario.but(costs=scenario.costs.but(nothing))
        case = _through(scenario, row)
        for queue, lists in case.queues.items():
            if not queue or not lists:
                continue
            hardware = case.by(queue).executes_directly
            for listed, due in (_run_by_hardware if hardware else _issued_by_host)(case, lists):
                if listed.work.sync and listed.visible != due:
                    yield Breach(
                        f"the end of {listed.end} can be seen at {listed.visible:,} ns, and the hardware alone is "
                        f"through at {due:,} ns",
                        (listed,),
                        reported=callable(row.consumer),  # which may take its time, whatever the costs say
                        scenario=scenario,
                    )


def _run_by_hardware(case: Evidence, lists: list[Listed]) -> Iterator[tuple[Listed, int]]:
    engine = _Engine(case.scenario.costs)
    for listed in lists:
        work = listed.work
        yield listed, engine.run(listed.published, work.tlbi, work.atc, work.tail, work.sync)


def _issued_by_host(case: Evidence, lists: list[Listed]) -> Iterator[tuple[Listed, int]]:
    """Call after call, each from the end of the one before; a drain from the publication of what it took."""
    engine = _Engine(case.scenario.costs)
    queue, requests = lists[0].queue, case.row.front == "virtio-iommu"
    waits = case.by(queue).handoff == "array-at-sync"
    calls: dict[int, list[Any]] = defaultdict(list)  # by the list with which the host gets them
    for call in case.calls[queue]:
        if call.holds:
            last = call.holds[-1][1].end
            calls[next(each.end for each in lists if each.end >= last and (each.work.sync or not waits))].append(
                call.work
            )
    t = at = 0
    for _, cons in case.stores[queue]:
        drained = [each for each in lists if at < each.end <= cons]
        at = cons
        t = max([t, *(each.published for each in drained)])
        for listed in drained:
            for work in calls[listed.end]:
                t = engine.run(t, work.tlbi, work.atc, work.tail, 1)
            if requests:
                yield listed, t
        if not requests:
            yield from ((listed, t) for listed in drained)


# -- dearer steps ------------------------------------------------------------------------------------------------------


def _dearer(costs: Costs) -> Iterator[tuple[str, Costs]]:
    """Every cost at its high end, and all others as they were."""
    for name, cost in costs.items():
        if more := cost.high - cost.value:
            changes = {name: cost.high}
            if whole := PARTS.get(name):
                changes[whole] = costs[whole].value + more
            yield name, costs.but(changes)


def _waits(case: Evidence, what: str) -> list[tuple[Listed, int]]:
    """From the allocation of every list that is waited for to its end, ns."""
    return [
        (listed, getattr(listed, what) - listed.asked)
        for lists in case.vcpus.values()
        for listed in lists
        if listed.work.sync
    ]


def _steady(row: Approach) -> Approach:
    """The same approach, where nothing is drawn by lot."""
    return row.but(wake="constant", name=row.name) if row.has_worker and row.doorbell == "trap-to-kernel" else row


def monotone(row: Approach, seed: int) -> Iterator[Breach]:
    """On one vCPU and idle queues a dearer step makes no list's end visible earlier.

    An unmap of more than one list is another matter: a consumer that comes later may take both up at once.
    """
    row = _steady(row)
    sooner: dict[str, int] = {}
    for scenario in (_alone(row, seed, pages=8), _alone(row, seed, pages=8, ats_devices=2)):
        base = _through(scenario, row)
        for name, costs in _dearer(scenario.costs):
            case = _through(scenario.but(costs=costs), row)
            spared = base.record.counts.wakes > case.record.counts.wakes
            for (_, before), (listed, after) in zip(_waits(base, "visible"), _waits(case, "visible"), strict=True):
                if after < before:
                    yield Breach(
                        f"with {name} at {show_time(costs[name].value)} the end of {listed.end} is visible "
                        f"{show_time(before - after)} earlier"
                        + (": the thread was still looking for more, and need not be woken" if spared else ""),
                        (listed,),
                        reported=spared and row.busy_poll > 0,
                        scenario=case.scenario,
                    )
            seen = zip(_waits(base, "seen"), _waits(case, "seen"), strict=True)
            gain = max((before - after for (_, before), (_, after) in seen), default=0)
            if gain > 0:
                sooner[name] = max(gain, sooner.get(name, 0))
    if sooner:
        said = ", ".join(f"{name} (by {show_time(gain)})" for name, gain in sooner.items())
        yield Breach(
            f"the vCPU sees an end earlier, though it is visible no earlier, when one of these is dearer: {said}; "
            "the delays of its poll loop double with its steps, not with time",
            reported=True,
        )


def monotone_together(row: Approach, seed: int) -> Iterator[Breach]:
    """With four vCPUs a dearer step may save others: such pairs are named, with what changed."""
    row = _steady(row)
    load = Unmaps(pages=8, think=2_000, ops=8)
    scenario = Scenario(workload=load, smmu=Smmu(ril=False), vcpus=4, seed=seed)
    base = _through(scenario, row)
    for name, costs in _dearer(scenario.costs):
        case = _through(scenario.but(costs=costs), row)
        if (gain := _mean(base.record) - _mean(case.record)) > 0:
            changed = _changed(base.record, case.record) or "the order in which lists meet"
            yield Breach(f"{name}: {100 * gain / _mean(base.record):.2g} % less in the mean ({changed})", reported=True)


def _mean(run: Run) -> float:
    return sum(run.latencies) / len(run.latencies)


def _changed(before: Run, after: Run) -> str:
    """What happened more or less often, per operation."""
    names = {"host_syncs": "host SYNCs", "doorbells": "doorbells", "drains": "drains", "wakes": "wakes"}
    names |= {"cons_reads": "CONS reads"}
    pairs = {
        what: (getattr(before.counts, name) / len(before.ops), getattr(after.counts, name) / len(after.ops))
        for name, what in names.items()
    }
    return ", ".join(f"{what} {old:.2f} -> {new:.2f}" for what, (old, new) in pairs.items() if old != new)


# -- a device that answers late ----------------------------------------------------------------------------------------

STALL = 50_000
"""How much later the devices of guest 0 answer, ns."""


def stall_isolation(row: Approach, seed: int) -> Iterator[Breach]:
    """Whether guest 1 is later when the devices of guest 0 are."""
    load = Unmaps(pages=4, ats_devices=1, think=5_000, ops=6)
    prompt = Scenario(workload=load, smmu=Smmu(ril=False), guests=2, vcpus=2, seed=seed)
    late = prompt.but(fault=Fault(kind="stalled-device", op=2, delay=STALL))
    before, after = (_ends(observe(scenario, row), guest=1) for scenario in (prompt, late))
    moves = [new.visible - old.visible for old, new in zip(before, after, strict=True)]
    if any(moves):
        private = row.execution == "parallel"
        most = max(range(len(moves)), key=lambda k: abs(moves[k]))
        yield Breach(
            f"when the device of guest 0 answers {show_time(STALL)} later, {len(moves) - moves.count(0)} of "
            f"{len(moves)} ends of guest 1 move, by {min(moves):+,} .. {max(moves):+,} ns",
            (after[most],) if private else (),
            reported=not private,
            scenario=late,
        )


def _ends(case: Evidence, guest: int) -> list[Listed]:
    """The lists of a guest that are waited for, by vCPU."""
    ends = [each for (who, _), lists in case.vcpus.items() if who == guest for each in lists if each.work.sync]
    if case.error is not None or any(each.seen == NEVER for each in ends):
        raise Ended(case)
    return ends


TRIALS = (
    Trial(
        "zero-cost-limit",
        "Where software costs nothing, an end is visible when the hardware alone is through with the same commands "
        "(I-36).",
        zero_cost_limit,
    ),
    Trial(
        "monotone",
        "On one vCPU with idle queues a dearer step makes the end of no unmap of one list visible earlier (I-38).",
        monotone,
    ),
    Trial(
        "monotone-together",
        "Four vCPUs are no faster in the mean when a step is dearer, but for what they share (I-38).",
        monotone_together,
    ),
    Trial(
        "stall-isolation",
        "A guest whose devices answer late delays no other where queues and engines are private (I-18).",
        stall_isolation,
    ),
    Trial(
        "isolation",
        "Whatever a guest writes, what reaches the host or the hardware for it names its own VMID and StreamIDs only, "
        "and is a command that it may have there (I-15, I-16).",
        isolation.isolation,
        isolation.beside_guests,
    ),
)
