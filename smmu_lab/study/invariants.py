"""What must hold in every run: invariants of queues and of guests, and the table of all that are read from one run.

Each function yields the breaches it finds. Numbers such as I-7 are those of PATHS section 5.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, zip_longest

import attrs

from smmu_lab.record import KINDS
from smmu_lab.scenario import Approach, Scenario, Unmaps
from smmu_lab.study import executed, isolation
from smmu_lab.study.closed_forms import closed_forms
from smmu_lab.study.evidence import NEVER, Breach, Evidence, Name, observe, queue_name, recorded


@attrs.frozen
class Invariant:
    """What must hold in every run.

    Attributes:
        name: a few words.
        statement: one sentence.
        breaches: what looks for them.
        excuse: why there is nothing to see under an approach; empty where there is.
        unfinished: it can be told from a run in which not every operation ends.
    """

    name: str
    statement: str
    breaches: Callable[[Evidence], Iterable[Breach]]
    excuse: Callable[[Approach], str] = lambda row: ""
    unfinished: bool = False


# -- PROD and CONS -----------------------------------------------------------------------------------------------------


def prod_forward(case: Evidence) -> Iterator[Breach]:
    """Each PROD write begins where the one before ended, in the order of time."""
    for queue, writes in case.publications.items():
        at = then = 0
        for time, group in writes:
            for listed in group:
                if listed.begin != at or time < then:
                    yield Breach(f"{queue_name(queue)}: PROD covers {listed.begin}..{listed.end} after {at}", (listed,))
                at, then = listed.end, time


def cons_within_prod(case: Evidence) -> Iterator[Breach]:
    """CONS moves forward, never past PROD, and PROD never more than the queue's size past it."""
    for queue, lists in case.queues.items():
        writes, moves, size = case.publications[queue], case.stores[queue], _size(case, queue)
        written, moved = [time for time, _ in writes], [time for time, _ in moves]
        if moves != sorted(moves):
            back = next(after for before, after in pairwise(moves) if after < before)
            yield Breach(
                f"{queue_name(queue)}: CONS moves to {back[1]} at {back[0]:,} ns, after a later move", (lists[0],)
            )
            continue
        for time in sorted({*written, *moved}):
            known = bisect_right(written, time)
            prod = writes[known - 1][1][-1].end if known else 0
            at = bisect_right(moved, time)
            cons = moves[at - 1][1] if at else 0
            if not 0 <= prod - cons <= size or (prod % (2 * size) - cons % (2 * size)) % (2 * size) > size:
                near = [each for each in lists if each.begin <= cons][-1:]
                yield Breach(
                    f"{queue_name(queue)}: at {time:,} ns CONS is {cons}, PROD {prod}, of {size} entries", (*near,)
                )


def _size(case: Evidence, queue: Name) -> int:
    """Entries of a queue."""
    smmu, row = case.scenario.smmu, case.row
    if row.queues == "ecmdq" and queue:
        return 256  # ECMDQ_MAX_SZ_SHIFT is 8
    return 1 << (smmu.queue_log2 if queue and not row.on_metal else smmu.host_queue_log2)


def published_entries_valid(case: Evidence) -> Iterator[Breach]:
    """When PROD is written, all entries that it covers are."""
    for queue, writes in case.publications.items():
        for time, group in writes:
            for listed in group:
                if listed.written > time:
                    yield Breach(
                        f"{queue_name(queue)}: PROD covers {listed.end} at {time:,} ns; its entries are written at "
                        f"{listed.written:,} ns",
                        (listed,),
                    )


def read_after_publication(case: Evidence) -> Iterator[Breach]:
    """No command is run before its PROD write can have reached who runs it, and before that can have read it."""
    c = case.scenario.costs
    for queue, lists in case.guest_queues:
        row = case.by(queue)
        requests = row.front == "virtio-iommu"
        away = {
            "trap-to-vmm": c.exit_user,
            "trap-to-kernel": 0 if requests else c.exit_kernel,  # a ring is in memory anyway
            "kernel-call": c.exit_kernel,
            "polled": c.prod_shared + c.poll,
            "direct": c.mmio_w,
        }[row.doorbell]
        away += c.vq_take if requests else c.capture if row.has_worker else 0
        per_entry = 2 * c.copy + c.conv if row.in_kernel and not requests else 0
        for listed in lists:
            due = listed.published + away + listed.work.entries * per_entry
            first = min([call.start for call in listed.calls] + ([listed.ran[0]] if listed.ran else []), default=due)
            if first < due:
                yield Breach(
                    f"{queue_name(queue)}: the list up to {listed.end} is run from {first:,} ns on; PROD covers it at "
                    f"{listed.published:,} ns, so that cannot be before {due:,} ns",
                    (listed,),
                )


# -- the guest ---------------------------------------------------------------------------------------------------------


