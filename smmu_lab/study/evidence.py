"""What a watched run leaves behind, put in order: every list of every queue, and what became of it.

The engine leaves steps (`smmu_lab.sim.clock.Clock.note`); here they become lists with a life, and the calls of the host
with the commands that they hold. What a call must hold follows from the approach's columns alone, not from the engine.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from numbers import Number
from typing import Any, NamedTuple

import attrs
import simpy

from smmu_lab.record import KINDS, Run
from smmu_lab.scenario import Approach, Scenario, approach
from smmu_lab.sim import watch
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.simulate import observed

NEVER = 1 << 62
"""The time of what did not happen."""
MOST_STEPS = 100_000
"""Events, and steps in the trail, of one run; those of a check are small."""
MOST_LINES = 1_000_000
"""Lines of Python that a consumer of one's own runs through before it waits for something."""

Name = tuple[int, ...]
"""Of a queue: (guest, number in the guest); the host's own is ``()``."""


class Endless(BaseException):
    """It would not end. No ``except Exception`` in a consumer stops this."""


class NotWhole(Exception):
    """A time that is no whole number of nanoseconds."""


class Ended(Exception):
    """A run of a trial did not come to its end; `case` is its evidence."""

    def __init__(self, case: Evidence) -> None:
        super().__init__(case)
        self.case = case


def queue_name(queue: Name) -> str:
    """What a queue is called."""
    return f"queue {'.'.join(map(str, queue))}" if queue else "the host's queue"


# -- watching ----------------------------------------------------------------------------------------------------------


class Watched(Clock):
    """A clock with a trail that ends what does not end, and takes no fractions of a nanosecond."""

    def __init__(self) -> None:
        super().__init__()
        self.env = _Environment()
        self.peek = self.env.peek
        self.trail = Trail()


class _Environment(simpy.Environment):
    def __init__(self) -> None:
        super().__init__()
        self.left = MOST_STEPS

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Endless(f"after {MOST_STEPS:,} events, at {self.now:,} ns, it was not through")
        super().step()

    def schedule(self, event: simpy.Event, priority: Any = simpy.events.NORMAL, delay: Any = 0) -> None:
        if type(delay) is not int:
            raise NotWhole(f"an event in {delay!r} ns")
        super().schedule(event, priority, delay)


class Trail(watch.Trail):
    """A trail that ends what does not end, and takes no fractions."""

    def append(self, step: tuple[Any, ...]) -> None:
        """Keep a step."""
        if len(self) >= MOST_STEPS:
            raise Endless(f"after {MOST_STEPS:,} steps it was not through")
        for each in step:
            if isinstance(each, Number) and not isinstance(each, int):
                raise NotWhole(f"a step {step[0]!r} of queue {step[1]} at {each!r} ns")
        super().append(step)

    def guest(self, ticket: Any) -> int:
        """Whose a list is, also one in the host's own queue."""
        return next(step[2] >> 16 for step in reversed(self) if step[0] == "issued" and step[3] is ticket)


