"""Who takes commands out of a guest's queue in software: the VMM under its big lock, or a kernel worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.clock import NOTIFY, Clock
from smmu_lab.sim.handoff import Handoff, Kernel, commands, cut
from smmu_lab.sim.queue import CONSUME, EXECUTE, HANDOFF, QUEUE, WAKE, CommandQueue, Group

if TYPE_CHECKING:
    from smmu_lab.sim.doorbell import TrapToKernel


class BigLock:
    """The VMM's big lock (QEMU's BQL): one per VM, first come first served.

    While its holder's end is known the next holder's start is arithmetic; else the next one waits to be called.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.free = 0
        self.held = False
        self.waiting: deque[Any] = deque()

    def acquire(self, t: int) -> Generator[Any, Any, int]:
        """Ask at `t`, in the order of the times: returns when it is granted."""
        if self.held:
            turn = self.clock.signal("lock")
            self.waiting.append(turn)
            yield turn
        self.held = True
        return t if t > self.free else self.free

    def release(self, t: int) -> None:
        """Let go at `t`."""
        self.free = t
        if self.waiting:
            self.waiting.popleft().succeed()
        else:
            self.held = False


class Vmm:
    """The VMM's handler of a PROD write: read, decode, hand over, until the queue is empty.

    CONS moves as commands complete, but nobody can read it before the handler has let go of the lock.
    """

    def __init__(self, lock: BigLock, kernel: Kernel, handoff: Handoff) -> None:
        self.lock = lock
        self.kernel = kernel
        self.handoff = handoff

    def consume(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """Consume what the PROD write published: returns when the handler is through."""
        kernel = self.kernel
        kernel.begin()
        works = group.works
        end = yield from self.handoff.consume(works, t)
        read = t + self.handoff.reading(works)
        handed = read + kernel.handoff
        group.queue.drained(
            [group],
            t,
            end,
            [(CONSUME, read), (HANDOFF, handed), (QUEUE, end - kernel.execute), (EXECUTE, end)],
        )
        return end


def kernel_worker(queue: CommandQueue, doorbell: TrapToKernel, host: Drains) -> Generator[Any, Any, None]:
    """A kernel thread that sleeps until the doorbell rings, and drains the queue until nothing is left.

    The doorbell's flag is cleared before PROD is read, so a doorbell that rings meanwhile is seen (vhost_task,
    Linux 7.2: VHOST_WORK_QUEUED).
    """
    while True:
        t = yield from doorbell.wake()
        while doorbell.rang(t) or doorbell.pending(t):
            groups = doorbell.take(t)
            end, edges = yield from host.drain(groups, t)
            if queue.clock.peek() <= end:
                yield queue.clock.turn(end, NOTIFY, host.kernel.party, "drain")
            if groups:
                queue.drained(groups, t, end, edges)
            t = end
        doorbell.sleep(t)


class Drains:
    """What a kernel worker does with the entries it finds: copy, rewrite, issue, wait for the CMD_SYNC."""

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs) -> None:
        self.kernel = kernel
        self.capture = costs.capture
        self.fetch = 2 * costs.copy
        self.fix = costs.fix if approach.unsupported == "stop-and-fix" else 0
        self.attach = costs.vmm_ste if approach.unsupported == "stop-and-fix" else 0

    def drain(self, groups: list[Group], t: int) -> Generator[Any, Any, tuple[int, list[tuple[int, int]]]]:
        """One drain: returns its end, and the ends of its stages."""
        kernel = self.kernel
        kernel.begin()
        works = [work for group in groups for work in group.works]
        entries = sum(work.entries for work in works)
        start = t
        read = t = t + self.capture + entries * self.fetch
        fixes = sum((work.ste + work.other) * self.fix + work.ste * self.attach for work in works)
        t = kernel.spend(t, entries * kernel.convert + fixes)
        if array := commands(works):
            t = yield from kernel.issue(t, cut(array, kernel.group), 0)
        return t, [
            (WAKE, start),
            (CONSUME, read),
            (HANDOFF, read + kernel.handoff),
            (QUEUE, t - kernel.execute),
            (EXECUTE, t),
        ]
