"""A command queue, and how lists enter it: allocation, gathering behind an owner, publication, the wait for room.

Source: arm_smmu_cmdq_issue_cmdlist and arm_smmu_cmdq_poll_until_not_full of Linux 7.2 arm-smmu-v3.c.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from smmu_lab.record import STAGES
from smmu_lab.sim.clock import ALLOCATE, PUBLISH, READ_CONS, Clock
from smmu_lab.sim.driver import Work, poll

BUILD, GATHER, SPACE, LOCK, DOORBELL, WAKE, CONSUME, HANDOFF, QUEUE, EXECUTE, COMPLETE, STOLEN = range(len(STAGES))


class Ticket:
    """A list's place in its queue, and what happened to it."""

    __slots__ = (
        "away",
        "behind",
        "blocked",
        "edges",
        "end",
        "resumed",
        "space",
        "visible",
        "waiter",
        "work",
        "written",
    )

    def __init__(self, work: Work, end: int, written: int, space: int) -> None:
        self.work = work
        self.end = end  # PROD after it
        self.written = written
        self.space = space  # time waited for room in the queue
        self.resumed = written  # the vCPU runs on; for an owner: after its PROD write
        self.edges: list[tuple[int, int]] = []  # (stage, when it ended), from the last written entry to CONS
        self.visible: int | None = None  # CONS covers it
        self.waiter: Any = None
        self.away = 0  # time outside the guest
        self.blocked = 0  # of which asleep on the VMM's lock
        self.behind = 0  # of which after CONS had moved

    def complete(self, edges: list[tuple[int, int]], visible: int) -> None:
        """CONS covers this list from `visible` on."""
        self.edges = edges
        self.visible = visible
        if self.waiter is not None:
            self.waiter.succeed()

    def share(self, stage: list[int], start: int, until: int) -> None:
        """Share the time of one issue call among the stages, to the last nanosecond.

        The stages after the last written entry are laid end to end; what was over before the vCPU began to wait, or is
        still going on when it runs on, does not count for it.
        """
        stage[SPACE] += self.space
        stage[BUILD] += self.written - start - self.space
        t = self.written
        for what, end in self.edges:
            if end > t:
                if end >= until:
                    break
                stage[what] += end - t
                t = end
        else:
            what = COMPLETE
            stage[LOCK] += self.behind
            t += self.behind
        stage[what] += until - t


class Group:
    """The lists that one PROD write publishes: the owner's, and those of the riders it gathered."""

    __slots__ = ("edges", "published", "queue", "seen_from", "tickets", "written")

    def __init__(self, queue: CommandQueue) -> None:
        self.queue = queue
        self.tickets: list[Ticket] = []
        self.written = 0
        self.published = 0
        self.seen_from = 0  # when a kernel worker can see the PROD write
        self.edges: list[tuple[int, int]] = []

    @property
    def works(self) -> list[Work]:
        """The lists themselves, in queue order."""
        return [ticket.work for ticket in self.tickets]


