"""The model as a textbook would write it: a process per actor, a timeout per activity and per command.

Every list is walked entry by entry, every failed poll is a step, every wait is a simpy event. It is the slowest form
of the model and the plainest: read it first. The simulator proper (`smmu_lab.sim.simulate`) takes shortcuts, and
`tests/sim/test_twin.py` holds it to this one, operation by operation, to the nanosecond.

Covered: strict unmaps and recorded guests that only invalidate (TLBI, ATC_INV, CMD_SYNC), under every approach of the
catalogue. The issue algorithm is that of Linux 7.2 arm-smmu-v3.c, arm_smmu_cmdq_issue_cmdlist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from itertools import count, repeat
from typing import Any, NamedTuple

import simpy

from smmu_lab.scenario import Approach, Scenario, approach
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.driver import POLL_DELAY, POLL_SPIN, lists

Time = float  # so simpy types its clock; here it holds whole nanoseconds
Steps = Generator[simpy.Event, Any, Any]


class Outcome(NamedTuple):
    """Every operation as (guest, vcpu, number, start, latency); what was counted; how many events it took."""

    ops: list[tuple[int, int, int, Time, Time]]
    counts: Counter[str]
    events: int


def textbook(scenario: Scenario, by: Approach | str, env: simpy.Environment | None = None) -> Outcome:
    """Run a scenario under one approach.

    >>> from smmu_lab.scenario import Scenario, Smmu, Unmaps
    >>> done = textbook(Scenario(workload=Unmaps(pages=128, ops=1), smmu=Smmu(ril=False)), "qemu-today")
    >>> done.counts["exits_vmm"], done.counts["ioctls"], done.counts["host_syncs"]
    (3, 128, 128)
    """
    host = Host(env or simpy.Environment(), scenario, approach(by) if isinstance(by, str) else by)
    guests: list[Guest] = []
    for number in range(scenario.guests):
        guests.append(Guest(number, host, guests[0].queues if guests and host.row.on_metal else []))
        for vcpu in range(scenario.vcpus):
            host.env.process(guests[-1].vcpu(vcpu))
    host.env.run()
    assert all(queue.cons == queue.prod for guest in guests for queue in guest.queues), "a doorbell was lost"
    return Outcome(host.ops, host.counts, next(host.env._eid))


class List:
    """The commands of one issue call, in a queue."""

    def __init__(self, env: simpy.Environment, commands: list[str], end: int) -> None:
        self.commands, self.end = commands, end  # PROD after it
        self.written, self.done = env.event(), env.event()


class Queue:
    """A command queue, and the driver that inserts in it.

    Args:
        ring: writes PROD, when the lists of a group are in the queue.
        read_cons: reads CONS; returns its value.
        complete: waits until a list with CMD_SYNC is seen to be done; returns the CONS that was seen.
    """

    def __init__(
        self,
        host: Host,
        log2size: int,
        ring: Callable[[Queue, list[List]], Steps],
        read_cons: Callable[[Queue], Steps],
        complete: Callable[[Queue, List], Steps],
    ) -> None:
        self.host, self.env, self.size = host, host.env, 1 << log2size
        self.ring, self.read_cons, self.complete = ring, read_cons, complete
        self.prod = self.cons = 0  # they count entries for ever
        self.shadow = 0  # CONS as the driver last saw it
        self.holders = 0  # CPUs that wait for a CMD_SYNC share the queue's lock
        self.gathered: list[List] = []  # behind an owner
        self.publishing = simpy.Resource(self.env)  # owner_prod: owners write PROD in turn
        self.captured: list[List] = []  # published, and not yet taken by a kernel worker
        self.rung, self.doorbell = False, self.env.event()
        self.last = self.answered = self.env.timeout(0)  # of the SMMU: the list before, the last ATC_INV's answer

    def issue(self, commands: list[str], writing: list[int]) -> Steps:
        """Allocate, write, publish or ride along, and wait for the CMD_SYNC if there is one."""
        while self.size - (self.prod - self.shadow) < len(commands):
            yield from self.wait_not_full()
        self.prod += len(commands)
        mine = List(self.env, commands, self.prod)
        sync = "CMD_SYNC" in commands
        self.holders += sync
        self.gathered.append(mine)
        owner = self.gathered[0] is mine
        for step in writing:
            yield self.env.timeout(step)
        mine.written.succeed()
        if owner:
            with self.publishing.request() as my_turn:
                yield my_turn
                group, self.gathered = self.gathered, []
                for each in group:
                    yield each.written
                yield from self.ring(self, group)
        if sync:
            seen = yield from self.complete(self, mine)
            self.holders -= 1
            if not self.holders:
                self.shadow = seen

    def wait_not_full(self) -> Steps:
        """Read CONS if nobody holds the lock; else watch what the last holder will leave."""
        if not self.holders:
            yield self.env.timeout(1)
            self.shadow = yield from self.read_cons(self)
            return
        for k in count(1):
            yield self.env.timeout(poll_step(k, self.host.costs.relax) or 1)
            if self.prod - self.shadow < self.size or not self.holders:
                return

    def poll(self, mine: List) -> Steps:
        """Step, read CONS, and again."""
        for k in count(1):
            yield self.env.timeout(poll_step(k, self.host.costs.relax))
            seen = yield from self.read_cons(self)
            if seen >= mine.end:
                return seen


def poll_step(k: int, relax: int) -> int:
    """The k-th step of queue_poll: nine times cpu_relax, then a udelay that doubles."""
    return relax if k % POLL_SPIN else POLL_DELAY * 2 ** (k // POLL_SPIN - 1)


class Host:
    """The physical machine: its SMMU, its command queue, and the CPUs that kernel workers run on."""

    def __init__(self, env: simpy.Environment, scenario: Scenario, row: Approach) -> None:
        self.env, self.scenario, self.row, self.costs = env, scenario, row, scenario.costs
        self.ops: list[tuple[int, int, int, Time, Time]] = []
        self.counts: Counter[str] = Counter()
        self.arrived = simpy.Store(self.env)
        self.cpus = simpy.Resource(self.env, scenario.host.worker_cpus)
        self.queue = Queue(self, scenario.smmu.host_queue_log2, self.write_prod, self.read_cons, self.completed)
        self.env.process(self.smmu())

    def smmu(self) -> Steps:
        """The command engine runs one command after another, in the order in which the PROD writes arrive."""
        costs = self.costs
        while True:
            queue, each = yield self.arrived.get()
            for command in each.commands:
                if command == "TLBI":
                    yield self.env.timeout(costs.t_tlbi)
                elif command == "ATC_INV":
                    yield self.env.timeout(costs.t_atc)
                    queue.answered = self.env.timeout(costs.atc_rtt)
                else:
                    yield self.env.timeout(costs.sync_occ)
            self.env.process(self.retire(queue, each, queue.answered, queue.last))
            queue.last = each.done

    def retire(self, queue: Queue, each: List, answered: simpy.Event, before: simpy.Event) -> Steps:
        """A CMD_SYNC is done some time after all devices have answered; CONS moves in order."""
        if each.commands[-1] == "CMD_SYNC":
            yield answered
            yield self.env.timeout(self.costs.t_sync - self.costs.sync_occ)
        yield before
        queue.cons = each.end
        each.done.succeed()

    def write_prod(self, queue: Queue, group: list[List]) -> Steps:
        """A posted write to the device."""
        yield self.env.timeout(self.costs.mmio_w)
        for each in group:
            yield self.arrived.put((queue, each))

    def read_cons(self, queue: Queue) -> Steps:
        """A read from the device takes its value half-way."""
        there = self.costs.mmio_r // 2
        yield self.env.timeout(there)
        seen = queue.cons
        yield self.env.timeout(self.costs.mmio_r - there)
        return seen

    def completed(self, queue: Queue, mine: List) -> Steps:
        """The host's own wait: t_sync includes that the completion is seen."""
        yield mine.done
        return queue.cons

    def ioctl(self, commands: list[str]) -> Steps:
        """Enter the kernel, and copy an array of commands: IOMMU_HWPT_INVALIDATE."""
        self.counts["ioctls"] += 1
        yield self.env.timeout(self.costs.ioctl)
        for _ in commands:
            yield self.env.timeout(self.costs.copy)

    def fetch(self, commands: list[str]) -> Steps:
        """Copy entries from the guest's memory one after another, and rewrite them."""
        for _ in commands:
            yield self.env.timeout(2 * self.costs.copy)
            yield self.env.timeout(self.costs.conv)

    def issue(self, commands: list[str], convert: int) -> Steps:
        """Rewrite commands and issue them on the host's queue, in groups that each get a CMD_SYNC."""
        group = self.row.host_group or self.queue.size - 1
        for first in range(0, len(commands), group) or [0]:
            part = commands[first : first + group]
            for _ in part:
                yield self.env.timeout(convert)
            self.counts["host_syncs"] += 1
            yield from self.queue.issue([*part, "CMD_SYNC"], [self.costs.hsubmit - self.costs.mmio_w])


