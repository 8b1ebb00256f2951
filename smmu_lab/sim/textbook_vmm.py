"""The textbook's VMM: the exits that reach it, and how it reads a queue and hands commands over to the kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import simpy

from smmu_lab.scenario import Approach
from smmu_lab.sim.textbook_driver import Command, Queue, Steps, without_sync
from smmu_lab.sim.textbook_faults import Stop, TimedOut, bad_entry
from smmu_lab.sim.textbook_host import Host


class Vmm:
    """A guest's VMM: in the exit of a vCPU, under its one big lock, whichever vSMMU it is about."""

    def __init__(self, host: Host) -> None:
        self.host, self.env, self.costs = host, host.env, host.costs
        self.big_lock = simpy.Resource(self.env)

    def exit(self, work: Iterable[simpy.Event] = ()) -> Steps:
        """Exit, and do some work under the big lock."""
        self.host.counts["exits_vmm"] += 1
        yield self.env.timeout(self.costs.exit_user - self.costs.vmm_lock)
        with self.big_lock.request() as lock:
            yield lock
            yield self.env.timeout(self.costs.vmm_lock)
            yield from work

    def handoff(self, row: Approach) -> Callable[[Queue, list[Command]], Steps]:
        """How it reads what a doorbell published, and hands it over."""
        how: Callable[[Queue, list[Command]], Steps] = getattr(self, row.handoff.replace("-", "_"))
        return how

    def decode(self, command: Command) -> Steps:
        """Read an entry, and look what it is; at an illegal one it stops."""
        yield self.env.timeout(self.costs.vmm_cmd)
        if self.host.illegal(command):
            raise Stop(command)

    def per_command(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for each command, and for each SMMU that it is for."""
        for command in commands:
            yield from self.decode(command)
            yield from self.host.hand_over(queue, without_sync([command]))
            queue.write_words([command])

    def marshalled(self, queue: Queue, commands: list[Command]) -> Steps:
        """As above, and in the ioctl an ATC_INV for every device; an ATC_INV is nothing else."""
        for command in commands:
            yield from self.decode(command)
            for smmu, devices in self.fan_out(queue, command):
                yield from self.host.ioctl([command])
                for each in [[command], devices] if command.name == "TLBI" else [devices]:
                    if each:
                        yield from self.host.issue(smmu, each, queue, convert=True, ignore=True)
            queue.write_words([command])

    def fan_out(self, queue: Queue, command: Command) -> Iterator[tuple[int, list[Command]]]:
        """The SMMUs that a command is for, each with ATC_INVs for the domain's devices there."""
        if command.name in ("CMD_SYNC", "NOP"):
            return
        alone = dict.fromkeys(command.at, int(command.name != "TLBI"))  # where the domain has no such devices
        for smmu, number in (dict(zip(queue.smmus, command.fan, strict=False)) or alone).items():
            devices = [Command(self.env, "ATC_INV") for _ in range(number)]
            for first in devices[:1]:
                first.late, first.gone = command.late or command.stall, command.gone
            if devices or command.name == "TLBI":
                yield smmu, devices

    def array(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for all commands that a doorbell published; an unknown StreamID is left out.

        At an illegal one the VMM forgets what it has gathered (QEMU RFC v3), unless it is strict.
        """
        array: list[Command] = []
        try:
            for command in commands:
                yield from self.decode(command)
                array += without_sync([command])
        except Stop:
            if self.host.strict:
                yield from self.host.hand_over(queue, array)
            else:
                self.host.counts["lost"] += len(array)
            raise
        yield from self.host.hand_over(queue, array)

    def array_at_sync(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for all commands up to a CMD_SYNC; an unknown StreamID is left out."""
        for command in commands:
            try:
                yield from self.decode(command)
            except Stop:
                yield from self.host.hand_over(queue, queue.let_go())
                raise
            if command.name == "CMD_SYNC":
                yield from self.host.hand_over(queue, queue.let_go())
                queue.write_words([command])
            queue.held += without_sync([command])

    def queue(self, queue: Queue, commands: list[Command]) -> Steps:
        """One ioctl for the guest's own queue; the kernel reads it, and skips CMD_SYNCs and what it does not know.

        Each SMMU has its own ioctl, and the kernel reads all entries for each. An unknown StreamID makes it fail; what
        was read before is issued only if the kernel is strict, which also is the only one to report that it has timed
        out (v2 patch of May 2023, 17/17: CONS is written back all the same).
        """
        bad = bad_entry(commands)
        if bad and self.host.illegal(bad):
            bad = None
        read = commands[: commands.index(bad) + 1] if bad else commands
        for smmu in queue.smmus:
            yield from self.host.ioctl()
            yield from self.host.fetch(read)
            invalidations = [command for command in without_sync(read) if smmu in command.at]
            if bad and not self.host.strict:
                self.host.counts["lost"] += len(invalidations)
            elif invalidations or not bad:
                try:
                    yield from self.host.issue(smmu, invalidations, queue)
                except TimedOut:
                    if self.host.strict:
                        raise
        if bad:
            raise Stop(bad)
