"""The textbook's host: a queue and its driver, the SMMU, how the kernel issues commands, and its worker threads.

Guests and the host run the same driver on their queues: arm_smmu_cmdq_issue_cmdlist of Linux 7.2 arm-smmu-v3.c.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import simpy

from smmu_lab.scenario import Approach, Scenario
from smmu_lab.sim.clock import exponential, stream
from smmu_lab.sim.driver import POLL_DELAY, POLL_SPIN, SYNC_TIMEOUT
from smmu_lab.sim.textbook_faults import TimedOut

Time = float  # so simpy types its clock; here it holds whole nanoseconds
Steps = Generator[simpy.Event, Any, Any]


class Command:
    """A command; a list is just the commands between two issue calls of a CPU.

    Args:
        env: the simulation.
        name: TLBI (and CFGI_CD, which costs the same), ATC_INV or CMD_SYNC; BAD, an entry that nobody can run, and what
            a driver replaces it by: NOP, a CMD_SYNC that nobody waits for.
        leaf: a TLBI for the last level only.
        refused: a VCMDQ does not take it.
        late: how much later than usual a device answers it, and what is behind it up to the next CMD_SYNC.
        gone: no device ever answers it; `late` is how long the SMMU waits.
    """

    queue: Queue
    end: int  # PROD after it
    closes = False  # the last of its list
    done_at: Time  # of a CMD_SYNC: when CONS covered it, or its word was written

    def __init__(self, env: simpy.Environment, name: str, leaf: bool = True, refused: bool = False) -> None:
        self.env, self.name, self.leaf, self.refused = env, name, leaf, refused
        self.late, self.gone = 0, False
        self.written = env.event()  # of the last of a list: all of them are in the queue
        self.done = env.event()  # it was executed and CONS moved, or its word was written

    def finish(self) -> None:
        """Tell who waits for it."""
        self.done_at = self.env.now
        self.done.succeed()


class Request:
    """MAP or UNMAP, in a ring of virtio-iommu; or BAD, which nobody knows. `struck`: by the scenario's fault."""

    def __init__(self, env: simpy.Environment, name: str, pages: int, struck: bool) -> None:
        self.name, self.pages, self.struck, self.done = name, pages, struck, env.event()


class Queue:
    """A command queue, and the driver that inserts in it.

    Args:
        publish: writes PROD, when the commands of a group are in the queue; without any it is the write of GERRORN.
        read_cons: reads CONS; returns its value.
        complete: waits until a CMD_SYNC is seen to be done; returns the CONS that was seen.
    """

    arrived: simpy.Store  # of a hardware queue: what the engine has not taken yet
    engine: Engine
    fetched: simpy.Store | None = None  # of one that may stop: what was published, and waits for what is before it
    resumed: simpy.Event  # of that one: the driver has written GERRORN
    stop: Callable[[Command, bool, bool], None]  # at a command; see `Guest.stop`
    feed: Feed  # of a queue that a kernel worker serves
    last: simpy.Event  # of the SMMU: the list before
    answered: simpy.Event  # of the SMMU: the last ATC_INV

    def __init__(
        self,
        host: Host,
        row: Approach,
        log2size: int,
        publish: Callable[[Queue, list[Command]], Steps],
        read_cons: Callable[[Queue], Steps],
        complete: Callable[[Queue, Command], Steps],
    ) -> None:
        self.host, self.row, self.env, self.size = host, row, host.env, 1 << log2size
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
        yield from self.host.wait(sync, SYNC_TIMEOUT - shown)
        yield self.env.timeout(shown)
        return sync.end

    def write_words(self, commands: Iterable[Command]) -> None:
        """With completion in memory: software that has run these commands says so, if it has not yet."""
        if self.row.completion == "msi-word":
            for command in commands:
                if command.name == "CMD_SYNC" and not command.done.triggered:
                    command.finish()

    def store_cons(self, commands: list[Command]) -> None:
        """Software has consumed these commands."""
        for command in commands:
            self.cons = command.end
            if not command.done.triggered:
                command.done_at = self.env.now

    def admit(self, commands: list[Command]) -> list[Command]:
        """What software may consume of what was published: nothing, while the queue stands still."""
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


def without_sync(commands: list[Command]) -> list[Command]:
    """Who hands commands on adds a CMD_SYNC of its own, and passes over what it does not know."""
    return [command for command in commands if command.name in ("TLBI", "ATC_INV")]


