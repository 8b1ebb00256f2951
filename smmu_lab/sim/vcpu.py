"""A vCPU: it thinks, unmaps, and waits; and the DMA layer's flush queue, which may spare it the wait."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import repeat, takewhile
from typing import Any, NamedTuple

from smmu_lab.record import KINDS, STAGES
from smmu_lab.scenario import Batch, Operation, Publication, Scenario, Unmaps
from smmu_lab.scenario.workload import MOST_OPS
from smmu_lab.sim.clock import ALLOCATE, exponential, stream
from smmu_lab.sim.driver import SYNC_TIMEOUT, Work, lists
from smmu_lab.sim.guest import Completion, Guest
from smmu_lab.sim.queue import BUILD, LOCK, RECOVER, SPACE, CommandQueue, Ticket
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

    ring: RequestQueue

    def __init__(self, scenario: Scenario, guest: Guest, number: int) -> None:
        self.guest = guest
        self.number = number
        self.party = (guest.number << 16) + number
        self.load = workload = scenario.load(guest.number)
        self.ops, row = guest.machine.ops, guest.machine.row
        self.planned: _Plan | None = None
        self.open_loop = bool(workload.rate)
        self.gives_up = guest.machine.faulty
        self.irqs = guest.irqs if self.gives_up and number == 0 and not (guest.number and row.on_metal) else None
        self.force_sync = row.on_metal and scenario.smmu.errata == "force-sync"
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

    def operations(self) -> Iterator[Operation]:
        """What it does; a neighbour goes on until all measured vCPUs are through."""
        machine, guest, number = self.guest.machine, self.guest.number, self.number
        scenario, metal = machine.scenario, machine.row.on_metal
        if not scenario.is_neighbour(guest):
            return iter(scenario.operations(guest, number, metal))
        endless = scenario.neighbour.workload.but(ops=MOST_OPS)
        operations = endless.operations(number, scenario.smmu.ril, scenario.reaches(guest, number, metal))
        return takewhile(lambda _: machine.goes_on(), operations)

    def strict(self) -> Generator[Any, Any, None]:
        """Every operation waits for its own invalidation."""
        t = due = 0
        for operation in self.operations():
            due = (due if self.open_loop else t) + next(self.gaps)
            t = yield from self._operate(operation, due if due > t else t)

    def lazy(self, load: Unmaps) -> Generator[Any, Any, None]:
        """Unmaps go to this CPU's flush queue; a full queue or the timer flushes all of them at once.

        Source: queue_iova and fq_flush_timeout, Linux 7.2 dma-iommu.c. There one timer serves all CPUs of a domain;
        here each CPU has its own.
        """
        machine = self.guest.machine
        flush = load.flush(machine.scenario.reaches(self.guest.number, self.number, machine.row.on_metal))
        queued: list[tuple[int, int]] = []  # (pages, when its unmap returned)
        t = due = 0
        timer: int | None = None
        for operation in self.operations():
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

    def requests(self) -> Generator[Any, Any, None]:
        """Every unmap, and the maps before it, is a request of virtio-iommu; nothing else is."""
        t = due = 0
        planned: Operation | None = None
        (reach,) = self.guest.machine.scenario.reaches(self.guest.number, self.number)
        ring, _ = self.guest.paths[reach.instance][0]
        assert isinstance(ring, RequestQueue)
        self.ring = ring
        for operation in self.operations():
            if operation.kind != "unmap":
                continue
            if operation is not planned:
                planned, requests = operation, self._requests(operation)
            due = (due if self.open_loop else t) + next(self.gaps)
            t = max(t, due)
            for columns, request in requests:
                t = yield from self._request(columns, request, t)

    def _requests(self, unmap: Operation) -> list[tuple[tuple[int, ...], Request]]:
        """The maps before an unmap, and itself: the columns of each, and the request."""
        scenario = self.guest.machine.scenario
        load, pages = self.load, unmap.pages
        batches = scenario.batches(self.guest.number, self.number, pages)
        forwarded = bool(batches)
        mapped = unmap._replace(kind="map")
        made = (self._columns(self.number, mapped, 0, 0), Request(pages, forwarded=forwarded))
        if scenario.fault and any(batch.late for batch in unmap.batches):
            queue, _ = self.guest.route(unmap.batches[0], self.number)
            batches = tuple(map(queue.gerror.told_late, scenario.fault.strike(batches, scenario.costs)))
        gone = (self._columns(self.number, unmap, 0, 0), Request(pages, batches, forwarded=forwarded))
        bad = (self._columns(self.number, mapped._replace(pages=0), 0, 0), Request(0, bad=True))
        struck = any(batch.bad >= 0 for batch in unmap.batches)
        return [bad] * struck + [made] * load.maps + [gone]

    def _request(self, columns: tuple[int, ...], request: Request, start: int) -> Generator[Any, Any, int]:
        ticket = yield from self.ring.request(start, request, self.party)
        t = ticket.resumed
        stage = _NOTHING.copy()
        self._spend(ticket, stage, start, t)
        stage[LOCK] += stage[SPACE]  # of the ring
        stage[SPACE] = 0
        self.ops.append((*columns, start, t - start, *stage))
        self.guest.counts.lost += any(batch.gone for batch in request.batches)
        return t

    def replay(self, published: Iterable[tuple[Publication, list[tuple[Batch, bool]]]]) -> Generator[Any, Any, None]:
        """Repeat recorded doorbells as they were, one after another; each is an operation of the vCPU that rang it."""
        guest, t = self.guest, 0
        for publication, batches in published:
            t += next(self.gaps)
            works = [Work(*batch[:4], int(sync), sum(batch[:4]) + sync) for batch, sync in batches]
            entries = sum(work.entries for work in works)
            refused = next((batch for batch, _ in batches if not batch.vcmdq), batches[0][0])
            queue, completion = guest.route(refused, publication.vcpu)
            queue.begin(publication.cons)
            start, stage = t, _NOTHING.copy()
            ticket = yield from queue.republish(t + self.build, works, entries * self.write, self.party)
            seen = completion.seen(ticket, ticket.resumed) if ticket.work.sync else ticket.resumed
            t = seen if seen is not None else (yield from completion.wait(ticket, ticket.resumed, self.party))
            irq_off = self._finish(queue, ticket, stage, start, t)
            tlbi, atc = sum(work.tlbi for work in works), sum(work.atc for work in works)
            columns = self._columns(publication.vcpu, Operation("doorbell", 0, ()), tlbi, atc)
            self.ops.append((*columns, start, irq_off, *stage))

    def _operate(self, operation: Operation, start: int, queueing: int = 0) -> Generator[Any, Any, int]:
        plan = self.planned
        if plan is None or plan.operation is not operation:
            plan = self.planned = self._plan(operation)
        stage = _NOTHING.copy()
        stage[BUILD] = queueing
        self.guest.counts.cpu_guest += queueing
        t = start + queueing
        irq_off = 0
        for queue, completion, work, write in plan.calls:
            called = t
            if self.irqs is not None:
                called = (yield from self._irqs_off(t + self.build)) - self.build
                stage[RECOVER] += called - t
            ticket = yield from queue.insert(called + self.build, work, write, self.party, self.irqs)
            seen = completion.seen(ticket, ticket.resumed) if work.sync else ticket.resumed
            t = seen if seen is not None else (yield from completion.wait(ticket, ticket.resumed, self.party))
            irq_off += self._finish(queue, ticket, stage, called, t)
            if self.irqs is not None:
                self.irqs.release(t)
            self.guest.counts.lost += work.gone
        self.ops.append((*plan.columns, start, irq_off, *stage))
        return t

    def _irqs_off(self, t: int) -> Generator[Any, Any, int]:
        """Interrupts go off at `t`, or when the handler of an error is through: returns when."""
        assert self.irqs is not None
        if self.guest.machine.clock.peek() <= t:
            yield self.guest.machine.clock.turn(t, ALLOCATE, self.party, "interrupt")
        return (yield from self.irqs.hold(t))

    def _plan(self, operation: Operation) -> _Plan:
        batches = operation.batches
        calls = []
        for batch in batches:
            queue, completion = self.guest.route(batch, self.number)
            works = lists(queue.gerror.told_late(batch), self.force_sync)
            calls += [(queue, completion, work, work.entries * self.write) for work in works]
        tlbi, atc = sum([batch.tlbi for batch in batches]), sum([batch.atc for batch in batches])
        return _Plan(operation, calls, self._columns(self.number, operation, tlbi, atc))

    def _finish(self, queue: CommandQueue, ticket: Ticket, stage: list[int], called: int, t: int) -> int:
        """The rest of an issue call that returns at `t`: how long interrupts were off."""
        if ticket.work.sync:
            queue.leave(t, ticket)
            self.covered = ticket.visible
            if not self.gives_up and t - ticket.written > SYNC_TIMEOUT:
                self.guest.counts.timeouts += 1
        self._spend(ticket, stage, called, t)
        return t - called - self.build - ticket.space

    def _spend(self, ticket: Ticket, stage: list[int], called: int, t: int) -> None:
        """Book the time of a call."""
        ticket.share(stage, called, t)
        counts, away = self.guest.counts, ticket.away
        counts.cpu_guest += t - called - away
        counts.cpu_host += away - ticket.blocked

    def _columns(self, vcpu: int, operation: Operation, tlbi: int, atc: int) -> tuple[int, ...]:
        kind = _KIND[operation.kind]
        return self.guest.number, vcpu, kind, operation.inferred, operation.pages, tlbi, atc


class _Plan(NamedTuple):
    """What becomes of an operation whenever it is asked for: its issue calls, and its columns of the record."""

    operation: Operation
    calls: list[tuple[CommandQueue, Completion, Work, int]]
    columns: tuple[int, ...]
