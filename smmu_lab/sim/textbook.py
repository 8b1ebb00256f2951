"""The model as a textbook would write it: a process per actor, a timeout per activity and per command.

Every command travels by itself, every failed poll is a step, every wait is a simpy event. It is the slowest form of
the model and the plainest: read it first, the guests and who consumes for them here, and what they share (the driver,
the SMMU, the host's kernel) in `smmu_lab.sim.textbook_host`. The simulator proper (`smmu_lab.sim.simulate`) takes
shortcuts, and `tests/sim/test_twin.py` holds it to this one, operation by operation, to the nanosecond.

Covered: unmaps, strict and lazy, and recorded guests that only invalidate, under every approach of the catalogue and
every variant of it, and every fault (`smmu_lab.sim.textbook_faults`). Not covered: a consumer of your own, and
doorbells repeated as they were recorded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from typing import NamedTuple

import simpy

from smmu_lab.scenario import Approach, Batch, InvalidInput, Scenario, approach, flush_batches, unmap_batches
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.textbook_faults import Stop, TimedOut, bad_entry, entry_in_error, handle
from smmu_lab.sim.textbook_host import Command, Feed, Host, Queue, Request, Steps, Thread, Time, without_sync
from smmu_lab.units import nanoseconds

FQ_ENTRIES, FQ_TIMEOUT = 255, nanoseconds("10ms")  # of a CPU's flush queue: dma-iommu.c, Linux 7.2
ECMDQ_LOG2 = 8


class Outcome(NamedTuple):
    """Every operation as (guest, vcpu, number, start, latency); what was counted; how many events it took."""

    ops: list[tuple[int, int, int, Time, Time]]
    counts: Counter[str]
    events: int


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
    return Outcome(host.ops, host.counts, next(host.env._eid))


class Vcpu:
    """A vCPU: it thinks, and calls the DMA layer; here is what that one does."""

    def __init__(self, guest: Guest, number: int) -> None:
        self.guest, self.number, self.host, self.env = guest, number, guest.host, guest.env
        self.scenario, self.costs, self.load = self.host.scenario, self.host.costs, self.host.scenario.workload
        drawn = exponential(stream(self.scenario.seed, guest.number, number, "gap"), self.load.gap)
        self.gaps = drawn if self.load.spread == "exponential" else repeat(self.load.gap)
        self.interrupts = simpy.Resource(self.env) if number else guest.interrupts
        self.done = 0  # operations
        self.queued: list[tuple[int, Time]] = []  # lazy mode: pages that devices may still reach, and since when
        self.timer: Time | None = None

    def run(self) -> Steps:
        """One operation after another."""
        requests, lazy = self.host.row.front == "virtio-iommu", getattr(self.load, "lazy", False)
        due: Time = 0
        for operation in self.scenario.operations(self.guest.number, self.number):
            if requests and operation.kind != "unmap":
                continue
            due = (due if self.load.rate else self.env.now) + next(self.gaps)
            if self.timer is not None and self.timer <= max(due, self.env.now):
                yield from self.timer_ends()
            yield self.env.timeout(max(0, due - self.env.now))
            if requests:
                bad = any(batch.bad >= 0 for batch in operation.batches)
                late = any(batch.late for batch in operation.batches)
                for name in ["BAD"] * bad + ["MAP"] * self.load.maps + ["UNMAP"]:
                    yield from self.timed(self.guest.request(name, operation.pages, late))
            elif lazy and operation.kind == "unmap":
                yield from self.timed(self.defer())
                self.queued.append((operation.pages, self.env.now))
                self.timer = self.timer or self.env.now + FQ_TIMEOUT
            else:
                yield from self.timed(self.invalidate(operation.batches))
        if self.timer is not None:
            yield from self.timer_ends()

    def timed(self, operation: Steps) -> Steps:
        """Do it, and write down how long it took."""
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
        last = yield from self.invalidate(flush_batches(self.load.ats_devices))
        self.host.counts["exposure"] += sum(pages * (last.done_at - since) for pages, since in self.queued)
        self.queued = []

    def invalidate(self, batches: Iterable[Batch]) -> Steps:
        """Every list is an issue call; returns the last CMD_SYNC."""
        interrupts = self.interrupts if self.scenario.fault else None
        for batch in batches:
            queue = self.guest.route(batch, self.number)
            for commands in self.lists(batch):
                yield self.env.timeout(self.costs.g_fix)
                yield from queue.issue(commands, [self.costs.g_cmd] * len(commands), interrupts)
        return commands[-1]

    def lists(self, batch: Batch) -> Iterator[list[Command]]:
        """Full lists of 64 go without a CMD_SYNC and the rest with one (arm_smmu_cmdq_batch_add), or of 63 all with."""
        commands = written_out(self.env, batch)
        forced = self.host.row.on_metal and self.scenario.smmu.errata == "force-sync"
        most = 63 if forced else 64
        for first in range(0, len(commands), most) or [0]:
            mine = commands[first : first + most]
            if first == 0 and batch.bad >= 0:
                mine.insert(batch.bad, Command(self.env, "BAD"))
            if forced or first + most >= len(commands):
                mine.append(Command(self.env, "CMD_SYNC"))
            yield mine


def written_out(env: simpy.Environment, batch: Batch) -> list[Command]:
    """Its commands, all that it says without the CMD_SYNC; it is the first ATC_INV that a late device answers late."""
    tlbis = [Command(env, "TLBI", batch.leaf, not batch.vcmdq) for _ in range(batch.tlbi)]
    atcs = [Command(env, "ATC_INV", refused=not batch.vcmdq) for _ in range(batch.atc)]
    for first in atcs[:1]:
        first.late, first.gone = batch.late, batch.gone
    return tlbis + atcs


class Guest:
    """A virtual machine: its queues, how a doorbell leaves it, and how it learns that all is done."""

    def __init__(self, number: int, host: Host, first: Guest | None) -> None:
        self.number, self.host, self.env, self.costs = number, host, host.env, host.costs
        self.row, self.vmm = host.row, Vmm(host)
        self.interrupts = simpy.Resource(self.env)  # of vCPU 0: off, or at work
        self.handler = first.interrupts if first else self.interrupts  # where the SMMU's errors are handled
        self.driver_lock = simpy.Resource(self.env)  # request_lock of virtio-iommu
        self.queues: list[Queue] = []
        smmu = host.scenario.smmu
        if self.row.front == "virtio-iommu":
            if self.row.has_worker:
                self.requests = Feed(self.worker(self.row, 0), self.serve)
        elif self.row.queues == "ecmdq":
            self.queues = [self.queue(self.row, ECMDQ_LOG2, k) for k in range(host.scenario.vcpus)]
        elif self.row.on_metal:
            self.queues = first.queues if first else [self.queue(self.row, smmu.host_queue_log2, 0)]
        else:
            self.queues = [self.queue(self.row, smmu.queue_log2, k) for k in range(self.row.vcmdqs or 1)]
        if self.row.unsupported == "guest-routes":
            self.main = self.queue(approach(self.row.fallback), smmu.queue_log2, len(self.queues))

    def queue(self, row: Approach, log2size: int, number: int) -> Queue:
        """A queue as its approach wants it."""
        publish = {
            "trap-to-vmm": self.trap_to_vmm,
            "trap-to-kernel": self.trap_to_kernel,
            "kernel-call": self.call_kernel,
            "polled": self.write_shared_page,
            "direct": self.host.write_prod,
        }
        complete = Queue.see_word if row.completion == "msi-word" else Queue.poll
        queue = Queue(self.host, row, log2size, publish[row.doorbell], self.read_cons, complete)
        queue.stop = partial(self.stop, queue)
        if row.executes_directly:
            self.host.connect(queue)
        elif row.has_worker:
            queue.feed = Feed(self.worker(row, number), partial(self.drain, queue))
        return queue

    def worker(self, row: Approach, number: int) -> Thread:
        """The kernel thread that works for this queue, perhaps among others."""
        scope = {"queue": (self.number, number), "vm": (self.number,), "host": ()}[row.worker]
        if scope not in self.host.threads:
            self.host.threads[scope] = Thread(self.host, row, self.number, number)
        return self.host.threads[scope]

    def route(self, batch: Batch, vcpu: int) -> Queue:
        """A VCMDQ does not take every command: the driver knows, and takes the main queue."""
        if self.row.unsupported == "guest-routes" and not batch.vcmdq:
            return self.main
        return self.queues[vcpu % len(self.queues)]

    def read_cons(self, queue: Queue) -> Steps:
        """Read CONS: under the VMM's lock, by a light exit, from a shared page or from the device."""
        self.host.counts["cons_reads"] += 1
        how = queue.row.completion
        if how == "msi-word":  # only for room in a full queue
            how = {"vmm": "vmm-cons", "hardware": "device-cons"}.get(str(queue.row.consumer), "kernel-cons")
        if how in ("device-cons", "shared-cons"):
            cost = self.costs.mmio_r if how == "device-cons" else self.costs.cons_shared
            return (yield from self.host.read_without_exit(queue, cost))
        if how == "vmm-cons":
            yield from self.vmm.exit()
        else:
            self.host.counts["exits_kernel"] += 1
            yield self.env.timeout(self.costs.exit_kernel)
        return queue.cons

    # -- doorbells -----------------------------------------------------------------------------------------------------

    def trap_to_vmm(self, queue: Queue, commands: list[Command]) -> Steps:
        """The vCPU is away until the VMM has consumed what it published."""
        yield from self.vmm.exit(self.consume(queue, commands, self.vmm.handoff(queue.row)))

    def trap_to_kernel(self, queue: Queue, commands: list[Command]) -> Steps:
        """A light exit: PROD is captured in memory, then the worker signalled."""
        self.host.counts["exits_kernel"] += 1
        yield self.env.timeout(self.costs.exit_kernel)
        self.capture(queue, commands)
        yield self.env.timeout(self.costs.sig)
        queue.feed.flag()

    def call_kernel(self, queue: Queue, commands: list[Command]) -> Steps:
        """A light exit, and there the kernel consumes what it brought."""
        self.host.counts["exits_kernel"] += 1
        yield self.env.timeout(self.costs.exit_kernel)
        with queue.calls.request() if self.host.scenario.fault else nullcontext() as turn:
            if turn:
                yield turn
            yield from self.consume(queue, commands, self.read)

    def write_shared_page(self, queue: Queue, commands: list[Command]) -> Steps:
        """No exit: the worker sees it a little later."""
        yield self.env.timeout(self.costs.prod_shared)
        self.env.process(self.come_to_sight(queue, commands))

    def come_to_sight(self, queue: Queue, commands: list[Command]) -> Steps:
        """Of the worker that polls."""
        yield self.env.timeout(self.costs.poll)
        self.capture(queue, commands)
        queue.feed.flag()

    def capture(self, queue: Queue, commands: list[Command]) -> None:
        """A worker can take it; what a handler's write resumes is one with all that is captured behind it."""
        if commands:
            queue.feed.capture(commands)
        else:
            queue.feed.captured = [sum(queue.feed.captured, queue.resume())]

    # -- errors --------------------------------------------------------------------------------------------------------

    def consume(self, queue: Queue, commands: list[Command], how: Callable[[Queue, list[Command]], Steps]) -> Steps:
        """Software consumes what a PROD write, or a write of GERRORN, brings to it, and stores CONS.

        Where it must stop, CONS is the place of the entry in error, and the rest waits.
        """
        commands = queue.admit(commands) if commands else queue.resume()
        if not commands:
            return
        try:
            yield from how(queue, commands)
        except (Stop, TimedOut) as error:
            entry = entry_in_error(error, commands, queue.row, self.host.strict)
            place = commands.index(entry)
            commands, queue.waiting = commands[:place], commands[place:]
            late = isinstance(error, TimedOut) and queue.row.in_kernel
            self.stop(queue, entry, isinstance(error, Stop) and error.fixed, late)
        queue.write_words(commands)
        queue.store_cons(commands)

    def stop(self, queue: Queue, entry: Command, fixed: bool, late: bool) -> None:
        """The queue stands still until the driver has dealt with the entry: `fixed`, `late` as in `handle`."""
        self.host.counts["errors"] += 1
        self.env.process(handle(self, queue, entry, fixed, late))

    # -- virtio-iommu --------------------------------------------------------------------------------------------------

    def request(self, name: str, pages: int, struck: bool = False) -> Steps:
        """Add a request to the ring, kick, and wait; all of it, or all but the sleep, under the driver's lock."""
        request = Request(self.env, name, pages, struck)
        with self.driver_lock.request() as lock:
            yield lock
            yield self.env.timeout(self.costs.vq_add)
            yield from self.kick(request)
            if self.row.completion == "used-ring-poll":
                yield request.done
                yield self.env.timeout(self.costs.cons_shared)
        if self.row.completion == "used-ring-irq":
            interrupt = yield request.done
            yield interrupt

    def kick(self, request: Request) -> Steps:
        """Who serves the ring is in the VMM, in this exit, or a worker that may be at it already."""
        if self.row.consumer == "vmm":
            yield from self.vmm.exit(self.serve([request]))
            return
        if self.row.has_worker:
            thread = self.requests.thread
            self.requests.capture([request])
            if self.row.kicks == "unless-running":
                if thread.serving is self.requests:
                    return
                if thread.looking:
                    self.requests.flag()
                    return
        self.host.counts["exits_kernel"] += 1
        yield self.env.timeout(self.costs.exit_kernel)
        if self.row.has_worker:
            yield self.env.timeout(self.costs.sig)
            self.requests.flag()
        else:
            yield from self.serve([request])

    # -- the kernel consumes -------------------------------------------------------------------------------------------

    def drain(self, queue: Queue, commands: list[Command]) -> Steps:
        """A pass of a worker over a queue."""
        commands = queue.admit(commands)
        yield self.env.timeout(self.costs.capture)
        if commands:
            yield from self.consume(queue, commands, self.read)

    def read(self, queue: Queue, commands: list[Command]) -> Steps:
        """Read the guest's queue: in a worker, or in the doorbell's own exit."""
        bad, fixes = bad_entry(commands), queue.row.unsupported == "stop-and-fix"
        illegal = bad is not None and self.host.illegal(bad)
        if bad is None or (illegal and queue.row.unsupported == "skip"):
            yield from self.fetch_and_issue(queue, commands)
        elif fixes and not illegal:  # the VMM deals with it when all of its list is issued
            behind = next(k for k, each in enumerate(commands, 1) if each.closes and each.end >= bad.end)
            yield from self.fetch_and_issue(queue, commands[:behind])
            yield from self.fix()
            yield from self.fetch_and_issue(queue, commands[behind:])
        else:
            yield from self.fetch_and_issue(queue, commands[: commands.index(bad) + 1])
            if fixes:
                yield from self.fix()
            raise Stop(bad, fixes)

    def fetch_and_issue(self, queue: Queue, commands: list[Command]) -> Steps:
        """As one array."""
        yield from self.host.fetch(commands)
        if invalidations := without_sync(commands):
            yield from self.host.issue(invalidations, queue.row)

    def fix(self) -> Steps:
        """The VMM deals with an entry."""
        self.host.counts["fixes"] += 1
        yield self.env.timeout(self.costs.fix)

    def serve(self, requests: list[Request]) -> Steps:
        """Map; or unmap, and invalidate what was unmapped. The VMM needs an ioctl for it."""
        costs, load, ril = self.costs, self.host.scenario.workload, self.host.scenario.smmu.ril
        for request in requests:
            yield self.env.timeout(costs.vq_take)
            if self.row.consumer == "vmm" and request.name != "BAD":
                yield from self.host.ioctl()
            if request.name == "MAP":
                yield self.env.timeout(costs.host_map)
                yield self.env.timeout(request.pages * costs.pin)
            elif request.name == "UNMAP":
                yield self.env.timeout(costs.host_unmap)
                yield self.env.timeout(request.pages * costs.unpin)
                batches = unmap_batches(request.pages, getattr(load, "granule", 4096), ril, load.ats_devices)
                for batch in self.host.scenario.fault.strike(batches, costs) if request.struck else batches:
                    yield from self.host.issue(written_out(self.env, batch), self.row, ignore=True)
            if self.row.completion == "used-ring-irq":
                self.host.counts["interrupts"] += 1
                request.done.succeed(self.env.timeout(costs.lpi))
            else:
                request.done.succeed()


