"""How the VMM hands a guest's commands to the kernel, and how the kernel issues them on the host's queue."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import HostQueue


class Kernel:
    """The host's kernel, working for one guest: one thread at a time is in it.

    Attributes:
        handoff: time spent in ioctls, copies and rewrites since the last `begin`, ns.
        execute: time the SMMU needed for this guest's commands alone since the last `begin`, ns.
    """

    def __init__(self, host: HostQueue, approach: Approach, costs: Costs, counts: Counts, party: int) -> None:
        self.host = host
        self.counts = counts
        self.party = party
        self.group = min(approach.host_group or host.size - 1, host.size - 1)
        self.enter, self.copy, self.convert = costs.ioctl, costs.copy, costs.conv
        self.handoff = self.execute = 0

    def begin(self) -> None:
        """Start to count anew."""
        self.handoff = self.execute = 0

    def spend(self, t: int, handoff: int) -> int:
        """Work of the kernel itself: returns when it is done."""
        self.handoff += handoff
        return t + handoff

    def ioctl(self, t: int, entries: int) -> int:
        """Enter the kernel and copy an array of entries: IOMMU_HWPT_INVALIDATE."""
        self.counts.ioctls += 1
        return self.spend(t, self.enter + entries * self.copy)

    def issue(self, t: int, tlbi: int, atc: int, convert: int) -> Generator[Any, Any, int]:
        """Rewrite commands, at `convert` ns each, and issue them in groups, each with a CMD_SYNC that is waited for.

        Source: arm_vsmmu_cache_invalidate, Linux 7.2 arm-smmu-v3-iommufd.c.
        """
        while True:
            some = min(tlbi, self.group)
            others = min(atc, self.group - some)
            t = self.spend(t, (some + others) * convert)
            t = yield from self.host.call(t, some, others, self.party, self.counts)
            self.execute += self.host.engine.alone(some, others)
            tlbi -= some
            atc -= others
            if not tlbi and not atc:
                return t


class Handoff:
    """What the VMM does with the lists it reads from the guest's queue."""

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs, ats_devices: int) -> None:
        self.kernel = kernel
        self.decode = costs.vmm_cmd
        self.attach = costs.vmm_ste
        self.per_entry = costs.conv + 2 * costs.copy
        self.ats_devices = ats_devices
        self.held = [0, 0]  # array-at-sync: commands read whose CMD_SYNC has not come yet
        self.consume: Callable[[Sequence[Work], int], Generator[Any, Any, int]] = {
            "marshalled": self._marshalled,
            "per-command": self._per_command,
            "array": self._array,
            "array-at-sync": self._array_at_sync,
            "queue": self._queue,
        }[approach.handoff]

    def reading(self, works: Sequence[Work]) -> int:
        """Time the VMM itself needs to fetch, decode and emulate the entries, ns."""
        if self.consume == self._queue:
            return 0
        return sum(work.entries * self.decode + work.ste * self.attach for work in works)

    def _per_command(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        kernel = self.kernel
        for work in works:
            for k in range(work.tlbi + work.atc):
                t = kernel.ioctl(t + self.decode, 1)
                t = yield from kernel.issue(t, int(k < work.tlbi), int(k >= work.tlbi), kernel.convert)
            t += (work.ste + work.other + work.sync) * self.decode + work.ste * self.attach
        return t

    def _marshalled(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        """As per-command, but the kernel follows with an ATC_INV for every device of the domain.

        Source: arm_smmu_cache_invalidate_user of the v1 patch: a TLBI falls through to arm_smmu_atc_inv_domain, an
        ATC_INV is nothing else.
        """
        kernel = self.kernel
        for work in works:
            for k in range(work.tlbi + work.atc):
                t = kernel.ioctl(t + self.decode, 1)
                if k < work.tlbi:
                    t = yield from kernel.issue(t, 1, 0, kernel.convert)
                if self.ats_devices or k >= work.tlbi:
                    t = yield from kernel.issue(t, 0, self.ats_devices or 1, kernel.convert)
            t += (work.ste + work.other + work.sync) * self.decode + work.ste * self.attach
        return t

    def _array(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        tlbi = sum(work.tlbi for work in works)
        atc = sum(work.atc for work in works)
        t += self.reading(works)
        if tlbi or atc:
            t = self.kernel.ioctl(t, tlbi + atc)
            t = yield from self.kernel.issue(t, tlbi, atc, self.kernel.convert)
        return t

    def _array_at_sync(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        held = self.held
        for work in works:
            t += self.reading((work,))
            held[0] += work.tlbi
            held[1] += work.atc
            if work.sync and any(held):
                t = self.kernel.ioctl(t, sum(held))
                t = yield from self.kernel.issue(t, held[0], held[1], self.kernel.convert)
                held[:] = 0, 0
        return t

    def _queue(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        """The kernel copies entry after entry from the guest's queue, then CONS back; what it may not run, it skips.

        Source: the v2 patch of May 2023 (17/17), arm_smmu_fix_user_cmd; costs as composed in NUMBERS section 5.1.
        """
        t = self.kernel.ioctl(t, 0)
        t = self.kernel.spend(t, sum(work.entries for work in works) * self.per_entry)
        return (yield from self.kernel.issue(t, sum(work.tlbi for work in works), sum(work.atc for work in works), 0))
