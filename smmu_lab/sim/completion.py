"""How a guest learns that its CMD_SYNC is done.

Each `seen` tells when the vCPU has seen it, if that is known already; else `wait` returns that when it is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import READ_CONS, Clock
from smmu_lab.sim.consumer import Lock
from smmu_lab.sim.driver import SYNC_TIMEOUT, patience, poll, poll_step
from smmu_lab.sim.queue import Ticket


class Polled:
    """CONS is read without the VMM: from the device, from a shared page, or by a light exit.

    Nobody else is in the way of such a read, so the loop is arithmetic.

    Args:
        read: cost of one read, ns.
        sample: how long after its start a read takes its value, ns.
        exits: each read is an exit to the kernel.
        gives_up: the driver gives up after 1 s.
    """

    def __init__(
        self, clock: Clock, costs: Costs, counts: Counts, read: int, sample: int, exits: bool, gives_up: bool
    ) -> None:
        self.clock = clock
        self.counts = counts
        self.gives_up = gives_up
        self.relax = costs.relax
        self.cost, self.sample, self.exits = read, sample, exits

    def seen(self, ticket: Ticket, t: int) -> int | None:
        """Poll until CONS covers the ticket."""
        visible = ticket.visible
        if visible is None:
            return None
        seen, reads = poll(t, visible, self.relax, self.cost, self.sample)
        if self.gives_up and seen - t > SYNC_TIMEOUT and seen > (limit := patience(t, self.relax, self.cost))[0]:
            return self._give_up(ticket, *limit)
        return self._read(ticket, seen, reads)

    def _give_up(self, ticket: Ticket, t: int, reads: int) -> int:
        self.counts.timeouts += 1
        return self._read(ticket, t, reads)

    def _read(self, ticket: Ticket, seen: int, reads: int) -> int:
        counts = self.counts
        counts.cons_reads += reads
        if self.exits:
            counts.exits_kernel += reads
            ticket.away += reads * self.cost
        return seen

    def wait(self, ticket: Ticket, t: int, party: int) -> Generator[Any, Any, int]:
        """Poll, when the end is known."""
        limit = patience(t, self.relax, self.cost) if self.gives_up else None
        yield ticket.wait(self.clock, "complete") if limit is None else ticket.wait_until(self.clock, limit[0], party)
        seen = self.seen(ticket, t)
        if seen is None:
            assert limit is not None
            return self._give_up(ticket, *limit)
        return seen

    noticed = False

    def read(self, t: int, unseen: int) -> Generator[Any, Any, tuple[int, int]]:
        """Read the register once, after so many times in vain: when the value is taken, and when it is back."""
        self.counts.cons_reads += 1 + unseen
        self.counts.exits_kernel += self.exits * (1 + unseen)
        return t + self.sample, t + self.cost
        yield


class MsiWord:
    """The CMD_SYNC's own word in the guest's memory changes: the vCPU spins on it, without steps and without an exit.

    Source: arm_smmu_cmdq_poll_until_msi, Linux 7.2 arm-smmu-v3.c.

    Args:
        register: how CONS is read when the queue is full.
        gives_up: the driver gives up after 1 s.
    """

    def __init__(
        self, clock: Clock, costs: Costs, counts: Counts, register: Polled | TrappedToVmm, gives_up: bool
    ) -> None:
        self.clock = clock
        self.counts = counts
        self.gives_up = gives_up
        self.cost = costs.cons_shared
        self.read, self.noticed = register.read, register.noticed

    def seen(self, ticket: Ticket, t: int) -> int | None:
        """Spin until the word is written."""
        if ticket.visible is None:
            return None
        if self.gives_up and ticket.visible > t + SYNC_TIMEOUT:
            return self._give_up(t)
        return max(t, ticket.visible) + self.cost

    def _give_up(self, t: int) -> int:
        self.counts.timeouts += 1
        return t + SYNC_TIMEOUT

    def wait(self, ticket: Ticket, t: int, party: int) -> Generator[Any, Any, int]:
        """Spin, when the end is known."""
        limit = t + SYNC_TIMEOUT
        wait = ticket.wait_until(self.clock, limit, party) if self.gives_up else ticket.wait(self.clock, "complete")
        yield wait
        seen = self.seen(ticket, t)
        return self._give_up(t) if seen is None else seen


class TrappedToVmm:
    """Each read of CONS exits to the VMM and takes its big lock, behind whoever consumes the queue.

    Args:
        under_lock: the consumer holds that lock as well: CONS does not move while a read has it.
        gives_up: the driver gives up after 1 s.
    """

    def __init__(
        self, clock: Clock, lock: Lock, costs: Costs, counts: Counts, under_lock: bool, gives_up: bool
    ) -> None:
        self.clock = clock
        self.gives_up = gives_up
        self.lock = lock
        self.under_lock = under_lock
        self.counts = counts
        self.relax = costs.relax
        self.exit, self.locked = costs.exit_user, costs.vmm_lock

    def seen(self, ticket: Ticket, t: int) -> int | None:
        """Every read asks for the lock, so it must be waited for."""
        return None

    def wait(self, ticket: Ticket, t: int, party: int) -> Generator[Any, Any, int]:
        """Poll until CONS covers the ticket; a failed poll has held the lock for nothing."""
        clock = self.clock
        step, limit = 0, t + SYNC_TIMEOUT
        while True:
            if self.gives_up and t > limit:
                self.counts.timeouts += 1
                return t
            step += 1
            t += poll_step(step, self.relax)
            if clock.peek() <= t:
                yield clock.turn(t, READ_CONS, party, "poll" if step > 1 else "read")
            asked = t + self.exit - self.locked
            granted = self._ask(asked)
            if not isinstance(granted, int):
                granted = yield from granted
            read = granted + self.locked
            self.lock.release(read)
            if clock.trail is not None:
                clock.note("read", party, t, granted, read)
            ticket.away += read - t
            ticket.blocked += granted - asked
            t = read
            if ticket.visible is None and not self.under_lock and clock.peek() <= t:
                yield clock.turn(t, READ_CONS, party, "poll")
            visible = ticket.visible
            if visible is not None and visible <= t:
                since = asked if asked > visible else visible
                if granted > since:
                    ticket.behind = granted - since
                return t

    noticed = True

    def read(self, t: int, unseen: int) -> Generator[Any, Any, tuple[int, int]]:
        """Read the register once: when the value is taken, and when it is back."""
        granted = self._ask(t + self.exit - self.locked)
        if not isinstance(granted, int):
            granted = yield from granted
        t = granted + self.locked
        self.lock.release(t)
        return t, t

    def _ask(self, asked: int) -> int | Generator[Any, Any, int]:
        self.counts.exits_vmm += 1
        self.counts.cons_reads += 1
        return self.lock.acquire(asked)
