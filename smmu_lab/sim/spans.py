"""Who is at work on which commands when: a watched run as lanes, from the vCPUs to the SMMUs."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from smmu_lab.record import Table
from smmu_lab.record.journal import SPANS, Lane, arranged
from smmu_lab.sim.driver import poll_step
from smmu_lab.sim.queue import (
    BUILD,
    COMPLETE,
    CONSUME,
    DOORBELL,
    EXECUTE,
    GATHER,
    HANDOFF,
    LOCK,
    QUEUE,
    RECOVER,
    SPACE,
    WAKE,
)

if TYPE_CHECKING:
    from smmu_lab.sim.watch import Listed, Watched

ROWS = 4
"""Rows of a lane; what is more at a time is not drawn."""
TRAPS = ("trap-to-vmm", "trap-to-kernel", "kernel-call")
"""Doorbells that leave the guest."""


class _Span(NamedTuple):
    lane: str
    stage: int
    start: int
    end: int
    first: int
    last: int
    thin: bool = False


def lanes(of: Watched) -> tuple[list[Lane], Table]:
    """Who works on commands, in the order in which a command meets them, and when: `SPANS`."""
    return _Lanes(of).lanes()


class _Lanes:
    def __init__(self, of: Watched) -> None:
        self.of = of

    def lanes(self) -> tuple[list[Lane], Table]:
        graph = self.of.graph
        spans: dict[str, list[_Span]] = defaultdict(list)
        for span in self._spans():
            if span.start <= self.of.end and span.end > span.start:
                spans[span.lane].append(span._replace(end=min(span.end, self.of.end)))
        ordered: list[tuple[str, str]] = []
        for guest in [name for name, kind in graph.nodes(data="kind") if kind == "guest"]:
            inside = [(name, kind) for name, kind in graph.nodes(data="kind") if name.startswith(f"{guest}.")]
            ordered += [each for each in inside if each[1] == "vcpu"] + [(f"{guest}.exits", "exit")]
            ordered += [each for each in inside if each[1] in ("vmm", "kernel")]
        for which in ("worker", "cmdq", "smmu"):
            ordered += [(name, kind) for name, kind in graph.nodes(data="kind") if kind == which]
        found: list[Lane] = []
        table = Table(SPANS)
        for name, kind in ordered:
            if not spans[name] and kind not in ("vcpu", "smmu"):
                continue
            own = list(_joined(sorted(spans[name], key=lambda span: (span.start, span.end))))
            rows = self._rows(own)
            for row in range(max(rows, default=0) + 1):
                for span, at in zip(own, rows, strict=True):
                    if at == row:
                        table.append((len(found), row, span.stage, span.thin, *span[2:6]))
            found.append(Lane(name, kind, max(rows, default=0) + 1, rows.count(-1)))
        return found, table

    @staticmethod
    def _rows(own: Sequence[_Span]) -> list[int]:
        """The row of each span: what waits stands below what works."""
        most = ROWS - any(span.thin for span in own)
        works = iter(list(arranged([span[2:4] for span in own if not span.thin], most)))
        rows = [-1 if span.thin else next(works) for span in own]
        below = max(rows, default=-1) + 1
        waits = iter(list(arranged([span[2:4] for span in own if span.thin], ROWS - below)))
        return [
            row if not span.thin else -1 if (at := next(waits)) < 0 else below + at
            for row, span in zip(rows, own, strict=True)
        ]

    def _spans(self) -> Iterator[_Span]:
        drains: dict[tuple[str, int], list[int]] = defaultdict(list)
        for row, each in enumerate(self.of.lists):
            yield from self._list(row, each, drains)
        yield from self._consumers(drains)
        yield from self._reads()

    def _list(self, row: int, each: Listed, drains: dict[tuple[str, int], list[int]]) -> Iterator[_Span]:
        """What a list's own stages are, and in which lane; what its consumer does is noted by drain."""
        ticket, name = each.ticket, self.of.names[each.queue]
        node = self.of.graph.nodes[name]
        vcpu, exits = f"guest{each.guest}.vcpu{each.vcpu}", f"guest{each.guest}.exits"
        if self.of.replayed(each.guest):
            vcpu = f"guest{each.guest}.vcpu{self.of.run.ops['vcpu'][self.of.op(each)]}"
        out = exits if node["row"].doorbell in TRAPS else vcpu
        lanes = {GATHER: vcpu, LOCK: out, DOORBELL: out, RECOVER: vcpu}
        yield _Span(vcpu, SPACE, each.asked - ticket.space, each.asked, row, row, True)
        yield _Span(vcpu, BUILD, each.asked, ticket.written, row, row)
        owner = self.of.published.get(id(ticket), (0, None))[1]
        consumer = self._consumer(name)
        smmu = f"smmu{node['smmus'][0]}" if node["smmus"] else ""
        t = ticket.written
        for stage, end in ticket.edges:
            if end <= t:
                continue
            if stage in (LOCK, DOORBELL) and (owner is None or owner.owner is not ticket):
                pass
            elif stage in lanes:
                yield _Span(lanes[stage], stage, t, end, row, row, stage in (GATHER, LOCK, RECOVER))
            elif stage == WAKE and consumer:
                drains[consumer, end].append(row)
                yield _Span(consumer, WAKE, t, end, row, row, True)
            elif not consumer and stage in (QUEUE, EXECUTE):
                yield _Span(smmu, stage, t, end, row, row, stage == QUEUE)
            t = end
        if consumer and (taken := self.of.taken(ticket)) is not None and row not in drains[consumer, taken]:
            drains[consumer, taken].append(row)
        if owner and owner.owner is ticket and out == exits:  # the vCPU is not in the guest
            yield _Span(vcpu, DOORBELL, owner.published, ticket.resumed, row, row, True)
        if ticket.work.sync and (seen := self.of.seen.get(id(ticket))) is not None:
            visible = ticket.visible if ticket.visible is not None and ticket.visible < seen else seen
            yield _Span(vcpu, COMPLETE, max(ticket.resumed, ticket.written), visible, row, row, True)
            yield _Span(vcpu, COMPLETE, max(visible, ticket.resumed), seen, row, row)

    def _consumer(self, queue: str) -> str:
        """Whose lane it is that takes up a queue's commands; none for the hardware."""
        for name in self.of.graph.successors(queue):
            if self.of.graph.nodes[name]["kind"] in ("vmm", "kernel", "worker"):
                return str(name)
        return ""

    def _consumers(self, drains: dict[tuple[str, int], list[int]]) -> Iterator[_Span]:
        """What consumers do, drain by drain: read and decode, work of the kernel's, and the wait for the SMMU."""
        kernel: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for name, start, end in self.of.steps["kernel"]:
            if end > start:
                kernel[self.of.number[name]].append((start, end))
        for spent in kernel.values():
            spent.sort()
        for (consumer, taken), rows in drains.items():
            first, last = min(rows), max(rows)
            queue = self.of.lists[first].queue
            over = self.of.left(rows, taken)
            calls = _within(self.of.calls[queue], taken, over)
            work = [(start, end, HANDOFF) for start, end in _within(kernel[queue], taken, over)]
            waits = [(call[0], call[1], EXECUTE) for call in calls]
            t = taken
            for start, end, stage in sorted(work + waits):
                yield _Span(consumer, CONSUME, t, start, first, last)
                yield _Span(consumer, stage, max(t, start), end, first, last, stage == EXECUTE)
                t = max(t, end)
            yield _Span(consumer, CONSUME, t, over, first, last)
            for when, _, smmu, start, done, _ in calls:
                yield _Span(f"smmu{smmu}.cmdq", QUEUE, when, start, first, last)
                yield _Span(f"smmu{smmu}", EXECUTE, start, done, first, last)

    def _reads(self) -> Iterator[_Span]:
        """Reads of CONS that leave the guest: of the VMM, and of the kernel."""
        mine: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for row, each in enumerate(self.of.lists):
            mine[each.guest, each.vcpu].append((each.ticket.resumed, row))
        for lists in mine.values():
            lists.sort()
        vmm = {
            int(name[5:].partition(".")[0]): name for name, kind in self.of.graph.nodes(data="kind") if kind == "vmm"
        }
        for party, start, granted, end in self.of.steps["read"]:
            guest, vcpu = divmod(party, 1 << 16)
            at = bisect_right(mine[guest, vcpu], (start, 1 << 32)) - 1
            if at < 0:
                continue
            row = mine[guest, vcpu][at][1]
            yield _Span(f"guest{guest}.exits", COMPLETE, start, end, row, row)
            if guest in vmm:
                yield _Span(vmm[guest], COMPLETE, granted, end, row, row)
        costs = self.of.run.scenario.costs
        for row, each in enumerate(self.of.lists):
            if self.of.graph.nodes[self.of.names[each.queue]]["row"].completion != "kernel-cons" or not each.work.sync:
                continue
            t, seen, step = each.ticket.resumed, self.of.seen.get(id(each.ticket), 0), 0
            while t < seen:
                step += 1
                t += poll_step(step, costs.relax)
                yield _Span(f"guest{each.guest}.exits", COMPLETE, t, t + costs.exit_kernel, row, row)
                t += costs.exit_kernel


def _joined(spans: Sequence[_Span]) -> Iterator[_Span]:
    """Spans of one lane, in the order of time; one that goes on where the one before it ended is part of that."""
    before: _Span | None = None
    for span in spans:
        if before is not None:
            if span._replace(start=before.start, end=before.end) == before and span.start == before.end:
                before = before._replace(end=span.end)
                continue
            yield before
        before = span
    if before is not None:
        yield before


def _within(times: Sequence[Any], start: int, end: int) -> Sequence[Any]:
    """What begins from `start` on and before `end`, of a sequence in the order of beginnings."""
    return times[bisect_right(times, (start - 1, 1 << 62)) : bisect_right(times, (end - 1, 1 << 62))]
