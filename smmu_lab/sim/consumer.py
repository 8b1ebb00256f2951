"""Who takes commands out of a guest's queue in software: the VMM under its big lock, or the kernel."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from smmu_lab.arch import CError
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.clock import NOTIFY, Clock
from smmu_lab.sim.driver import Work
from smmu_lab.sim.handoff import Handoff, MapUnmap
from smmu_lab.sim.host import TimedOut
from smmu_lab.sim.kernel import Kernel, place, size
from smmu_lab.sim.queue import WAKE, CommandQueue, Group, Ticket
from smmu_lab.sim.recovery import ASKS, FIXES
from smmu_lab.sim.thread import Doorbell, Drain


class Lock:
    """A lock that serves first come, first served: the VMM's big lock (QEMU's BQL), one per VM; a driver's spinlock.

    While its holder's end is known the next holder's start is arithmetic; else the next one waits to be called.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.free = 0
        self.held = False
        self.waiting: deque[Any] = deque()

    def acquire(self, t: int) -> int | Generator[Any, Any, int]:
        """Ask at `t`, in the order of the times: when it is granted, or a generator that returns that."""
        if self.held:
            return self._wait(t)
        self.held = True
        return t if t > self.free else self.free

    def _wait(self, t: int) -> Generator[Any, Any, int]:
        turn = self.clock.signal("lock")
        self.waiting.append(turn)
        yield turn
        return t if t > self.free else self.free

    def hold(self, t: int) -> Generator[Any, Any, int]:
        """`acquire`, whoever must wait."""
        granted = self.acquire(t)
        return granted if isinstance(granted, int) else (yield from granted)

    def release(self, t: int) -> None:
        """Let go at `t`."""
        self.free = t
        if self.waiting:
            self.waiting.popleft().succeed()
        else:
            self.held = False


class Vmm:
    """The VMM's handler of a PROD write: read, decode, hand over, until the queue is empty.

    CONS moves as commands complete, but nobody can read it before the handler has let go of the lock. The word of a
    CMD_SYNC is in the guest's memory, and is written when everything before it is done.
    """

    def __init__(self, kernel: Kernel, handoff: Handoff | MapUnmap) -> None:
        self.kernel = kernel
        self.handoff = handoff

    def consume(self, queue: CommandQueue, group: Group, t: int) -> Generator[Any, Any, int]:
        """Consume what the PROD write published: returns when the handler is through."""
        kernel, handoff = self.kernel, self.handoff
        if kernel.gerror.holds(group):
            return t
        kernel.begin()
        drain = Drain([group], t)
        if isinstance(handoff, MapUnmap):
            end = yield from handoff.consume(group.tickets, t)
        else:

            def written(ticket: Ticket, at: int) -> None:
                if queue.by_msi:
                    ticket.edges += kernel.edges(t, at)
                    ticket.complete(at)

            end = yield from handoff.consume(group.tickets, t, written)
            drain.edges = kernel.edges(t, end)
        if kernel.halt is not None:
            kernel.gerror.halt(drain, *kernel.halt)
            kernel.halt = None
        queue.complete(drain, end)
        return end


def kernel_worker(queue: CommandQueue, doorbell: Doorbell, host: Host) -> Generator[Any, Any, None]:
    """What a kernel thread does for a queue: sleep until the doorbell rings, and drain until nothing is left."""
    while True:
        t = yield from doorbell.wait()
        while drain := doorbell.take(t):
            t = yield from host.execute(drain, t)
            queue.complete(drain, t)
        doorbell.done(t)


def fixes(work: Work) -> int:
    """Entries of a list that the VMM must deal with, where a consumer in the kernel halts for that."""
    return work.ste + work.other + (work.bad >= 0 and not work.fixed)


class Host:
    """What the kernel does with the entries that a consumer takes up: copy, rewrite, issue, wait for the CMD_SYNC.

    Args:
        requests: how requests of virtio-iommu are served; a queue of commands has none.
        doorbell: of the worker that it works for; a caller in its own exit has none.
    """

    def __init__(
        self,
        clock: Clock,
        kernel: Kernel,
        approach: Approach,
        costs: Costs,
        requests: MapUnmap | None = None,
        doorbell: Doorbell | None = None,
    ) -> None:
        self.clock = clock
        self.doorbell = doorbell
        self.kernel = kernel
        self.requests = requests
        self.capture = costs.capture if approach.has_worker else 0
        self.fetch = 2 * costs.copy
        self.stops = approach.unsupported == "stop-and-fix"
        self.fix, self.attach = costs.fix, costs.vmm_ste

    def execute(self, drain: Drain, t: int) -> Generator[Any, Any, int]:
        """Run what a drain took up, from `t` on: returns when all of it is complete."""
        return (yield from self.delay((yield from self.run(drain, t)), 0))

    def delay(self, t: int, ns: int) -> Generator[Any, Any, int]:
        """Let so much time pass after `t`: returns when it is over, and everybody else has come that far."""
        t += ns
        if self.clock.peek() <= t:
            yield self.clock.turn(t, NOTIFY, self.kernel.party, "drain")
        if self.doorbell is not None:
            self.doorbell.reached = t
        return t

    def run(self, drain: Drain, t: int) -> Generator[Any, Any, int]:
        """`execute` in the caller's own context: nobody else need be waited for at the end."""
        if self.requests is not None:
            requests = [ticket for group in drain.groups for ticket in group.tickets]
            return (yield from self.requests.consume(requests, t))
        kernel, gerror = self.kernel, self.kernel.gerror
        kernel.begin()
        start = t
        kernel.read = self.capture
        t += self.capture
        if gerror.standing is not None:
            drain.groups = [group for group in drain.groups if not gerror.holds(group)]
        tickets = [ticket for group in drain.groups for ticket in group.tickets]
        works = [ticket.work for ticket in tickets]
        struck = gerror.struck(tickets)
        try:
            if struck is not None and gerror.reaction != FIXES:
                t = yield from self._issue(gerror.ahead(tickets, struck), t)
                if asks := gerror.reaction == ASKS:
                    t = kernel.spend(t, self.fix)
                    kernel.counts.fixes += 1
                gerror.halt(drain, struck, gerror.at(struck.work), asks)
            elif self.stops and any(map(fixes, works)):
                t = yield from self._stop_and_fix(works, t)
            else:
                t = yield from self._issue(works, t)
        except TimedOut as late:
            t = late.t
            gerror.halt(drain, *place(tickets, late.first), cerror=CError.ATC_INV_SYNC)
        drain.edges = ((WAKE, start), *kernel.edges(start, t))
        return t

    def _issue(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        """Copy, rewrite, and issue as one; on one SMMU after the other, with its VMID and StreamIDs."""
        kernel, entries = self.kernel, sum([work.entries for work in works])
        kernel.read += entries * self.fetch
        t = kernel.spend(t + entries * self.fetch, entries * kernel.convert)
        for others, (smmu, array) in enumerate(kernel.spread(works)):
            if others:
                t = kernel.spend(t, size(array) * kernel.convert)
            t = yield from kernel.issue(t, kernel.lists(array), 0, smmu)
        return t

    def _stop_and_fix(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        """Halt behind each list with entries that the kernel may not run, until the VMM has dealt with them."""
        ahead: list[Work] = []
        for work in works:
            ahead.append(work)
            if number := fixes(work):
                t = yield from self._issue(ahead, t)
                ahead.clear()
                t = self.kernel.spend(t, number * self.fix + work.ste * self.attach)
                self.kernel.counts.fixes += number
        return (yield from self._issue(ahead, t)) if ahead else t
