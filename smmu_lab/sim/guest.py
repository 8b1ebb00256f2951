"""A guest: its queues, each with the doorbell, the consumer and the completion that the approach gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from smmu_lab.record import Counts, Table
from smmu_lab.scenario import Approach, InvalidInput, Scenario, approach
from smmu_lab.scenario.approach import CONSUMER
from smmu_lab.scenario.fields import invalid
from smmu_lab.sim.clock import Clock, stream
from smmu_lab.sim.completion import MsiWord, Polled, TrappedToVmm
from smmu_lab.sim.consumer import Host, Lock, Vmm, kernel_worker
from smmu_lab.sim.doorbell import KernelCall, TrapToKernel, TrapToVmm
from smmu_lab.sim.doorbell import Polled as PolledDoorbell
from smmu_lab.sim.handoff import Handoff, MapUnmap
from smmu_lab.sim.hardware import Direct, Overlay
from smmu_lab.sim.host import HostCpus, HostQueue
from smmu_lab.sim.kernel import Kernel
from smmu_lab.sim.queue import CommandQueue
from smmu_lab.sim.recovery import Gerror
from smmu_lab.sim.smmu import Fifo, RoundRobin
from smmu_lab.sim.thread import Doorbell, Thread
from smmu_lab.sim.virtio import Kick, RequestQueue

Completion = Polled | TrappedToVmm | MsiWord
Path = tuple[CommandQueue, Completion]

ECMDQ_LOG2 = 8
"""ECMDQ_MAX_SZ_SHIFT: 256 entries (Zhen Lei, [PATCH v2 1/2], 9 August 2023)."""


@attrs.define
class Machine:
    """What all guests share under one approach.

    Attributes:
        engine: the SMMU's command engine.
        faulty: something may go wrong.
        threads: kernel threads by what they work for.
        paths: on bare metal the "guests" are CPUs of one host: the first one puts its queue here for the others.
        irqs: and here what its first CPU holds while its interrupts are off.
    """

    scenario: Scenario
    row: Approach
    clock: Clock
    engine: Fifo
    host: HostQueue
    cpus: HostCpus
    ops: Table
    batches: Table
    stops: Table
    faulty: bool
    threads: dict[object, Thread] = attrs.Factory(dict)
    paths: list[Path] = attrs.Factory(list)
    irqs: Lock | None = None

    def thread(self, row: Approach, guest: int, queue: int) -> Thread:
        """The thread that works for a queue."""
        key = {"queue": (guest, queue), "vm": guest, "host": None}[row.worker]
        if key not in self.threads:
            rng = stream(self.scenario.seed, guest, queue, "wake")
            self.threads[key] = Thread(self.clock, row, self.scenario.costs, self.cpus, rng)
        return self.threads[key]

    def hardware_queue(self) -> Fifo:
        """The engine that executes one more hardware queue."""
        return Fifo(self.scenario.costs) if self.row.execution == "parallel" else self.engine


class Guest:
    """One virtual machine under one approach.

    Attributes:
        queues: its command queues; the hardware's first, then the one that traps.
        counts: what it caused.
        irqs: held while interrupts are off on the vCPU that is told of errors: its first one.
    """

    def __init__(self, number: int, machine: Machine) -> None:
        self.number = number
        self.machine = machine
        self.counts = Counts()
        self.lock = Lock(machine.clock)
        self.queues: list[CommandQueue] = []
        row = machine.row
        self.irqs = (row.on_metal and machine.irqs) or Lock(machine.clock)
        machine.irqs = self.irqs
        if row.on_metal and row.queues == "cmdq" and machine.paths:
            self.paths = machine.paths
        else:
            queues = {"cmdq+vcmdq": row.vcmdqs, "ecmdq": machine.scenario.vcpus}.get(row.queues, 1)
            self.paths = [self._path(row) for _ in range(queues)]
            machine.paths += self.paths
        self.trapped = self._path(approach(row.fallback)) if row.unsupported == "guest-routes" else None

    def route(self, accepted: bool, vcpu: int) -> Path:
        """The queue for a list: cpu % queues, or the trapped one for what a VCMDQ does not accept.

        Source: tegra241_cmdqv_get_cmdq, Linux 7.2 tegra241-cmdqv.c.
        """
        if self.trapped is not None and not accepted:
            return self.trapped
        return self.paths[vcpu % len(self.paths)]

    def _path(self, row: Approach) -> Path:
        machine, counts = self.machine, self.counts
        scenario, clock = machine.scenario, machine.clock
        costs = scenario.costs
        number = len(self.queues)
        name = self.number, number
        party = (self.number << 16) + number

        gerror = Gerror(clock, scenario, row, counts, self.irqs, machine.stops, machine.faulty)
        kernel = Kernel(machine.host, row, costs, counts, party, gerror)
        requests = MapUnmap(kernel, row, costs) if row.front == "virtio-iommu" else None
        doorbell: Any
        bell = None
        if row.consumer == "vmm":
            handoff = requests or Handoff(kernel, row, costs, scenario.workload.ats_devices)
            doorbell = TrapToVmm(self.lock, Vmm(kernel, handoff), costs, counts)
        elif row.consumer == "hardware":
            engine = machine.hardware_queue()
            doorbell = (
                Direct(engine, costs, gerror)
                if row.unsupported != "stop-and-fix"
                else Overlay(clock, engine, kernel, costs)
            )
            if isinstance(engine, RoundRobin):
                engine.add(doorbell.feed)
        elif row.consumer == "kernel-caller":
            doorbell = KernelCall(Host(clock, kernel, row, costs, requests), costs, counts)
        else:
            thread = machine.thread(row, self.number, number)
            bell = Doorbell(clock, thread, counts, party, row.weight)
            if requests is not None:
                doorbell = Kick(bell, costs, counts, row)
            elif row.doorbell == "polled":
                doorbell = PolledDoorbell(bell, costs)
            else:
                doorbell = TrapToKernel(bell, costs, counts)
        completion = self._completion(row)
        log2size = scenario.smmu.host_queue_log2 if row.on_metal else scenario.smmu.queue_log2
        if row.queues == "ecmdq":
            log2size = ECMDQ_LOG2
        queue: CommandQueue
        if requests is not None:
            alone = row.consumer == "vmm" and machine.host.sole
            queue = RequestQueue(clock, log2size, costs, counts, row, doorbell.ring, name, machine.batches, alone)
        else:
            by_msi = row.completion == "msi-word"
            advance: Callable[[int], None] = getattr(doorbell, "advance", lambda t: None)
            ring, read = doorbell.ring, completion.read
            queue = CommandQueue(clock, log2size, costs.relax, ring, read, name, advance, by_msi, machine.batches)
        doorbell.queue = gerror.queue = queue
        queue.gerror = gerror
        self.queues.append(queue)
        if bell is not None:
            worker = row.consumer if callable(row.consumer) else kernel_worker
            steps = worker(queue, bell, Host(clock, kernel, row, costs, requests, bell))
            if not hasattr(steps, "throw"):
                raise InvalidInput([invalid("approach.consumer", row.consumer, CONSUMER.valid)])
            clock.env.process(steps)
        return queue, completion

    def _completion(self, row: Approach) -> Completion:
        clock, counts, costs = self.machine.clock, self.counts, self.machine.scenario.costs
        how = row.completion
        if how == "msi-word":
            how = {"vmm": "vmm-cons", "hardware": "device-cons"}.get(str(row.consumer), "kernel-cons")
        gives_up = self.machine.faulty
        register: Polled | TrappedToVmm
        if how == "vmm-cons":
            register = TrappedToVmm(clock, self.lock, costs, counts, row.consumer == "vmm", gives_up)
        elif how == "kernel-cons":
            register = Polled(clock, costs, counts, costs.exit_kernel, costs.exit_kernel, True, gives_up)
        else:
            read = costs.mmio_r if how == "device-cons" else costs.cons_shared
            register = Polled(clock, costs, counts, read, read // 2, False, gives_up)
        return MsiWord(clock, costs, counts, register, gives_up) if row.completion == "msi-word" else register
