"""The textbook's guests: their vSMMUs, how a doorbell leaves one, and who consumes what it brings.

On bare metal the guests are CPUs of one host, and the SMMUs themselves take the place of vSMMUs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count

import simpy

from smmu_lab.scenario import Approach, Batch, approach
from smmu_lab.sim.textbook_driver import Command, Queue, Steps, without_sync
from smmu_lab.sim.textbook_faults import Stop, TimedOut, bad_entry, entry_in_error, handle
from smmu_lab.sim.textbook_host import Host
from smmu_lab.sim.textbook_thread import Feed, Thread
from smmu_lab.sim.textbook_virtio import Ring
from smmu_lab.sim.textbook_vmm import Vmm

ECMDQ_LOG2 = 8


class Guest:
    """A virtual machine: its VMM, and its vSMMUs (`instances`), or instead of each its request ring.

    Args:
        number: which guest it is.
        host: below it.
        first: on bare metal the first of all guests, whose queues the others share.
    """

    def __init__(self, number: int, host: Host, first: Guest | None) -> None:
        self.number, self.host, self.env, self.costs = number, host, host.env, host.costs
        self.load, self.is_neighbour = host.scenario.load(number), host.scenario.is_neighbour(number)
        self.vmm = Vmm(host)
        self.interrupts = simpy.Resource(self.env)  # of vCPU 0: off, or at work
        self.handler = first.interrupts if first else self.interrupts  # where the SMMU's errors are handled
        self.numbers = count()  # of its queues, or rings
        self.instances: list[Instance] = []
        self.rings: list[Ring] = []
        layout = host.scenario.layout(number)
        spans = [(k,) for k in range(len(host.smmus))] if host.row.on_metal else [each.smmus for each in layout.vsmmus]
        for k, smmus in enumerate(spans):
            if host.row.front == "virtio-iommu":
                self.rings.append(Ring(self, self.row(smmus, "virtio-iommu")))
            else:
                row = self.row(smmus, "qemu-today")
                self.instances.append(Instance(self, row, smmus, first.instances[k] if first else None))

    def row(self, smmus: tuple[int, ...], emulated: str) -> Approach:
        """The approach, or what serves a vSMMU of emulated devices, of which only the VMM can know anything."""
        return self.host.row if smmus or self.host.row.decodes_all else approach(emulated)

    def worker(self, row: Approach, number: int) -> Thread:
        """The kernel thread that works for this queue, perhaps among others."""
        scope = {"queue": (self.number, number), "vm": (self.number,), "host": ()}[row.worker]
        if scope not in self.host.threads:
            self.host.threads[scope] = Thread(self.host, row, self.number, number)
        return self.host.threads[scope]


class Instance:
    """A vSMMU: its queues, how a doorbell leaves the guest, and how this one learns that all is done.

    Args:
        guest: whose it is.
        row: the approach that serves it.
        smmus: numbers of the physical SMMUs that it spans, ascending.
        shared: on bare metal the same SMMU, as another guest knows it.
    """

    def __init__(self, guest: Guest, row: Approach, smmus: tuple[int, ...], shared: Instance | None) -> None:
        self.guest, self.row, self.smmus = guest, row, smmus
        self.host, self.env, self.costs, self.vmm = guest.host, guest.env, guest.costs, guest.vmm
        smmu = self.host.scenario.smmu
        if not smmus:
            self.queues = [self.queue(row, smmu.queue_log2)]
        elif row.queues == "ecmdq":
            self.queues = [self.queue(row, ECMDQ_LOG2) for _ in range(self.host.scenario.vcpus)]
        elif row.on_metal:
            self.queues = shared.queues if shared else [self.queue(row, smmu.host_queue_log2)]
        else:
            self.queues = [self.queue(row, smmu.queue_log2) for _ in range(row.vcmdqs or 1)]
        self.main = self.queues[0]
        if smmus and row.unsupported == "guest-routes":
            self.main = self.queue(approach(row.fallback), smmu.queue_log2)

    def queue(self, row: Approach, log2size: int) -> Queue:
        """A queue as its approach wants it."""
        publish = {
            "trap-to-vmm": self.trap_to_vmm,
            "trap-to-kernel": self.trap_to_kernel,
            "kernel-call": self.call_kernel,
            "polled": self.write_shared_page,
            "direct": self.write_device,
        }
        complete = Queue.see_word if row.completion == "msi-word" else Queue.poll
        queue = Queue(self.host, row, self.smmus, log2size, publish[row.doorbell], self.read_cons, complete)
        queue.stop = partial(self.stop, queue)
        queue.of = self.guest.number, next(self.guest.numbers)
        if row.executes_directly:
            self.host.smmus[self.smmus[0]].connect(queue)
        elif row.has_worker:
            queue.feed = Feed(self.guest.worker(row, queue.of[1]), partial(self.drain, queue))
        return queue

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
            return (yield from queue.read_without_exit(cost))
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

    def write_device(self, queue: Queue, commands: list[Command]) -> Steps:
        """A posted write."""
        yield self.env.timeout(self.costs.mmio_w)
        queue.smmu.see_prod(queue, commands)

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
        self.env.process(handle(self.guest, queue, entry, fixed, late))

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
        """As one array for each SMMU, one SMMU after the other; each needs its commands rewritten for itself."""
        yield from self.host.fetch(commands)
        rewritten = True
        for smmu, mine in self.host.apart(without_sync(commands)):
            if not rewritten:
                yield from self.host.convert(mine)
            yield from self.host.issue(smmu, mine, queue)
            rewritten = False

    def fix(self) -> Steps:
        """The VMM deals with an entry."""
        self.host.counts["fixes"] += 1
        yield self.env.timeout(self.costs.fix)
