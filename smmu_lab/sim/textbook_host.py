"""The textbook's host: its SMMUs, the CPUs of its worker threads, and how its kernel issues commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import simpy

from smmu_lab.scenario import Approach, Scenario
from smmu_lab.sim.textbook_driver import Command, Queue, Steps, Time
from smmu_lab.sim.textbook_faults import TimedOut
from smmu_lab.sim.textbook_smmu import Smmu
from smmu_lab.sim.textbook_thread import Cpus, Thread

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_virtio import Ring


class Host:
    """The physical machine: its SMMUs, its kernel, and the CPUs that kernel workers run on."""

    def __init__(self, env: simpy.Environment, scenario: Scenario, row: Approach) -> None:
        self.env, self.scenario, self.row, self.costs = env, scenario, row, scenario.costs
        self.strict = scenario.host.reporting == "strict"
        self.ops: list[tuple[int, int, int, Time, Time]] = []
        self.counts: Counter[str] = Counter()
        self.ran: Counter[tuple[tuple[int, ...], int, str]] = Counter()  # see `Outcome`
        self.measured = (scenario.guests - scenario.neighbour.guests) * scenario.vcpus  # vCPUs that are not through
        cpus, pinned = scenario.host.worker_cpus, scenario.host.placement == "pinned"
        self.cpus = [Cpus(env, 1) for _ in range(cpus)] if pinned else [Cpus(env, cpus)]
        self.threads: dict[tuple[int, ...], Thread] = {}
        self.smmus = [Smmu(self, number) for number in range(scenario.topology.smmus)]

    def illegal(self, command: Command) -> bool:
        """No SMMU knows its opcode."""
        return command.name == "BAD" and self.scenario.fault.kind == "illegal-command"

    def apart(self, commands: Sequence[Command]) -> Iterator[tuple[int, list[Command]]]:
        """The commands for each SMMU, in order; an SMMU without any is left out."""
        for smmu in range(len(self.smmus)):
            if mine := [command for command in commands if smmu in command.at]:
                yield smmu, mine

    def issue(
        self, smmu: int, commands: Sequence[Command], source: Queue | Ring, convert: bool = False, ignore: bool = False
    ) -> Steps:
        """Rewrite commands if that is still to be done, and issue them to an SMMU in lists that each get a CMD_SYNC.

        When the driver gives up, lists behind are not issued, unless the caller is to `ignore` it.
        """
        for part in self.cut(commands, source.row.host_group):
            if convert:
                yield from self.convert(part)
            self.counts["host_syncs"] += 1
            mine = [*map(self.copy, part), Command(self.env, "CMD_SYNC")]
            for command in mine:
                command.of = source.of
            done = yield from self.smmus[smmu].queue.issue(mine, [max(0, self.costs.hsubmit - self.costs.mmio_w)])
            if not (done or ignore):
                raise TimedOut(part, commands)

    def copy(self, command: Command) -> Command:
        """For the host's own queue. When a device is gone there, the host's own handler lets the CMD_SYNC run again."""
        mine = Command(self.env, command.name, leaf=command.leaf)
        mine.late = command.late
        if command.gone:
            mine.late += self.costs.lpi + 3 * self.costs.mmio_r + self.costs.mmio_w
            self.counts["lost"] += 1
        command.late, command.gone = 0, False  # if it is issued once more the device answers
        return mine

    def cut(self, commands: Sequence[Command], group: int) -> Iterator[list[Command]]:
        """A list is as long as the row's groups, the queue and errata let it be."""
        errata, room = self.scenario.smmu.errata, (1 << self.scenario.smmu.host_queue_log2) - 1
        most = min(group or room, room)
        if errata == "force-sync":
            most = min(most, 63)

        def kind(command: Command) -> object:
            return {"tlbi-apart": command.name, "leaf-apart": (command.name, command.leaf)}.get(errata)

        part: list[Command] = []
        for command in commands:
            if part and (len(part) == most or kind(part[-1]) != kind(command)):
                yield part
                part = []
            part.append(command)
        yield part

    def ioctl(self, commands: Sequence[Command] = ()) -> Steps:
        """Enter the kernel, and copy an array of commands: IOMMU_HWPT_INVALIDATE."""
        self.counts["ioctls"] += 1
        yield self.env.timeout(self.costs.ioctl)
        for _ in commands:
            yield self.env.timeout(self.costs.copy)

    def hand_over(self, queue: Queue, array: list[Command], ignore: bool = False) -> Steps:
        """To each SMMU what is for it: copied as an array, then rewritten and issued in groups."""
        for smmu, mine in self.apart(array):
            yield from self.ioctl(mine)
            yield from self.issue(smmu, mine, queue, convert=True, ignore=ignore)

    def fetch(self, commands: list[Command]) -> Steps:
        """Copy entries from the guest's memory one after another, and rewrite them."""
        for _ in commands:
            yield self.env.timeout(2 * self.costs.copy)
            yield self.env.timeout(self.costs.conv)

    def convert(self, commands: Sequence[Command]) -> Steps:
        """Rewrite commands for an SMMU."""
        for _ in commands:
            yield self.env.timeout(self.costs.conv)
