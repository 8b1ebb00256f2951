"""How the VMM hands a guest's commands to the kernel: one by one, in arrays, or the queue itself; and requests."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario import Approach, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import TimedOut
from smmu_lab.sim.kernel import ONE_TLBI, Calls, Kernel, commands, commands_for, host_list, place, size
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

    def __init__(self, kernel: Kernel, approach: Approach, costs: Costs) -> None:
        self.kernel = kernel
        self.decode = costs.vmm_cmd
        self.attach = costs.vmm_ste
        self.per_entry = costs.conv + 2 * costs.copy
        self.held: list[Work] = []  # array-at-sync: commands read whose CMD_SYNC has not come yet
        self.fans_out = approach.handoff == "marshalled"
        self.known: dict[Work, Sequence[tuple[int, Calls]]] = {}
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
                if work not in self.known:
                    self.known[work] = self._runs(work)
                for number, calls in self.known[work]:
                    if calls:
                        t = yield from kernel.one_by_one(t, number, self.decode, calls)
                        done += number
                        continue
                    t = self._reads(t, number, 0)
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

    def _runs(self, work: Work) -> Sequence[tuple[int, Calls]]:
        """Its commands: so many, and the ioctls for each of them; none for what the VMM keeps to itself."""
        if not self.kernel.hosts:
            return ((work.tlbi + work.atc, ()),)
        late, gerror = work.late, self.kernel.gerror
        everywhere = late if self.fans_out and gerror.kind == "none" else 0
        per_tlbi, per_atc = self._calls(work.fan, everywhere)
        if work.bad >= 0:
            tlbi = min(work.bad, work.tlbi)
            atc = work.bad - tlbi
            forwards = gerror.reaction == FORWARDS and not work.fixed
            return (
                (tlbi, per_tlbi),
                (atc, per_atc[0]),
                (1, per_atc[0] if forwards else ()),
                (work.tlbi - tlbi, per_tlbi),
                (work.atc - atc, per_atc[0]),
            )
        runs: list[tuple[int, Calls]] = [(work.tlbi, per_tlbi)]
        for each, number in zip(per_atc, work.at or (work.atc,), strict=False):
            if late and number and not everywhere:
                ((smmu, (first,)),) = each
                runs.append((1, ((smmu, (first._replace(late=late),)),)))
                number -= 1
            runs.append((number, each))
        return runs

    def _calls(self, fan: tuple[int, ...], late: int) -> tuple[Calls, Sequence[Calls]]:
        """The ioctls for a TLBI, and for an ATC_INV to a device behind each SMMU.

        arm_smmu_cache_invalidate_user of the v1 patch: a TLBI falls through to arm_smmu_atc_inv_domain, which sends an
        ATC_INV to every device of the domain; an ATC_INV is nothing else.

        Args:
            fan: devices with ATS of the domain behind each SMMU.
            late: how late one of them answers.
        """
        smmus = range(len(self.kernel.hosts))
        if not (self.fans_out and fan):
            return [(smmu, [ONE_TLBI]) for smmu in smmus], [[(smmu, [host_list(0, 1)])] for smmu in smmus]
        devices = [(smmu, host_list(0, number, late=late)) for smmu, number in enumerate(fan)]
        per_tlbi = [(smmu, [ONE_TLBI, each] if each.atc else [ONE_TLBI]) for smmu, each in devices]
        return per_tlbi, [[(smmu, [each]) for smmu, each in devices if each.atc]] * len(smmus)

    def _array(self, tickets: Sequence[Ticket], t: int, written: Written) -> Generator[Any, Any, int]:
        kernel, gerror = self.kernel, self.kernel.gerror
        struck = gerror.struck(tickets)
        works = [ticket.work for ticket in tickets] if struck is None else gerror.ahead(tickets, struck)
        for work in works:
            t = self._reads(t, work.entries, work.ste)
        try:
            if struck is not None and gerror.upstream:  # RFC v3 makes no ioctl when its loop ended at an error
                kernel.counts.lost += size(commands(works))
            else:
                for smmu, array in kernel.spread(works):
                    t = yield from kernel.array(t, array, smmu)
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
            self.held.append(work)
            if work.sync or struck is not None:
                held, self.held = self.held, []
                try:
                    for smmu, array in kernel.spread(held):
                        t = yield from kernel.array(t, array, smmu)
                except TimedOut as late:
                    read = tickets[first : k + 1]
                    earlier = size(commands(held)) - size(commands([each.work for each in read]))
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
        entries = sum([work.entries for work in works])
        try:
            for smmu in range(len(kernel.hosts)):
                array = commands_for(works, smmu)
                t = kernel.spend(kernel.ioctl(t, 0), entries * self.per_entry)
                if struck is None or (array and not gerror.upstream):
                    t = yield from kernel.issue(t, kernel.lists(array), 0, smmu)
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
        if not request.forwarded:
            return t
        if self.by_ioctl:
            t = kernel.ioctl(t, 0)
        if not request.batches:
            return kernel.spend(t, self.map + request.pages * self.pin)
        t = kernel.spend(t, self.unmap + request.pages * self.unpin)
        for batch in request.batches:
            smmu = kernel.number[batch.instance]
            t = yield from kernel.issue(t, kernel.lists(commands((batch,))), 0, smmu)
        return t
