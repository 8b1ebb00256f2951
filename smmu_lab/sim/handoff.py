"""How the VMM hands a guest's commands to the kernel, and how the kernel issues them on the host's queue."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Batch, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import HostQueue, TimedOut
from smmu_lab.sim.queue import CONSUME, EXECUTE, HANDOFF, QUEUE, WAKE, Edges, Ticket
from smmu_lab.sim.recovery import FORWARDS, Gerror

if TYPE_CHECKING:
    from smmu_lab.sim.virtio import Request


def host_list(tlbi: int, atc: int, tail: int = 0, leaf: bool = True, late: int = 0) -> Work:
    """A list of the host's, with its CMD_SYNC."""
    return Work(tlbi, atc, 0, 0, 1, tlbi + atc + 1, tail, leaf, late=late)


ONE_TLBI = host_list(1, 0)

Written = Callable[[Ticket, int], None]
Commands = tuple[tuple[int, int, bool, int], ...]
"""Commands in their order: so many TLBIs, then so many ATC_INVs, then TLBIs again; whether the TLBIs are leaf, and how
late the first ATC_INV is answered, ns."""


def commands(works: Sequence[Work | Batch]) -> Commands:
    """What lists have for the host."""
    return tuple([(work.tlbi, work.atc, work.leaf, work.late) for work in works if work.tlbi or work.atc])


def size(array: Commands) -> int:
    """Number of commands."""
    return sum([tlbi + atc for tlbi, atc, _, _ in array])


