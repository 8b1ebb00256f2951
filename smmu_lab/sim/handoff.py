"""How the VMM hands a guest's commands to the kernel, and how the kernel issues them on the host's queue."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Any

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import HostQueue
from smmu_lab.sim.queue import CONSUME, EXECUTE, HANDOFF, QUEUE, WAKE, Edges, Ticket


def host_list(tlbi: int, atc: int, tail: int = 0, leaf: bool = True) -> Work:
    """A list of the host's, with its CMD_SYNC."""
    return Work(tlbi, atc, 0, 0, 1, tlbi + atc + 1, tail, leaf)


ONE_TLBI = host_list(1, 0)

Written = Callable[[Ticket, int], None]
Commands = tuple[tuple[int, int, bool], ...]
"""Commands in their order: so many TLBIs, then so many ATC_INVs, then TLBIs again; and whether the TLBIs are leaf."""


def commands(works: Sequence[Work]) -> Commands:
    """What lists have for the host."""
    return tuple([(work.tlbi, work.atc, work.leaf) for work in works if work.tlbi or work.atc])


_APART: dict[str, Callable[[bool, bool], object]] = {
    "none": lambda tlbi, leaf: None,
    "force-sync": lambda tlbi, leaf: None,
    "tlbi-apart": lambda tlbi, leaf: tlbi,
    "leaf-apart": lambda tlbi, leaf: (tlbi, tlbi and leaf),
}
"""What must not be in one list with other things, by erratum."""


@lru_cache(maxsize=4096)
def cut(array: Commands, group: int, errata: str = "none") -> tuple[Work, ...]:
    """Cut commands into lists of the host, in order; no commands are one list that is only a CMD_SYNC.

    >>> array = ((64, 0, True), (0, 2, True), (3, 0, False))
    >>> [(work.tlbi, work.atc, work.tail) for work in cut(array, 63)]
    [(63, 0, 63), (4, 2, 3)]
    >>> [(work.tlbi, work.atc) for work in cut(array, 63, "tlbi-apart")]
    [(63, 0), (1, 0), (0, 2), (3, 0)]
    """
    apart = _APART[errata]
    made = []
    tlbi = atc = tail = 0
    leaf = True
    kind: object = None
    for more_tlbi, more_atc, more_leaf in array:
        for is_tlbi, more in ((True, more_tlbi), (False, more_atc)):
            if not more:
                continue
            before, kind = kind, apart(is_tlbi, more_leaf)
            if kind != before and tlbi + atc:
                made.append(host_list(tlbi, atc, tail, leaf))
                tlbi = atc = tail = 0
            while more:
                some = min(more, group - tlbi - atc)
                more -= some
                if is_tlbi:
                    tlbi, tail, leaf = tlbi + some, tail + some, more_leaf
                else:
                    atc, tail = atc + some, 0
                if tlbi + atc == group:
                    made.append(host_list(tlbi, atc, tail, leaf))
                    tlbi = atc = tail = 0
    if tlbi or atc or not made:
        made.append(host_list(tlbi, atc, tail, leaf))
    return tuple(made)


class Kernel:
    """The host's kernel, working for one guest: one thread at a time is in it.

    Attributes:
        read: time the consumer spent on reading the queue since the last `begin`, ns.
        handoff: time spent in ioctls, copies and rewrites since the last `begin`, ns.
        execute: time the SMMU needed for this guest's commands alone since the last `begin`, ns.
    """

    def __init__(self, host: HostQueue, approach: Approach, costs: Costs, counts: Counts, party: int) -> None:
        self.host = host
        self.counts = counts
        self.party = party
        self.group = min(approach.host_group or host.size - 1, host.size - 1)
        if host.errata == "force-sync":
            self.group = min(self.group, CMDQ_BATCH_ENTRIES - 1)
        self.enter, self.copy, self.convert = costs.ioctl, costs.copy, costs.conv
        self.read = self.handoff = self.execute = 0

    def begin(self) -> None:
        """Start to count anew."""
        self.read = self.handoff = self.execute = 0

    def edges(self, start: int, end: int) -> Edges:
        """The ends of the stages between, laid end to end."""
        read = start + self.read
        return (CONSUME, read), (HANDOFF, read + self.handoff), (QUEUE, end - self.execute), (EXECUTE, end)

    def spend(self, t: int, handoff: int) -> int:
        """Work of the kernel itself: returns when it is done."""
        self.handoff += handoff
        return t + handoff

    def ioctl(self, t: int, entries: int) -> int:
        """Enter the kernel and copy an array of entries: IOMMU_HWPT_INVALIDATE."""
        self.counts.ioctls += 1
        return self.spend(t, self.enter + entries * self.copy)

    def issue(self, t: int, works: Sequence[Work], convert: int) -> Generator[Any, Any, int]:
        """Rewrite commands, at `convert` ns each, and issue their lists, each with a CMD_SYNC that is waited for.

        Source: arm_vsmmu_cache_invalidate, Linux 7.2 arm-smmu-v3-iommufd.c.
        """
        for work in works:
            t = self.spend(t, (work.entries - 1) * convert)
            seen = self.host.call(t, work, self.party, self.counts)
            t = seen if isinstance(seen, int) else (yield from seen)
            self.execute += self.host.engine.alone(work)
        return t

    def array(self, t: int, array: Commands) -> Generator[Any, Any, int]:
        """One ioctl for an array of commands."""
        t = self.ioctl(t, sum([tlbi + atc for tlbi, atc, _ in array]))
        return self.issue(t, self.lists(array), self.convert)

    def lists(self, array: Commands) -> Sequence[Work]:
        """The host's lists for an array of commands."""
        return cut(array, self.group, self.host.errata)

    def one_by_one(self, t: int, number: int, decode: int, works: Sequence[Work]) -> Generator[Any, Any, int]:
        """For each of `number` commands: the VMM decodes it, and one ioctl issues `works`.

        Each waits for the one before. So where nobody else can come between, all take the same time.
        """
        if not number:
            return t
        self.read += number * decode
        if not self.host.sole or self.host.clock.trail is not None:
            for _ in range(number):
                t = self.ioctl(t + decode, 1)
                t = yield from self.issue(t, works, self.convert)
            return t
        converted = sum(work.entries - 1 for work in works)
        self.counts.ioctls += number
        self.counts.host_syncs += number * len(works)
        self.counts.host_commands += number * (converted + len(works))
        self.execute += number * sum(map(self.host.engine.alone, works))
        self.spend(t, handoff := number * (self.enter + self.copy + converted * self.convert))
        return t + number * (decode + sum(map(self.host.alone, works))) + handoff


