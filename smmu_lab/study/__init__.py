"""Many runs: comparing approaches on the same operations.

Here belongs what needs more than one record. Not here: what one record says (`smmu_lab.record`), and widgets
(`smmu_lab.view`).
"""

from smmu_lab.study.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
