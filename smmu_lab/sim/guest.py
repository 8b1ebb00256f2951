"""A guest: its queues, each with the doorbell, the consumer and the completion that the approach gives it."""

from __future__ import annotations

from typing import Any

from smmu_lab.record import Counts, Table
from smmu_lab.scenario import Approach, Scenario, approach
from smmu_lab.sim.clock import Clock, stream
from smmu_lab.sim.completion import Polled, TrappedToVmm
from smmu_lab.sim.consumer import BigLock, Drains, Vmm, kernel_worker
from smmu_lab.sim.doorbell import Direct, TrapToKernel, TrapToVmm
from smmu_lab.sim.handoff import Handoff, Kernel
from smmu_lab.sim.host import HostCpus, HostQueue
from smmu_lab.sim.queue import CommandQueue

Path = tuple[CommandQueue, Polled | TrappedToVmm]


class Guest:
    """One virtual machine under one approach.

    Args:
        shared: on bare metal the "guests" are CPUs of one host: the first one puts its queue here for the others.

    Attributes:
        queues: its command queues; the hardware's first, then the one that traps.
        counts: what it caused.
        ops: the record of operations, shared by all guests.
    """

    def __init__(
        self,
        number: int,
        scenario: Scenario,
        row: Approach,
        clock: Clock,
        host: HostQueue,
        cpus: HostCpus,
        ops: Table,
        batches: Table,
        shared: list[Path],
    ) -> None:
        self.number = number
        self.counts = Counts()
        self.ops = ops
        self.scenario, self.clock, self.host, self.cpus, self.batches = scenario, clock, host, cpus, batches
        self.lock = BigLock(clock)
        self.queues: list[CommandQueue] = []
        if row.on_metal and shared:
            self.paths = shared
        else:
            self.paths = [self._path(row) for _ in range(row.vcmdqs if row.queues == "cmdq+vcmdq" else 1)]
            shared += self.paths
        self.trapped = self._path(approach(row.fallback)) if row.unsupported == "guest-routes" else None

    def route(self, accepted: bool, vcpu: int) -> Path:
        """The queue for a list: cpu % queues, or the trapped one for what a VCMDQ does not accept.

        Source: tegra241_cmdqv_get_cmdq, Linux 7.2 tegra241-cmdqv.c.
        """
        if self.trapped is not None and not accepted:
            return self.trapped
        return self.paths[vcpu % len(self.paths)]

    def _path(self, row: Approach) -> Path:
        scenario, clock, counts, costs = self.scenario, self.clock, self.counts, self.scenario.costs
        kernel = Kernel(self.host, row, costs, counts, self.number << 16)
        doorbell: Any
        if row.doorbell == "trap-to-vmm":
            handoff = Handoff(kernel, row, costs, scenario.workload.ats_devices)
            doorbell = TrapToVmm(Vmm(self.lock, kernel, handoff), costs, counts)
        elif row.doorbell == "trap-to-kernel":
            rng = stream(scenario.seed, self.number, len(self.queues), "wake")
            doorbell = TrapToKernel(clock, row, costs, counts, self.cpus, rng, self.number << 16)
        else:
            doorbell = Direct(self.host.engine, costs, counts)
        completion: Polled | TrappedToVmm
        if row.completion == "vmm-cons":
            completion = TrappedToVmm(clock, self.lock, costs, counts)
        elif row.completion == "kernel-cons":
            completion = Polled(clock, costs, counts, costs.exit_kernel, costs.exit_kernel, exits=True)
        elif row.completion == "shared-cons":
            completion = Polled(clock, costs, counts, costs.cons_shared, costs.cons_shared, exits=False)
        else:
            completion = Polled(clock, costs, counts, costs.mmio_r, costs.mmio_r // 2, exits=False)
        number = len(self.queues)

        def log(*drain: int) -> None:
            counts.drains += 1
            self.batches.append((self.number, number, *drain))

        log2size = scenario.smmu.host_queue_log2 if row.on_metal else scenario.smmu.queue_log2
        queue = CommandQueue(clock, log2size, costs.relax, doorbell.ring, completion.read, log)
        self.queues.append(queue)
        if row.consumer == "kernel-worker":
            clock.env.process(kernel_worker(queue, doorbell, Drains(kernel, row, costs)))
        return queue, completion
