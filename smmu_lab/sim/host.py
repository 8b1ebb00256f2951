"""The host's command queue and the host's CPUs: what all guests share."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

from smmu_lab.record import Counts
from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.driver import SYNC_TIMEOUT, Work
from smmu_lab.sim.queue import EXECUTE, QUEUE, CommandQueue, Group, Ticket
from smmu_lab.sim.smmu import Feed, Fifo

if TYPE_CHECKING:
    from smmu_lab.sim.thread import Thread


class TimedOut(Exception):
    """The host's driver gives up its CMD_SYNC after 1 s, and returns -ETIMEDOUT.

    Attributes:
        t: when, ns.
        first: number of the first command of its list, among those that the caller issues.
        last: number of the last one.
    """

    def __init__(self, t: int) -> None:
        super().__init__(t)
        self.t = t
        self.first = self.last = 0

    def among(self, before: int, commands: int) -> Self:
        """The same, with the numbers of its commands."""
        self.first, self.last = before, before + commands - 1
        return self


class HostQueue:
    """The physical CMDQ with the host's driver in front of it: the same algorithm as in the guest.

    Args:
        number: of its SMMU.
        errata: what its SMMU cannot take in one list.
        sole: one thread at a time can be in it, and nothing else reaches the engine. Then nobody gathers and the
            algorithm is arithmetic; no event is needed.
        gives_up: the driver gives up a CMD_SYNC after 1 s.
    """

    def __init__(
        self,
        clock: Clock,
        number: int,
        engine: Fifo,
        costs: Costs,
        log2size: int,
        errata: str = "none",
        sole: bool = False,
        gives_up: bool = False,
    ) -> None:
        self.clock = clock
        self.number = number
        self.engine = engine
        self.feed = Feed(self._finish)
        self.size = 1 << log2size
        self.errata = errata
        self.sole = sole
        self.gives_up = gives_up
        self.post, self.read = min(costs.mmio_w, costs.hsubmit), costs.mmio_r
        self.write = costs.hsubmit - self.post  # hsubmit is the whole insertion, PROD write included
        self.queue = CommandQueue(
            clock, log2size, costs.relax, self._ring, self._read_cons, False, advance=engine.advance
        )

    def call(self, t: int, work: Work, party: int, counts: Counts) -> int | Generator[Any, Any, int]:
        """One issue call with CMD_SYNC: when its completion is seen, or a generator that returns that.

        Raises:
            TimedOut: by the generator.
        """
        counts.host_syncs += 1
        counts.host_commands += work.entries
        if not self.sole:
            return self._call(t, work, party, counts)
        end = t + self.alone(work)
        if self.clock.trail is not None:
            queue = divmod(party, 1 << 16)
            self.clock.note("engine", queue, self.number, t + self.write + self.post, end)
            self.clock.note("host", queue, t, end, work)
        return end

    def _call(self, t: int, work: Work, party: int, counts: Counts) -> Generator[Any, Any, int]:
        ticket = yield from self.queue.insert(t, work, self.write, party)
        seen = ticket.visible
        if seen is None:
            yield ticket.wait(self.clock, "owner")
            seen = ticket.visible
        assert seen is not None
        timed_out = self.gives_up and seen - ticket.resumed > SYNC_TIMEOUT
        if timed_out:
            seen = ticket.resumed + SYNC_TIMEOUT
        self.queue.leave(seen, ticket)
        if self.clock.trail is not None:
            queue, ((_, start), (_, done)) = divmod(party, 1 << 16), ticket.edges
            self.clock.note("engine", queue, self.number, start, done)
            self.clock.note("host", queue, t, seen, work)
        if timed_out:
            counts.timeouts += 1
            raise TimedOut(seen)
        return seen

    def alone(self, work: Work) -> int:
        """Time of a call that meets nobody, ns."""
        return self.write + self.post + self.engine.alone(work)

    def _ring(self, group: Group, t: int) -> int:
        self.engine.post(self.feed, t + self.post, group)
        return t + self.post

    def _finish(self, ticket: Ticket, start: int, done: int) -> None:
        self.queue.consumed(done, ticket.work.entries)
        ticket.complete(done)
        if self.clock.trail is not None:
            ticket.edges = (QUEUE, start), (EXECUTE, done)

    def _read_cons(self, t: int, unseen: int) -> Generator[Any, Any, tuple[int, int]]:
        return t + self.read // 2, t + self.read
        yield


class HostCpus:
    """The host CPUs that kernel workers run on.

    A worker waits its turn for one. A worker that only looks for more gives its CPU to one that asks.
    """

    def __init__(self, clock: Clock, number: int) -> None:
        self.clock = clock
        self.number = self.idle = number
        self.threads = 0
        self.waiting: deque[Any] = deque()
        self.looking: list[Thread] = []  # in the order in which they began

    def take(self, t: int) -> Generator[Any, Any, int]:
        """Get a CPU: returns when."""
        for thread in [each for each in self.looking if each.until <= t]:
            self._stop(thread, thread.until)
        if not self.idle and self.looking:
            self._stop(self.looking[0], t)
        if self.idle:
            self.idle -= 1
            return t
        turn = self.clock.signal("host-cpu")
        self.waiting.append(turn)
        return max(t, (yield turn))

    def give(self, t: int) -> None:
        """Give it back at `t`."""
        if self.waiting:
            self.waiting.popleft().succeed(t)
        else:
            self.idle += 1

    def look(self, thread: Thread) -> bool:
        """A thread wants to keep its CPU to look for more: may it?"""
        if self.waiting:
            return False
        self.looking.append(thread)
        return True

    def _stop(self, thread: Thread, t: int) -> None:
        self.looking.remove(thread)
        self.idle += 1
        thread.sleeps(t)
