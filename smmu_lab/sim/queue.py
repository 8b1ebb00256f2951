"""A command queue, and how lists enter it: allocation, gathering behind an owner, publication, the wait for room.

Source: arm_smmu_cmdq_issue_cmdlist and arm_smmu_cmdq_poll_until_not_full of Linux 7.2 arm-smmu-v3.c.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from smmu_lab.record import STAGES, Table
from smmu_lab.sim.clock import ALLOCATE, PUBLISH, READ_CONS, Clock
from smmu_lab.sim.driver import Work, watch

if TYPE_CHECKING:
    from smmu_lab.sim.consumer import Lock
    from smmu_lab.sim.recovery import Gerror
    from smmu_lab.sim.thread import Drain

BUILD, GATHER, SPACE, LOCK, DOORBELL, WAKE, CONSUME, HANDOFF, QUEUE, EXECUTE, RECOVER, COMPLETE, STOLEN = range(
    len(STAGES)
)


MOST_READS = 100_000
"""So many reads of a CONS that stands, each of which somebody may notice, are simulated; the others are left out."""

Edges = tuple[tuple[int, int], ...]
"""(stage, when it ended), from the last written entry to CONS."""


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
        "waiters",
        "work",
        "written",
    )

    def __init__(self, work: Any, end: int, written: int, space: int) -> None:
        self.work = work
        self.end = end  # PROD after it
        self.written = written
        self.space = space  # time waited for room in the queue
        self.resumed = written  # the vCPU runs on; for an owner: after its PROD write
        self.edges: Edges = ()
        self.visible: int | None = None  # CONS covers it
        self.waiters: tuple[Any, ...] = ()
        self.away = 0  # time outside the guest
        self.blocked = 0  # of which asleep on the VMM's lock
        self.behind = 0  # of which after CONS had moved

    def complete(self, visible: int) -> None:
        """Its end can be seen from `visible` on."""
        self.visible = visible
        for waiter in self.waiters:
            waiter.succeed()

    def wait(self, clock: Clock, cause: str) -> Any:
        """An event at which its end is known: one for each who waits, so that `Clock.peek` sees them all."""
        waiter = clock.signal(cause)
        self.waiters += (waiter,)
        return waiter

    def wait_until(self, clock: Clock, t: int, party: int) -> Any:
        """`wait`, but at most until `t`."""
        waiter = self.wait(clock, "complete")

        def give_up(turn: Any) -> None:
            if not waiter.triggered:
                self.waiters = tuple(each for each in self.waiters if each is not waiter)
                waiter.succeed()

        clock.turn(t, READ_CONS, party, "timeout").callbacks.append(give_up)
        return waiter

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
            what = COMPLETE if self.visible is not None else RECOVER
            stage[LOCK] += self.behind
            t += self.behind
        stage[what] += until - t


class Group:
    """The lists that one PROD write publishes: the owner's, and those of the riders it gathered."""

    __slots__ = ("captured", "owner", "published", "resumes", "tickets", "written")

    def __init__(self, ticket: Ticket) -> None:
        self.owner = ticket  # of whoever writes PROD
        self.resumes = False  # it is GERRORN that is written, and what waited goes on
        self.tickets = [ticket]
        self.written = ticket.written
        self.published = 0
        self.captured = 0  # when a kernel worker can see the PROD write

    def ride(self, ticket: Ticket) -> None:
        """One more list, behind the owner's."""
        self.tickets.append(ticket)
        if ticket.written > self.written:
            self.written = ticket.written

    @property
    def works(self) -> list[Any]:
        """The lists themselves, in queue order."""
        return [ticket.work for ticket in self.tickets]

    @property
    def entries(self) -> int:
        """Entries of all lists."""
        return sum([ticket.work.entries for ticket in self.tickets])

    def leaves(self, edges: Edges) -> None:
        """The ends of its first stages, up to the doorbell."""
        for ticket in self.tickets:
            ticket.edges += edges


