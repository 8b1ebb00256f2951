"""The host's command queue and the host's CPUs: what all guests share."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.driver import Work
from smmu_lab.sim.queue import CommandQueue, Group
from smmu_lab.sim.smmu import Engine, Feed


class HostQueue:
    """The physical CMDQ with the host's driver in front of it: the same algorithm as in the guest.

    Args:
        sole: one thread at a time can be in it, and nothing else reaches the engine. Then nobody gathers and the
            algorithm is arithmetic; no event is needed.
    """

    def __init__(self, clock: Clock, engine: Engine, costs: Costs, log2size: int, sole: bool) -> None:
        self.clock = clock
        self.engine = engine
        self.feed = Feed()
        self.size = 1 << log2size
        self.sole = sole
        self.post, self.read = costs.mmio_w, costs.mmio_r
        self.write = max(0, costs.hsubmit - costs.mmio_w)  # hsubmit is the whole insertion, PROD write included
        self.queue = CommandQueue(clock, log2size, costs.relax, self._ring, self._read_cons)

    def call(self, t: int, work: Work, party: int, counts: Counts) -> Generator[Any, Any, int]:
        """One issue call with CMD_SYNC: returns when its completion is seen."""
        counts.host_syncs += 1
        counts.host_commands += work.entries
        if self.sole:
            return t + self.alone(work)
        ticket = yield from self.queue.insert(t, work, self.write, party)
        if ticket.visible is None:
            ticket.waiter = self.clock.signal("owner")
            yield ticket.waiter
        assert ticket.visible is not None
        self.queue.leave(ticket.visible)
        return ticket.visible

    def alone(self, work: Work) -> int:
        """Time of a call that meets nobody, ns."""
        return self.write + self.post + self.engine.alone(work)

    def _ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        for ticket in group.tickets:
            done = self.engine.run(self.feed, t + self.post, ticket.work)[1]
            self.queue.consumed(done, ticket.work.entries)
            ticket.complete(ticket.edges, done)
        return t + self.post
        yield

    def _read_cons(self, t: int) -> Generator[Any, Any, tuple[int, int]]:
        return t + self.read // 2, t + self.read
        yield


class HostCpus:
    """The host CPUs that kernel workers run on; a worker waits its turn for one."""

    def __init__(self, clock: Clock, number: int) -> None:
        self.clock = clock
        self.idle = number
        self.waiting: deque[Any] = deque()

    def take(self, t: int) -> Generator[Any, Any, int]:
        """Get a CPU: returns when."""
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
