"""When a queue comes to an entry in error: it stands, the guest is told, its driver replaces the entry, and it goes on.

Source: arm_smmu_gerror_handler and __arm_smmu_cmdq_skip_err, Linux 7.2 arm-smmu-v3.c; Arm IHI 0070 section 7.1. This
module has work only where a scenario has a fault.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from smmu_lab.arch import CError
from smmu_lab.record import Counts, Table
from smmu_lab.scenario import Approach, Batch, Scenario
from smmu_lab.sim.clock import NOTIFY, PUBLISH, Clock
from smmu_lab.sim.driver import Work
from smmu_lab.sim.queue import HANDOFF, RECOVER, CommandQueue, Edges, Group, Ticket

if TYPE_CHECKING:
    from smmu_lab.sim.consumer import Lock
    from smmu_lab.sim.thread import Drain

STOPS, PASSES, FORWARDS, FIXES, ASKS = "stops", "passes", "forwards", "fixes", "asks"
"""What a consumer does at an entry that nobody can run: the queue stops there with CERROR_ILL; it passes over it; it
takes it for an ATC_INV like any other; it has the VMM deal with it; it asks the VMM, which stops the queue."""

_REACTIONS = {
    ("marshalled", "unknown-sid"): FORWARDS,  # the v1 patch looks no StreamID up
    ("per-command", "unknown-sid"): PASSES,  # QEMU: no vdevice, no ioctl
    ("array", "unknown-sid"): PASSES,
    ("array-at-sync", "unknown-sid"): PASSES,
    ("queue", "illegal-command"): PASSES,  # the v2 patch: -EOPNOTSUPP, and on
    ("skip", "illegal-command"): PASSES,
    ("stop-and-fix", "unknown-sid"): FIXES,
    ("stop-and-fix", "illegal-command"): ASKS,
}
"""By hand-off of the VMM, or by what a consumer in the kernel does with what it may not run; else the queue stops.

