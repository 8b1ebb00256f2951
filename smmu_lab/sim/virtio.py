"""A guest's driver for virtio-iommu: requests in a ring, one lock around all of it.

Source: viommu_send_req_sync and __viommu_sync_req, Linux 7.2 drivers/iommu/virtio-iommu.c: the lock is taken with
interrupts off, and held until the used ring has the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from smmu_lab.record import Counts, Table
from smmu_lab.scenario import Approach, Batch, Costs
from smmu_lab.sim.clock import ALLOCATE, PUBLISH, Clock
from smmu_lab.sim.consumer import Lock
from smmu_lab.sim.queue import DOORBELL, GATHER, CommandQueue, Group, Ticket
from smmu_lab.sim.thread import Doorbell


class Request(NamedTuple):
    """MAP of so many pages, or UNMAP, after which the host sends these batches; a bad one is neither.

    One that is not `forwarded` is for emulated devices only: the VMM keeps it to itself.
    """

    pages: int
    batches: tuple[Batch, ...] = ()
    entries: int = 1
    sync: int = 1
    bad: bool = False
    forwarded: bool = True


class RequestQueue(CommandQueue):
    """The ring of requests. A publication is one request, and every request is waited for.

    Args:
        alone: the caller itself works off the request, and whoever holds the ring's lock meets nobody there.
    """

    def __init__(
        self,
        clock: Clock,
        log2size: int,
        costs: Costs,
        counts: Counts,
        row: Approach,
        ring: Callable[[Group, int], int | Generator[Any, Any, int]],
        name: tuple[int, ...],
        batches: Table,
        alone: bool,
    ) -> None:
        super().__init__(clock, log2size, costs.relax, ring, self._unused, False, name, batches=batches)
        self.counts = counts
        self.lock = Lock(clock)
        self.alone = alone
        self.add, self.look = costs.vq_add, costs.cons_shared
        self.interrupt = costs.lpi if row.completion == "used-ring-irq" else None

    @staticmethod
    def _unused(t: int, unseen: int) -> Generator[Any, Any, tuple[int, int]]:
        return t, t
        yield

    def request(self, t: int, request: Request, party: int) -> Generator[Any, Any, Ticket]:
        """Add a request, kick, and wait for its answer: its `resumed` is when the caller goes on, with the lock let go.

        `written` is when it is in the ring, and `space` the wait for the lock.
        """
        clock = self.clock
        if clock.peek() <= t:
            yield clock.turn(t, ALLOCATE, party, "allocate")
        granted = self.lock.acquire(t)
        if not isinstance(granted, int):
            granted = yield from granted
        written = granted + self.add
        if not self.alone and clock.peek() <= written:
            yield clock.turn(written, PUBLISH, party, "publish")
        self.prod += 1
        ticket = Ticket(request, self.prod, written, granted - t)
        clock.note("issued", self.name, party, ticket)
        resumed = self._write_prod(Group(ticket), written)
        t = resumed if type(resumed) is int else (yield from resumed)
        if self.interrupt is not None:
            self.lock.release(t)
        if ticket.visible is None:
            yield ticket.wait(clock, "complete")
        assert ticket.visible is not None
        if self.interrupt is None:
            ticket.resumed = max(t, ticket.visible) + self.look
            self.lock.release(ticket.resumed)
        else:
            self.counts.interrupts += 1
            ticket.resumed = max(t, ticket.visible + self.interrupt)
        clock.note("seen", self.name, ticket.resumed, ticket)
        return ticket


class Kick:
    """The notification of a ring whose consumer is a kernel thread; one that runs has suppressed it."""

    def __init__(self, doorbell: Doorbell, costs: Costs, counts: Counts, row: Approach) -> None:
        self.doorbell = doorbell
        self.counts = counts
        self.exit, self.signal = costs.exit_kernel, costs.sig
        self.suppressed = row.kicks == "unless-running"

    def ring(self, group: Group, t: int) -> int:
        """The request is in memory already; a light exit wakes whoever sleeps."""
        group.captured = t
        self.doorbell.published.append(group)
        if self.suppressed and self.doorbell.needless(t):
            group.leaves(((GATHER, t),))
            self.doorbell.noticed(t)
            return t
        self.counts.exits_kernel += 1
        end = t + self.exit + self.signal
        group.leaves(((GATHER, t), (DOORBELL, end)))
        group.tickets[0].away += end - t
        self.doorbell.rang(end)
        return end