def place(tickets: Sequence[Ticket], number: int) -> tuple[Ticket, int]:
    """The list that holds a command, of all commands of these lists, and how many of its own stand before it."""
    for ticket in tickets:
        commands = ticket.work.tlbi + ticket.work.atc
        if number < commands:
            return ticket, number
        number -= commands
    raise AssertionError(number)


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

    >>> array = ((64, 0, True, 0), (0, 2, True, 0), (3, 0, False, 0))
    >>> [(work.tlbi, work.atc, work.tail) for work in cut(array, 63)]
    [(63, 0, 63), (4, 2, 3)]
    >>> [(work.tlbi, work.atc) for work in cut(array, 63, "tlbi-apart")]
    [(63, 0), (1, 0), (0, 2), (3, 0)]
    """
    apart = _APART[errata]
    made = []
    tlbi = atc = tail = late = 0
    leaf = True
    kind: object = None
    for more_tlbi, more_atc, more_leaf, answer in array:
        for is_tlbi, more in ((True, more_tlbi), (False, more_atc)):
            if not more:
                continue
            before, kind = kind, apart(is_tlbi, more_leaf)
            if kind != before and tlbi + atc:
                made.append(host_list(tlbi, atc, tail, leaf, late))
                tlbi = atc = tail = late = 0
            while more:
                some = min(more, group - tlbi - atc)
                more -= some
                if is_tlbi:
                    tlbi, tail, leaf = tlbi + some, tail + some, more_leaf
                else:
                    atc, tail = atc + some, 0
                    late, answer = late + answer, 0
                if tlbi + atc == group:
                    made.append(host_list(tlbi, atc, tail, leaf, late))
                    tlbi = atc = tail = late = 0
    if tlbi or atc or not made:
        made.append(host_list(tlbi, atc, tail, leaf, late))
    return tuple(made)


class Kernel:
    """The host's kernel, working for one guest: one thread at a time is in it.

    Attributes:
        read: time the consumer spent on reading the queue since the last `begin`, ns.
        handoff: time spent in ioctls, copies and rewrites since the last `begin`, ns.
        execute: time the SMMU needed for this guest's commands alone since the last `begin`, ns.
        reports: its caller is told of errors.
        gerror: errors of the guest's queue.
        halt: the list with an entry in error, and how many of its commands stand before that entry.
    """

    def __init__(
        self, host: HostQueue, approach: Approach, costs: Costs, counts: Counts, party: int, gerror: Gerror
    ) -> None:
        self.host = host
        self.counts = counts
        self.party = party
        self.group = min(approach.host_group or host.size - 1, host.size - 1)
        if host.errata == "force-sync":
            self.group = min(self.group, CMDQ_BATCH_ENTRIES - 1)
        self.enter, self.copy, self.convert = costs.ioctl, costs.copy, costs.conv
        self.read = self.handoff = self.execute = 0
        self.reports = approach.handoff != "marshalled" and approach.nested and not approach.executes_directly
        self.gerror = gerror
        self.halt: tuple[Ticket, int] | None = None

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

        Raises:
            TimedOut: a CMD_SYNC took too long, and the caller is told of errors.
        """
        issued = 0
        for work in works:
            number = work.entries - 1
            t = self.spend(t, number * convert)
            self.execute += self.host.engine.alone(work)
            try:
                seen = self.host.call(t, work, self.party, self.counts)
                t = seen if isinstance(seen, int) else (yield from seen)
            except TimedOut as late:
                if self.reports:
                    raise late.among(issued, number) from None
                t = late.t
            issued += number
        return t

    def array(self, t: int, array: Commands) -> Generator[Any, Any, int]:
        """One ioctl for an array of commands."""
        t = self.ioctl(t, size(array))
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
            for k in range(number):
                t = self.ioctl(t + decode, 1)
                try:
                    t = yield from self.issue(t, works, self.convert)
                except TimedOut as late:
                    raise late.among(k, 1) from None
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
        self.devices = 1
        self.per_tlbi, self.per_atc = [ONE_TLBI], [host_list(0, 1)]
        if approach.handoff == "marshalled" and ats_devices:
            # arm_smmu_cache_invalidate_user of the v1 patch: a TLBI falls through to arm_smmu_atc_inv_domain, which
            # sends an ATC_INV to every device of the domain; an ATC_INV is nothing else.
            self.devices = ats_devices
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
        kernel = self.kernel
        for ticket in tickets:
            work, done = ticket.work, 0
            try:
                for number, lists in self._runs(work):
                    if lists:
                        t = yield from kernel.one_by_one(t, number, self.decode, lists)
                        done += number
                        continue
                    t = self._reads(t, 1, 0)
                    if kernel.gerror.struck((ticket,)):
                        kernel.halt = ticket, done
                        return t
            except TimedOut as late:
                kernel.halt = ticket, done + late.first
                return late.t
            rest = work.entries - work.tlbi - work.atc - (work.bad >= 0)
            t = self._reads(t, rest, work.ste)
            written(ticket, t)
        return t

    def _runs(self, work: Work) -> Sequence[tuple[int, Sequence[Work]]]:
        """Its commands: so many, and the lists that the host issues for each of them; none for what is no command."""
        if work.bad < 0 and not work.late:
            return (work.tlbi, self.per_tlbi), (work.atc, self.per_atc)
        if work.late:
            first = [host_list(0, self.devices, late=work.late)]
            return (work.tlbi, self.per_tlbi), (1, first), (work.atc - 1, self.per_atc)
        tlbi = min(work.bad, work.tlbi)
        atc = work.bad - tlbi
        forwards = self.kernel.gerror.reaction == FORWARDS and not work.fixed
        return (
            (tlbi, self.per_tlbi),
            (atc, self.per_atc),
            (1, self.per_atc if forwards else ()),
            (work.tlbi - tlbi, self.per_tlbi),
            (work.atc - atc, self.per_atc),
        )

    def _array(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        kernel, gerror = self.kernel, self.kernel.gerror
        struck = gerror.struck(tickets)
        works = [ticket.work for ticket in tickets] if struck is None else gerror.ahead(tickets, struck)
        for work in works:
            t = self._reads(t, work.entries, work.ste)
        array = commands(works)
        try:
            if struck is not None and gerror.upstream:  # RFC v3 makes no ioctl when its loop ended at an error
                kernel.counts.lost += size(array)
            elif array:
                t = yield from kernel.array(t, array)
            if struck is not None:
                kernel.halt = struck, gerror.at(struck.work)
        except TimedOut as late:
            t = late.t  # RFC v3 puts CONS at the last command that counts as handled
            kernel.halt = struck, _ = place(tickets, max(0, late.last - 1) if gerror.upstream else late.first)
        for ticket in tickets:
            if ticket is struck:
                break
            written(ticket, t)
        return t

    def _array_at_sync(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        kernel, gerror = self.kernel, self.kernel.gerror
        first = 0  # of the lists of this publication, whose commands are held
        for k, ticket in enumerate(tickets):
            work, struck = ticket.work, gerror.struck((ticket,)) if gerror.active else None
            if struck is not None:
                (work,) = gerror.ahead((ticket,), ticket)
            t = self._reads(t, work.entries, work.ste)
            self.held += commands((work,))
            if (work.sync or struck is not None) and self.held:
                array, self.held = self.held, ()
                try:
                    t = yield from kernel.array(t, array)
                except TimedOut as late:
                    read = tickets[first : k + 1]
                    earlier = size(array) - size(commands([each.work for each in read]))
                    number = (late.last if gerror.upstream else late.first) - earlier
                    kernel.halt = place(read, number) if number >= 0 else (tickets[0], 0)
                    return late.t
            if struck is not None:
                kernel.halt = ticket, gerror.at(ticket.work)
                return t
            if work.sync:
                first = k + 1
            written(ticket, t)
        return t

    def _queue(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        """The kernel copies entry after entry from the guest's queue, then CONS back; what it may not run, it skips.

        Source: the v2 patch of May 2023 (17/17), arm_smmu_fix_user_cmd; costs as composed in NUMBERS section 5.1.
        """
        kernel, gerror = self.kernel, self.kernel.gerror
        struck = gerror.struck(tickets)
        works = [ticket.work for ticket in tickets] if struck is None else gerror.ahead(tickets, struck)
        array = commands(works)
        t = kernel.spend(kernel.ioctl(t, 0), sum([work.entries for work in works]) * self.per_entry)
        try:
            if struck is None or (array and not gerror.upstream):
                t = yield from kernel.issue(t, kernel.lists(array), 0)
            else:
                kernel.counts.lost += size(array)
        except TimedOut as late:
            t = late.t
            if gerror.upstream:  # CONS was at PROD by then
                kernel.counts.lost += size(array)
            else:
                kernel.halt = struck, _ = place(tickets, 0)
        else:
            if struck is not None:
                kernel.halt = struck, gerror.at(struck.work)
        for ticket in tickets:
            if ticket is struck:
                break
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
            if not request.bad:  # such a one is answered at once, by its status
                t = yield from self._serve(request, t)
            ticket.edges += ((WAKE, start), *kernel.edges(start, t))
            if ticket is not requests[-1]:  # whose end is that of the drain
                ticket.complete(t)
        return t

    def _serve(self, request: Request, t: int) -> Generator[Any, Any, int]:
        kernel = self.kernel
        if self.by_ioctl:
            t = kernel.ioctl(t, 0)
        if not request.batches:
            return kernel.spend(t, self.map + request.pages * self.pin)
        t = kernel.spend(t, self.unmap + request.pages * self.unpin)
        for batch in request.batches:
            t = yield from kernel.issue(t, kernel.lists(commands((batch,))), 0)
        return t
