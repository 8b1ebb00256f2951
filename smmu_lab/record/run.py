"""The record of one run, and what can be read from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from operator import add
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.record.columns import KINDS, STAGES, Counts, Table
from smmu_lab.record.statistics import Distribution
from smmu_lab.scenario import Approach, Scenario

if TYPE_CHECKING:
    import pandas


@attrs.define(kw_only=True, slots=False, eq=False, repr=False)
class Run:
    """One scenario under one approach: what happened, in whole nanoseconds.

    Attributes:
        ops: one row per operation (`OPS`), in the order in which they ended; its stages sum to its latency.
        batches: one row per drain of a queue (`BATCHES`).
        guests: what each guest caused.
        queues: (guest, queue, PROD, CONS) at the end.
        events: simpy events, by cause.
    """

    scenario: Scenario
    approach: Approach
    ops: Table
    batches: Table
    guests: tuple[Counts, ...]
    queues: tuple[tuple[int, int, int, int], ...]
    events: Mapping[str, int]

    @cached_property
    def counts(self) -> Counts:
        """What all guests caused together."""
        total = Counts()
        for counts in self.guests:
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
    def measured(self) -> list[int]:
        """Rows of `ops` that count for statistics: the unmaps; of a recording without any, its flushes or doorbells.

        Ordered by their number within their vCPU, then by guest and vCPU: about the order of time, and the same order
        under every approach.
        """
        ops = self.ops
        wanted = min(ops["kind"], default=0)
        number: Counter[tuple[int, int]] = Counter()
        keys = []
        for row, (kind, guest, vcpu) in enumerate(zip(ops["kind"], ops["guest"], ops["vcpu"], strict=True)):
            if kind == wanted:
                who = guest, vcpu
                number[who] += 1
                keys.append((number[who], who, row))
        return [row for _, _, row in sorted(keys)]

    @cached_property
    def noun(self) -> str:
        """What is measured: ``unmap``, ``flush`` or ``doorbell``."""
        return KINDS[min(self.ops["kind"], default=0)]

    @cached_property
    def latency(self) -> Distribution:
        """Latency of the measured operations: mean, quantiles, intervals, ns."""
        return Distribution([self.latencies[row] for row in self.measured])

    @cached_property
    def breakdown(self) -> dict[str, float]:
        """Mean time of each stage over the measured operations, ns; they sum to the mean latency."""
        rows = self.measured
        return {stage: sum(map(self.ops[stage].__getitem__, rows)) / max(1, len(rows)) for stage in STAGES}

    @cached_property
    def duration(self) -> int:
        """From the first start to the last end, ns."""
        start = self.ops["start"]
        return max(map(add, start, self.latencies), default=0) - min(start, default=0)

    @property
    def throughput(self) -> float:
        """Measured operations per second of simulated time."""
        return len(self.measured) * 1e9 / self.duration if self.duration else 0.0

    @cached_property
    def irq_off(self) -> float:
        """Mean time with interrupts off per measured operation, ns."""
        rows = self.measured
        return sum(map(self.ops["irq_off"].__getitem__, rows)) / max(1, len(rows))

    def per_operation(self, name: str) -> float:
        """A count divided by the number of measured operations."""
        count: int = getattr(self.counts, name)
        return count / max(1, len(self.measured))

    def to_pandas(self) -> pandas.DataFrame:
        """The operations as a data frame, with ``latency``; needs pandas."""
        import pandas

        frame = pandas.DataFrame({name: self.ops[name] for name in self.ops.names})
        frame["kind"] = frame["kind"].map(dict(enumerate(KINDS)))
        frame["latency"] = self.latencies
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Summary of the run as plain data, times in ns."""
        return {
            "approach": self.approach.name,
            "operations": len(self.measured),
            "duration": self.duration,
            "throughput": self.throughput,
            "latency": self.latency.to_dict() if self.measured else None,
            "breakdown": self.breakdown,
            "counts": attrs.asdict(self.counts),
            "irq_off": self.irq_off,
        }

    def __repr__(self) -> str:
        return f"<Run of {self.approach.name}: {len(self.measured):,} operations, latency {self.latency}>"
