"""A vCPU: it thinks, unmaps, and waits; and the DMA layer's flush queue, which may spare it the wait."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import repeat
from typing import Any

from smmu_lab.record import KINDS, STAGES
from smmu_lab.scenario import Batch, Operation, Publication, Scenario, flush_batches
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.driver import SYNC_TIMEOUT, Work, lists
from smmu_lab.sim.guest import Guest, Path
from smmu_lab.sim.queue import BUILD, Ticket
from smmu_lab.units import nanoseconds

FQ_ENTRIES = 255
"""Usable entries of a CPU's flush queue: IOVA_DEFAULT_FQ_SIZE - 1, Linux 7.2 dma-iommu.c."""
FQ_TIMEOUT = nanoseconds("10ms")
"""IOVA_DEFAULT_FQ_TIMEOUT."""

_KIND = {kind: number for number, kind in enumerate(KINDS)}


class Vcpu:
    """One vCPU of a guest."""

    def __init__(self, scenario: Scenario, guest: Guest, number: int) -> None:
        self.guest = guest
        self.number = number
        self.party = (guest.number << 16) + number
        workload = scenario.workload
        self.open_loop = bool(workload.rate)
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
        flush = flush_batches(ats_devices)
        queued = t = due = 0
        timer: int | None = None
        for operation in operations:
            due = (due if self.open_loop else t) + next(self.gaps)
            if timer is not None and timer <= max(t, due):
                t = yield from self._operate(Operation("flush", 0, flush), max(t, timer))
                queued, timer = 0, None
            t = max(t, due)
            full = queued == FQ_ENTRIES
            queued = 1 if full else queued + 1
            t = yield from self._operate(operation._replace(batches=flush if full else ()), t, self.fq_add)
            if timer is None:
                timer = t + FQ_TIMEOUT
        if timer is not None:
            yield from self._operate(Operation("flush", 0, flush), max(t, timer))

    def replay(self, published: Iterable[tuple[Publication, list[tuple[Batch, bool]]]]) -> Generator[Any, Any, None]:
        """Repeat recorded doorbells as they were, one after another; each is an operation of the vCPU that rang it."""
        guest, t = self.guest, 0
        for publication, batches in published:
            t += next(self.gaps)
            works = [Work(*batch[:4], int(sync), sum(batch[:4]) + sync) for batch, sync in batches]
            entries = sum(work.entries for work in works)
            path = guest.route(all(batch.vcmdq for batch, _ in batches), publication.vcpu)
            path[0].begin(publication.cons)
            spent = _Spent(t)
            ticket = yield from path[0].republish(t + self.build, works, entries * self.write, self.party)
            t = yield from self._finish(path, ticket, spent, t)
            counted = sum(work.tlbi for work in works), sum(work.atc for work in works)
            self._record(publication.vcpu, Operation("doorbell", 0, ()), counted, spent, t)

    def _operate(self, operation: Operation, start: int, queueing: int = 0) -> Generator[Any, Any, int]:
        spent = _Spent(start)
        spent.stage[BUILD] = queueing
        t = start + queueing
        tlbi = atc = 0
        for batch in operation.batches:
            path = self.guest.route(batch.vcmdq, self.number)
            tlbi += batch.tlbi
            atc += batch.atc
            for work in lists(batch):
                ticket = yield from path[0].insert(t + self.build, work, work.entries * self.write, self.party)
                t = yield from self._finish(path, ticket, spent, t)
        self._record(self.number, operation, (tlbi, atc), spent, t)
        return t

    def _finish(self, path: Path, ticket: Ticket, spent: _Spent, called: int) -> Generator[Any, Any, int]:
        """The rest of an issue call: wait for the CMD_SYNC if it has one. Returns when the call does."""
        queue, completion = path
        t = ticket.resumed
        if ticket.work.sync:
            t = yield from completion.wait(ticket, t, self.party)
            queue.leave(t)
            if t - ticket.written > SYNC_TIMEOUT:
                self.guest.counts.timeouts += 1
        ticket.share(spent.stage, called, t)
        spent.irq_off += t - called - self.build - ticket.space
        spent.away += ticket.away
        spent.blocked += ticket.blocked
        return t

    def _record(self, vcpu: int, operation: Operation, counted: tuple[int, int], spent: _Spent, t: int) -> None:
        counts = self.guest.counts
        counts.cpu_guest += t - spent.start - spent.away
        counts.cpu_host += spent.away - spent.blocked
        self.guest.ops.append(
            (
                self.guest.number,
                vcpu,
                _KIND[operation.kind],
                int(operation.inferred),
                operation.pages,
                *counted,
                spent.start,
                spent.irq_off,
                *spent.stage,
            )
        )


class _Spent:
    """Where the time of one operation went, ns."""

    __slots__ = ("away", "blocked", "irq_off", "stage", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.stage = [0] * len(STAGES)
        self.irq_off = 0
        self.away = 0
        self.blocked = 0
