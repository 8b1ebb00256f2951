"""A kernel thread: it sleeps, wakes up, gets a host CPU, and works for its queues in the order of their doorbells.

Source: the vhost worker of Linux 7.2 (drivers/vhost/vhost.c, kernel/vhost_task.c).
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.clock import SUBMIT, Clock, exponential
from smmu_lab.sim.host import HostCpus

if TYPE_CHECKING:
    from smmu_lab.sim.queue import Edges, Group


class Drain:
    """What a consumer takes up at once, and how long the parts of its work last.

    Attributes:
        halt: where it comes to an error, what is to be done when CONS is stored.
    """

    __slots__ = ("edges", "groups", "halt", "start")

    def __init__(self, groups: list[Group], start: int) -> None:
        self.groups = groups
        self.start = start
        self.edges: Edges = ()
        self.halt: Callable[[int], None] | None = None


class Thread:
    """One kernel thread, for a queue, a VM or the host.

    Attributes:
        until: the end of the time in which it looks for more before it sleeps.
    """

    def __init__(
        self,
        clock: Clock,
        approach: Approach,
        costs: Costs,
        cpus: HostCpus,
        rng: random.Random,
    ) -> None:
        self.clock = clock
        self.cpus = cpus
        self.watches = approach.doorbell == "polled"
        self.shortest = costs["wake"].low if approach.wake == "exponential" else costs.wake
        self.longer = exponential(rng, costs.wake - self.shortest)
        self.window, self.notice = approach.busy_poll, costs.poll
        self.line: list[tuple[int, int, int, Doorbell]] = []  # (when it rang, put back, party, whose): who waits
        self.serving: Doorbell | None = None
        self.looking = False
        self.since = self.until = 0
        self.last: Doorbell

    def rang(self, doorbell: Doorbell, t: int, again: bool = False) -> None:
        """A queue gets into line at `t`."""
        heapq.heappush(self.line, (t, again, doorbell.party, doorbell))
        doorbell.in_line = True
        if self.looking:
            self.clock.turn(t, SUBMIT, doorbell.party, "poll").callbacks.append(self._notice)
        elif self.serving is None:
            self._call()

    def _notice(self, turn: Any) -> None:
        """While it looked for more, a queue got into line."""
        if self.serving is None and self.line:
            if self.looking and self.clock.now <= self.until:
                self.looking = False
                self.cpus.looking.remove(self)
                self._call(self.clock.now + self.notice)
            else:
                self._call()

    def _call(self, runs: int | None = None) -> None:
        """It is the turn of the first in line: of a thread that runs, from a time on, or that must wake up."""
        rang, _, _, doorbell = heapq.heappop(self.line)
        self.serving = doorbell
        doorbell.in_line = False
        doorbell.turn = runs is not None
        doorbell.called = rang, runs
        if doorbell.sleeper is not None:
            doorbell.sleeper.succeed()
            doorbell.sleeper = None

    def others_wait(self, t: int) -> bool:
        """Another queue of this thread is in line."""
        return bool(self.line) and self.line[0][0] <= t

    def wake(self, doorbell: Doorbell, rang: int) -> Generator[Any, Any, int]:
        """From sleep to work: returns when the thread runs on a CPU."""
        t = rang
        if not self.watches:
            doorbell.counts.wakes += 1
            t += self.shortest + next(self.longer)
        yield self.clock.turn(t, SUBMIT, doorbell.party, "wake")
        self.since = yield from self.cpus.take(t)
        return self.since

    def leave(self, doorbell: Doorbell, t: int) -> None:
        """The turn of a queue is over: the next one's, or look for more, or sleep."""
        doorbell.counts.cpu_worker += t - self.since
        self.since = t
        self.serving = None
        if self.others_wait(t):
            self._call(t)
            return
        self.until = t + self.window
        self.looking = bool(self.window) and self.cpus.look(self)
        if self.looking:
            for rang, _, party, _ in self.line:
                self.clock.turn(rang, SUBMIT, party, "poll").callbacks.append(self._notice)
            return
        self.cpus.give(t)
        if self.line:
            self._call()

    def sleeps(self, t: int) -> None:
        """It stops looking for more."""
        self.looking = False
        self.last.counts.cpu_worker += t - self.since