class Guest:
    """A virtual machine: its vCPUs, its queues, and who consumes them."""

    def __init__(self, number: int, host: Host, queues: list[Queue]) -> None:
        self.number, self.host, self.env, self.costs = number, host, host.env, host.costs
        self.big_lock = simpy.Resource(self.env)
        self.held: list[str] = []  # array-at-sync: read by the VMM, not handed over yet
        row, smmu = host.row, host.scenario.smmu
        ring = {"trap-to-vmm": self.in_vmm, "trap-to-kernel": self.trap_to_kernel, "direct": host.write_prod}
        size = smmu.host_queue_log2 if row.on_metal else smmu.queue_log2
        self.queues = queues or [
            Queue(host, size, ring[row.doorbell], self.read_cons, Queue.poll)
            for _ in range(row.vcmdqs if row.queues == "cmdq+vcmdq" else 1)
        ]
        if row.consumer == "kernel-worker":
            self.env.process(self.worker(self.queues[0]))

    def vcpu(self, number: int) -> Steps:
        """Think, unmap, and wait for it; every list is an issue call of its own."""
        scenario, costs, load = self.host.scenario, self.costs, self.host.scenario.workload
        drawn = exponential(stream(scenario.seed, self.number, number, "gap"), load.gap)
        gaps = drawn if load.spread == "exponential" else repeat(load.gap)
        queue = self.queues[number % len(self.queues)]
        due: Time = 0
        for k, operation in enumerate(load.operations(number, scenario.smmu.ril)):
            due = (due if load.rate else self.env.now) + next(gaps)
            yield self.env.timeout(max(0, due - self.env.now))
            start = self.env.now
            for batch in operation.batches:
                for work in lists(batch):
                    yield self.env.timeout(costs.g_fix)
                    commands = ["TLBI"] * work.tlbi + ["ATC_INV"] * work.atc + ["CMD_SYNC"] * work.sync
                    yield from queue.issue(commands, [costs.g_cmd] * len(commands))
            self.host.ops.append((self.number, number, k, start, self.env.now - start))

    def read_cons(self, queue: Queue) -> Steps:
        """Read CONS: under the VMM's lock, by a light exit, from a shared page or from the device."""
        completion, counts, costs = self.host.row.completion, self.host.counts, self.costs
        counts["cons_reads"] += 1
        if completion == "vmm-cons":
            return (yield from self.in_vmm(queue, []))
        if completion == "device-cons":
            return (yield from self.host.read_cons(queue))
        counts["exits_kernel"] += completion == "kernel-cons"
        yield self.env.timeout(costs.exit_kernel if completion == "kernel-cons" else costs.cons_shared)
        return queue.cons

    # -- the VMM consumes, in the vCPU's own exit ------------------------------------------------------------------

    def in_vmm(self, queue: Queue, group: list[List]) -> Steps:
        """Exit, and under the big lock consume what is new; the value of CONS."""
        self.host.counts["exits_vmm"] += 1
        yield self.env.timeout(self.costs.exit_user - self.costs.vmm_lock)
        with self.big_lock.request() as lock:
            yield lock
            yield self.env.timeout(self.costs.vmm_lock)
            if group:
                commands = [command for each in group for command in each.commands]
                yield from getattr(self, self.host.row.handoff.replace("-", "_"))(commands)
                queue.cons = group[-1].end
            return queue.cons

    def per_command(self, commands: list[str]) -> Steps:
        """One ioctl for each command."""
        for command in commands:
            yield self.env.timeout(self.costs.vmm_cmd)
            if command != "CMD_SYNC":
                yield from self.hand_over([command])

    def marshalled(self, commands: list[str]) -> Steps:
        """One ioctl for each command, and in it an ATC_INV for every device; an ATC_INV is nothing else."""
        devices = ["ATC_INV"] * self.host.scenario.workload.ats_devices
        for command in commands:
            yield self.env.timeout(self.costs.vmm_cmd)
            if command != "CMD_SYNC":
                yield from self.host.ioctl([command])
                for each in [["TLBI"], devices] if command == "TLBI" else [devices or ["ATC_INV"]]:
                    if each:
                        yield from self.host.issue(each, self.costs.conv)

    def array(self, commands: list[str]) -> Steps:
        """One ioctl for all commands that a doorbell published."""
        for _ in commands:
            yield self.env.timeout(self.costs.vmm_cmd)
        yield from self.hand_over(without_sync(commands))

    def array_at_sync(self, commands: list[str]) -> Steps:
        """One ioctl for all commands up to a CMD_SYNC."""
        for command in commands:
            yield self.env.timeout(self.costs.vmm_cmd)
            if command == "CMD_SYNC":
                array, self.held = self.held, []
                yield from self.hand_over(array)
            else:
                self.held.append(command)

    def hand_over(self, array: list[str]) -> Steps:
        """Copied as an array, then rewritten and issued in groups; nothing, if there is nothing."""
        if array:
            yield from self.host.ioctl(array)
            yield from self.host.issue(array, self.costs.conv)

    def queue(self, commands: list[str]) -> Steps:
        """One ioctl for the guest's own queue; the kernel reads it, and skips CMD_SYNCs."""
        yield from self.host.ioctl([])
        yield from self.host.fetch(commands)
        yield from self.host.issue(without_sync(commands), 0)

    # -- a kernel worker consumes ------------------------------------------------------------------------------------

    def trap_to_kernel(self, queue: Queue, group: list[List]) -> Steps:
        """A light exit: PROD is captured in memory, then the worker signalled."""
        self.host.counts["exits_kernel"] += 1
        yield self.env.timeout(self.costs.exit_kernel)
        queue.captured += group
        yield self.env.timeout(self.costs.sig)
        queue.rung = True
        if not queue.doorbell.triggered:
            queue.doorbell.succeed()

    def worker(self, queue: Queue) -> Steps:
        """A kernel thread: sleep until the doorbell rings, get a CPU, drain until nothing is left."""
        host, costs = self.host, self.costs
        low = costs["wake"].low if host.row.wake == "exponential" else costs.wake
        longer = exponential(stream(host.scenario.seed, self.number, 0, "wake"), costs.wake - low)
        while True:
            yield queue.doorbell
            yield self.env.timeout(low + next(longer))
            with host.cpus.request() as cpu:
                yield cpu
                while queue.rung or queue.captured:
                    queue.rung, queue.doorbell = False, self.env.event()
                    group, queue.captured = queue.captured, []
                    yield self.env.timeout(costs.capture)
                    commands = [command for each in group for command in each.commands]
                    yield from host.fetch(commands)
                    if invalidations := without_sync(commands):
                        yield from host.issue(invalidations, 0)
                    if group:
                        queue.cons = group[-1].end


def without_sync(commands: list[str]) -> list[str]:
    """The host adds its own CMD_SYNC."""
    return [command for command in commands if command != "CMD_SYNC"]
