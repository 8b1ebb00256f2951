"""What happened: columns of whole nanoseconds, and pure functions of them.

Here belongs what a run wrote and what follows from one record alone. Not here: comparing runs (`smmu_lab.study`) and
showing them (`smmu_lab.view`).
"""

from smmu_lab.record.columns import BATCHES, KINDS, OPS, STAGES, Counts, Table
from smmu_lab.record.run import Run
from smmu_lab.record.statistics import Distribution, Estimate, batch_means, quantile

__all__ = [
    "BATCHES",
    "KINDS",
    "OPS",
    "STAGES",
    "Counts",
    "Distribution",
    "Estimate",
    "Run",
    "Table",
    "batch_means",
    "quantile",
]
