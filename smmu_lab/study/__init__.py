"""Many runs: comparing approaches on the same operations, and checking what each of them must keep.

Here belongs what needs more than one record. Not here: what one record says (`smmu_lab.record`), and widgets
(`smmu_lab.view`).
"""

from smmu_lab.study.amplification import Amplification, amplification
from smmu_lab.study.compare import Comparison, compare
from smmu_lab.study.conformance import Conformance, Finding, check_approach
from smmu_lab.study.contention import Contention, contention
from smmu_lab.study.injection import Effect, Injection, inject
from smmu_lab.study.layouts import Layouts, layouts
from smmu_lab.study.neighbours import Neighbours, neighbours

__all__ = [
    "Amplification",
    "Comparison",
    "Conformance",
    "Contention",
    "Effect",
    "Finding",
    "Injection",
    "Layouts",
    "Neighbours",
    "amplification",
    "check_approach",
    "compare",
    "contention",
    "inject",
    "layouts",
    "neighbours",
]
