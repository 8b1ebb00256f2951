"""How the VMM hands a guest's commands to the kernel: one by one, in arrays, or the queue itself; and requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import TimedOut
from smmu_lab.sim.kernel import ONE_TLBI, Commands, Kernel, commands, host_list, place, size
from smmu_lab.sim.queue import WAKE, Ticket
from smmu_lab.sim.recovery import FORWARDS

if TYPE_CHECKING:
    from smmu_lab.sim.virtio import Request

Written = Callable[[Ticket, int], None]


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
            if not gerror.upstream:  # or CONS was at PROD by then
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
