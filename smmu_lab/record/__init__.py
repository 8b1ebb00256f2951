"""What happened: columns of whole nanoseconds, and pure functions of them.

Here belongs what a run wrote and what follows from one record alone. Not here: comparing runs (`smmu_lab.study`) and
showing them (`smmu_lab.view`).
"""

from smmu_lab.record.columns import BATCHES, ISSUED, KINDS, OPS, STAGES, STOPS, Counts, Table
from smmu_lab.record.run import Run, noun_of, settling
from smmu_lab.record.sample import Sample
from smmu_lab.record.statistics import Distribution, Estimate, Warmup, batch_means, mser5, quantile, sectioned

__all__ = [
    "BATCHES",
    "ISSUED",
    "KINDS",
    "OPS",
    "STAGES",
    "STOPS",
    "Counts",
    "Distribution",
    "Estimate",
    "Run",
    "Sample",
    "Table",
    "Warmup",
    "batch_means",
    "mser5",
    "noun_of",
    "quantile",
    "sectioned",
    "settling",
]
