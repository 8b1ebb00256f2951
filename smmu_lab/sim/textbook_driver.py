"""The textbook's commands, and the driver that inserts them in a queue.

Guests and the host run the same driver on their queues: arm_smmu_cmdq_issue_cmdlist of Linux 7.2 arm-smmu-v3.c.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import nullcontext
from itertools import count
from typing import TYPE_CHECKING, Any

import simpy

from smmu_lab.scenario import Approach, Batch
from smmu_lab.sim.driver import POLL_DELAY, POLL_SPIN, SYNC_TIMEOUT

if TYPE_CHECKING:
    from smmu_lab.sim.textbook_host import Host
    from smmu_lab.sim.textbook_smmu import Engine, Smmu
    from smmu_lab.sim.textbook_thread import Feed

Time = float  # so simpy types its clock; here it holds whole nanoseconds
Steps = Generator[simpy.Event, Any, Any]


class Command:
    """A command; a list is just the commands between two issue calls of a CPU.

    Args:
        env: the simulation.
        name: TLBI (and CFGI_CD, which costs the same), ATC_INV or CMD_SYNC; BAD, an entry that nobody can run, and what
            a driver replaces it by: NOP, a CMD_SYNC that nobody waits for.
        at: numbers of the physical SMMUs that it is for, ascending.
        leaf: a TLBI for the last level only.
        refused: a VCMDQ does not take it.
        fan: how many devices with ATS its domain has behind each SMMU that its vSMMU spans; empty is none.
        stall: how late one of them answers every ATC_INV.
    """

    queue: Queue
    end: int  # PROD after it
    of: tuple[int, ...]  # guest and number of the queue, or ring, that it is run for
    closes = False  # the last of its list
    done_at: Time  # of a CMD_SYNC: when CONS covered it, or its word was written

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        at: tuple[int, ...] = (),
        leaf: bool = True,
        refused: bool = False,
        fan: tuple[int, ...] = (),
        stall: int = 0,
    ) -> None:
        self.env, self.name, self.at, self.leaf, self.refused = env, name, at, leaf, refused
        self.fan, self.stall = fan, stall
        self.late = 0  # how much later than usual a device answers it, and what is behind it up to the next CMD_SYNC
        self.gone = False  # no device ever answers it; `late` is how long the SMMU waits
        self.written = env.event()  # of the last of a list: all of them are in the queue
        self.done = env.event()  # it was executed and CONS moved, or its word was written

    def finish(self) -> None:
        """Tell who waits for it."""
        self.done_at = self.env.now
        self.done.succeed()


def written_out(env: simpy.Environment, batch: Batch, smmus: tuple[int, ...], stall: int) -> list[Command]:
    """The commands of a batch, all that it says without the CMD_SYNC.

    Args:
        env: the simulation.
        batch: what it says; it is the first ATC_INV behind each SMMU that a late device answers late.
        smmus: the physical SMMUs that its vSMMU spans.
        stall: how late a device of its domain answers every ATC_INV.
    """

    def command(name: str, at: tuple[int, ...]) -> Command:
        return Command(env, name, at, batch.leaf, not batch.vcmdq, batch.fan, stall if batch.fan else 0)

    commands = [command("TLBI", smmus) for _ in range(batch.tlbi)]
    for smmu, number in zip(smmus, batch.at or (batch.atc,), strict=False):
        behind = [command("ATC_INV", (smmu,)) for _ in range(number)]
        for first in behind[:1]:
            first.late, first.gone = batch.late, batch.gone
        commands += behind
    return commands


def without_sync(commands: list[Command]) -> list[Command]:
    """Who hands commands on adds a CMD_SYNC of its own, and passes over what it does not know."""
    return [command for command in commands if command.name in ("TLBI", "ATC_INV")]


class Queue:
    """A command queue, and the driver that inserts in it.

    Args:
        smmus: numbers of the physical SMMUs that its commands may be for, ascending.
        publish: writes PROD, when the commands of a group are in the queue; without any it is the write of GERRORN.
        read_cons: reads CONS; returns its value.
        complete: waits until a CMD_SYNC is seen to be done; returns the CONS that was seen.
    """

    smmu: Smmu  # of a hardware queue: it executes what is published
    engine: Engine
    arrived: simpy.Store  # what the engine has not taken yet
    fetched: simpy.Store | None = None  # of one that may stop: what was published, and waits for what is before it
    resumed: simpy.Event  # of that one: the driver has written GERRORN
    stop: Callable[[Command, bool, bool], None]  # at a command; see `Instance.stop`
    feed: Feed  # of a queue that a kernel worker serves
    of: tuple[int, ...] = ()  # the guest, and the queue's number there; the host's own is nobody's
    last: simpy.Event  # of the SMMU: the list before
    answered: simpy.Event  # of the SMMU: the last ATC_INV

    def __init__(
        self,
        host: Host,
        row: Approach,
        smmus: tuple[int, ...],
        log2size: int,
        publish: Callable[[Queue, list[Command]], Steps],
        read_cons: Callable[[Queue], Steps],
        complete: Callable[[Queue, Command], Steps],
    ) -> None:
        self.host, self.row, self.smmus, self.env, self.size = host, row, smmus, host.env, 1 << log2size
        self.publish, self.read_cons, self.complete = publish, read_cons, complete
        self.prod = self.cons = 0  # they count entries for ever
        self.shadow = 0  # CONS as the driver last saw it
        self.holders = 0  # CPUs that wait for a CMD_SYNC share the queue's lock
        self.gathered: list[list[Command]] = []  # lists behind an owner
        self.publishing = simpy.Resource(self.env)  # owner_prod: owners write PROD in turn
        self.held: list[Command] = []  # array-at-sync: read by the VMM, not handed over yet
        self.last = self.answered = self.env.timeout(0)
        self.late = 0  # of the SMMU: how late answers are at present
        self.waiting: list[Command] | None = None  # read by software: it stands still at the first of these
        self.calls = simpy.Resource(self.env)  # kernel-call: the handler's write, and others'

    def issue(self, mine: list[Command], writing: list[int], interrupts: simpy.Resource | None = None) -> Steps:
        """With interrupts off but while it waits for room; returns whether it saw the end of its CMD_SYNC, if any."""
        while True:
            with interrupts.request() if interrupts else nullcontext() as off:
                if off:
                    yield off
                if self.size - (self.prod - self.shadow) >= len(mine):
                    return (yield from self.insert(mine, writing))
            yield from self.wait_not_full()

    def insert(self, mine: list[Command], writing: list[int]) -> Steps:
        """Allocate, write, publish or ride along, and wait for the CMD_SYNC if there is one."""
        for command in mine:
            self.prod += 1
            command.queue, command.end = self, self.prod
            command.of = self.of or command.of
        last = mine[-1]
        last.closes, sync = True, last.name == "CMD_SYNC"
        self.holders += sync
        self.gathered.append(mine)
        owner = self.gathered[0] is mine
        for step in writing:
            yield self.env.timeout(step)
        last.written.succeed()
        if owner:
            with self.publishing.request() as my_turn:
                yield my_turn
                group, self.gathered = self.gathered, []
                for each in group:
                    yield each[-1].written
                yield from self.publish(self, [command for each in group for command in each])
        if sync:
            seen = yield from self.complete(self, last)
            self.holders -= 1
            if not self.holders:
                self.shadow = seen
        return not sync or seen >= last.end

    def wait_not_full(self) -> Steps:
        """Read CONS if nobody holds the lock; else watch what the last holder will leave."""
        if not self.holders:
            yield self.env.timeout(1)
            self.shadow = yield from self.read_cons(self)
            return
        begun, k = self.env.now, 0
        while True:
            if self.env.now - begun > SYNC_TIMEOUT:  # "CMDQ timeout", and again
                begun, k = self.env.now, 0
            k += 1
            yield self.env.timeout(poll_step(k, self.host.costs.relax) or 1)
            if self.prod - self.shadow < self.size or not self.holders:
                return

    def read_without_exit(self, cost: int) -> Steps:
        """It takes its value half-way."""
        yield self.env.timeout(cost // 2)
        seen = self.cons
        yield self.env.timeout(cost - cost // 2)
        return seen

    def poll(self, sync: Command) -> Steps:
        """Step, read CONS, and again; after a second, give up."""
        begun, seen = self.env.now, self.shadow
        for k in count(1):
            if self.host.scenario.fault and self.env.now - begun > SYNC_TIMEOUT:
                self.host.counts["timeouts"] += 1
                return seen
            yield self.env.timeout(poll_step(k, self.host.costs.relax))
            seen = yield from self.read_cons(self)
            if seen >= sync.end:
                return seen

    def see_word(self, sync: Command) -> Steps:
        """Spin on the CMD_SYNC's own word in memory; it tells where this CMD_SYNC is, and not CONS."""
        shown = self.host.costs.cons_shared
        yield from self.wait(sync, SYNC_TIMEOUT - shown)
        yield self.env.timeout(shown)
        return sync.end

    def see_end(self, sync: Command) -> Steps:
        """The host's own wait: t_sync includes that the completion is seen."""
        yield from self.wait(sync, SYNC_TIMEOUT)
        return self.cons

    def wait(self, sync: Command, most: Time) -> Steps:
        """Until a CMD_SYNC is done; where something goes wrong, so long at most."""
        if not self.host.scenario.fault:
            yield sync.done
            return
        yield sync.done | self.env.timeout(most)
        self.host.counts["timeouts"] += not sync.done.triggered

    # -- software consumes ---------------------------------------------------------------------------------------------

    def write_words(self, commands: Iterable[Command]) -> None:
        """With completion in memory: software that has run these commands says so, if it has not yet."""
        if self.row.completion == "msi-word":
            for command in commands:
                if command.name == "CMD_SYNC" and not command.done.triggered:
                    command.finish()

    def store_cons(self, commands: list[Command]) -> None:
        """It has consumed these commands."""
        for command in commands:
            self.cons = command.end
            if not command.done.triggered:
                command.done_at = self.env.now

    def admit(self, commands: list[Command]) -> list[Command]:
        """What it may consume of what was published: nothing, while the queue stands still."""
        if self.waiting is None:
            return commands
        self.waiting += commands
        return []

    def let_go(self) -> list[Command]:
        """Of what is held."""
        held, self.held = self.held, []
        return held

    def resume(self) -> list[Command]:
        """The driver has written GERRORN: what has waited is one publication."""
        assert self.waiting
        commands, self.waiting = self.waiting, None
        return commands


def poll_step(k: int, relax: int) -> int:
    """The k-th step of queue_poll: nine times cpu_relax, then a udelay that doubles."""
    return relax if k % POLL_SPIN else POLL_DELAY * 2 ** (k // POLL_SPIN - 1)
