"""Many runs: comparing approaches on the same operations, and checking what each of them must keep.

Here belongs what needs more than one record. Not here: what one record says (`smmu_lab.record`), and widgets
(`smmu_lab.view`).
"""

from smmu_lab.study.compare import Comparison, compare
from smmu_lab.study.conformance import Conformance, Finding, check_approach
from smmu_lab.study.injection import Effect, Injection, inject

__all__ = ["Comparison", "Conformance", "Effect", "Finding", "Injection", "check_approach", "compare", "inject"]