class Handoff:
    """What the VMM does with the lists it reads from the guest's queue.

    `consume` takes them from a time on, tells `written` when a list's commands are complete, so that the word of its
    CMD_SYNC can be written, and returns the end.
    """

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs, ats_devices: int) -> None:
        self.kernel = kernel
        self.decode = costs.vmm_cmd
        self.attach = costs.vmm_ste
        self.per_entry = costs.conv + 2 * costs.copy
        self.held: Commands = ()  # array-at-sync: commands read whose CMD_SYNC has not come yet
        self.per_tlbi, self.per_atc = [ONE_TLBI], [host_list(0, 1)]
        if approach.handoff == "marshalled" and ats_devices:
            # arm_smmu_cache_invalidate_user of the v1 patch: a TLBI falls through to arm_smmu_atc_inv_domain, which
            # sends an ATC_INV to every device of the domain; an ATC_INV is nothing else.
            self.per_atc = [host_list(0, ats_devices)]
            self.per_tlbi = [ONE_TLBI, *self.per_atc]
        self.consume: Callable[[Sequence[Ticket], int, Written], Generator[Any, Any, int]] = {
            "marshalled": self._per_command,
            "per-command": self._per_command,
            "array": self._array,
            "array-at-sync": self._array_at_sync,
            "queue": self._queue,
        }[approach.handoff]

    def _reads(self, t: int, entries: int, ste: int) -> int:
        """Fetch, decode and emulate: returns when that is done."""
        spent = entries * self.decode + ste * self.attach
        self.kernel.read += spent
        return t + spent

    def _per_command(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        for ticket in tickets:
            work = ticket.work
            t = yield from self.kernel.one_by_one(t, work.tlbi, self.decode, self.per_tlbi)
            t = yield from self.kernel.one_by_one(t, work.atc, self.decode, self.per_atc)
            t = self._reads(t, work.ste + work.other + work.sync, work.ste)
            written(ticket, t)
        return t

    def _array(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        works = [ticket.work for ticket in tickets]
        for work in works:
            t = self._reads(t, work.entries, work.ste)
        if array := commands(works):
            t = yield from self.kernel.array(t, array)
        for ticket in tickets:
            written(ticket, t)
        return t

    def _array_at_sync(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        for ticket in tickets:
            work = ticket.work
            t = self._reads(t, work.entries, work.ste)
            self.held += commands((work,))
            if work.sync and self.held:
                t = yield from self.kernel.array(t, self.held)
                self.held = ()
            written(ticket, t)
        return t

    def _queue(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        """The kernel copies entry after entry from the guest's queue, then CONS back; what it may not run, it skips.

        Source: the v2 patch of May 2023 (17/17), arm_smmu_fix_user_cmd; costs as composed in NUMBERS section 5.1.
        """
        kernel, works = self.kernel, [ticket.work for ticket in tickets]
        t = kernel.spend(kernel.ioctl(t, 0), sum([work.entries for work in works]) * self.per_entry)
        t = yield from kernel.issue(t, kernel.lists(commands(works)), 0)
        for ticket in tickets:
            written(ticket, t)
        return t


class MapUnmap:
    """What the host does for a request of virtio-iommu: its own map or unmap, and the invalidation after an unmap.

    Each request is done when its work is: the used ring is written then.
    """

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs) -> None:
        self.kernel = kernel
        self.take = costs.vq_take
        self.by_ioctl = approach.consumer == "vmm"
        self.map, self.pin = costs.host_map, costs.pin
        self.unmap, self.unpin = costs.host_unmap, costs.unpin

    def consume(self, requests: Sequence[Ticket], t: int) -> Generator[Any, Any, int]:
        """Serve requests in order, the first from `t` on: returns when the last is done."""
        kernel = self.kernel
        for ticket in requests:
            request = ticket.work
            kernel.begin()
            start = t
            kernel.read = self.take
            t += self.take
            if self.by_ioctl:
                t = kernel.ioctl(t, 0)
            if request.batches:
                t = kernel.spend(t, self.unmap + request.pages * self.unpin)
                for batch in request.batches:
                    t = yield from kernel.issue(t, kernel.lists(commands((batch,))), 0)
            else:
                t = kernel.spend(t, self.map + request.pages * self.pin)
            ticket.edges += ((WAKE, start), *kernel.edges(start, t))
            if ticket is not requests[-1]:  # whose end is that of the drain
                ticket.complete(t)
        return t