def no_lost_doorbell(case: Evidence) -> Iterator[Breach]:
    """Every operation ends, and at the end CONS is PROD."""
    for guest, vcpu, ended, wanted in case.missing:
        waiting = [each for each in case.vcpus[guest, vcpu] if each.work.sync and each.seen == NEVER]
        yield Breach(
            f"vCPU {guest}.{vcpu}: {ended} of {wanted} operations end, and then nothing happens", (*waiting[:1],)
        )
    for guest, queue, prod, cons in case.record.queues:
        if prod != cons:
            stuck = [each for each in case.queues[guest, queue] if each.covered == NEVER]
            yield Breach(f"{queue_name((guest, queue))}: at the end PROD is {prod} and CONS is {cons}", (*stuck[:1],))


def unmap_after_sync(case: Evidence) -> Iterator[Breach]:
    """A vCPU goes on when it has seen what is visible; ATC_INVs follow the CMD_SYNC of their TLBIs."""
    for (guest, vcpu), lists in case.vcpus.items():
        who = f"vCPU {guest}.{vcpu}"
        for listed in lists:
            if listed.work.sync and listed.seen < listed.visible:
                yield Breach(f"{who} has seen the end of its CMD_SYNC before it is there", (listed,))
            if case.row.front == "smmu-commands" and listed.work.atc and listed.work.tlbi:
                yield Breach(f"{who} has TLBIs and ATC_INVs in one list", (listed,))
        for before, after in pairwise(lists):
            if before.work.sync and after.asked < before.seen:
                yield Breach(f"{who} goes on before it has seen the end of its CMD_SYNC", (before, after))
            atc = case.row.front == "smmu-commands" and after.work.atc and not before.work.atc
            if atc and not before.work.sync:
                yield Breach(f"{who} sends ATC_INVs, and has not waited for the TLBIs before them", (before, after))
        seen = {listed.seen for listed in lists}
        for op in case.operations[guest, vcpu]:
            if (op["tlbi"] or op["atc"]) and op["end"] not in seen:
                yield Breach(f"{who}: an unmap returns at {op['end']:,} ns, when the end of no CMD_SYNC was seen")
    exposure = sum(_exposure(case, who) for who in case.vcpus) if _is_lazy(case.scenario) else 0
    if (counted := case.record.counts.exposure) != exposure:
        yield Breach(f"the exposure is {counted:,} page-nanoseconds, and should be {exposure:,}")


def _is_lazy(scenario: Scenario) -> bool:
    return isinstance(scenario.workload, Unmaps) and scenario.workload.lazy


def _exposure(case: Evidence, who: tuple[int, int]) -> int:
    """Page-nanoseconds between an unmap's return and the end of the flush that covers it."""
    visible = {listed.seen: listed.visible for listed in case.vcpus[who]}
    queued: list[tuple[int, int]] = []
    total = 0
    for op in case.operations[who]:
        if op["tlbi"] and KINDS[op["kind"]] != "other":
            total += sum(pages * (visible.get(op["end"], NEVER) - end) for pages, end in queued)
            queued.clear()
        if op["pages"]:
            queued.append((op["pages"], op["end"]))
    return total


def littles_law(case: Evidence) -> Iterator[Breach]:
    """L = lambda W, both ways exact: what the steps add up to over time is what the lists and operations waited."""
    for queue, lists in case.queues.items():
        steps = [(time, lists_[-1].end - lists_[0].begin) for time, lists_ in case.publications[queue]]
        cons = 0
        for time, to in case.stores[queue]:
            steps.append((time, cons - to))
            cons = to
        waited = sum((each.end - each.begin) * (each.covered - each.published) for each in lists)
        if (area := _area(steps)) != waited:
            yield Breach(
                f"{queue_name(queue)}: PROD - CONS adds up to {area:,} entry-ns, the waits of its entries to {waited:,}"
            )
    if case.row.front == "smmu-commands":
        run, lists = case.record, [each for _, lists in case.guest_queues for each in lists]
        steps = [(each.written, 1) for each in lists]
        steps += [(each.seen if each.work.sync else each.resumed, -1) for each in lists]
        waited = sum(run.latencies) - sum(run.ops["build"]) - sum(run.ops["space"])
        if (area := _area(steps)) != waited:
            yield Breach(f"lists in flight add up to {area:,} ns, the waits of the operations to {waited:,} ns")


def _area(steps: list[tuple[int, int]]) -> int:
    """The integral over time of a number that changes in steps, ns."""
    area = number = then = 0
    for time, change in sorted(steps):
        area += number * (time - then)
        number += change
        then = time
    return area


# -- the whole run -----------------------------------------------------------------------------------------------------


