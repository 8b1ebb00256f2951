"""How the VMM hands a guest's commands to the kernel, and how the kernel issues them on the host's queue."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Any

from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import HostQueue

Commands = tuple[tuple[int, int], ...]
"""Commands in their order: so many TLBIs, then so many ATC_INVs, then TLBIs again."""
ONE_TLBI: Commands = ((1, 0),)
ONE_ATC_INV: Commands = ((0, 1),)


def commands(works: Sequence[Work]) -> Commands:
    """What lists have for the host."""
    return tuple([(work.tlbi, work.atc) for work in works if work.tlbi or work.atc])


@lru_cache(maxsize=4096)
def cut(commands: Commands, group: int) -> list[tuple[int, int, int]]:
    """Cut commands into groups, in order: their TLBIs, their ATC_INVs, and the TLBIs after the last ATC_INV.

    >>> cut(((64, 0),), 63), cut(((0, 2), (3, 0)), 63), cut((), 63)
    ([(63, 0, 63), (1, 0, 1)], [(3, 2, 3)], [(0, 0, 0)])
    """
    made = []
    tlbi = atc = tail = 0
    for more_tlbi, more_atc in commands:
        while more_tlbi or more_atc:
            if some := min(more_tlbi, group - tlbi - atc):
                more_tlbi, tlbi, tail = more_tlbi - some, tlbi + some, tail + some
            if some := min(more_atc, group - tlbi - atc):
                more_atc, atc, tail = more_atc - some, atc + some, 0
            if tlbi + atc == group:
                made.append((tlbi, atc, tail))
                tlbi = atc = tail = 0
    if tlbi or atc or not made:
        made.append((tlbi, atc, tail))
    return made


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

    def issue(self, t: int, array: Commands, convert: int) -> Generator[Any, Any, int]:
        """Rewrite commands, at `convert` ns each, and issue them in groups, each with a CMD_SYNC that is waited for.

        Source: arm_vsmmu_cache_invalidate, Linux 7.2 arm-smmu-v3-iommufd.c.
        """
        for tlbi, atc, tail in cut(array, self.group):
            t = self.spend(t, (tlbi + atc) * convert)
            t = yield from self.host.call(t, tlbi, atc, tail, self.party, self.counts)
            self.execute += self.host.engine.alone(tlbi, atc, tail)
        return t


class Handoff:
    """What the VMM does with the lists it reads from the guest's queue."""

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs, ats_devices: int) -> None:
        self.kernel = kernel
        self.decode = costs.vmm_cmd
        self.attach = costs.vmm_ste
        self.per_entry = costs.conv + 2 * costs.copy
        self.ats_devices = ats_devices
        self.held: list[tuple[int, int]] = []  # array-at-sync: commands read whose CMD_SYNC has not come yet
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
                t = yield from kernel.issue(t, ONE_TLBI if k < work.tlbi else ONE_ATC_INV, kernel.convert)
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
                    t = yield from kernel.issue(t, ONE_TLBI, kernel.convert)
                if self.ats_devices or k >= work.tlbi:
                    t = yield from kernel.issue(t, ((0, self.ats_devices or 1),), kernel.convert)
            t += (work.ste + work.other + work.sync) * self.decode + work.ste * self.attach
        return t

    def _array(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        t += self.reading(works)
        if array := commands(works):
            t = self.kernel.ioctl(t, sum(map(sum, array)))
            t = yield from self.kernel.issue(t, array, self.kernel.convert)
        return t

    def _array_at_sync(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        held = self.held
        for work in works:
            t += self.reading((work,))
            held += commands((work,))
            if work.sync and held:
                t = self.kernel.ioctl(t, sum(map(sum, held)))
                t = yield from self.kernel.issue(t, tuple(held), self.kernel.convert)
                held.clear()
        return t

    def _queue(self, works: Sequence[Work], t: int) -> Generator[Any, Any, int]:
        """The kernel copies entry after entry from the guest's queue, then CONS back; what it may not run, it skips.

        Source: the v2 patch of May 2023 (17/17), arm_smmu_fix_user_cmd; costs as composed in NUMBERS section 5.1.
        """
        t = self.kernel.ioctl(t, 0)
        t = self.kernel.spend(t, sum(work.entries for work in works) * self.per_entry)
        return (yield from self.kernel.issue(t, commands(works), 0))