class Engine:
    """A command engine of the SMMU: one command after another, of several rings in turn."""

    def __init__(self, host: Host) -> None:
        self.env, self.costs = host.env, host.costs
        self.rings: list[simpy.Store] = []
        self.bell = self.env.event()
        self.env.process(self.run())

    def run(self) -> Steps:
        """After a ring comes the next one that is not empty; a NOP takes neither time nor a turn."""
        served = -1
        while True:
            waiting = [k for k, ring in enumerate(self.rings) if ring.items]
            if not waiting:
                self.bell = self.env.event()
                yield self.bell
                continue
            served = min(waiting, key=lambda k: (k <= served, k))
            ring = self.rings[served]
            while ring.items:
                command = yield ring.get()
                yield from self.execute(command)
                if command.name != "NOP":
                    break

    def execute(self, command: Command) -> Steps:
        """Run a command; at a MARK somebody learns that the engine is through with what is before it."""
        costs, queue = self.costs, command.queue
        if command.name == "TLBI":
            yield self.env.timeout(costs.t_tlbi)
        elif command.name == "ATC_INV":
            yield self.env.timeout(costs.t_atc)
            queue.late = command.late or queue.late
            queue.answered = self.env.timeout(costs.atc_rtt + queue.late)
        elif command.name == "CMD_SYNC":
            yield self.env.timeout(costs.sync_occ)
            queue.late = 0
        elif command.name == "MARK":
            command.finish()
        if command.closes:
            self.env.process(self.retire(command, queue.answered, queue.last))
            queue.last = command.done

    def retire(self, last: Command, answered: simpy.Event, before: simpy.Event) -> Steps:
        """A CMD_SYNC is done some time after all devices have answered; CONS moves list by list, in order."""
        if last.name == "CMD_SYNC":
            yield answered
            yield self.env.timeout(self.costs.t_sync - self.costs.sync_occ)
        yield before
        last.queue.cons = last.end
        last.finish()