def same_bits(case: Evidence) -> Iterator[Breach]:
    """Once more the same."""
    again = observe(case.scenario, case.row)
    first, second = _life(case), _life(again)
    if again.error is not None:
        yield Breach(f"the second time it ended with {again.error!r}")
    elif first != second:
        number, step = next((k, new) for k, (old, new) in enumerate(zip_longest(first, second)) if old != new)
        yield Breach(f"the second time step {number} is another: {step!r:.120}")
    elif recorded(again.record) != recorded(case.record):
        yield Breach("the trail is the same, and the record is not")


def _life(case: Evidence) -> list[tuple[object, ...]]:
    """The trail as plain values."""
    return [
        tuple(
            [ticket.end for ticket in each.tickets] if hasattr(each, "tickets")
            else (each.end, each.written, each.visible) if hasattr(each, "visible")
            else each
            for each in step
        )
        for step in case.trail
    ]  # fmt: skip


# -- counts: PATHS section 4 -------------------------------------------------------------------------------------------


def counts(case: Evidence) -> Iterator[Breach]:
    """Of one vCPU on idle queues."""
    if is_idle(case.scenario):
        run, ops = case.record, case.scenario.workload.ops
        for name, (low, high) in closed_forms(case.scenario, case.row).items():
            number = getattr(run.counts, name)
            if not low * ops <= number <= (NEVER if high is None else high * ops):
                bounds = f"{low * ops}" if low == high else f"{low * ops} .. {'' if high is None else high * ops}"
                yield Breach(f"{name} is {number} for {ops} unmaps, and should be {bounds}")


def is_idle(scenario: Scenario) -> bool:
    """One vCPU that unmaps page by page, and thinks long enough between."""
    load = scenario.workload
    return (
        isinstance(load, Unmaps)
        and not (load.lazy or load.rate or load.cd_every or scenario.smmu.ril)
        and scenario.guests == scenario.vcpus == 1
        and load.think >= 1_000_000
        and load.pages < 512
        and scenario.smmu.errata == "none"
        and scenario.smmu.queue_log2 == scenario.smmu.host_queue_log2 == 16
    )


INVARIANTS = (
    Invariant(
        "order",
        "The host, or the hardware, runs the commands of a queue in their order, each exactly once (I-4, I-6).",
        executed.order,
    ),
    Invariant(
        "conservation",
        "Commands in are commands forwarded, run by hardware, emulated or dropped by rule; commands, doorbells, drains "
        "and what the host issued are counted as the trail shows (I-37).",
        executed.conservation,
    ),
    Invariant(
        "sync-after-predecessors",
        "The end of a CMD_SYNC can be seen only when every earlier command of its queue is complete (I-7).",
        executed.sync_after_predecessors,
    ),
    Invariant("syncs-in-order", "CMD_SYNCs of a queue complete in order (I-8).", executed.syncs_in_order),
    Invariant(
        "execution-takes-its-time",
        "No issue call and no hardware list is faster than its commands, its CMD_SYNC and the answer to its last "
        "ATC_INV can be (I-7).",
        executed.execution_time,
    ),
    Invariant(
        "cons-after-execution",
        "CONS covers a command only when that is complete, and a CMD_SYNC only when all before it is (I-7).",
        executed.cons_after_execution,
    ),
    Invariant("prod-forward", "PROD moves forward only, from list to list (I-2, I-6).", prod_forward),
    Invariant(
        "cons-within-prod",
        "CONS moves forward only, never past PROD, and PROD is at most the queue's size ahead (I-1).",
        cons_within_prod,
    ),
    Invariant(
        "published-entries-valid",
        "A PROD write covers written entries only, also those of the lists that ride along (I-3).",
        published_entries_valid,
    ),
    Invariant("read-after-publication", "Nobody runs a command before PROD covers it (I-13).", read_after_publication),
    Invariant(
        "no-lost-doorbell",
        "Every operation ends, and at the end CONS is PROD (I-19, I-20).",
        no_lost_doorbell,
        unfinished=True,
    ),
    Invariant(
        "unmap-after-sync",
        "A vCPU goes on when it has seen the end of its CMD_SYNC, ATC_INVs after their TLBIs (I-10, I-11).",
        unmap_after_sync,
    ),
    Invariant(
        "one-handler-at-a-time",
        "The VMM of a guest, and a kernel thread, hands one thing at a time to the host (I-22).",
        executed.one_handler,
        lambda row: "no software hands anything over" if row.on_metal else "",
    ),
    Invariant(
        "counts",
        "Exits, ioctls, host CMD_SYNCs, wakes and CONS reads of one vCPU are the closed forms of section 4 (I-37).",
        counts,
    ),
    Invariant("littles-law", "L = lambda W on every command queue, to the nanosecond (I-39).", littles_law),
    Invariant(
        "same-commands",
        "The lists that the host issues for a guest hold as many TLBIs and ATC_INVs as those that real commands of the "
        "same lists become.",
        isolation.same_commands,
        isolation.beside_real_lists,
    ),
    Invariant("same-bits", "The same scenario gives the same trail and the same record (I-36).", same_bits),
)
