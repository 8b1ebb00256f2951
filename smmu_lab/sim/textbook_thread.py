"""The textbook's worker threads in the host's kernel, what they serve, and the CPUs that they run on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import simpy

from smmu_lab.scenario import Approach
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.textbook_driver import Steps

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_host import Host


class Cpus:
    """CPUs that share one line of waiting threads: first come, first served; who only looks for work gives way."""

    def __init__(self, env: simpy.Environment, free: int) -> None:
        self.env, self.free = env, free
        self.waiting: list[simpy.Event] = []
        self.pollers: list[Thread] = []

    def get(self) -> simpy.Event:
        """The event of having a CPU."""
        got = self.env.event()
        if self.free:
            self.free -= 1
            got.succeed()
        elif self.pollers:
            self.pollers[0].looking = False
            self.pollers[0].ring()
            got.succeed()
        else:
            self.waiting.append(got)
        return got

    def put(self) -> None:
        """To the next who waits for it."""
        if self.waiting:
            self.waiting.pop(0).succeed()
        else:
            self.free += 1


class Feed:
    """What was published in one queue, by doorbell, and not yet taken by its worker; and how that consumes it."""

    def __init__(self, thread: Thread, consume: Callable[[list[Any]], Steps]) -> None:
        self.thread, self.consume = thread, consume
        self.captured: list[list[Any]] = []

    def capture(self, group: list[Any]) -> None:
        """From now on a worker can take it."""
        self.captured.append(group)

    def flag(self) -> None:
        """Stand in the worker's line, and wake it up if it sleeps."""
        self.thread.line.setdefault(self)
        self.thread.ring()

    def take(self, weight: int) -> list[Any]:
        """Whole groups, at least one, up to a weight."""
        taken: list[Any] = []
        while self.captured and not (weight and taken and len(taken) + len(self.captured[0]) > weight):
            taken += self.captured.pop(0)
        return taken


class Thread:
    """A kernel worker; its random numbers have the name of the first queue that it works for."""

    def __init__(self, host: Host, row: Approach, guest: int, queue: int) -> None:
        self.host, self.row, self.env = host, row, host.env
        self.cpus = host.cpus[len(host.threads) % len(host.cpus)]
        self.low = host.costs["wake"].low if row.wake == "exponential" else host.costs.wake
        self.longer = exponential(stream(host.scenario.seed, guest, queue, "wake"), host.costs.wake - self.low)
        self.line: dict[Feed, None] = {}  # those whose flag is set, in this order
        self.serving: Feed | None = None
        self.looking = False  # it has nothing to do, but keeps its CPU
        self.bell = self.env.event()
        self.env.process(self.run())

    def ring(self) -> None:
        """It sleeps, or looks, no more."""
        if self in self.cpus.pollers:
            self.cpus.pollers.remove(self)
        if not self.bell.triggered:
            self.bell.succeed()

    def run(self) -> Steps:
        """Sleep until somebody stands in line, get a CPU, and serve until nothing is left."""
        while True:
            while not self.line:
                self.bell = self.env.event()
                yield self.bell
            if self.row.doorbell != "polled":
                self.host.counts["wakes"] += 1
                yield self.env.timeout(self.low + next(self.longer))
            yield self.cpus.get()
            feed = next(iter(self.line))
            while feed:
                yield from self.turn(feed)
                feed = next(iter(self.line), None) or (yield from self.look())

    def turn(self, feed: Feed) -> Steps:
        """Pass after pass, until nothing is left; with a weight, until another one stands in line."""
        self.serving = feed
        while True:
            self.line.pop(feed, None)
            yield from feed.consume(feed.take(self.row.weight))
            if not feed.captured and feed not in self.line:
                break
            if self.row.weight and any(other is not feed for other in self.line):
                self.line.pop(feed, None)
                self.line[feed] = None
                break
        self.serving = None

    def look(self) -> Steps:
        """Give the CPU back, or keep it for a while and look; whom to serve after all."""
        if not self.row.busy_poll or self.cpus.waiting:
            self.cpus.put()
            return None
        self.looking = True
        self.bell = self.env.event()
        self.cpus.pollers.append(self)
        yield self.bell | self.env.timeout(self.row.busy_poll)
        if self in self.cpus.pollers:  # nothing came
            self.cpus.pollers.remove(self)
            self.cpus.put()
            self.looking = False
        if not self.looking:
            return None
        self.looking = False
        self.serving = next(iter(self.line))
        yield self.env.timeout(self.host.costs.poll)
        return self.serving
