"""Watch a run again: what became of every entry, which a record has no room for."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from smmu_lab.record import Run, Table
from smmu_lab.record.journal import ENTRIES, LISTS, MOVES, OPS, Journal, Ring
from smmu_lab.scenario import Approach, InvalidInput
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.queue import DOORBELL, QUEUE, WAKE, Group, Ticket
from smmu_lab.sim.simulate import observed
from smmu_lab.sim.spans import lanes
from smmu_lab.sim.texts import ATC_INV, TLBI, Texts, kinds

NEVER = -1
MOST = 500_000
"""Commands, and operations, of a run that is watched: it is run once more, and all steps of it are held at once."""


class Trail(list[tuple[Any, ...]]):
    """The steps of a watched clock; one that tells of a list keeps what the list was then."""

    def append(self, step: tuple[Any, ...]) -> None:
        """Keep a step."""
        super().append((*step, step[-1].work) if step[0] == "issued" else step)


def watch(run: Run, entries: int = 10_000) -> Journal:
    """What became of every entry, up to about the first `entries` of all queues together.

    The scenario is run once more on a watched clock. The same scenario and approach give the same bits, and that is
    checked: a record that comes out otherwise is refused.

    Args:
        run: the run.
        entries: where to stop, with whatever is under way then: the journal says when that is.

    Raises:
        InvalidInput: the run is too long, or does not come out the same (its consumer is not deterministic).
    """
    for number, what in ((run.counts.commands, "commands"), (len(run.ops), "operations")):
        if number > MOST:
            raise InvalidInput([f"run: {number:,} {what} are too many to watch: at most {MOST:,}"])
    clock = Clock()
    clock.trail = Trail()
    again = observed(run.scenario, run.approach, clock)
    if _recorded(again) != _recorded(run):
        name = run.approach.name
        raise InvalidInput([f"run: it does not come out the same again: the consumer of {name!r} is not deterministic"])
    return Watched(run, clock.trail, entries).journal()


def _recorded(run: Run) -> list[Any]:
    tables = [table[name] for table in (run.ops, run.batches, run.stops, run.issued) for name in table.names]
    return [*tables, run.guests, run.queues]


class Listed(NamedTuple):
    """A list, its queue, whose it is, and what it held when it was issued."""

    queue: int
    guest: int
    vcpu: int
    ticket: Ticket
    work: Any
    asked: int

    @property
    def begin(self) -> int:
        """Entries before it in its queue."""
        return int(self.ticket.end - self.work.entries)


class Watched:
    """A trail, as it becomes columns."""

    def __init__(self, run: Run, trail: Sequence[tuple[Any, ...]], entries: int) -> None:
        self.run, self.graph = run, run.graph
        self.steps: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for what, *step in trail:
            self.steps[what].append(tuple(step))
        names: dict[int, list[str]] = defaultdict(list)
        for name, guest in self.graph.nodes.data("guest"):
            if guest is not None:
                names[guest].append(name)
        self.names = [name for guest in sorted(names) for name in names[guest]]
        self.number = {(guest, k): self.names.index(name) for guest in names for k, name in enumerate(names[guest])}
        made = sorted(self._issued(), key=lambda each: each.asked)
        reach = [0, *accumulate(each.work.entries for each in made)]
        kept = max(1, bisect_right(reach, entries) - 1)
        while kept < len(made) and made[kept].asked == made[kept - 1].asked:
            kept += 1  # what begins at one instant is not cut apart
        self.whole = kept >= len(made)
        self.end = max(run.ops["start"], default=0) if not made else made[kept].asked - 1 if not self.whole else 0
        if self.whole:
            ends = [start + took for start, took in zip(run.ops["start"], run.latencies, strict=True)]
            self.end = max([*ends, *(step[1] for step in self.steps["stored"] if step[0])], default=0)
        self.lists = sorted(made[:kept], key=lambda each: (each.queue, each.begin))
        self.row = {id(each.ticket): row for row, each in enumerate(self.lists)}

    # -- lists and entries -------------------------------------------------------------------------------------------

    def _issued(self) -> Iterator[Listed]:
        costs = self.run.scenario.costs
        for name, party, ticket, work in self.steps["issued"]:
            if not name:
                continue
            write = work.entries * costs.g_cmd if hasattr(work, "tlbi") else costs.vq_add
            guest, vcpu = divmod(party, 1 << 16)
            yield Listed(self.number[name], guest, vcpu, ticket, work, ticket.written - write)

    @cached_property
    def published(self) -> dict[int, tuple[int, Group]]:
        """When, and with what, each list was published first."""
        found: dict[int, tuple[int, Group]] = {}
        for name, time, group in self.steps["published"]:
            if name:
                for ticket in group.tickets:
                    found.setdefault(id(ticket), (time, group))
        return found

    @cached_property
    def seen(self) -> dict[int, int]:
        """When the vCPU of each list has seen its end."""
        return {id(ticket): time for name, time, ticket in self.steps["seen"] if name}

    @cached_property
    def _stored(self) -> dict[int, list[tuple[int, int]]]:
        """Steps of CONS of each queue: (count, when)."""
        found: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for name, time, count in self.steps["stored"]:
            if name:
                found[self.number[name]].append((count, time))
        return found

    def covered(self, each: Listed) -> int | None:
        """When CONS covers a list."""
        covers = self._stored[each.queue]
        at = bisect_right(covers, (each.ticket.end - 1, 1 << 62))
        return covers[at][1] if at < len(covers) else None

    def left(self, rows: Sequence[int], taken: int) -> int:
        """When a consumer lets go of the lists that it took up: CONS covers them, or the queue stands at an error."""
        stops = self.run.stops
        where = [self.number[who] for who in zip(stops["guest"], stops["queue"], strict=True)]
        queue = self.lists[rows[0]].queue
        ends = [time for name, time in zip(where, stops["stopped"], strict=True) if name == queue and time > taken]
        covered = [self.covered(self.lists[row]) for row in rows]
        return min([*ends, max(self.end if time is None else time for time in covered)])

    @cached_property
    def _ops(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """(start, row) of the operations of each vCPU; of a recording as it was, of each guest."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        ops = self.run.ops
        for row, (guest, vcpu, start) in enumerate(zip(ops["guest"], ops["vcpu"], ops["start"], strict=True)):
            found[guest, -1 if self.replayed(guest) else vcpu].append((start, row))
        for each in found.values():
            each.sort()
        return found

    def replayed(self, guest: int) -> bool:
        """A guest repeats recorded doorbells: one process plays all of its vCPUs."""
        return getattr(self.run.scenario.load(guest), "replay", "") == "recorded"

    def op(self, each: Listed) -> int:
        """Row of the operation that a list belongs to."""
        ops = self._ops[each.guest, -1 if self.replayed(each.guest) else each.vcpu]
        at = bisect_right(ops, (each.asked - each.ticket.space, 1 << 32)) - 1
        return ops[max(0, at)][1] if ops else 0

    def _known(self, time: int | None) -> int:
        return NEVER if time is None or time > self.end else time

    def taken(self, ticket: Ticket) -> int | None:
        """When its consumer takes it up."""
        ends = dict(ticket.edges)
        row = self.run.graph.nodes[self.names[self.lists[self.row[id(ticket)]].queue]]["row"]
        if row.executes_directly:
            return ends.get(QUEUE)
        return ends.get(WAKE, ends.get(DOORBELL))

    def journal(self) -> Journal:
        """All of it, as columns."""
        lists, entries, texts = Table(LISTS), Table(ENTRIES), Texts(self.run)
        ran = {id(ticket): (start, done) for _, start, done, ticket in self.steps["ran"]}
        never = (NEVER, NEVER)
        held = self._held()
        count = 0
        for each in self.lists:
            ticket, op = each.ticket, self.op(each)
            published, group = self.published.get(id(ticket), (NEVER, None))
            vcpu = self.run.ops["vcpu"][op] if self.replayed(each.guest) else each.vcpu
            stamps = (
                *(each.asked, ticket.written, published, self.taken(ticket), ticket.visible),
                *(self.covered(each), self.seen.get(id(ticket))),
            )
            owner = group is not None and group.owner is ticket
            made = list(texts.of(op, each.work))
            row = (each.guest, vcpu, each.queue, op, count, len(made), each.begin, owner)
            lists.append((*row, *map(self._known, stamps)))
            for place, (kind, text) in enumerate(made):
                start, done = ran.get(id(ticket)) or held.get((id(ticket), place), never)
                entries.append((kind, text, self._known(start), self._known(done)))
            count += len(made)
        found, spans = lanes(self)
        moves = Table(MOVES)
        for move in sorted(self._moves()):
            moves.append(move)
        rings = [Ring(name, self._size(name)) for name in self.names]
        return Journal(
            *(self.run, self.end, self.whole, rings, found, tuple(texts.known)),
            *(lists, entries, spans, moves, self._operations()),
        )

    def _operations(self) -> Table:
        """All operations up to the last one that has a list here."""
        table, ops = Table(OPS), self.run.ops
        last = max([self.op(each) for each in self.lists], default=-1)
        number: Counter[tuple[int, int]] = Counter()
        order = sorted(range(len(ops)), key=ops["start"].__getitem__)
        place = [0] * len(ops)
        for row in order:
            who = ops["guest"][row], ops["vcpu"][row]
            place[row] = number[who]
            number[who] += 1
        for row in range(last + 1):
            took = self.run.latencies[row]
            table.append((ops["start"][row] + took, took, place[row]))
        return table

    def _size(self, name: str) -> int:
        smmu, row = self.run.scenario.smmu, self.graph.nodes[name]["row"]
        if row.queues == "ecmdq":
            return 256
        return 1 << (smmu.host_queue_log2 if row.on_metal else smmu.queue_log2)

    def _moves(self) -> Iterator[tuple[int, int, int, int]]:
        for name, time, group in self.steps["published"]:
            if name and time <= self.end and not group.resumes:
                yield self.number[name], 1, time, max(ticket.end for ticket in group.tickets)
        for queue, moves in self._stored.items():
            yield from ((queue, 0, time, count) for count, time in moves if time <= self.end)

    @cached_property
    def calls(self) -> dict[int, list[tuple[int, int, int, int, int, Any]]]:
        """The host's lists for each queue: when, its end, SMMU, start and end there, and what it is."""
        found: dict[int, list[tuple[int, int, int, int, int, Any]]] = defaultdict(list)
        for (name, smmu, start, done), (_, when, end, work) in zip(
            self.steps["engine"], self.steps["host"], strict=True
        ):
            found[self.number[name]].append((when, end, smmu, start, done, work))
        for calls in found.values():
            calls.sort(key=lambda call: call[:3])
        return found

    def _held(self) -> dict[tuple[int, int], tuple[int, int]]:
        """When the host's list that holds a command was at the SMMU, by list and place; of several, all of them.

        Nothing for requests, for the v1 patch's fan-out, or from an error on: there the numbers do not fit.
        """
        found: dict[tuple[int, int], tuple[int, int]] = {}
        if self.run.approach.front != "smmu-commands":
            return found
        for queue, calls in self.calls.items():
            row: Approach = self.graph.nodes[self.names[queue]]["row"]
            places: dict[int, list[tuple[int, int]]] = defaultdict(list)  # what each SMMU gets, in order
            smmus = self.graph.nodes[self.names[queue]]["smmus"]
            for each in (each for each in self.lists if each.queue == queue):
                work = each.work
                refused = row.unsupported == "error" and work.ste + work.other
                if work.bad >= 0 or work.gone or refused or (row.handoff == "marshalled" and work.fan):
                    break
                for place, kind in enumerate(kinds(each.work)):
                    if kind in (TLBI, ATC_INV):
                        for smmu in self._goes(each.work, place, kind, smmus):
                            places[smmu].append((id(each.ticket), place))
            for _, _, smmu, start, done, work in calls:
                number = work.tlbi + work.atc
                for key in places[smmu][:number]:
                    found[key] = min(start, found.get(key, (start, 0))[0]), max(done, found.get(key, (0, done))[1])
                del places[smmu][:number]
        return found

    @staticmethod
    def _goes(work: Any, place: int, kind: int, smmus: Sequence[int]) -> Iterable[int]:
        """The SMMUs that an entry is for: all for a TLBI, that of its device for an ATC_INV."""
        if kind == TLBI or not work.at:
            return smmus if kind == TLBI else smmus[:1]
        behind = place - (work.tlbi - work.tail)
        return [smmus[bisect_right(list(accumulate(work.at)), behind)]]
