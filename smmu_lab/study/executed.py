"""Invariants of what is executed, and of when it is complete: small functions of the evidence that yield breaches.

Nothing here asks the engine how it does something: times follow from the scenario's costs, numbers from the approach's
columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from smmu_lab.sim.driver import Work
from smmu_lab.study.evidence import Breach, Call, Evidence, Listed, Name, held, queue_name

# -- what is executed --------------------------------------------------------------------------------------------------


def order(case: Evidence) -> Iterator[Breach]:
    """The commands of the host's calls, one after another, are those of the queue, and so are the hardware's lists."""
    for queue, lists in case.guest_queues:
        for call in case.calls[queue]:
            kinds = "".join(kind for kind, _ in call.holds)
            tlbi, atc = kinds.count("T"), kinds.count("A")
            tail = len(kinds) - kinds.rfind("A") - 1 if atc else 0
            due = Work(tlbi, atc, 0, 0, 0, tlbi + atc, tail)
            if (tlbi, atc) != (call.work.tlbi, call.work.atc) or (atc and tail != call.work.tail):
                said = f"at {call.start:,} ns the host issues {_told(call.work)} where the queue has {_told(due)}"
                yield Breach(f"{queue_name(queue)}: {said}", _lists(call) or (lists[-1],))
        if left := case.left[queue]:
            yield Breach(f"{queue_name(queue)}: {len(left)} commands never reach the host", (left[0][1],))
        if case.by(queue).consumer == "hardware":
            ran = [step[3].end for step in case.steps("ran") if step[0] == queue]
            if ran != [each.end for each in lists]:
                yield Breach(
                    f"{queue_name(queue)}: the hardware ran the lists up to {ran[:8]}, in this order", (lists[0],)
                )


def _told(work: Work) -> str:
    """The commands of a list without its CMD_SYNC."""
    return held(work._replace(sync=0)) + (f" ({work.tail} TLBI last)" if work.atc else "")


def _lists(call: Call) -> tuple[Listed, ...]:
    return tuple(dict.fromkeys(listed for _, listed in call.holds))[:3]


def conservation(case: Evidence) -> Iterator[Breach]:
    """Every count is what the trail shows."""
    run, row = case.record, case.row
    for guest, counts in enumerate(run.guests):
        own = {queue: lists for queue, lists in case.guest_queues if queue[0] == guest}
        works = [call.work for queue in own for call in case.calls[queue]]
        lists = [listed for each in own.values() for listed in each]
        asked = sum(each.work.tlbi + each.work.atc for each in lists) if row.front == "smmu-commands" else 0
        forwarded = sum(work.tlbi + work.atc for work in works)
        by_hardware = sum(
            each.work.tlbi + each.work.atc for each in lists if each.ran and not list(case.for_host(each))
        )
        if row.front == "smmu-commands" and row.handoff != "marshalled" and asked != forwarded + by_hardware:
            yield Breach(
                f"guest {guest} issued {asked} TLBIs and ATC_INVs; the host issued {forwarded} for it, "
                f"its hardware queues ran {by_hardware}"
            )
        drains = sum(
            len(case.publications[queue] if case.by(queue).executes_directly else case.stores[queue]) for queue in own
        )
        shown = {
            "commands": sum(each.work.entries for each in lists),
            "doorbells": sum(len(case.publications[queue]) for queue in own),
            "drains": drains,
            "host_commands": sum(work.entries for work in works),
            "host_syncs": len(works),
        }
        for name, number in shown.items():
            if getattr(counts, name) != number:
                yield Breach(f"guest {guest}: {name} is {getattr(counts, name)}, and the trail shows {number}")


def one_handler(case: Evidence) -> Iterator[Breach]:
    """Drains of one handler never overlap, nor do the host's calls in them."""
    spans: dict[tuple[str, str], list[tuple[int, int, tuple[Listed, ...]]]] = defaultdict(list)
    for queue, calls in case.calls.items():
        for call in calls:
            spans["call", _handler(case, queue)].append((call.start, call.end, _lists(call)))
    for drain in case.record.batches.rows():
        queue = drain["guest"], drain["queue"]
        if not case.by(queue).executes_directly:
            taken = tuple(each for each in case.queues[queue] if each.covered == drain["end"])[:2]
            spans["drain", _handler(case, queue)].append((drain["start"], drain["end"], taken))
    for (what, who), each in spans.items():
        for (_, end, before), (start, _, after) in pairwise(sorted(each, key=lambda span: span[:2])):
            if start < end:
                yield Breach(f"{who}: a {what} begins at {start:,} ns, before the one before ends", before + after)