class CommandQueue:
    """A queue in memory with its PROD and CONS, and the driver's state beside it.

    PROD and CONS count entries for ever; a register holds them modulo twice the size.

    Args:
        clock: the simulation's time.
        log2size: log2 of the number of entries.
        relax: cost of one cpu_relax, ns.
        ring: generator that carries a published `Group` out of the guest at a time, and returns when the writer of PROD
            runs on.
        read_cons: generator that reads the CONS register at a time, and returns when the value was taken and when it is
            there.
        log: called at the end of each drain with (rung, start, end, commands, syncs, prod captured, cons stored).
    """

    def __init__(
        self,
        clock: Clock,
        log2size: int,
        relax: int,
        ring: Callable[[Group, int], Generator[Any, Any, int]],
        read_cons: Callable[[int], Generator[Any, Any, tuple[int, int]]],
        log: Callable[..., None] = lambda *_: None,
    ) -> None:
        self.clock = clock
        self.size = 1 << log2size
        self.relax = relax
        self.ring = ring
        self.read_cons = read_cons
        self.log = log
        self.prod = self.shadow = self.cons = self.origin = 0
        self.doorbells = 0
        self.gathering: Group | None = None  # set while OWNED is
        self.released: int | None = 0  # when owner_prod reached the end of the last publication
        self.heir: Any = None  # the next owner, waiting for that
        self.moves: deque[tuple[int, int]] = deque()  # (time, CONS from then on)
        self.holders = 0  # shared holders of the queue's lock: CPUs that wait for a CMD_SYNC
        self.leaving: list[int] = []  # when they let go of it
        self.watching: list[Any] = []  # CPUs that wait for room until they have

    def register(self, count: int) -> int:
        """The value that PROD or CONS holds for a count of entries."""
        return count & (2 * self.size - 1)

    def begin(self, index: int) -> None:
        """Start with PROD and CONS at an index, if nothing was published yet."""
        if not self.doorbells:
            self.prod = self.shadow = self.cons = self.origin = index

    # -- insertion -------------------------------------------------------------------------------------------------

    def insert(self, t: int, work: Work, write: int, party: int) -> Generator[Any, Any, Ticket]:
        """Allocate, write, and publish or ride along.

        Args:
            t: when the call reaches the allocation.
            work: the list.
            write: time to write its entries, ns.
            party: who calls, for the order within one instant.

        Returns:
            The ticket; `resumed` says when the caller runs on.
        """
        clock = self.clock
        if clock.peek() <= t:
            yield clock.turn(t, ALLOCATE, party, "allocate")
        asked = t
        self._settle(t)
        while self.size - (self.prod - self.shadow) < work.entries:
            t = yield from self._wait_not_full(t, party)
        ticket = self._allocate(work, t, write, t - asked)
        group = self.gathering
        if group is None:
            yield from self._publish(ticket, party)
        else:
            group.tickets.append(ticket)
            group.written = max(group.written, ticket.written)
        return ticket

    def _allocate(self, work: Work, t: int, write: int, waited: int) -> Ticket:
        """Take the slots: the compare-and-swap of the shadow PROD. It succeeds at once, whoever else tries.

        Other ways of insertion (with retries, a fetch-and-add, a lock) differ here, in when the entries are written.
        """
        self.prod += work.entries
        self.holders += work.sync
        return Ticket(work, self.prod, t + write, waited)

    def _publish(self, ticket: Ticket, party: int) -> Generator[Any, Any, None]:
        """The owner's part: wait for the previous owner and for the riders, then write PROD for all."""
        clock = self.clock
        self.gathering = group = Group(self)
        group.tickets.append(ticket)
        group.written = ticket.written
        if self.released is None:
            self.heir = clock.signal("owner")
            yield self.heir
            self.heir = None
        assert self.released is not None
        t = max(ticket.written, self.released)
        if clock.peek() <= t:
            yield clock.turn(t, PUBLISH, party, "publish")
        self.gathering = None
        self.released = None
        if group.written > t:
            t = group.written
            if clock.peek() <= t:
                yield clock.turn(t, PUBLISH, party, "riders")
        group.published = t
        self.doorbells += 1
        ticket.resumed = yield from self.ring(group, t)
        self.released = ticket.resumed
        if self.heir is not None:
            self.heir.succeed()

    def republish(self, t: int, works: list[Work], write: int, party: int) -> Generator[Any, Any, Ticket]:
        """Publish lists by one PROD write, as they were recorded. Returns the ticket of the last one."""
        clock = self.clock
        if clock.peek() <= t:
            yield clock.turn(t, PUBLISH, party, "publish")
        self._settle(t)
        while self.size - (self.prod - self.shadow) < sum(work.entries for work in works):
            t = yield from self._wait_not_full(t, party)
        group = Group(self)
        group.published = t + write
        self.doorbells += 1
        for work in works:
            self.prod += work.entries
            group.tickets.append(Ticket(work, self.prod, group.published, 0))
        ticket = group.tickets[-1]
        self.holders += ticket.work.sync
        if clock.peek() <= group.published:
            yield clock.turn(group.published, PUBLISH, party, "publish")
        ticket.resumed = yield from self.ring(group, group.published)
        return ticket

    # -- the shadow of CONS ------------------------------------------------------------------------------------------

    def consumed(self, t: int, entries: int) -> None:
        """The consumer moves CONS over `entries` at `t`."""
        self.cons += entries
        self.moves.append((t, self.cons))

    def drained(self, groups: list[Group], start: int, end: int, edges: list[tuple[int, int]]) -> None:
        """A consumer in software took these groups up at `start` and stores CONS at `end`."""
        commands = syncs = 0
        for group in groups:
            group.edges += edges
            for ticket in group.tickets:
                commands += ticket.work.entries
                syncs += ticket.work.sync
                ticket.complete(group.edges, end)
        self.consumed(end, commands)
        captured = groups[-1].tickets[-1].end
        self.log(
            groups[0].published,
            start,
            end,
            commands,
            syncs,
            self.register(captured),
            self.register(self.cons),
        )

    def leave(self, t: int) -> None:
        """A waiter has seen its CMD_SYNC at `t` and lets go of the lock; the last one out writes the shadow CONS."""
        heapq.heappush(self.leaving, t)
        for watcher in self.watching:
            watcher.succeed()
        self.watching.clear()

    def _settle(self, t: int) -> None:
        leaving = self.leaving
        while leaving and leaving[0] <= t:
            left = heapq.heappop(leaving)
            self.holders -= 1
            if not self.holders:
                self._read_shadow(left)

    def _read_shadow(self, t: int) -> None:
        while self.moves and self.moves[0][0] <= t:
            self.shadow = self.moves.popleft()[1]

    def _wait_not_full(self, t: int, party: int) -> Generator[Any, Any, int]:
        """arm_smmu_cmdq_poll_until_not_full: read CONS if nobody holds the lock, else watch its shadow.

        The shadow moves when the last holder leaves. A full queue is watched in poll steps; one that has room, but too
        little, in a loop without delays.
        """
        self._settle(t)
        if not self.holders:
            taken, t = yield from self.read_cons(t + 1)
            if self.clock.peek() <= t:
                yield self.clock.turn(t, READ_CONS, party, "space")
            self._read_shadow(taken)
            return t
        step = self.relax or 1
        full = self.prod - self.shadow >= self.size
        seen, before = t, self.shadow
        while self.holders and (self.prod - self.shadow >= self.size if full else self.shadow == before):
            if len(self.leaving) < self.holders:
                left = self.clock.signal("owner")
                self.watching.append(left)
                yield left
                continue
            moved = max(seen + 1, *self.leaving)
            seen = poll(t, moved, step, 0, 0)[0] if full else t + -(-(moved - t) // step) * step
            yield self.clock.turn(seen, READ_CONS, party, "space")
            self._settle(seen)
        return seen
