"""What several runs of one approach say together."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.record.columns import STAGES, Counts
from smmu_lab.record.statistics import Distribution
from smmu_lab.scenario import Approach

if TYPE_CHECKING:
    from smmu_lab.record.run import Run


@attrs.frozen(slots=False, eq=False)
class Sample:
    """Replications of one scenario under one approach, which differ in their seeds only; or a single run.

    Latency, breakdown and time with interrupts off are of the measured operations after the warm-up. Counts and
    throughput are of whole runs, and per operation they are divided by all measured operations.

    Attributes:
        runs: the replications.
        warmup: measured operations that are left out at the beginning of each.
    """

    runs: tuple[Run, ...]
    warmup: int

    @property
    def approach(self) -> Approach:
        """What served them."""
        return self.runs[0].approach

    @property
    def noun(self) -> str:
        """What is measured."""
        return self.runs[0].noun

    @property
    def measured(self) -> int:
        """Measured operations, those of the warm-up too."""
        return sum(len(run.measured) for run in self.runs)

    @cached_property
    def latency(self) -> Distribution:
        """Latency of the operations after the warm-up: mean, quantiles, intervals, ns."""
        return Distribution(*(run.series[self.warmup :] for run in self.runs))

    @cached_property
    def breakdown(self) -> dict[str, float]:
        """Mean time of each stage of the same operations, ns; they sum to the mean latency."""
        return {stage: self._mean(stage) for stage in STAGES}

    @cached_property
    def irq_off(self) -> float:
        """Mean time with interrupts off of the same operations, ns."""
        return self._mean("irq_off")

    def _mean(self, column: str) -> float:
        total = sum(run.total(run.ops[column], self.warmup) for run in self.runs)
        return total / max(1, len(self.latency.values))

    @cached_property
    def counts(self) -> Counts:
        """What the measured guests of all replications caused together."""
        total = Counts()
        for run in self.runs:
            total = total + run.counts
        return total

    def per_operation(self, name: str) -> float:
        """A count divided by the number of measured operations."""
        count: int = getattr(self.counts, name)
        return count / max(1, self.measured)

    @cached_property
    def duration(self) -> int:
        """Simulated time of all replications, ns."""
        return sum(run.duration for run in self.runs)

    @property
    def throughput(self) -> float:
        """Measured operations per second of simulated time."""
        return self.measured * 1e9 / self.duration if self.duration else 0.0

    @property
    def exposed(self) -> float:
        """Mean number of pages at an instant that were unmapped and could still be reached (Little's law)."""
        return self.counts.exposure / max(1, self.duration)

    def to_dict(self) -> dict[str, Any]:
        """Summary as plain data, times in ns."""
        return {
            "approach": self.approach.name,
            "replications": len(self.runs),
            "operations": self.measured,
            "warmup": self.warmup,
            "duration": self.duration,
            "throughput": self.throughput,
            "latency": self.latency.to_dict() if self.latency.values else None,
            "breakdown": self.breakdown,
            "counts": attrs.asdict(self.counts),
            "irq_off": self.irq_off,
            "exposed_pages": self.exposed,
        }