class Vmm:
    """A guest's VMM: in the exit of a vCPU, under its one big lock."""

    def __init__(self, host: Host) -> None:
        self.host, self.env, self.costs = host, host.env, host.costs
        self.big_lock = simpy.Resource(self.env)

    def exit(self, work: Iterable[simpy.Event] = ()) -> Steps:
        """Exit, and do some work under the big lock."""
        self.host.counts["exits_vmm"] += 1
        yield self.env.timeout(self.costs.exit_user - self.costs.vmm_lock)
        with self.big_lock.request() as lock:
            yield lock
            yield self.env.timeout(self.costs.vmm_lock)
            yield from work

    def handoff(self, row: Approach) -> Callable[[Queue, list[Command]], Steps]:
        """How it reads what a doorbell published, and hands it over."""
        how: Callable[[Queue, list[Command]], Steps] = getattr(self, row.handoff.replace("-", "_"))
        return how

    def decode(self, command: Command) -> Steps:
        """Read an entry, and look what it is; at an illegal one it stops."""
        yield self.env.timeout(self.costs.vmm_cmd)
        if self.host.illegal(command):
            raise Stop(command)

    def per_command(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for each command."""
        for command in commands:
            yield from self.decode(command)
            yield from self.host.hand_over(queue, without_sync([command]))
            queue.write_words([command])

    def marshalled(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for each command, and in it an ATC_INV for every device; an ATC_INV is nothing else."""
        for command in commands:
            yield from self.decode(command)
            if command.name not in ("CMD_SYNC", "NOP"):
                yield from self.host.ioctl([command])
                devices = [Command(self.env, "ATC_INV") for _ in range(self.host.scenario.workload.ats_devices)]
                if command.name != "TLBI":
                    devices = devices or [Command(self.env, "ATC_INV")]
                    devices[0].late, devices[0].gone = command.late, command.gone
                for each in [[command], devices] if command.name == "TLBI" else [devices]:
                    if each:
                        yield from self.host.issue(each, queue.row, self.costs.conv, ignore=True)
            queue.write_words([command])

    def array(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for all commands that a doorbell published; an unknown StreamID is left out.

        At an illegal one the VMM forgets what it has gathered (QEMU RFC v3), unless it is strict.
        """
        array: list[Command] = []
        try:
            for command in commands:
                yield from self.decode(command)
                array += without_sync([command])
        except Stop:
            if self.host.strict:
                yield from self.host.hand_over(queue, array)
            else:
                self.host.counts["lost"] += len(array)
            raise
        yield from self.host.hand_over(queue, array)

    def array_at_sync(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for all commands up to a CMD_SYNC; an unknown StreamID is left out."""
        for command in commands:
            try:
                yield from self.decode(command)
            except Stop:
                yield from self.host.hand_over(queue, queue.let_go())
                raise
            if command.name == "CMD_SYNC":
                yield from self.host.hand_over(queue, queue.let_go())
                queue.write_words([command])
            queue.held += without_sync([command])

    def queue(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for the guest's own queue; the kernel reads it, and skips CMD_SYNCs and what it does not know.

        An unknown StreamID makes it fail; what was read before is issued only if the kernel is strict, which also is
        the only one to report that it has timed out (v2 patch of May 2023, 17/17: CONS is written back all the same).
        """
        yield from self.host.ioctl()
        bad = bad_entry(commands)
        if bad and self.host.illegal(bad):
            bad = None
        read = commands[: commands.index(bad) + 1] if bad else commands
        yield from self.host.fetch(read)
        invalidations = without_sync(read)
        if bad and not self.host.strict:
            self.host.counts["lost"] += len(invalidations)
        elif invalidations or not bad:
            try:
                yield from self.host.issue(invalidations, queue.row)
            except TimedOut:
                if self.host.strict:
                    raise
        if bad:
            raise Stop(bad)
