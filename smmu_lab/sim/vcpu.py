"""A vCPU: it thinks, unmaps, and waits; and the DMA layer's flush queue, which may spare it the wait."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import repeat
from typing import Any

from smmu_lab.record import KINDS, STAGES
from smmu_lab.scenario import Batch, Operation, Publication, Scenario, Unmaps, flush_batches, unmap_batches
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.driver import SYNC_TIMEOUT, Work, lists
from smmu_lab.sim.guest import Guest
from smmu_lab.sim.queue import BUILD, LOCK, SPACE, CommandQueue, Ticket
from smmu_lab.sim.virtio import Request, RequestQueue
from smmu_lab.units import nanoseconds

FQ_ENTRIES = 255
"""Usable entries of a CPU's flush queue: IOVA_DEFAULT_FQ_SIZE - 1, Linux 7.2 dma-iommu.c."""
FQ_TIMEOUT = nanoseconds("10ms")
"""IOVA_DEFAULT_FQ_TIMEOUT."""

_NOTHING = [0] * len(STAGES)
_KIND = {kind: number for number, kind in enumerate(KINDS)}


class Vcpu:
    """One vCPU of a guest."""

    def __init__(self, scenario: Scenario, guest: Guest, number: int) -> None:
        self.guest = guest
        self.number = number
        self.party = (guest.number << 16) + number
        workload = scenario.workload
        self.ops = guest.machine.ops
        self.open_loop = bool(workload.rate)
        self.force_sync = guest.machine.row.on_metal and scenario.smmu.errata == "force-sync"
        self.covered: int | None = None  # when the last CMD_SYNC's end could be seen
        self.gaps: Iterator[int] = (
            exponential(stream(scenario.seed, guest.number, number, "gap"), workload.gap)
            if workload.spread == "exponential"
            else repeat(workload.gap)
        )
        self.build, self.write, self.fq_add = (
            scenario.costs.g_fix,
            scenario.costs.g_cmd,
            scenario.costs.fq_add,
        )

    def strict(self, operations: Iterable[Operation]) -> Generator[Any, Any, None]:
        """Every operation waits for its own invalidation."""
        t = due = 0
        for operation in operations:
            due = (due if self.open_loop else t) + next(self.gaps)
            t = yield from self._operate(operation, max(t, due))

    def lazy(self, operations: Iterable[Operation], ats_devices: int) -> Generator[Any, Any, None]:
        """Unmaps go to this CPU's flush queue; a full queue or the timer flushes all of them at once.

        Source: queue_iova and fq_flush_timeout, Linux 7.2 dma-iommu.c. There one timer serves all CPUs of a domain;
        here each CPU has its own.
        """
        flush = Operation("flush", 0, flush_batches(ats_devices))
        queued: list[tuple[int, int]] = []  # (pages, when its unmap returned)
        t = due = 0
        timer: int | None = None
        for operation in operations:
            due = (due if self.open_loop else t) + next(self.gaps)
            if timer is not None and timer <= max(t, due):
                t = yield from self._operate(flush, max(t, timer))
                self._expose(queued)
                timer = None
            t = max(t, due)
            if operation.kind != "unmap":
                t = yield from self._operate(operation, t)
                continue
            full = len(queued) == FQ_ENTRIES
            t = yield from self._operate(operation._replace(batches=flush.batches if full else ()), t, self.fq_add)
            if full:
                self._expose(queued)
            queued.append((operation.pages, t))
            if timer is None:
                timer = t + FQ_TIMEOUT
        if timer is not None:
            yield from self._operate(flush, max(t, timer))
            self._expose(queued)

    def _expose(self, queued: list[tuple[int, int]]) -> None:
        """A flush is over: until its end the device could reach what was unmapped."""
        self.guest.counts.exposure += sum([pages * ((self.covered or 0) - returned) for pages, returned in queued])
        queued.clear()

    def requests(self, operations: Iterable[Operation]) -> Generator[Any, Any, None]:
        """Every unmap, and the maps before it, is a request of virtio-iommu; nothing else is."""
        scenario = self.guest.machine.scenario
        load, ril = scenario.workload, scenario.smmu.ril
        granule = load.granule if isinstance(load, Unmaps) else 4096
        t = due = 0
        for operation in operations:
            if operation.kind != "unmap":
                continue
            pages = operation.pages
            due = (due if self.open_loop else t) + next(self.gaps)
            t = max(t, due)
            for _ in range(load.maps):
                t = yield from self._request(operation._replace(kind="map"), Request(pages), t)
            batches = unmap_batches(pages, granule, ril, load.ats_devices)
            t = yield from self._request(operation, Request(pages, batches), t)

    def _request(self, operation: Operation, request: Request, start: int) -> Generator[Any, Any, int]:
        queue = self.guest.paths[0][0]
        assert isinstance(queue, RequestQueue)
        spent = _Spent(start)
        ticket = yield from queue.request(start, request, self.party)
        t = ticket.resumed
        ticket.share(spent.stage, start, t)
        spent.stage[LOCK] += spent.stage[SPACE]  # of the ring
        spent.stage[SPACE] = 0
        spent.irq_off = t - start
        spent.away, spent.blocked = ticket.away, ticket.blocked
        self._record(self.number, operation, 0, 0, spent, t)
        return t

    def replay(self, published: Iterable[tuple[Publication, list[tuple[Batch, bool]]]]) -> Generator[Any, Any, None]:
        """Repeat recorded doorbells as they were, one after another; each is an operation of the vCPU that rang it."""
        guest, t = self.guest, 0
        for publication, batches in published:
            t += next(self.gaps)
            works = [Work(*batch[:4], int(sync), sum(batch[:4]) + sync) for batch, sync in batches]
            entries = sum(work.entries for work in works)
            queue, completion = guest.route(all(batch.vcmdq for batch, _ in batches), publication.vcpu)
            queue.begin(publication.cons)
            spent = _Spent(t)
            ticket = yield from queue.republish(t + self.build, works, entries * self.write, self.party)
            seen = completion.seen(ticket, ticket.resumed) if ticket.work.sync else ticket.resumed
            if seen is None:
                seen = yield from completion.wait(ticket, ticket.resumed, self.party)
            t = self._finish(queue, ticket, spent, t, seen)
            tlbi, atc = sum(work.tlbi for work in works), sum(work.atc for work in works)
            self._record(publication.vcpu, Operation("doorbell", 0, ()), tlbi, atc, spent, t)

    def _operate(self, operation: Operation, start: int, queueing: int = 0) -> Generator[Any, Any, int]:
        spent = _Spent(start)
        spent.stage[BUILD] = queueing
        t = start + queueing
        tlbi = atc = 0
        for batch in operation.batches:
            queue, completion = self.guest.route(batch.vcmdq, self.number)
            tlbi += batch.tlbi
            atc += batch.atc
            for work in lists(batch, self.force_sync):
                ticket = yield from queue.insert(t + self.build, work, work.entries * self.write, self.party)
                seen = completion.seen(ticket, ticket.resumed) if work.sync else ticket.resumed
                if seen is None:
                    seen = yield from completion.wait(ticket, ticket.resumed, self.party)
                t = self._finish(queue, ticket, spent, t, seen)
        self._record(self.number, operation, tlbi, atc, spent, t)
        return t

    def _finish(self, queue: CommandQueue, ticket: Ticket, spent: _Spent, called: int, t: int) -> int:
        """The rest of an issue call that returns at `t`."""
        if ticket.work.sync:
            queue.leave(t, ticket)
            self.covered = ticket.visible
            if t - ticket.written > SYNC_TIMEOUT:
                self.guest.counts.timeouts += 1
        ticket.share(spent.stage, called, t)
        spent.irq_off += t - called - self.build - ticket.space
        spent.away += ticket.away
        spent.blocked += ticket.blocked
        return t

    def _record(self, vcpu: int, operation: Operation, tlbi: int, atc: int, spent: _Spent, t: int) -> None:
        counts, start = self.guest.counts, spent.start
        counts.cpu_guest += t - start - spent.away
        counts.cpu_host += spent.away - spent.blocked
        kind, pages, inferred = _KIND[operation.kind], operation.pages, operation.inferred
        self.ops.append((self.guest.number, vcpu, kind, inferred, pages, tlbi, atc, start, spent.irq_off, *spent.stage))


class _Spent:
    """Where the time of one operation went, ns."""

    __slots__ = ("away", "blocked", "irq_off", "stage", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.stage = _NOTHING.copy()
        self.irq_off = 0
        self.away = 0
        self.blocked = 0
