"""Queues that the hardware runs itself: the device's page is mapped, and a PROD write is a posted write to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from smmu_lab.arch import CError
from smmu_lab.scenario import Costs
from smmu_lab.sim.clock import SUBMIT, Clock
from smmu_lab.sim.driver import Work
from smmu_lab.sim.kernel import ONE_TLBI, Kernel, host_list
from smmu_lab.sim.queue import DOORBELL, EXECUTE, GATHER, HANDOFF, QUEUE, WAKE, CommandQueue, Group, Ticket
from smmu_lab.sim.recovery import Gerror, regroup
from smmu_lab.sim.smmu import Feed, Fifo


class Direct:
    """The write reaches the engine, which executes the queue itself."""

    queue: CommandQueue

    def __init__(self, engine: Fifo, costs: Costs, gerror: Gerror) -> None:
        self.engine = engine
        self.gerror = gerror
        self.halted: Ticket | None = None  # what runs before an entry in error, and the list with that entry
        self.struck: Ticket | None = None
        self.advance = engine.advance
        self.feed = Feed(self._finish)
        self.write = costs.mmio_w
        self.rung: deque[Group] = deque()
        self.started = self.commands = self.syncs = 0
        self.issued = [0, 0, 0]

    def ring(self, group: Group, t: int) -> int:
        """A posted write: the vCPU runs on when it has left."""
        arrival = t + self.write
        group.leaves(((GATHER, t), (DOORBELL, arrival)))
        if self.gerror.active:
            self._watch(group, arrival)
        else:
            self._post(group, arrival)
        return arrival

    def _post(self, group: Group, arrival: int) -> None:
        self.rung.append(group)
        self.engine.post(self.feed, arrival, group)

    def _watch(self, group: Group, arrival: int) -> None:
        """Nothing behind an entry in error is fetched, nor behind a CMD_SYNC that is going to fail."""
        if self.gerror.holds(group):
            return
        tickets = group.tickets
        struck = next((each for each in tickets if each.work.gone), None) or self.gerror.struck(tickets)
        if struck is None:
            self._post(group, arrival)
            return
        at = tickets.index(struck)
        self.gerror.standing, work = tickets[at:], struck.work
        if at:
            self._post(regroup(tickets[:at], group), arrival)
        if work.gone:
            ahead, struck.work = work._replace(sync=0, entries=work.entries - 1), Work(0, 0, 0, 0, 1, 1)
        else:
            done = self.gerror.at(work)
            ahead, struck.work = work.before(done), work.behind(done)
            ahead = ahead._replace(entries=work.entries - struck.work.entries)
        self.struck, self.halted = struck, Ticket(ahead, struck.end - struck.work.entries, struck.written, 0)
        self.engine.post(self.feed, arrival, Group(self.halted))

    def _halt(self, start: int, done: int) -> None:
        """The queue has come to the entry in error."""
        queue, gerror, halted, struck = self.queue, self.gerror, self.halted, self.struck
        assert halted is not None
        assert struck is not None
        self.halted = None
        work = halted.work
        if work.gone:
            done = max(done, self.feed.answered)
        struck.edges += (QUEUE, start), (EXECUTE, done)
        if work.entries:
            self._ran(work)
            queue.consumed(done, work.entries)
            queue.log(struck.written, start, done, work.entries, 0, struck.end)
        if work.gone:
            gerror.stop(done, CError.ATC_INV_SYNC, gerror.notice)
        elif gerror.row.unsupported != "stop-and-fix":
            gerror.stop(done, CError.ILL, gerror.notice)
        else:
            gerror.ask(done)

    def _ran(self, work: Work) -> None:
        tally = self.issued
        tally[0] += work.tlbi
        tally[1] += work.atc
        tally[2] += work.sync

    def _finish(self, ticket: Ticket, start: int, done: int) -> None:
        if ticket is self.halted:
            self._halt(start, done)
            return
        queue, work = self.queue, ticket.work
        ticket.edges += (QUEUE, start), (EXECUTE, done)
        ticket.complete(done)
        if queue.clock.trail is not None:
            queue.clock.note("ran", queue.name, start, done, ticket)
        queue.consumed(done, work.entries)
        self._ran(work)
        if not self.commands:
            self.started = start
        self.commands += work.entries
        self.syncs += work.sync
        group = self.rung[0]
        if ticket is group.tickets[-1]:
            self.rung.popleft()
            queue.log(group.published, self.started, done, self.commands, self.syncs, ticket.end)
            self.commands = self.syncs = 0


class Overlay(Direct):
    """A VCMDQ below the guest's only queue. It stops at an entry that it cannot run; the hypervisor runs that, and on.

    Source: K. Tian, R. Murphy and J. Gunthorpe, 24 March 2023. The VMM's write of GERRORN that restarts the queue is a
    posted write like any other.
    """

    def __init__(self, clock: Clock, engine: Fifo, kernel: Kernel, costs: Costs) -> None:
        super().__init__(engine, costs, kernel.gerror)
        self.clock = clock
        self.kernel = kernel
        self.fix, self.attach = costs.fix, costs.vmm_ste
        self.stopped: deque[tuple[Group, int]] = deque()
        self.fixing = False
        self.last: Ticket | None = None

    def ring(self, group: Group, t: int) -> int:
        """As if nothing could stop it, unless it is stopped or will be."""
        arrival = t + self.write
        if not self.fixing and all(ticket.work.vcmdq for ticket in group.tickets):
            self.last = group.tickets[-1]
            return super().ring(group, t)
        group.leaves(((GATHER, t), (DOORBELL, arrival)))
        self.rung.append(group)
        self.stopped.append((group, arrival))
        if not self.fixing:
            self.fixing = True
            self.clock.env.process(self._fix())
        return arrival

    def _fix(self) -> Generator[Any, Any, None]:
        clock = self.clock
        while self.stopped:
            group, arrival = self.stopped.popleft()
            for ticket in group.tickets:
                work = ticket.work
                if not work.vcmdq:
                    t = max(arrival, (yield from self._completed()))
                    end = yield from self._emulate(work, t)
                    self.kernel.counts.fixes += work.entries - work.sync
                    self.kernel.counts.cpu_host += end - t
                    yield clock.turn(end, SUBMIT, self.kernel.party, "fix")
                    ticket.edges += (WAKE, t), (HANDOFF, end)
                    ticket.work = work._replace(tlbi=0, atc=0, ste=0, other=0)  # what is left for the engine
                self.last = ticket
                self.engine.post(self.feed, max(arrival, clock.now + self.write), Group(ticket))
        self.fixing = False

    def _completed(self) -> Generator[Any, Any, int]:
        """When everything before is complete."""
        if self.last is None:
            return 0
        if self.last.visible is None:
            yield self.last.wait(self.clock, "complete")
        assert self.last.visible is not None
        return self.last.visible

    def _emulate(self, work: Work, t: int) -> Generator[Any, Any, int]:
        """The hypervisor runs entry after entry, each of which stops the queue anew, as QEMU of 2026 would."""
        kernel = self.kernel
        for number, lists in ((work.tlbi, (ONE_TLBI,)), (work.atc, (host_list(0, 1),))):
            for _ in range(number):
                t = kernel.ioctl(t + self.fix, 1)
                t = yield from kernel.issue(t, lists, kernel.convert)
        return t + (work.ste + work.other) * self.fix + work.ste * self.attach