Source: PATHS sections 2.1 to 2.4; for kernel workers, which nobody has written yet, a choice (docs/model.md).
"""


def reaction(row: Approach, kind: str) -> str:
    """What the consumer of a row does at an entry in error.

    >>> from smmu_lab.scenario import approach
    >>> [reaction(approach("native-queue"), kind) for kind in ("illegal-command", "unknown-sid")]
    ['passes', 'stops']
    """
    if row.executes_directly:
        return STOPS
    return _REACTIONS.get((row.handoff if row.consumer == "vmm" else row.unsupported, kind), STOPS)


class Gerror:
    """The errors of one queue: what stands behind them, and the handler of the guest's driver.

    Attributes:
        active: something may go wrong.
        reaction: what the consumer does at an entry that nobody can run.
        upstream: the kernel reports as upstream does.
        standing: the lists behind the error, the one in error first; None while the queue runs.

    Args:
        irqs: held while interrupts are off on the vCPU that gets the interrupt.
        stops: the record.
    """

    queue: CommandQueue

    def __init__(
        self,
        clock: Clock,
        scenario: Scenario,
        row: Approach,
        counts: Counts,
        irqs: Lock,
        stops: Table,
        active: bool,
    ) -> None:
        costs = scenario.costs
        self.clock, self.row, self.counts, self.irqs, self.stops = clock, row, counts, irqs, stops
        self.kind = scenario.fault.kind
        self.reaction = reaction(row, self.kind)
        self.active = active
        self.upstream = scenario.host.reporting == "upstream"
        self.standing: list[Ticket] | None = None
        self.fix = costs.fix
        self.traps = not row.executes_directly
        self.read = costs.exit_user if self.traps else costs.mmio_r
        self.replace = costs.g_cmd
        signalled = costs.sig + costs.wake + costs.lpi
        self.notice = (
            costs.lpi
            if row.consumer == "vmm" or row.on_metal
            else signalled + (costs.lpi if row.executes_directly else 0)
        )
        self.handler = costs.lpi + 3 * costs.mmio_r + costs.mmio_w
        self.by_vmm = costs.lpi  # the VMM has dealt with the entry: it need not be signalled

    def told_late(self, batch: Batch) -> Batch:
        """A batch to a device that does not answer: a host that runs it has an error of its own to handle.

        Its CMD_SYNC fails, its handler has it repeated, and nobody else is told.
        """
        return batch._replace(late=batch.late + self.handler) if batch.gone and self.traps else batch

    # -- at the consumer ---------------------------------------------------------------------------------------------

    def holds(self, group: Group) -> bool:
        """The queue stands; then these lists wait, too. The write of GERRORN lets all that wait go on."""
        if self.standing is None:
            return False
        if group.resumes:
            group.tickets, self.standing = self.standing, None
            return False
        self.standing += group.tickets
        return True

    def struck(self, tickets: Sequence[Ticket]) -> Ticket | None:
        """The first list with an entry at which its consumer does more than to go on."""
        if not self.active:
            return None
        for ticket in tickets:
            work = ticket.work
            if (work.bad >= 0 and not work.fixed and self.reaction != PASSES) or self._refuses(work):
                return ticket
        return None

    def _refuses(self, work: Work) -> int:
        return self.row.unsupported == "error" and work.ste + work.other

    def at(self, work: Work) -> int:
        """How many TLBIs and ATC_INVs of a list stand before its entry in error."""
        return work.bad if work.bad >= 0 and not work.fixed else work.tlbi + work.atc

    def ahead(self, tickets: Sequence[Ticket], struck: Ticket) -> list[Work]:
        """What stands before the entry in error, and that entry."""
        work = struck.work
        return [each.work for each in tickets[: tickets.index(struck)]] + [work.before(self.at(work))]

    def halt(self, drain: Drain, struck: Ticket, done: int, asked: bool = False, cerror: CError = CError.ILL) -> None:
        """A drain ends at the entry behind the first `done` TLBIs and ATC_INVs of a list: what is behind it waits.

        Args:
            drain: what was taken up.
            struck: the list with the entry in error.
            done: number of its commands that stand before.
            asked: the VMM was asked about it.
            cerror: CERROR_ILL, and the driver will replace the entry; or CERROR_ATC_INV_SYNC, and it will not.
        """
        groups, tickets = drain.groups, [ticket for group in drain.groups for ticket in group.tickets]
        at = tickets.index(struck)
        self.standing = tickets[at:]
        drain.groups = [regroup(tickets[:at], groups[0])] if at else []
        entries = struck.work.entries
        struck.work = struck.work.behind(done, replaced=cerror == CError.ILL)
        entries -= struck.work.entries
        for ticket in self.standing:  # what has been late is not late again
            if ticket.work.late:
                ticket.work = ticket.work._replace(late=0)
        group = next(group for group in groups if struck in group.tickets)

        def stop(end: int) -> None:
            struck.edges += drain.edges
            if entries:
                self.queue.consumed(end, entries)
                self.queue.log(group.published, drain.start, end, entries, 0, group.tickets[-1].end)
            self.stop(end, cerror, self.by_vmm if asked else self.notice)

        drain.halt = stop

    # -- at the guest ------------------------------------------------------------------------------------------------

    def stop(self, t: int, cerror: CError, notice: int) -> None:
        """The queue has come to a stand; the guest is told `notice` later."""
        self.counts.errors += 1
        self.clock.env.process(self._handle(t, t + notice, cerror))

    def _handle(self, stopped: int, told: int, cerror: CError) -> Generator[Any, Any, None]:
        """The driver's handler: read GERROR, GERRORN and CONS, replace the entry, write GERRORN."""
        clock, queue, counts = self.clock, self.queue, self.counts
        cons = queue.register(queue.cons)
        party = (queue.name[0] << 16) + queue.name[1]
        yield clock.turn(told, NOTIFY, party, "gerror")
        handled = yield from self.irqs.hold(told)
        t = handled + 3 * self.read + self.replace
        counts.cpu_guest += t - handled
        if self.traps:
            counts.exits_vmm += 3
            counts.cpu_guest -= 3 * self.read
            counts.cpu_host += 3 * self.read
        yield clock.turn(t, PUBLISH, party, "gerror")
        end, away = yield from self.resume(t, ((RECOVER, t),))
        counts.cpu_guest += end - t - away
        counts.cpu_host += away
        self.irqs.release(end)
        self.stops.append((*queue.name, cerror, cons, stopped, told, handled, t))

    def ask(self, t: int) -> None:
        """A VCMDQ stands at an entry in error; the hypervisor drops it, or finds that it is the guest's error."""
        self.counts.fixes += 1
        self.counts.cpu_host += self.fix
        if self.kind == "unknown-sid":
            self.clock.env.process(self._drop(t))
        else:
            self.stop(t, CError.ILL, self.fix + self.by_vmm)

    def _drop(self, t: int) -> Generator[Any, Any, None]:
        queue = self.queue
        yield self.clock.turn(t + self.fix, NOTIFY, (queue.name[0] << 16) + queue.name[1], "fix")
        yield from self.resume(t + self.fix, ((HANDOFF, t + self.fix),))

    def resume(self, t: int, edges: Edges) -> Generator[Any, Any, tuple[int, int]]:
        """GERRORN is written, and everything that waits is one publication.

        Returns:
            When the write is over, and how long its vCPU was out of the guest.
        """
        assert self.standing
        for ticket in self.standing:
            ticket.edges += edges
        group = Group(Ticket(None, 0, t, 0))
        owner, group.tickets, group.published, group.resumes = group.owner, self.standing.copy(), t, True
        end = self.queue.ring(group, t)
        if not isinstance(end, int):
            end = yield from end
        return end, owner.away - owner.blocked


def regroup(tickets: list[Ticket], like: Group) -> Group:
    """Some of the lists of a publication, as if it were theirs alone."""
    group = Group(tickets[0])
    group.tickets, group.published, group.captured = tickets, like.published, like.captured
    return group