class Host:
    """The physical machine: its SMMU, its command queue, its kernel, and the CPUs that kernel workers run on."""

    def __init__(self, env: simpy.Environment, scenario: Scenario, row: Approach) -> None:
        self.env, self.scenario, self.row, self.costs = env, scenario, row, scenario.costs
        self.strict = scenario.host.reporting == "strict"
        self.ops: list[tuple[int, int, int, Time, Time]] = []
        self.counts: Counter[str] = Counter()
        self.cpus = Cpus(env, scenario.host.worker_cpus)
        self.threads: dict[tuple[int, ...], Thread] = {}
        self.engines: list[Engine] = []
        self.queue = Queue(self, row, scenario.smmu.host_queue_log2, self.write_prod, self.read_cons, self.completed)
        self.connect(self.queue)

    def illegal(self, command: Command) -> bool:
        """No SMMU knows its opcode."""
        return command.name == "BAD" and self.scenario.fault.kind == "illegal-command"

    def connect(self, queue: Queue) -> None:
        """A hardware queue gets an engine of its own or shares one, and there a ring of its own or shares one."""
        if not self.engines or self.row.execution == "parallel":
            self.engines.append(Engine(self))
        queue.engine = self.engines[-1]
        if not queue.engine.rings or self.row.arbitration == "round-robin":
            queue.engine.rings.append(simpy.Store(self.env))
        queue.arrived = queue.engine.rings[-1]
        if (queue.row.unsupported == "stop-and-fix" or self.scenario.fault) and queue is not self.queue:
            queue.fetched = simpy.Store(self.env)
            self.env.process(self.fetch_in_order(queue, queue.fetched))

    def arrive(self, queue: Queue, commands: Iterable[Command]) -> None:
        """The engine sees commands, all of them at once."""
        for command in commands:
            queue.arrived.put(command)
        if not queue.engine.bell.triggered:
            queue.engine.bell.succeed()

    def write_prod(self, queue: Queue, commands: list[Command]) -> Steps:
        """A posted write to the device; on the host's queue it is a part of the insertion."""
        most = self.costs.hsubmit if queue is self.queue else self.costs.mmio_w
        yield self.env.timeout(min(self.costs.mmio_w, most))
        if queue.fetched is None:
            self.arrive(queue, commands)
        elif not commands:
            queue.resumed.succeed()
        else:
            for command in commands:
                queue.fetched.put(command)

    def read_without_exit(self, queue: Queue, cost: int) -> Steps:
        """It takes its value half-way."""
        yield self.env.timeout(cost // 2)
        seen = queue.cons
        yield self.env.timeout(cost - cost // 2)
        return seen

    def fetch_in_order(self, queue: Queue, fetched: simpy.Store) -> Steps:
        """A hardware queue stops at what it refuses, at BAD, and at a CMD_SYNC behind an ATC_INV without an answer.

        Where it was laid over the guest's only queue the hypervisor runs what it refuses, drops an ATC_INV of an
        unknown StreamID, and writes GERRORN: it goes on. Else the guest's driver must do that.
        """
        overlay = queue.row.unsupported == "stop-and-fix"
        before = resumed = queue.last
        gone = False
        while True:
            command = yield fetched.get()
            gone = gone or command.gone
            if command.refused and overlay:
                yield before
                self.counts["fixes"] += 1
                yield self.env.timeout(self.costs.fix)
                yield from self.hand_over(queue, [command], ignore=True)
                resumed = self.env.timeout(self.costs.mmio_w)
                if command.closes:
                    queue.cons = command.end
                continue
            yield resumed
            if command.name == "BAD" or (gone and command.name == "CMD_SYNC"):
                yield from self.end_of_what_is_before(queue)
                if gone:
                    self.counts["lost"] += 1
                    yield queue.answered
                yield before
                queue.cons, fixed = command.end - 1, overlay and not gone
                if fixed:
                    self.counts["fixes"] += 1
                    yield self.env.timeout(self.costs.fix)
                if fixed and not self.illegal(command):
                    command.name = "NOP"
                    yield self.env.timeout(self.costs.mmio_w)
                else:
                    queue.resumed = self.env.event()
                    queue.stop(command, fixed, gone)
                    yield queue.resumed
                gone = False
            self.arrive(queue, [command])
            before = command.done if command.closes else before

    def end_of_what_is_before(self, queue: Queue) -> Steps:
        """The engine is through with all that this queue has given it."""
        mark = Command(self.env, "MARK")
        mark.queue = queue
        self.arrive(queue, [mark])
        yield mark.done

    def read_cons(self, queue: Queue) -> Steps:
        """Only for room in a full queue."""
        return (yield from self.read_without_exit(queue, self.costs.mmio_r))

    def completed(self, queue: Queue, sync: Command) -> Steps:
        """The host's own wait: t_sync includes that the completion is seen."""
        yield from self.wait(sync)
        return queue.cons

    def wait(self, sync: Command, most: Time = SYNC_TIMEOUT) -> Steps:
        """Until a CMD_SYNC is done; where something goes wrong, so long at most."""
        if not self.scenario.fault:
            yield sync.done
            return
        yield sync.done | self.env.timeout(most)
        self.counts["timeouts"] += not sync.done.triggered

    def issue(self, commands: Sequence[Command], row: Approach, convert: int = 0, ignore: bool = False) -> Steps:
        """Rewrite commands if that is still to be done, and issue them in lists that each get a CMD_SYNC.

        When the driver gives up, lists behind are not issued, unless the caller is to `ignore` it.
        """
        for part in self.cut(commands, row.host_group):
            if convert:
                for _ in part:
                    yield self.env.timeout(convert)
            self.counts["host_syncs"] += 1
            mine = [*map(self.copy, part), Command(self.env, "CMD_SYNC")]
            done = yield from self.queue.issue(mine, [max(0, self.costs.hsubmit - self.costs.mmio_w)])
            if not (done or ignore):
                raise TimedOut(part, commands)

    def copy(self, command: Command) -> Command:
        """For the host's own queue. When a device is gone there, the host's own handler lets the CMD_SYNC run again."""
        mine = Command(self.env, command.name, command.leaf)
        mine.late = command.late
        if command.gone:
            mine.late += self.costs.lpi + 3 * self.costs.mmio_r + self.costs.mmio_w
            self.counts["lost"] += 1
        command.late, command.gone = 0, False  # if it is issued once more the device answers
        return mine

    def cut(self, commands: Sequence[Command], group: int) -> Iterator[list[Command]]:
        """A list is as long as the row's groups, the queue and errata let it be."""
        errata, most = self.scenario.smmu.errata, min(group or self.queue.size, self.queue.size - 1)
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
        """Copied as an array, then rewritten and issued in groups; nothing, if there is nothing."""
        if array:
            yield from self.ioctl(array)
            yield from self.issue(array, queue.row, self.costs.conv, ignore)

    def fetch(self, commands: list[Command]) -> Steps:
        """Copy entries from the guest's memory one after another, and rewrite them."""
        for _ in commands:
            yield self.env.timeout(2 * self.costs.copy)
            yield self.env.timeout(self.costs.conv)


class Cpus:
    """The CPUs that kernel workers run on, first come, first served; who only looks for work gives way."""

    def __init__(self, env: simpy.Environment, free: int) -> None:
        self.env, self.free = env, free
        self.waiting: list[simpy.Event] = []
        self.pollers: list[Thread] = []

    def get(self) -> simpy.Event:
        """The event of having a CPU."""
        got = self.env.event()
        if self.free:
            self.free -= 1
            got.succeed()
        elif self.pollers:
            self.pollers[0].looking = False
            self.pollers[0].ring()
            got.succeed()
        else:
            self.waiting.append(got)
        return got

    def put(self) -> None:
        """To the next who waits for it."""
        if self.waiting:
            self.waiting.pop(0).succeed()
        else:
            self.free += 1


class Feed:
    """What was published in one queue, by doorbell, and not yet taken by its worker; and how that consumes it."""

    def __init__(self, thread: Thread, consume: Callable[[list[Any]], Steps]) -> None:
        self.thread, self.consume = thread, consume
        self.captured: list[list[Any]] = []

    def capture(self, group: list[Any]) -> None:
        """From now on a worker can take it."""
        self.captured.append(group)

    def flag(self) -> None:
        """Stand in the worker's line, and wake it up if it sleeps."""
        self.thread.line.setdefault(self)
        self.thread.ring()

    def take(self, weight: int) -> list[Any]:
        """Whole groups, at least one, up to a weight."""
        taken: list[Any] = []
        while self.captured and not (weight and taken and len(taken) + len(self.captured[0]) > weight):
            taken += self.captured.pop(0)
        return taken


class Thread:
    """A kernel worker; its random numbers have the name of the first queue that it works for."""

    def __init__(self, host: Host, row: Approach, guest: int, queue: int) -> None:
        self.host, self.row, self.env = host, row, host.env
        self.low = host.costs["wake"].low if row.wake == "exponential" else host.costs.wake
        self.longer = exponential(stream(host.scenario.seed, guest, queue, "wake"), host.costs.wake - self.low)
        self.line: dict[Feed, None] = {}  # those whose flag is set, in this order
        self.serving: Feed | None = None
        self.looking = False  # it has nothing to do, but keeps its CPU
        self.bell = self.env.event()
        self.env.process(self.run())

    def ring(self) -> None:
        """It sleeps, or looks, no more."""
        if self in self.host.cpus.pollers:
            self.host.cpus.pollers.remove(self)
        if not self.bell.triggered:
            self.bell.succeed()

    def run(self) -> Steps:
        """Sleep until somebody stands in line, get a CPU, and serve until nothing is left."""
        while True:
            while not self.line:
                self.bell = self.env.event()
                yield self.bell
            if self.row.doorbell != "polled":
                self.host.counts["wakes"] += 1
                yield self.env.timeout(self.low + next(self.longer))
            yield self.host.cpus.get()
            feed = next(iter(self.line))
            while feed:
                yield from self.turn(feed)
                feed = next(iter(self.line), None) or (yield from self.look())

    def turn(self, feed: Feed) -> Steps:
        """Pass after pass, until nothing is left; with a weight, until another one stands in line."""
        self.serving = feed
        while True:
            self.line.pop(feed, None)
            yield from feed.consume(feed.take(self.row.weight))
            if not feed.captured and feed not in self.line:
                break
            if self.row.weight and any(other is not feed for other in self.line):
                self.line.pop(feed, None)
                self.line[feed] = None
                break
        self.serving = None

    def look(self) -> Steps:
        """Give the CPU back, or keep it for a while and look; whom to serve after all."""
        cpus = self.host.cpus
        if not self.row.busy_poll or cpus.waiting:
            cpus.put()
            return None
        self.looking = True
        self.bell = self.env.event()
        cpus.pollers.append(self)
        yield self.bell | self.env.timeout(self.row.busy_poll)
        if self in cpus.pollers:  # nothing came
            cpus.pollers.remove(self)
            cpus.put()
            self.looking = False
        if not self.looking:
            return None
        self.looking = False
        self.serving = next(iter(self.line))
        yield self.env.timeout(self.host.costs.poll)
        return self.serving
