"""How a guest learns that its CMD_SYNC is done. Each `wait` returns when the vCPU has seen it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import READ_CONS, Clock
from smmu_lab.sim.consumer import BigLock
from smmu_lab.sim.driver import poll, poll_step
from smmu_lab.sim.queue import Ticket


class Polled:
    """CONS is read without the VMM: from the device, from a shared page, or by a light exit.

    Nobody else is in the way of such a read, so the loop is arithmetic.

    Args:
        read: cost of one read, ns.
        sample: how long after its start a read takes its value, ns.
        exits: each read is an exit to the kernel.
    """

    def __init__(self, clock: Clock, costs: Costs, counts: Counts, read: int, sample: int, exits: bool) -> None:
        self.clock = clock
        self.counts = counts
        self.relax = costs.relax
        self.cost, self.sample, self.exits = read, sample, exits

    def wait(self, ticket: Ticket, t: int, party: int) -> Generator[Any, Any, int]:
        """Poll until CONS covers the ticket."""
        if ticket.visible is None:
            ticket.waiter = self.clock.signal("complete")
            yield ticket.waiter
        assert ticket.visible is not None
        seen, reads = poll(t, ticket.visible, self.relax, self.cost, self.sample)
        self._count(reads)
        if self.exits:
            ticket.away += reads * self.cost
        return seen

    def read(self, t: int) -> Generator[Any, Any, tuple[int, int]]:
        """Read the register once: when the value is taken, and when it is back."""
        self._count(1)
        return t + self.sample, t + self.cost
        yield

    def _count(self, reads: int) -> None:
        self.counts.cons_reads += reads
        if self.exits:
            self.counts.exits_kernel += reads


class TrappedToVmm:
    """Each read of CONS exits to the VMM and takes its big lock, behind whoever consumes the queue."""

    def __init__(self, clock: Clock, lock: BigLock, costs: Costs, counts: Counts) -> None:
        self.clock = clock
        self.lock = lock
        self.counts = counts
        self.relax = costs.relax
        self.exit, self.locked = costs.exit_user, costs.vmm_lock

    def wait(self, ticket: Ticket, t: int, party: int) -> Generator[Any, Any, int]:
        """Poll until CONS covers the ticket; a failed poll has held the lock for nothing."""
        clock = self.clock
        step = 0
        while True:
            step += 1
            t += poll_step(step, self.relax)
            if clock.peek() <= t:
                yield clock.turn(t, READ_CONS, party, "poll" if step > 1 else "read")
            asked = t + self.exit - self.locked
            granted = yield from self._locked(asked)
            ticket.away += granted + self.locked - t
            ticket.blocked += granted - asked
            t = granted + self.locked
            if ticket.visible is None and clock.peek() <= t:
                yield clock.turn(t, READ_CONS, party, "poll")
            if ticket.visible is not None and ticket.visible <= t:
                ticket.behind = max(0, granted - max(asked, ticket.visible))
                return t

    def read(self, t: int) -> Generator[Any, Any, tuple[int, int]]:
        """Read the register once: when the value is taken, and when it is back."""
        t = (yield from self._locked(t + self.exit - self.locked)) + self.locked
        return t, t

    def _locked(self, asked: int) -> Generator[Any, Any, int]:
        self.counts.exits_vmm += 1
        self.counts.cons_reads += 1
        granted = yield from self.lock.acquire(asked)
        self.lock.release(granted + self.locked)
        return granted
