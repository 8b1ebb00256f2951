"""How a PROD write leaves the guest. Each `ring` takes a published group, and returns when its writer runs on."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.clock import SUBMIT, Clock, exponential
from smmu_lab.sim.consumer import Vmm
from smmu_lab.sim.host import HostCpus
from smmu_lab.sim.queue import DOORBELL, EXECUTE, GATHER, LOCK, QUEUE, Group
from smmu_lab.sim.smmu import Engine, Feed


class TrapToVmm:
    """The vCPU exits to the VMM and is blocked there while the VMM consumes the queue, under its big lock."""

    def __init__(self, vmm: Vmm, costs: Costs, counts: Counts) -> None:
        self.vmm = vmm
        self.counts = counts
        self.exit, self.locked = costs.exit_user, costs.vmm_lock

    def ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """Exit, take the lock, consume, return to the guest."""
        self.counts.exits_vmm += 1
        asked = t + self.exit - self.locked
        granted = yield from self.vmm.lock.acquire(asked)
        group.edges = [(GATHER, t), (LOCK, t + granted - asked), (DOORBELL, granted + self.locked)]
        end = yield from self.vmm.consume(group, granted + self.locked)
        self.vmm.lock.release(end)
        owner = group.tickets[0]
        owner.away += end - t
        owner.blocked += granted - asked
        return end


class TrapToKernel:
    """A light exit signals a kernel worker; the vCPU runs on.

    KVM hands the worker no value: the store must be captured into memory it can read (J. Gunthorpe, 28 March 2023,
    ZCLc+5/exFTZJMRi@nvidia.com), so PROD is visible at the end of the exit, and the signal follows.
    """

    def __init__(
        self,
        clock: Clock,
        approach: Approach,
        costs: Costs,
        counts: Counts,
        cpus: HostCpus,
        rng: random.Random,
        party: int,
    ) -> None:
        self.clock = clock
        self.counts = counts
        self.cpus = cpus
        self.party = party
        self.exit, self.signal = costs.exit_kernel, costs.sig
        self.shortest = costs["wake"].low if approach.wake == "exponential" else costs.wake
        self.longer = exponential(rng, costs.wake - self.shortest)
        self.published: deque[Group] = deque()
        self.rings: deque[int] = deque()
        self.asleep: Any = None
        self.since = 0

    def ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """Exit, capture PROD, signal the worker, return to the guest."""
        self.counts.exits_kernel += 1
        group.seen_from = t + self.exit
        end = group.seen_from + self.signal
        group.edges = [(GATHER, t), (DOORBELL, end)]
        group.tickets[0].away += end - t
        for ticket in group.tickets:
            ticket.edges = group.edges
        self.published.append(group)
        self.rings.append(end)
        if self.asleep is not None:
            self.asleep.succeed()
            self.asleep = None
        return end
        yield

    def rang(self, t: int) -> bool:
        """A doorbell arrived since the last look; looking clears it (the queued flag of a vhost work)."""
        rang = False
        while self.rings and self.rings[0] <= t:
            self.rings.popleft()
            rang = True
        return rang

    def pending(self, t: int) -> bool:
        """PROD is beyond what was taken up to now."""
        return bool(self.published) and self.published[0].seen_from <= t

    def take(self, t: int) -> list[Group]:
        """What PROD covers at `t`: everything published whose store is captured by then."""
        taken = []
        while self.published and self.published[0].seen_from <= t:
            taken.append(self.published.popleft())
        return taken

    def wake(self) -> Generator[Any, Any, int]:
        """Sleep until a doorbell rings, wake up, and get a host CPU: returns when."""
        if not self.rings:
            self.asleep = self.clock.signal("sleep")
            yield self.asleep
        self.counts.wakes += 1
        t = self.rings[0] + self.shortest + next(self.longer)
        yield self.clock.turn(t, SUBMIT, self.party, "wake")
        self.since = yield from self.cpus.take(t)
        return self.since

    def sleep(self, t: int) -> None:
        """Give the host CPU back."""
        self.counts.cpu_worker += t - self.since
        self.cpus.give(t)


class Direct:
    """The device's page is mapped: the write reaches the hardware, which executes the queue itself."""

    def __init__(self, engine: Engine, costs: Costs, counts: Counts) -> None:
        self.engine = engine
        self.feed = Feed()
        self.counts = counts
        self.write = costs.mmio_w

    def ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """A posted write: the vCPU runs on when it has left."""
        arrival = t + self.write
        edges = [(GATHER, t), (DOORBELL, arrival)]
        queue = group.queue
        commands = syncs = done = 0
        first = None
        for ticket in group.tickets:
            work = ticket.work
            start, done = self.engine.run(self.feed, arrival, work)
            ticket.complete([*edges, (QUEUE, start), (EXECUTE, done)], done)
            queue.consumed(done, work.entries)
            commands += work.entries
            syncs += work.sync
            first = start if first is None else first
        queue.log(t, first, done, commands, syncs, queue.register(ticket.end), queue.register(queue.cons))
        return arrival
        yield
