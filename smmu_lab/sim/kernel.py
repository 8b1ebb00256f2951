"""The host's kernel at work for a guest: how commands become lists of the host's, and are issued."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import Any

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.record import Counts
from smmu_lab.scenario import Approach, Batch, Costs
from smmu_lab.sim.driver import Work
from smmu_lab.sim.host import HostQueue, TimedOut
from smmu_lab.sim.queue import CONSUME, EXECUTE, HANDOFF, QUEUE, Edges, Ticket
from smmu_lab.sim.recovery import Gerror


def host_list(tlbi: int, atc: int, tail: int = 0, leaf: bool = True, late: int = 0) -> Work:
    """A list of the host's, with its CMD_SYNC."""
    return Work(tlbi, atc, 0, 0, 1, tlbi + atc + 1, tail, leaf, late=late)


ONE_TLBI = host_list(1, 0)

Calls = Sequence[tuple[int, Sequence[Work]]]
"""The ioctls for one command: the SMMU of each, among those that the vSMMU spans, and the lists that are issued."""

Commands = tuple[tuple[int, int, bool, int], ...]
"""Commands in their order: so many TLBIs, then so many ATC_INVs, then TLBIs again; whether the TLBIs are leaf, and how
late the first ATC_INV is answered, ns."""


def commands(works: Sequence[Work | Batch]) -> Commands:
    """What lists have for the host."""
    return tuple([(work.tlbi, work.atc, work.leaf, work.late) for work in works if work.tlbi or work.atc])


def commands_for(works: Sequence[Work], smmu: int) -> Commands:
    """What lists of a vSMMU that spans several SMMUs have for one of them: all TLBIs, and its own ATC_INVs.

    >>> commands_for([Work(2, 0, 0, 0, 0, 2), Work(0, 3, 0, 0, 1, 4, at=(1, 2))], 1)
    ((2, 0, True, 0), (0, 2, True, 0))
    """
    own = [(work.at[smmu] if work.at else 0 if smmu else work.atc) for work in works]
    return tuple(
        [(work.tlbi, atc, work.leaf, work.late) for work, atc in zip(works, own, strict=True) if work.tlbi or atc]
    )


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
    return tickets[0], 0  # there is no command left in them


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
                    late, answer = max(late, answer), 0
                if tlbi + atc == group:
                    made.append(host_list(tlbi, atc, tail, leaf, late))
                    tlbi = atc = tail = late = 0
    if tlbi or atc or not made:
        made.append(host_list(tlbi, atc, tail, leaf, late))
    return tuple(made)


