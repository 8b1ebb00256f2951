"""What goes wrong in the textbook: where a queue stops, how the guest is told, and what its driver does about it.

Source: arm_smmu_gerror_handler and __arm_smmu_cmdq_skip_err of Linux 7.2 arm-smmu-v3.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from smmu_lab.scenario import Approach, Costs

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_driver import Command, Queue, Steps, Time
    from smmu_lab.sim.textbook_guest import Guest


class Stop(Exception):
    """Who consumes cannot go on at a command; `fixed`: the VMM has been at it already."""

    def __init__(self, command: Command, fixed: bool = False) -> None:
        self.command, self.fixed = command, fixed


class TimedOut(Exception):
    """-ETIMEDOUT: the host's driver has waited for a second for this list, of these commands that were to be issued."""

    def __init__(self, commands: Sequence[Command], of: Sequence[Command]) -> None:
        self.commands, self.of = commands, of


def bad_entry(commands: Iterable[Command]) -> Command | None:
    """The entry among them that nobody can run, if it is there, and was not replaced yet."""
    return next((command for command in commands if command.name == "BAD"), None)


def entry_in_error(error: Stop | TimedOut, published: list[Command], row: Approach, strict: bool) -> Command:
    """Where CONS stops, as far as the consumer knows from what the kernel reports."""
    if isinstance(error, Stop):
        return error.command
    entry = [*error.commands, *published][0]
    if row.handoff == "queue":
        entry = [*error.of, *published][0]
    elif row.handoff == "array-at-sync" and not strict:
        entry = error.commands[-1]
    elif row.handoff == "array" and not strict:  # entry_num is one less than what it has come to
        entry = error.of[max(0, error.of.index(error.commands[-1]) - 1)]
    return entry if entry in published else published[0]  # held from before, CONS is behind it already


def notice(row: Approach, costs: Costs, fixed: bool) -> Time:
    """How long it takes until the guest has the interrupt: what the host's kernel finds, the VMM must be told first."""
    if fixed or row.consumer == "vmm" or row.on_metal:
        return costs.lpi
    return (costs.lpi if row.executes_directly else 0) + costs.sig + costs.wake + costs.lpi


def handle(guest: Guest, queue: Queue, entry: Command, fixed: bool, late: bool) -> Steps:
    """The driver's handler: look what it is, replace what cannot run, and write GERRORN, at which the queue goes on.

    Args:
        guest: whose queue it is; on bare metal all errors are handled on the first CPU.
        queue: it stands still.
        entry: the one in error.
        fixed: the hypervisor has been at it already.
        late: the error is CERROR_ATC_INV_SYNC, and not CERROR_ILL: nothing is replaced, and the entry runs again.
    """
    env, costs = guest.env, guest.costs
    yield env.timeout(notice(queue.row, costs, fixed))
    with guest.handler.request() as cpu:
        yield cpu
        for _ in ("GERROR", "GERRORN", "CONS"):
            if not queue.row.executes_directly:
                guest.host.counts["exits_vmm"] += 1
            yield env.timeout(costs.mmio_r if queue.row.executes_directly else costs.exit_user)
        yield env.timeout(costs.g_cmd)
        if not late:
            entry.name = "NOP"
        yield from queue.publish(queue, [])
