"""The model as a textbook would write it: a process per actor, a timeout per activity and per command.

Every command travels by itself, every failed poll is a step, every wait is a simpy event. It is the slowest form of
the model and the plainest. Read it in the order in which a command goes: who asks for it here, then

- `smmu_lab.sim.textbook_guest`: the vSMMUs of a guest, how a doorbell leaves it, and who consumes in the kernel;
- `smmu_lab.sim.textbook_virtio`: request rings instead of command queues;
- `smmu_lab.sim.textbook_vmm`: the VMM, and how it hands commands over;
- `smmu_lab.sim.textbook_driver`: a command queue and its driver, the same in guests and in the host;
- `smmu_lab.sim.textbook_thread`: the host's worker threads and their CPUs;
- `smmu_lab.sim.textbook_host`: how the host's kernel issues commands;
- `smmu_lab.sim.textbook_smmu`: the SMMUs, which execute them;
- `smmu_lab.sim.textbook_faults`: what goes wrong.

The simulator proper (`smmu_lab.sim.simulate`) takes shortcuts, and `tests/sim/test_twin.py` holds it to this one,
operation by operation, to the nanosecond.

Covered: unmaps, strict and lazy, and recorded guests that only invalidate, under every approach of the catalogue and
every variant of it, in every topology, beside neighbours, and every fault. Not covered: a consumer of your own, and
doorbells repeated as they were recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import cycle, repeat, takewhile
from typing import NamedTuple

import simpy

from smmu_lab.scenario import Approach, Batch, InvalidInput, Operation, Scenario, Unmaps, approach
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.textbook_driver import Command, Steps, Time, written_out
from smmu_lab.sim.textbook_guest import Guest
from smmu_lab.sim.textbook_host import Host
from smmu_lab.units import nanoseconds

FQ_ENTRIES, FQ_TIMEOUT = 255, nanoseconds("10ms")  # of a CPU's flush queue: dma-iommu.c, Linux 7.2


class Outcome(NamedTuple):
    """What happened.

    Attributes:
        ops: every operation as (guest, vcpu, number, start, latency), in ns.
        counts: what was counted.
        events: how many events it took.
        ran: how many commands of a name an SMMU ran for a queue: by ((guest, number of the queue), SMMU, name).
    """

    ops: list[tuple[int, int, int, Time, Time]]
    counts: Counter[str]
    events: int
    ran: Counter[tuple[tuple[int, ...], int, str]]


def textbook(scenario: Scenario, by: Approach | str, env: simpy.Environment | None = None) -> Outcome:
    """Run a scenario under one approach.

    Raises:
        InvalidInput: the scenario cannot run under it.

    >>> from smmu_lab.scenario import Scenario, Smmu, Unmaps
    >>> done = textbook(Scenario(workload=Unmaps(pages=128, ops=1), smmu=Smmu(ril=False)), "qemu-today")
    >>> done.counts["exits_vmm"], done.counts["ioctls"], done.counts["host_syncs"]
    (3, 128, 128)
    """
    row = approach(by) if isinstance(by, str) else by
    if problems := scenario.refuses(row):
        raise InvalidInput(problems)
    if callable(row.consumer) or getattr(scenario.workload, "replay", "driver") != "driver":
        raise NotImplementedError("the textbook knows neither consumers of your own nor recorded doorbells")
    host = Host(env or simpy.Environment(), scenario, row)
    guests: list[Guest] = []
    vcpus: list[simpy.Event] = []
    for number in range(scenario.guests):
        guests.append(Guest(number, host, guests[0] if guests and row.on_metal else None))
        vcpus += [host.env.process(Vcpu(guests[-1], vcpu).run()) for vcpu in range(scenario.vcpus)]
    host.env.run()
    assert all(vcpu.processed for vcpu in vcpus), "a doorbell was lost"
    return Outcome(host.ops, host.counts, next(host.env._eid), host.ran)


class Vcpu:
    """A vCPU: it thinks, and calls the DMA layer; here is what that one does."""

    def __init__(self, guest: Guest, number: int) -> None:
        self.guest, self.number, self.host, self.env = guest, number, guest.host, guest.env
        self.scenario, self.costs, self.load = self.host.scenario, self.host.costs, guest.load
        drawn = exponential(stream(self.scenario.seed, guest.number, number, "gap"), self.load.gap)
        self.gaps = drawn if self.load.spread == "exponential" else repeat(self.load.gap)
        self.reaches = self.scenario.reaches(guest.number, number, self.host.row.on_metal)
        self.interrupts = simpy.Resource(self.env) if number else guest.interrupts
        self.done = 0  # operations
        self.queued: list[tuple[int, Time]] = []  # lazy mode: pages that devices may still reach, and since when
        self.timer: Time | None = None

    def operations(self) -> Iterable[Operation]:
        """What it is to do: a neighbour the same for ever, a context descriptor changes again and again at most."""
        if not self.guest.is_neighbour:
            return self.scenario.operations(self.guest.number, self.number, self.host.row.on_metal)
        assert isinstance(self.load, Unmaps)
        period = self.load.but(ops=self.load.cd_every or 1)
        return cycle(period.operations(self.number, self.scenario.smmu.ril, self.reaches))

    @property
    def is_over(self) -> bool:
        """A neighbour starts nothing more when those that are measured are through."""
        return self.guest.is_neighbour and not self.host.measured

    def run(self) -> Steps:
        """One operation after another."""
        requests, lazy = self.host.row.front == "virtio-iommu", getattr(self.load, "lazy", False)
        due: Time = 0
        for operation in takewhile(lambda _: not self.is_over, self.operations()):
            if requests and operation.kind != "unmap":
                continue
            due = (due if self.load.rate else self.env.now) + next(self.gaps)
            if self.timer is not None and self.timer <= max(due, self.env.now):
                yield from self.timer_ends()
            yield self.env.timeout(max(0, due - self.env.now))
            if requests:
                ring = self.guest.rings[operation.batches[0].instance]
                bad = any(batch.bad >= 0 for batch in operation.batches)
                struck = self.scenario.fault and any(batch.late for batch in operation.batches)
                for name in ["BAD"] * bad + ["MAP"] * self.load.maps + ["UNMAP"]:
                    yield from self.timed(ring.request(self.number, name, operation.pages, bool(struck)))
            elif lazy and operation.kind == "unmap":
                yield from self.timed(self.defer())
                self.queued.append((operation.pages, self.env.now))
                self.timer = self.timer or self.env.now + FQ_TIMEOUT
            else:
                yield from self.timed(self.invalidate(operation.batches))
        if self.timer is not None:
            yield from self.timer_ends()
        self.host.measured -= not self.guest.is_neighbour

    def timed(self, operation: Steps) -> Steps:
        """Do it, and write down how long it took."""
        if self.is_over:
            return
        start = self.env.now
        yield from operation
        self.host.ops.append((self.guest.number, self.number, self.done, start, self.env.now - start))
        self.done += 1

    def defer(self) -> Steps:
        """Queue an unmap instead of waiting for its invalidation; flush if there is no room."""
        yield self.env.timeout(self.costs.fq_add)
        if len(self.queued) == FQ_ENTRIES:
            yield from self.flush()

    def timer_ends(self) -> Steps:
        """A flush that nobody asked for is an operation, too."""
        assert self.timer is not None
        yield self.env.timeout(max(0, self.timer - self.env.now))
        yield from self.timed(self.flush())
        self.timer = None

    def flush(self) -> Steps:
        """Invalidate everything at once; until then the pages were exposed."""
        assert isinstance(self.load, Unmaps)
        last = yield from self.invalidate(self.load.flush(self.reaches).batches)
        self.host.counts["exposure"] += sum(pages * (last.done_at - since) for pages, since in self.queued)
        self.queued = []

    def invalidate(self, batches: Iterable[Batch]) -> Steps:
        """Every list is an issue call; returns the last CMD_SYNC."""
        interrupts = self.interrupts if self.scenario.fault else None
        for batch in batches:
            queue = self.guest.instances[batch.instance].route(batch, self.number)
            for commands in self.lists(batch, queue.smmus):
                yield self.env.timeout(self.costs.g_fix)
                yield from queue.issue(commands, [self.costs.g_cmd] * len(commands), interrupts)
        return commands[-1]

    def lists(self, batch: Batch, smmus: tuple[int, ...]) -> Iterator[list[Command]]:
        """Full lists of 64 go without a CMD_SYNC and the rest with one (arm_smmu_cmdq_batch_add), or of 63 all with."""
        commands = written_out(self.env, batch, smmus, self.load.stall)
        forced = self.host.row.on_metal and self.scenario.smmu.errata == "force-sync"
        most = 63 if forced else 64
        for first in range(0, len(commands), most) or [0]:
            mine = commands[first : first + most]
            if first == 0 and batch.bad >= 0:
                mine.insert(batch.bad, Command(self.env, "BAD", smmus[:1], fan=batch.fan))
            if forced or first + most >= len(commands):
                mine.append(Command(self.env, "CMD_SYNC"))
            yield mine