class _Bounded:
    """A consumer's generator that is stopped when it runs on and on without waiting for anything.

    It counts lines, as a debugger sees them, and so takes a debugger's place; `smmu_lab.simulate` leaves that alone.
    """

    def __init__(self, steps: Any) -> None:
        if not isinstance(steps, Generator):
            raise TypeError(f"the consumer is no generator function: it returned {steps!r:.80}")
        self.steps = steps
        self.throw = steps.throw
        self.__name__ = getattr(steps, "__name__", "consumer")

    def send(self, value: Any) -> Any:
        left = MOST_LINES

        def line(frame: Any, event: str, arg: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Endless(f"the consumer ran through {MOST_LINES:,} lines without waiting for anything")
            return line

        before = sys.gettrace()
        sys.settrace(line)
        try:
            return self.steps.send(value)
        finally:
            sys.settrace(before)


def _bounded(row: Approach) -> Approach:
    """The same row, with a bound on a consumer that is somebody's own."""
    consumer = row.consumer
    if isinstance(consumer, str):
        return row

    def worker(*given: Any) -> _Bounded:
        return _Bounded(consumer(*given))

    return row.but(consumer=worker, name=row.name)


def observe(
    scenario: Scenario, row: Approach, play: Callable[[Scenario, Approach, Clock], Run | None] = observed
) -> Evidence:
    """Run a scenario under an approach and watch; whatever goes wrong is in the evidence."""
    clock = Watched()
    run = error = None
    try:
        if run := play(scenario, _bounded(row), clock):
            recorded(run)
    except (Exception, Endless) as raised:
        error, run = raised, None
    return Evidence(scenario, row, tuple(clock.trail or ()), run, error)


def recorded(run: Run) -> tuple[Any, ...]:
    """All that was recorded, as plain values."""
    tables = [table[name].tolist() for table in (run.ops, run.batches, run.stops, run.issued) for name in table.names]
    return tables, run.guests, run.queues, run.events


# -- the evidence ------------------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A line of a timeline."""

    time: int
    who: str
    what: str


@attrs.define(eq=False)
class Listed:
    """One list (or request) in a queue, and its life.

    Attributes:
        work: what it holds; of a list of which the hypervisor runs a part, what it held when it was issued.
        begin: index of its first entry, counted for ever.
        end: index after its last entry.
        asked: when its place was allocated.
        published: when PROD covers it.
        group: the number of the PROD write that does.
        resumed: when the vCPU runs on, if it need not wait.
        ran: when the hardware starts it and is through.
        covered: when CONS covers it.
        visible: when its end can be seen.
        seen: when its vCPU has seen that.
        calls: the host's calls that hold its commands.
    """

    queue: Name
    guest: int
    vcpu: int
    work: Any
    begin: int
    end: int
    asked: int
    written: int
    resumed: int
    visible: int
    published: int = NEVER
    group: int = -1
    ran: tuple[int, int] | None = None
    covered: int = NEVER
    seen: int = NEVER
    calls: list[Call] = attrs.Factory(list)

    @property
    def complete(self) -> int:
        """When its commands have been executed."""
        ends = [call.end for call in self.calls]
        return max([*ends, self.ran[1]] if self.ran else ends, default=self.published)

    def life(self) -> Iterator[Moment]:
        """What happened to it."""
        vcpu, queue = f"vCPU {self.guest}.{self.vcpu}", queue_name(self.queue)
        yield Moment(self.written, vcpu, f"its list is in the queue: {held(self.work)}, up to {self.end}")
        yield Moment(self.published, queue, f"PROD covers {self.end}")
        for call in self.calls:
            yield Moment(call.start, "host", f"issues {held(call.work)}")
            yield Moment(call.end, "host", "has seen the end of its CMD_SYNC")
        if self.ran:
            yield Moment(self.ran[0], "hardware", f"starts the list up to {self.end}")
            yield Moment(self.ran[1], "hardware", f"is through with it, up to {self.end}")
        yield Moment(self.covered, queue, f"CONS covers {self.end}")
        if self.work.sync:
            yield Moment(self.visible, queue, f"the end of {self.end} can be seen")
            yield Moment(self.seen, vcpu, f"has seen the end of {self.end}")


@attrs.define(eq=False)
class Call:
    """One issue call of the host, and the commands of the guest's queue that it must hold: (kind, of which list)."""

    queue: Name
    start: int
    end: int
    work: Any
    holds: list[tuple[str, Listed]] = attrs.Factory(list)


def held(work: Any) -> str:
    """What a list holds, in words."""
    if hasattr(work, "batches"):
        return f"{'UNMAP' if work.batches else 'MAP'} of {work.pages} pages"
    names = (("tlbi", "TLBI"), ("atc", "ATC_INV"), ("ste", "CFGI_STE"), ("other", "other"), ("sync", "CMD_SYNC"))
    return " + ".join(f"{getattr(work, name)} {what}" for name, what in names if getattr(work, name)) or "nothing"


class Breach(NamedTuple):
    """What was found: in words, with the lists it is about; reported only, where it is no fault.

    `scenario`: where it was found, if that is not the one of the evidence.
    """

    said: str
    lists: tuple[Listed, ...] = ()
    reported: bool = False
    scenario: Scenario | None = None


@attrs.frozen(slots=False, eq=False)
class Evidence:
    """A run with its trail; `error` is what it ended with, and then there is no record."""

    scenario: Scenario
    row: Approach
    trail: tuple[tuple[Any, ...], ...]
    run: Run | None
    error: BaseException | None

    @property
    def record(self) -> Run:
        """The record of a run that has one."""
        assert self.run is not None
        return self.run

    def steps(self, what: str) -> Iterator[tuple[Any, ...]]:
        """The steps of a kind, without the kind."""
        return (step[1:] for step in self.trail if step[0] == what)

    def by(self, queue: Name) -> Approach:
        """The approach behind a queue: the guest's main queue beside VCMDQs has one of its own."""
        routed = self.row.unsupported == "guest-routes" and queue[1] >= self.row.vcmdqs
        return approach(self.row.fallback) if routed else self.row

    @cached_property
    def publications(self) -> dict[Name, list[tuple[int, list[Listed]]]]:
        """Every PROD write of every queue: when, and the lists that it publishes."""
        found: dict[Name, list[tuple[int, list[Listed]]]] = defaultdict(list)
        for queue, time, group in self.steps("published"):
            found[queue].append((time, [self._by_ticket[id(ticket)] for ticket in group.tickets]))
        return found

    @cached_property
    def stores(self) -> dict[Name, list[tuple[int, int]]]:
        """Every move of every CONS: when, and to what."""
        found: dict[Name, list[tuple[int, int]]] = defaultdict(list)
        for queue, time, cons in self.steps("stored"):
            found[queue].append((time, cons))
        return found

    @cached_property
    def _by_ticket(self) -> dict[int, Listed]:
        costs, requests = self.scenario.costs, self.row.front == "virtio-iommu"
        post = min(costs.mmio_w, costs.hsubmit)
        found = {}
        for queue, party, ticket, work in self.steps("issued"):
            entries = work.entries
            write = costs.hsubmit - post if queue == () else costs.vq_add if requests else entries * costs.g_cmd
            found[id(ticket)] = Listed(
                *(queue, party >> 16, party & 0xFFFF, work, ticket.end - entries, ticket.end),
                *(ticket.written - write, ticket.written, ticket.resumed),
                NEVER if ticket.visible is None else ticket.visible,
            )
        return found

    @cached_property
    def queues(self) -> dict[Name, list[Listed]]:
        """The lists of every queue in its order, each with its life."""
        found: dict[Name, list[Listed]] = defaultdict(list)
        for listed in self._by_ticket.values():
            found[listed.queue].append(listed)
        for queue in self.publications:
            for number, (time, group) in enumerate(self.publications[queue]):
                for listed in group:
                    listed.published, listed.group = time, number
        for _, start, done, ticket in self.steps("ran"):
            self._by_ticket[id(ticket)].ran = start, done
        for _, time, ticket in self.steps("seen"):
            self._by_ticket[id(ticket)].seen = time
        for queue, lists in found.items():
            moves = iter(self.stores[queue])
            time, cons = 0, 0
            for listed in lists:
                while cons < listed.end and time < NEVER:
                    time, cons = next(moves, (NEVER, 0))
                listed.covered = time
            if queue:
                self._place(queue, lists)
        return found

    @property
    def guest_queues(self) -> list[tuple[Name, list[Listed]]]:
        """The queues of guests; the host's own is none."""
        return [(queue, lists) for queue, lists in self.queues.items() if queue]

    @cached_property
    def calls(self) -> dict[Name, list[Call]]:
        """The host's calls for every queue, in order."""
        found: dict[Name, list[Call]] = defaultdict(list)
        for queue, start, end, work in self.steps("host"):
            found[queue].append(Call(queue, start, end, work))
        for calls in found.values():
            calls.sort(key=lambda call: call.start)
        return found

    @cached_property
    def left(self) -> dict[Name, list[tuple[str, Listed]]]:
        """The commands that no call of the host holds."""
        return {}

    def _place(self, queue: Name, lists: list[Listed]) -> None:
        """Give the host's calls the commands that they must hold, in the order of the queue."""
        commands = [(kind, listed) for listed in lists for kind in self.for_host(listed)]
        at = 0
        for call in self.calls[queue]:
            number = call.work.tlbi + call.work.atc
            call.holds = commands[at : at + number]
            at += number
            for _, listed in call.holds:
                if call not in listed.calls:
                    listed.calls.append(call)
        self.left[queue] = commands[at:]

    def for_host(self, listed: Listed) -> Iterator[str]:
        """The commands that the host must issue for a list, in order: T for a TLBI, A for an ATC_INV."""
        row, work = self.by(listed.queue), listed.work
        if row.front == "virtio-iommu":
            for batch in work.batches:
                yield from "T" * batch.tlbi + "A" * batch.atc
        elif row.consumer != "hardware" or (row.unsupported == "stop-and-fix" and not work.vcmdq):
            devices = self.scenario.workload.ats_devices if row.handoff == "marshalled" else 0
            yield from ("T" + "A" * devices) * work.tlbi + "A" * (devices or 1) * work.atc

    @cached_property
    def vcpus(self) -> dict[tuple[int, int], list[Listed]]:
        """The lists of every vCPU in the order of time, whatever queue they went to."""
        found: dict[tuple[int, int], list[Listed]] = defaultdict(list)
        for queue, lists in self.queues.items():
            for listed in lists:
                if queue:
                    found[listed.guest, listed.vcpu].append(listed)
        for lists in found.values():
            lists.sort(key=lambda listed: listed.written)
        return found

    @cached_property
    def operations(self) -> dict[tuple[int, int], list[dict[str, int]]]:
        """The operations of every vCPU in order, each with its ``end``."""
        run = self.record
        found: dict[tuple[int, int], list[dict[str, int]]] = defaultdict(list)
        for op, latency in zip(run.ops.rows(), run.latencies, strict=True):
            found[op["guest"], op["vcpu"]].append(op | {"end": op["start"] + latency})
        return found

    @cached_property
    def missing(self) -> list[tuple[int, int, int, int]]:
        """VCPUs that did not get through: (guest, vCPU, operations of its own that ended, that it was given)."""
        scenario = self.scenario
        found = []
        for guest in range(scenario.guests):
            for vcpu in range(scenario.vcpus):
                given = [each.kind for each in scenario.operations(guest, vcpu)]
                kinds = {"unmap"} if self.row.front == "virtio-iommu" else set(given)
                ended = sum(KINDS[op["kind"]] in kinds for op in self.operations[guest, vcpu])
                wanted = sum(kind in kinds for kind in given)
                if ended != wanted or any(each.work.sync and each.seen == NEVER for each in self.vcpus[guest, vcpu]):
                    found.append((guest, vcpu, ended, wanted))
        return found
