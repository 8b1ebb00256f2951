"""The record of one run, and what can be read from it."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, islice
from operator import add, sub
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.record.columns import ISSUED, KINDS, STAGES, STOPS, Counts, Table
from smmu_lab.record.sample import Sample
from smmu_lab.record.statistics import Distribution, Warmup, mser5
from smmu_lab.scenario import Approach, Scenario, Unmaps, wire

if TYPE_CHECKING:
    import pandas
    from networkx import DiGraph

_BEFORE = {KINDS.index(kind): kind for kind in ("map", "switch")}
"""What counts with the unmap that it precedes."""


@attrs.define(kw_only=True, slots=False, eq=False, repr=False)
class Run:
    """One scenario under one approach: what happened, in whole nanoseconds.

    Latency, breakdown and time with interrupts off are of the measured operations after the `warmup`. Counts and
    throughput are of the whole run, and per operation they are divided by all measured operations. Neighbours are not
    measured, and what they cause is in `guests`, not in `counts`; on bare metal, where all is the first one's, it is in
    both.

    Attributes:
        ops: one row per operation (`OPS`), in the order in which they ended; its stages sum to its latency.
        batches: one row per drain of a queue (`BATCHES`).
        stops: one row per error that a guest was told of (`STOPS`).
        issued: one row per guest queue and physical SMMU (`ISSUED`).
        guests: what each guest caused.
        queues: (guest, queue, PROD, CONS) at the end.
        events: simpy events, by cause.
        dropped: measured operations to leave out as warm-up; None is as many as MSER-5 says.
    """

    scenario: Scenario
    approach: Approach
    ops: Table
    batches: Table
    stops: Table = attrs.field(factory=lambda: Table(STOPS))
    issued: Table = attrs.field(factory=lambda: Table(ISSUED))
    guests: tuple[Counts, ...]
    queues: tuple[tuple[int, int, int, int], ...]
    events: Mapping[str, int]
    dropped: int | None = None

    @cached_property
    def counts(self) -> Counts:
        """What all measured guests caused together."""
        total = Counts()
        for counts in self.guests[: self._first_neighbour]:
            total = total + counts
        return total

    @cached_property
    def latencies(self) -> list[int]:
        """Latency of every operation, in the order of `ops`, ns."""
        total = [0] * len(self.ops)
        for stage in STAGES:
            total = list(map(add, total, self.ops[stage]))
        return total

    @cached_property
    def graph(self) -> DiGraph[str]:
        """What the run was built from: see `smmu_lab.scenario.wire`."""
        return wire(self.scenario, self.approach)

    # -- what is measured --------------------------------------------------------------------------------------------

    @cached_property
    def _members(self) -> tuple[list[int], Sequence[int]]:
        """Rows that count, those of one measured operation together, its own the last; and where each one's end."""
        ops, first = self.ops, self._first_neighbour
        kinds = ops["kind"]
        wanted = self._wanted
        number: Counter[tuple[int, int]] = Counter()
        keys = []
        for row, (kind, guest, vcpu) in enumerate(zip(kinds, ops["guest"], ops["vcpu"], strict=True)):
            if (kind == wanted or kind in _BEFORE) and guest < first:
                who = guest, vcpu
                keys.append((number[who], who, row))
                number[who] += kind == wanted
        rows = [row for ended, who, row in sorted(keys) if ended < number[who]]
        if len(rows) == number.total():
            return rows, range(1, len(rows) + 1)
        return rows, [end for end, row in enumerate(rows, 1) if kinds[row] == wanted]

    @property
    def _first_neighbour(self) -> int:
        return self.scenario.guests - self.scenario.neighbour.guests

    @cached_property
    def _wanted(self) -> int:
        """The kind of operation that is measured."""
        first, ops = self._first_neighbour, self.ops
        return min((kind for kind, guest in zip(ops["kind"], ops["guest"], strict=True) if guest < first), default=0)

    @cached_property
    def measured(self) -> list[int]:
        """Rows of `ops` that count for statistics: the unmaps; of a recording without any, its flushes or doorbells.

        Ordered by their number within their vCPU, then by guest and vCPU: about the order of time, and the same order
        under every approach.
        """
        rows, ends = self._members
        return [rows[end - 1] for end in ends]

    @property
    def noun(self) -> str:
        """What is measured: ``unmap``, ``flush`` or ``doorbell``; ``map + unmap`` where what comes before it counts."""
        kinds, first = self.ops["kind"], self._first_neighbour
        met = {kind for kind, guest in zip(kinds, self.ops["guest"], strict=True) if guest < first}
        return " + ".join([*(name for kind, name in _BEFORE.items() if kind in met), KINDS[self._wanted]])

    def values(self, column: Sequence[int]) -> list[int]:
        """A column of `ops` (or `latencies`) per measured operation, with what the maps and switches before it add."""
        rows, ends = self._members
        values = [column[row] for row in rows]
        if len(rows) == len(ends):
            return values
        sums = list(accumulate(values))
        upto = [sums[end - 1] for end in ends]
        return list(map(sub, upto, [0, *upto]))

    def total(self, column: Sequence[int], warmup: int) -> int:
        """Sum of a column over the measured operations after the first `warmup`, with what comes before them."""
        rows, ends = self._members
        return sum(map(column.__getitem__, islice(rows, ends[warmup - 1] if warmup else 0, None)))

    @cached_property
    def series(self) -> list[int]:
        """Latency of every measured operation, those of the warm-up too, in order, ns."""
        return self.values(self.latencies)

    # -- figures -----------------------------------------------------------------------------------------------------

    @property
    def warmup(self) -> int:
        """Measured operations that are left out of the figures: the first ones, which find all queues empty."""
        return settling([self]).length if self.dropped is None else self.dropped

    @cached_property
    def sample(self) -> Sample:
        """The figures of this run alone."""
        return Sample((self,), self.warmup)

    @property
    def latency(self) -> Distribution:
        """Latency of the measured operations: mean, quantiles, intervals, ns."""
        return self.sample.latency

    @property
    def breakdown(self) -> dict[str, float]:
        """Mean time of each stage over the measured operations, ns; they sum to the mean latency."""
        return self.sample.breakdown

    @property
    def irq_off(self) -> float:
        """Mean time with interrupts off per measured operation, ns."""
        return self.sample.irq_off

    @cached_property
    def duration(self) -> int:
        """From the first start to the last end, neighbours' apart, ns."""
        ops, first = self.ops, self._first_neighbour
        start, took = ops["start"], self.latencies
        if first < self.scenario.guests:
            rows = [row for row, guest in enumerate(ops["guest"]) if guest < first]
            start, took = array("q", map(start.__getitem__, rows)), list(map(took.__getitem__, rows))
        return max(map(add, start, took), default=0) - min(start, default=0)

    @property
    def throughput(self) -> float:
        """Measured operations per second of simulated time."""
        return self.sample.throughput

    def per_operation(self, name: str) -> float:
        """A count divided by the number of measured operations."""
        return self.sample.per_operation(name)

    def to_pandas(self) -> pandas.DataFrame:
        """The operations as a data frame, with ``latency``; needs pandas."""
        import pandas

        frame = pandas.DataFrame({name: self.ops[name] for name in self.ops.names})
        frame["kind"] = frame["kind"].map(dict(enumerate(KINDS)))
        frame["latency"] = self.latencies
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Summary of the run as plain data, times in ns."""
        return self.sample.to_dict()

    def __repr__(self) -> str:
        return f"<Run of {self.approach.name}: {len(self.measured):,} operations, latency {self.latency}>"


def settling(runs: Sequence[Run]) -> Warmup:
    """The warm-up of replications: MSER-5 on their sum, operation by operation.

    A recorded guest is all of it: MSER-5 would take a phase of it for a warm-up. Nor does it suit flush-queue mode: the
    flush in every 255 unmaps is no transient, and a beginning that ends with one looks like one.
    """
    load = runs[0].scenario.workload
    if not isinstance(load, Unmaps) or load.lazy:
        return Warmup()
    return mser5(list(map(sum, zip(*(run.series for run in runs), strict=True))))


def noun_of(runs: Iterable[Run | Sample]) -> str:
    """What is measured in runs of the same scenario: where any of them sends maps, a map counts for all."""
    nouns = [run.noun for run in runs]
    return next((noun for noun in nouns if noun.startswith("map")), nouns[0])
