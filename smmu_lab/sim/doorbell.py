"""How a PROD write leaves the guest. Each `ring` takes a published group, and tells when its writer runs on."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Costs
from smmu_lab.sim.consumer import Host, Lock, Vmm
from smmu_lab.sim.queue import DOORBELL, GATHER, LOCK, CommandQueue, Group
from smmu_lab.sim.thread import Doorbell, Drain


class TrapToVmm:
    """The vCPU exits to the VMM and is blocked there while the VMM consumes the queue, under its big lock."""

    queue: CommandQueue

    def __init__(self, lock: Lock, vmm: Vmm, costs: Costs, counts: Counts) -> None:
        self.lock = lock
        self.vmm = vmm
        self.counts = counts
        self.exit, self.locked = costs.exit_user, costs.vmm_lock

    def ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """Exit, take the lock, consume, return to the guest."""
        self.counts.exits_vmm += 1
        asked = t + self.exit - self.locked
        granted = self.lock.acquire(asked)
        if not isinstance(granted, int):
            granted = yield from granted
        begins = granted + self.locked
        group.leaves(((GATHER, t), (LOCK, t + granted - asked), (DOORBELL, begins)))
        end = yield from self.vmm.consume(self.queue, group, begins)
        self.lock.release(end)
        group.owner.away += end - t
        group.owner.blocked += granted - asked
        return end


class TrapToKernel:
    """A light exit signals a kernel worker; the vCPU runs on.

    KVM hands the worker no value: the store must be captured into memory it can read (J. Gunthorpe, 28 March 2023,
    ZCLc+5/exFTZJMRi@nvidia.com), so PROD is visible at the end of the exit, and the signal follows.
    """

    def __init__(self, doorbell: Doorbell, costs: Costs, counts: Counts) -> None:
        self.doorbell = doorbell
        self.counts = counts
        self.exit, self.signal = costs.exit_kernel, costs.sig

    def ring(self, group: Group, t: int) -> int:
        """Exit, capture PROD, signal the worker, return to the guest."""
        self.counts.exits_kernel += 1
        group.captured = t + self.exit
        end = group.captured + self.signal
        group.leaves(((GATHER, t), (DOORBELL, end)))
        group.owner.away += end - t
        self.doorbell.published.append(group)
        self.doorbell.rang(end)
        return end


class KernelCall:
    """A light exit, and the kernel consumes the queue in the vCPU's own context."""

    queue: CommandQueue

    def __init__(self, host: Host, costs: Costs, counts: Counts) -> None:
        self.host = host
        self.lock = Lock(host.clock)  # of the queue: the driver's handler may come in between
        self.counts = counts
        self.exit = costs.exit_kernel

    def ring(self, group: Group, t: int) -> Generator[Any, Any, int]:
        """Exit, consume, return to the guest."""
        self.counts.exits_kernel += 1
        begins = t + self.exit
        group.leaves(((GATHER, t), (DOORBELL, begins)))
        if self.queue.gerror.active:
            begins = yield from self.lock.hold(begins)
        drain = Drain([group], begins)
        end = yield from self.host.run(drain, begins)
        self.queue.complete(drain, end)
        if self.queue.gerror.active:
            self.lock.release(end)
        group.owner.away += end - t
        return end


class Polled:
    """PROD is on a shared page that a worker watches: no exit, no signal."""

    def __init__(self, doorbell: Doorbell, costs: Costs) -> None:
        self.doorbell = doorbell
        self.write, self.notice = costs.prod_shared, costs.poll

    def ring(self, group: Group, t: int) -> int:
        """Write PROD; the worker sees it a little later."""
        end = t + self.write
        group.captured = end + self.notice
        group.leaves(((GATHER, t), (DOORBELL, group.captured)))
        self.doorbell.published.append(group)
        self.doorbell.rang(group.captured)
        return end