def _handler(case: Evidence, queue: Name) -> str:
    """Who takes commands out of a queue, one thing at a time."""
    row = case.by(queue)
    if row.consumer == "vmm":
        return f"the VMM of guest {queue[0]}"
    scope = row.worker if row.has_worker else "queue"
    return {"queue": queue_name(queue), "vm": f"the thread of guest {queue[0]}", "host": "the host's thread"}[scope]


def execution_time(case: Evidence) -> Iterator[Breach]:
    """Nothing is faster than its commands: on the engine, on the way there, and in emulation."""
    c = case.scenario.costs
    for calls in case.calls.values():
        for call in calls:
            least = c.hsubmit + _alone(case, call.work)
            if call.end - call.start < least:
                yield Breach(
                    f"{queue_name(call.queue)}: the host issues {held(call.work)} in {call.end - call.start:,} ns; "
                    f"its commands need {least:,} ns",
                    _lists(call),
                )
    for queue, lists in case.guest_queues:
        row, answered = case.by(queue), 0
        for listed in lists:
            work = listed.work
            if listed.ran:
                start, done = listed.ran
                run_here = row.unsupported != "stop-and-fix" or work.vcmdq
                tlbi, atc = (work.tlbi, work.atc) if run_here else (0, 0)
                if atc:
                    answered = start + tlbi * c.t_tlbi + atc * c.t_atc + c.atc_rtt
                end = start + tlbi * c.t_tlbi + atc * c.t_atc
                least = max(end + c.sync_occ, answered) + c.t_sync - c.sync_occ if work.sync else end
                if done < least:
                    yield Breach(
                        f"{queue_name(queue)}: the hardware is through with {held(work)} at {done:,} ns; its commands, "
                        f"from {start:,} ns on, need until {least:,} ns",
                        (listed,),
                    )
            elif row.front == "smmu-commands" and row.unsupported != "skip":
                fix = c.fix if row.unsupported == "stop-and-fix" else 0
                least = work.ste * (c.vmm_ste + fix) + work.other * fix
                if work.sync and (took := listed.visible - listed.published) < least:
                    said = f"{held(work)} is over {took:,} ns after its PROD write; to emulate it takes {least:,} ns"
                    yield Breach(f"{queue_name(queue)}: {said}", (listed,))


def _alone(case: Evidence, work: object) -> int:
    """What the SMMU needs for a list with its CMD_SYNC, ns."""
    c = case.scenario.costs
    answer = c.atc_rtt - work.tail * c.t_tlbi if work.atc else 0  # type: ignore[attr-defined]
    issued = work.tlbi * c.t_tlbi + work.atc * c.t_atc  # type: ignore[attr-defined]
    return issued + max(c.sync_occ, answer) + c.t_sync - c.sync_occ


# -- completion --------------------------------------------------------------------------------------------------------


def sync_after_predecessors(case: Evidence) -> Iterator[Breach]:
    """No CMD_SYNC can be seen to be done before what precedes it in its queue is complete."""
    for queue, lists in case.guest_queues:
        latest = lists[0]
        for listed in lists:
            latest = max(latest, listed, key=lambda each: each.complete)
            if listed.work.sync and listed.visible < latest.complete:
                yield Breach(
                    f"{queue_name(queue)}: the end of the CMD_SYNC before {listed.end} can be seen at "
                    f"{listed.visible:,} ns, and a command before it is complete at {latest.complete:,} ns",
                    (latest, listed) if latest is not listed else (listed,),
                )


def syncs_in_order(case: Evidence) -> Iterator[Breach]:
    """CMD_SYNCs of a queue complete in order."""
    for queue, lists in case.queues.items():
        for before, after in pairwise(each for each in lists if each.work.sync):
            if after.visible < before.visible:
                yield Breach(f"{queue_name(queue)}: a later CMD_SYNC can be seen to be done first", (before, after))


def cons_after_execution(case: Evidence) -> Iterator[Breach]:
    """What CONS covers is complete; what the VMM holds back for its CMD_SYNC, not before that is covered."""
    for queue, lists in case.guest_queues:
        holds_back = case.by(queue).handoff == "array-at-sync"
        due = 0
        for listed in reversed(lists):
            due = listed.covered if listed.work.sync or not holds_back else due
            if due < listed.complete:
                yield Breach(
                    f"{queue_name(queue)}: CONS covers {listed.end} from {due:,} ns on; it is complete at "
                    f"{listed.complete:,} ns",
                    (listed,),
                )