class Doorbell:
    """The consumer's side of a doorbell: what was published, and a flag that says that it rang.

    This is what a consumer of your own gets, beside its queue and the host: `wait`, `take`, `done`.

    Args:
        weight: entries to take before another queue of the thread has its turn; 0 is no limit.
    """

    def __init__(self, clock: Clock, thread: Thread, counts: Counts, party: int, weight: int) -> None:
        self.clock = clock
        self.thread = thread
        self.counts = counts
        self.party = party
        self.weight = weight
        self.published: deque[Group] = deque()
        self.rings: deque[int] = deque()  # when the flag is set, until it is cleared
        self.in_line = False
        self.called: tuple[int, int | None] | None = None
        self.sleeper: Any = None
        self.turn = False  # the thread works for this queue
        self.fresh = False
        self.reached = 0  # when the consumer is

    def rang(self, t: int) -> None:
        """Set the flag at `t`; the queue gets into line unless it stands there or has its turn."""
        self.rings.append(t)
        if not self.in_line and self.thread.serving is not self:
            self.thread.rang(self, t)

    def noticed(self, t: int) -> None:
        """Something was published at `t` without ringing, because the thread looks for it."""
        if not self.turn:
            self.thread.rang(self, t)

    def needless(self, t: int) -> bool:
        """The consumer works for this queue at `t`, or looks for more: it has suppressed its doorbell."""
        return self.turn or (self.thread.looking and t <= self.thread.until)

    @property
    def first(self) -> Group | None:
        """The publication that has waited longest for the thread."""
        return self.published[0] if self.published and not self.turn else None

    def wait(self) -> Generator[Any, Any, int]:
        """Until the doorbell has rung and the thread works for this queue: returns when."""
        if self.called is None:
            self.sleeper = self.clock.signal("sleep")
            yield self.sleeper
        assert self.called is not None
        (rang, t), self.called = self.called, None
        if t is None:
            t = yield from self.thread.wake(self, rang)
        elif self.clock.peek() <= t:
            yield self.clock.turn(t, SUBMIT, self.party, "poll")
        self.turn = self.fresh = True
        self.reached = t
        return t

    def take(self, t: int) -> Drain | None:
        """What PROD covers at `t`, perhaps nothing; None when the turn is over.

        The flag is cleared before PROD is read, so a doorbell that rings meanwhile is seen (VHOST_WORK_QUEUED).

        Raises:
            RuntimeError: the consumer has not come to `t`, so others may still ring before it (see `Host.delay`).
        """
        if t > self.reached:
            raise RuntimeError(f"take({t}): you have come to {self.reached} only; let time pass by host.delay(t, ns)")
        rings, published = self.rings, self.published
        if not self.fresh:
            if not (rings and rings[0] <= t) and not (published and published[0].captured <= t):
                return None
            if self.weight and self.thread.others_wait(t):
                return None
        self.fresh = False
        while rings and rings[0] <= t:
            rings.popleft()
        taken: list[Group] = []
        entries = 0
        while published and published[0].captured <= t:
            entries += published[0].entries
            if taken and self.weight and entries > self.weight:
                break
            taken.append(published.popleft())
        return Drain(taken, t)

    def done(self, t: int) -> None:
        """End the turn."""
        self.turn = False
        thread, rings = self.thread, self.rings
        if (rings and rings[0] <= t) or (self.published and self.published[0].captured <= t):
            heapq.heappush(thread.line, (t, True, self.party, self))
            self.in_line = True
        elif rings:
            heapq.heappush(thread.line, (rings[0], False, self.party, self))
            self.in_line = True
        thread.last = self
        thread.leave(self, t)