class Onlooker:
    """A CPU that reads a CONS which stands, again and again, from the end of a read at `t` on; nobody notices.

    None of its reads is an event but the first that may find something new: it is over when `wakes`.
    """

    __slots__ = ("clock", "due", "party", "stride", "t", "wakes")

    def __init__(self, clock: Clock, t: int, stride: int, party: int) -> None:
        self.clock, self.t, self.stride, self.party = clock, t, stride, party
        self.wakes = clock.signal("space")
        self.due = 0

    def look(self, since: int) -> None:
        """Something is new from `since` on: the first read that ends then or later counts."""
        due = self.t + max(1, -(-(since - self.t) // self.stride)) * self.stride
        if not self.due or due < self.due:
            self.due = due
            self.clock.turn(due, READ_CONS, self.party, "space").callbacks.append(self._wake)

    def _wake(self, turn: Any) -> None:
        if not self.wakes.triggered:
            self.wakes.succeed()


class CommandQueue:
    """A queue in memory with its PROD and CONS, and the driver's state beside it.

    PROD and CONS count entries for ever; a register holds them modulo twice the size.

    Args:
        clock: the simulation's time.
        log2size: log2 of the number of entries.
        relax: cost of one cpu_relax, ns.
        ring: carries a published `Group` out of the guest at a time, and returns when the writer of PROD runs on; where
            that must be waited for, a generator does.
        read_cons: generator that reads the CONS register at a time, and returns when the value was taken and when it is
            there. Also told how many reads that nobody noticed came before.
        noticed: such a read is in somebody's way.
        name: (guest, number in the guest); the host's own is ``()``.
        advance: brings CONS up to a time, where its moves are worked out late.
        by_msi: a CMD_SYNC's own word tells its end, so the shadow of CONS moves there, not to a CONS that was read.
        batches: the record of drains.

    Attributes:
        gerror: its errors; the host's own has none that anybody is told of.
    """

    gerror: Gerror

    def __init__(
        self,
        clock: Clock,
        log2size: int,
        relax: int,
        ring: Callable[[Group, int], int | Generator[Any, Any, int]],
        read_cons: Callable[[int, int], Generator[Any, Any, tuple[int, int]]],
        noticed: bool,
        name: tuple[int, ...] = (),
        advance: Callable[[int], None] = lambda t: None,
        by_msi: bool = False,
        batches: Table | None = None,
    ) -> None:
        self.clock = clock
        self.size = 1 << log2size
        self.mask = 2 * self.size - 1
        self.relax = relax
        self.ring = ring
        self.read_cons = read_cons
        self.noticed = noticed
        self.name = name
        self.advance = advance
        self.by_msi = by_msi
        self.batches = batches
        self.drains = 0
        self.prod = self.shadow = self.cons = self.settled = self.origin = 0
        self.doorbells = 0
        self.gathering: Group | None = None  # set while OWNED is
        self.released: int | None = 0  # when owner_prod reached the end of the last publication
        self.heir: Any = None  # the next owner, waiting for that
        self.moves: deque[tuple[int, int]] = deque()  # (time, CONS from then on)
        self.holders = 0  # shared holders of the queue's lock: CPUs that wait for a CMD_SYNC
        self.leaving: list[tuple[int, int]] = []  # when they let go of it, and the end of their lists
        self.watching: list[Any] = []  # CPUs that wait for room until they have
        self.fruitless = 0  # reads of a CONS that did not move
        self.stirred: list[Any] = []  # CPUs that wait until it does
        self.onlookers: list[Onlooker] = []

    def register(self, count: int) -> int:
        """The value that PROD or CONS holds for a count of entries."""
        return count & self.mask

    def begin(self, index: int) -> None:
        """Start with PROD and CONS at an index, if nothing was published yet."""
        if not self.doorbells:
            self.prod = self.shadow = self.cons = self.settled = self.origin = index

    # -- insertion -------------------------------------------------------------------------------------------------

    def insert(
        self, t: int, work: Work, write: int, party: int, irqs: Lock | None = None
    ) -> Generator[Any, Any, Ticket]:
        """Allocate, write, and publish or ride along.

        Args:
            t: when the call reaches the allocation.
            work: the list.
            write: time to write its entries, ns.
            party: who calls, for the order within one instant.
            irqs: what the caller holds while its interrupts are off; they are on while it waits for room.

        Returns:
            The ticket; `resumed` says when the caller runs on.
        """
        clock = self.clock
        if clock.peek() <= t:
            yield clock.turn(t, ALLOCATE, party, "allocate")
        asked = t
        if self.leaving and self.leaving[0][0] <= t:
            self._settle(t)
        while self.size - (self.prod - self.shadow) < work.entries:
            if irqs is not None:
                irqs.release(t)
            t = yield from self._wait_not_full(t, party, irqs is not None)
            if irqs is not None:
                t = yield from irqs.hold(t)
                if clock.peek() <= t:
                    yield clock.turn(t, ALLOCATE, party, "allocate")
        ticket = self._allocate(work, t, write, t - asked)
        if clock.trail is not None:
            clock.note("issued", self.name, party, ticket)
        written = ticket.written
        if self.gathering is not None:
            self.gathering.ride(ticket)
            return ticket
        self.gathering = group = Group(ticket)
        if self.released is None:
            self.heir = clock.signal("owner")
            yield self.heir
            self.heir = None
        assert self.released is not None
        t = written if written > self.released else self.released
        if clock.peek() <= t:
            yield clock.turn(t, PUBLISH, party, "publish")
        self.gathering = self.released = None
        if group.written > t:
            t = group.written
            if clock.peek() <= t:
                yield clock.turn(t, PUBLISH, party, "riders")
        resumed = self._write_prod(group, t)
        if type(resumed) is not int:
            resumed = yield from resumed
        ticket.resumed = self.released = resumed
        if self.heir is not None:
            self.heir.succeed()
        return ticket

    def _allocate(self, work: Work, t: int, write: int, waited: int) -> Ticket:
        """Take the slots: the compare-and-swap of the shadow PROD. It succeeds at once, whoever else tries.

        Other ways of insertion (with retries, a fetch-and-add, a lock) differ here, in when the entries are written.
        """
        self.prod += work.entries
        self._hold(t, work.sync)
        return Ticket(work, self.prod, t + write, waited)

    def _write_prod(self, group: Group, t: int) -> Any:
        """The owner writes PROD for its group: when it runs on, or a generator that returns that."""
        group.published = t
        self.doorbells += 1
        if self.clock.trail is not None:
            self.clock.note("published", self.name, t, group)
        return self.ring(group, t)

    def republish(self, t: int, works: list[Work], write: int, party: int) -> Generator[Any, Any, Ticket]:
        """Publish lists by one PROD write, as they were recorded. Returns the ticket of the last one."""
        clock = self.clock
        if clock.peek() <= t:
            yield clock.turn(t, PUBLISH, party, "publish")
        self._settle(t)
        while self.size - (self.prod - self.shadow) < sum(work.entries for work in works):
            t = yield from self._wait_not_full(t, party)
        self._hold(t, works[-1].sync)
        t += write
        tickets = []
        for work in works:
            self.prod += work.entries
            tickets.append(Ticket(work, self.prod, t, 0))
            clock.note("issued", self.name, party, tickets[-1])
        group = Group(tickets[0])
        group.tickets = tickets
        if clock.peek() <= t:
            yield clock.turn(t, PUBLISH, party, "publish")
        resumed = self._write_prod(group, t)
        tickets[-1].resumed = resumed if type(resumed) is int else (yield from resumed)
        return tickets[-1]

    # -- the shadow of CONS ------------------------------------------------------------------------------------------

    def _look_on(self, t: int, party: int) -> Generator[Any, Any, int]:
        """Read CONS until it has moved, or somebody else holds the lock: returns when that read is over."""
        before, unseen = self.shadow, 0
        while True:
            taken, seen = yield from self.read_cons(t + 1, unseen)
            if self.clock.peek() <= seen:
                yield self.clock.turn(seen, READ_CONS, party, "space")
            fresh = self.shadow != before
            self.shadow = self._cons_at(taken)
            if fresh or self.shadow != before or self.holders:
                return seen
            stride = seen - t
            onlooker = Onlooker(self.clock, seen, stride, party)
            self.onlookers.append(onlooker)
            if self.moves:
                onlooker.look(self.moves[0][0])
            yield onlooker.wakes
            self.onlookers.remove(onlooker)
            unseen = (onlooker.due - seen) // stride - 1
            t = seen + unseen * stride

    def _skip(self, t: int, stride: int, party: int) -> Generator[Any, Any, int]:
        """Leave out the reads of a CONS that stands for long: returns when the last of them is over."""
        if not self.moves:
            moved = self.clock.signal("owner")
            self.stirred.append(moved)
            yield moved
        self.fruitless = 0
        skipped = max(0, (self.moves[0][0] - t) // stride, -((t - self.clock.now) // stride))
        t += skipped * stride
        yield self.clock.turn(t, READ_CONS, party, "space")
        return t

    def consumed(self, t: int, entries: int) -> None:
        """The consumer moves CONS over `entries` at `t`."""
        self.cons += entries
        self.moves.append((t, self.cons))
        for onlooker in self.onlookers:
            onlooker.look(t)
        for moved in self.stirred:
            moved.succeed()
        self.stirred.clear()
        if self.clock.trail is not None:
            self.clock.note("stored", self.name, t, self.cons)

    def complete(self, drain: Drain, end: int) -> None:
        """A consumer in software stores CONS at `end`: it covers what was taken up, but for what stands at an error."""
        if drain.groups:
            self._store(drain, end)
        if drain.halt is not None:
            drain.halt(end)

    def _store(self, drain: Drain, end: int) -> None:
        commands = syncs = 0
        for group in drain.groups:
            for ticket in group.tickets:
                commands += ticket.work.entries
                syncs += ticket.work.sync
                if ticket.visible is None:
                    ticket.edges += drain.edges
                    ticket.complete(end)
        self.consumed(end, commands)
        self.log(drain.groups[0].published, drain.start, end, commands, syncs, drain.groups[-1].tickets[-1].end)

    def log(self, rung: int, start: int, end: int, commands: int, syncs: int, captured: int) -> None:
        """Record a drain that took what PROD covered when it was `captured`."""
        self.drains += 1
        if self.batches is not None:
            mask = self.mask
            self.batches.append((*self.name, rung, start, end, commands, syncs, captured & mask, self.cons & mask))

    def leave(self, t: int, ticket: Ticket) -> None:
        """A waiter has seen its CMD_SYNC at `t` and lets go of the lock; the last one out writes the shadow CONS."""
        heapq.heappush(self.leaving, (t, ticket.end))
        if self.clock.trail is not None:
            self.clock.note("seen", self.name, t, ticket)
        if self.watching:
            for watcher in self.watching:
                watcher.succeed()
            self.watching.clear()

    def _hold(self, t: int, sync: int) -> None:
        """Somebody who will wait for a CMD_SYNC takes the lock at `t`."""
        self.holders += sync
        for onlooker in self.onlookers:
            onlooker.look(t + 1)

    def _settle(self, t: int) -> None:
        leaving = self.leaving
        while leaving and leaving[0][0] <= t:
            left, end = heapq.heappop(leaving)
            self.holders -= 1
            if not self.holders:
                self.shadow = end if self.by_msi else self._cons_at(left)

    def _cons_at(self, t: int) -> int:
        self.advance(t)
        while self.moves and self.moves[0][0] <= t:
            self.settled = self.moves.popleft()[1]
        return self.settled

    def _wait_not_full(self, t: int, party: int, noticed: bool = False) -> Generator[Any, Any, int]:
        """arm_smmu_cmdq_poll_until_not_full: read CONS if nobody holds the lock, else watch its shadow.

        The shadow moves when the last holder leaves. A full queue is watched in poll steps; one that has room, but too
        little, in a loop without delays.
        """
        self._settle(t)
        if not self.holders and not (noticed or self.noticed):
            return (yield from self._look_on(t, party))
        if not self.holders:
            taken, seen = yield from self.read_cons(t + 1, 0)
            if self.clock.peek() <= seen:
                yield self.clock.turn(seen, READ_CONS, party, "space")
            before, self.shadow = self.shadow, self._cons_at(taken)
            self.fruitless = self.fruitless + 1 if self.shadow == before else 0
            return seen if self.fruitless < MOST_READS else (yield from self._skip(seen, seen - t, party))
        step = self.relax or 1
        full = self.prod - self.shadow >= self.size
        seen, before = t, self.shadow
        while self.holders and (self.prod - self.shadow >= self.size if full else self.shadow == before):
            if len(self.leaving) < self.holders:
                left = self.clock.signal("owner")
                self.watching.append(left)
                yield left
                continue
            moved = max(seen + 1, max(self.leaving)[0])
            seen = watch(t, moved, step) if full else t + -(-(moved - t) // step) * step
            yield self.clock.turn(seen, READ_CONS, party, "space")
            self._settle(seen)
        return seen
