"""Charts: pure functions from records to SVG, each with a text twin for terminals and text readers.

Here belongs what draws figures and needs neither a notebook nor a widget. It stands below `smmu_lab.study`, so that
results can show themselves. Not here: what reacts (`smmu_lab.view`).
"""

from smmu_lab.charts.breakdown import breakdown, breakdown_sheet, summary
from smmu_lab.charts.curve import curve, curve_sheet
from smmu_lab.charts.gather import Load
from smmu_lab.charts.layers import layers, layers_sheet
from smmu_lab.charts.svg import STYLE, still, tag

__all__ = [
    "STYLE",
    "Load",
    "breakdown",
    "breakdown_sheet",
    "curve",
    "curve_sheet",
    "layers",
    "layers_sheet",
    "still",
    "summary",
    "tag",
]
