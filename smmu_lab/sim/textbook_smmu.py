"""The textbook's SMMUs: their command engines, and the hardware queues that these take commands from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import simpy

from smmu_lab.sim.textbook_driver import Command, Queue, Steps

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_host import Host


class Smmu:
    """A physical SMMU: its command engines, and the queue that the host itself fills.

    Args:
        host: the machine that it is a part of.
        number: which of the SMMUs it is.
    """

    def __init__(self, host: Host, number: int) -> None:
        self.host, self.number, self.env, self.costs = host, number, host.env, host.costs
        self.engines: list[Engine] = []
        log2size = host.scenario.smmu.host_queue_log2
        self.queue = Queue(host, host.row, (number,), log2size, self.write_prod, self.read_cons, Queue.see_end)
        self.connect(self.queue)

    def connect(self, queue: Queue) -> None:
        """A hardware queue gets an engine of its own or shares one, and there a ring of its own or shares one."""
        row = self.host.row
        if not self.engines or row.execution == "parallel":
            self.engines.append(Engine(self))
        queue.smmu, queue.engine = self, self.engines[-1]
        if not queue.engine.rings or row.arbitration == "round-robin":
            queue.engine.rings.append(simpy.Store(self.env))
        queue.arrived = queue.engine.rings[-1]
        if (queue.row.unsupported == "stop-and-fix" or self.host.scenario.fault) and queue is not self.queue:
            queue.fetched = simpy.Store(self.env)
            self.env.process(self.fetch_in_order(queue, queue.fetched))

    def write_prod(self, queue: Queue, commands: list[Command]) -> Steps:
        """By the host's driver: a part of the insertion."""
        yield self.env.timeout(min(self.costs.mmio_w, self.costs.hsubmit))
        self.arrive(queue, commands)

    def read_cons(self, queue: Queue) -> Steps:
        """By the host's driver: only for room in a full queue."""
        return (yield from queue.read_without_exit(self.costs.mmio_r))

    def arrive(self, queue: Queue, commands: Iterable[Command]) -> None:
        """The engine sees commands, all of them at once."""
        for command in commands:
            queue.arrived.put(command)
        if not queue.engine.bell.triggered:
            queue.engine.bell.succeed()

    def see_prod(self, queue: Queue, commands: list[Command]) -> None:
        """Of a queue that somebody else fills; without commands it is GERRORN."""
        if queue.fetched is None:
            self.arrive(queue, commands)
        elif not commands:
            queue.resumed.succeed()
        else:
            for command in commands:
                queue.fetched.put(command)

    def fetch_in_order(self, queue: Queue, fetched: simpy.Store) -> Steps:
        """A hardware queue stops at what it refuses, at BAD, and at a CMD_SYNC behind an ATC_INV without an answer.

        Where it was laid over the guest's only queue the hypervisor runs what it refuses, drops an ATC_INV of an
        unknown StreamID, and writes GERRORN: it goes on. Else the guest's driver must do that.
        """
        overlay = queue.row.unsupported == "stop-and-fix"
        before = resumed = queue.last
        gone = False
        while True:
            command = yield fetched.get()
            gone = gone or command.gone
            if command.refused and overlay:
                yield before
                self.host.counts["fixes"] += 1
                yield self.env.timeout(self.costs.fix)
                yield from self.host.hand_over(queue, [command], ignore=True)
                resumed = self.env.timeout(self.costs.mmio_w)
                if command.closes:
                    queue.cons = command.end
                continue
            yield resumed
            if command.name == "BAD" or (gone and command.name == "CMD_SYNC"):
                yield from self.end_of_what_is_before(queue)
                if gone:
                    self.host.counts["lost"] += 1
                    yield queue.answered
                yield before
                queue.cons, fixed = command.end - 1, overlay and not gone
                if fixed:
                    self.host.counts["fixes"] += 1
                    yield self.env.timeout(self.costs.fix)
                if fixed and not self.host.illegal(command):
                    command.name = "NOP"
                    yield self.env.timeout(self.costs.mmio_w)
                else:
                    queue.resumed = self.env.event()
                    queue.stop(command, fixed, gone)
                    yield queue.resumed
                gone = False
            self.arrive(queue, [command])
            before = command.done if command.closes else before

    def end_of_what_is_before(self, queue: Queue) -> Steps:
        """The engine is through with all that this queue has given it."""
        mark = Command(self.env, "MARK")
        mark.queue = queue
        self.arrive(queue, [mark])
        yield mark.done


class Engine:
    """A command engine of the SMMU: one command after another, of several rings in turn."""

    def __init__(self, smmu: Smmu) -> None:
        self.smmu, self.env, self.costs = smmu, smmu.env, smmu.costs
        self.rings: list[simpy.Store] = []
        self.bell = self.env.event()
        self.env.process(self.run())

    def run(self) -> Steps:
        """After a ring comes the next one that is not empty; a NOP takes neither time nor a turn."""
        served = -1
        while True:
            waiting = [k for k, ring in enumerate(self.rings) if ring.items]
            if not waiting:
                self.bell = self.env.event()
                yield self.bell
                continue
            served = min(waiting, key=lambda k: (k <= served, k))
            ring = self.rings[served]
            while ring.items:
                command = yield ring.get()
                yield from self.execute(command)
                if command.name != "NOP":
                    break

    def execute(self, command: Command) -> Steps:
        """Run a command; at a MARK somebody learns that the engine is through with what is before it."""
        costs, queue = self.costs, command.queue
        if command.name in ("TLBI", "ATC_INV", "CMD_SYNC"):
            self.smmu.host.ran[command.of, self.smmu.number, command.name] += 1
        if command.name == "TLBI":
            yield self.env.timeout(costs.t_tlbi)
        elif command.name == "ATC_INV":
            yield self.env.timeout(costs.t_atc)
            queue.late = command.late or queue.late
            queue.answered = self.env.timeout(costs.atc_rtt + queue.late)
        elif command.name == "CMD_SYNC":
            yield self.env.timeout(costs.sync_occ)
            queue.late = 0
        elif command.name == "MARK":
            command.finish()
        if command.closes:
            self.env.process(self.retire(command, queue.answered, queue.last))
            queue.last = command.done

    def retire(self, last: Command, answered: simpy.Event, before: simpy.Event) -> Steps:
        """A CMD_SYNC is done some time after all devices have answered; CONS moves list by list, in order."""
        if last.name == "CMD_SYNC":
            yield answered
            yield self.env.timeout(self.costs.t_sync - self.costs.sync_occ)
        yield before
        last.queue.cons = last.end
        last.finish()