class Kernel:
    """The host's kernel, working for one queue of a guest: one thread at a time is in it.

    Attributes:
        hosts: the host's queue of each SMMU that the queue's vSMMU spans.
        issued: TLBIs, ATC_INVs and CMD_SYNCs issued on each.
        alone: nobody else is in any of them.
        read: time the consumer spent on reading the queue since the last `begin`, ns.
        handoff: time spent in ioctls, copies and rewrites since the last `begin`, ns.
        execute: time the SMMU needed for this guest's commands alone since the last `begin`, ns.
        reports: its caller is told of errors.
        gerror: errors of the guest's queue.
        halt: the list with an entry in error, and how many of its commands stand before that entry.
    """

    def __init__(
        self, hosts: Sequence[HostQueue], approach: Approach, costs: Costs, counts: Counts, party: int, gerror: Gerror
    ) -> None:
        self.hosts = hosts
        self.number = {host.number: k for k, host in enumerate(hosts)}
        self.issued = [[0, 0, 0] for _ in hosts]
        self.alone = all(host.sole and host.clock.trail is None for host in hosts)
        self.counts = counts
        self.party = party
        self.errata = hosts[0].errata if hosts else "none"
        most = [host.size - 1 for host in hosts] + [CMDQ_BATCH_ENTRIES - 1] * (self.errata == "force-sync")
        self.group = min([*most, approach.host_group or 1 << 19])
        self.enter, self.copy, self.convert = costs.ioctl, costs.copy, costs.conv
        self.read = self.handoff = self.execute = 0
        self.reports = approach.handoff != "marshalled" and approach.nested and not approach.executes_directly
        self.gerror = gerror
        self.halt: tuple[Ticket, int] | None = None
        clock = gerror.clock
        self.note = clock.note if clock.trail is not None else None

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
        if self.note is not None:
            self.note("kernel", divmod(self.party, 1 << 16), t, t + handoff)
        return t + handoff

    def ioctl(self, t: int, entries: int) -> int:
        """Enter the kernel and copy an array of entries: IOMMU_HWPT_INVALIDATE."""
        self.counts.ioctls += 1
        return self.spend(t, self.enter + entries * self.copy)

    def issue(self, t: int, works: Sequence[Work], convert: int, smmu: int = 0) -> Generator[Any, Any, int]:
        """Rewrite commands, at `convert` ns each, and issue their lists, each with a CMD_SYNC that is waited for.

        `smmu`: number of the SMMU among those that the vSMMU spans.

        Source: arm_vsmmu_cache_invalidate, Linux 7.2 arm-smmu-v3-iommufd.c.

        Raises:
            TimedOut: a CMD_SYNC took too long, and the caller is told of errors.
        """
        issued = 0
        host, tally = self.hosts[smmu], self.issued[smmu]
        for work in works:
            number = work.entries - 1
            t = self.spend(t, number * convert)
            self.execute += host.engine.alone(work)
            tally[0] += work.tlbi
            tally[1] += work.atc
            tally[2] += 1
            try:
                seen = host.call(t, work, self.party, self.counts)
                t = seen if isinstance(seen, int) else (yield from seen)
            except TimedOut as late:
                if self.reports:
                    raise late.among(issued, number) from None
                t = late.t
            issued += number
        return t

    def array(self, t: int, array: Commands, smmu: int = 0) -> Generator[Any, Any, int]:
        """One ioctl for an array of commands."""
        t = self.ioctl(t, size(array))
        return self.issue(t, self.lists(array), self.convert, smmu)

    def spread(self, works: Sequence[Work]) -> Sequence[tuple[int, Commands]]:
        """Each SMMU that gets something of these lists, and what."""
        if len(self.hosts) == 1:
            array = commands(works)
            return ((0, array),) if array else ()
        return [(k, array) for k in range(len(self.hosts)) if (array := commands_for(works, k))]

    def lists(self, array: Commands) -> Sequence[Work]:
        """The host's lists for an array of commands."""
        return cut(array, self.group, self.errata)

    def one_by_one(self, t: int, number: int, decode: int, calls: Calls) -> Generator[Any, Any, int]:
        """For each of `number` commands: the VMM decodes it, and an ioctl for each SMMU issues the lists there.

        Each waits for the one before. So where nobody else can come between, all take the same time.
        """
        if not number:
            return t
        self.read += number * decode
        if not self.alone:
            for k in range(number):
                t += decode
                for smmu, works in calls:
                    t = self.ioctl(t, 1)
                    try:
                        t = yield from self.issue(t, works, self.convert, smmu)
                    except TimedOut as late:
                        raise late.among(k, 1) from None
            return t
        t += number * decode
        for smmu, works in calls:
            host, tally = self.hosts[smmu], self.issued[smmu]
            converted = sum([work.entries - 1 for work in works])
            tally[0] += number * sum([work.tlbi for work in works])
            tally[1] += number * sum([work.atc for work in works])
            tally[2] += number * len(works)
            self.counts.ioctls += number
            self.counts.host_syncs += number * len(works)
            self.counts.host_commands += number * (converted + len(works))
            self.execute += number * sum(map(host.engine.alone, works))
            t = self.spend(t, number * (self.enter + self.copy + converted * self.convert))
            t += number * sum(map(host.alone, works))
        return t
