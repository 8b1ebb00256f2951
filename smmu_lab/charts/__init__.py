"""Charts: pure functions from records to SVG, each with a text twin for terminals and text readers.

Here belongs what draws figures and needs neither a notebook nor a widget. It stands below `smmu_lab.study`, so that
results can show themselves. Not here: what reacts (`smmu_lab.view`).

The form of a chart, which later ones keep: ``name(what it draws, width=..., data=...) -> str`` makes an ``<svg>`` by
`picture`, from records or figures that know nothing of a notebook; ``name_sheet(the same)`` gives the figures as a
`Sheet`. Every mark carries its figures as ``data-*``, for programs, and a ``<title>``, for the pointer; the
``aria-label`` says the message in words. Colours and shapes come from `smmu_lab.charts.palette`, round figures on axes
from `ticks`, and text that must fit is cut by `fit`. To last in a notebook it is wrapped by `still`; live, a widget
puts the same ``<svg>`` into the page. What belongs to one approach is one ``<g data-approach>``, so that a widget can
hide it or move its row; ``hidden=[names]`` leaves approaches out and the inks of the others as they are.
"""

from smmu_lab.charts.breakdown import breakdown, breakdown_sheet, summary
from smmu_lab.charts.curve import curve, curve_sheet
from smmu_lab.charts.distribution import distribution, distribution_sheet
from smmu_lab.charts.events import events, events_sheet
from smmu_lab.charts.gather import Load
from smmu_lab.charts.lanes import lanes, lanes_sheet
from smmu_lab.charts.layers import layers, layers_sheet
from smmu_lab.charts.occupancy import occupancy, occupancy_sheet
from smmu_lab.charts.percentiles import differences, differences_sheet, percentiles, percentiles_sheet
from smmu_lab.charts.svg import STYLE, picture, still, tag

__all__ = [
    "STYLE",
    "Load",
    "breakdown",
    "breakdown_sheet",
    "curve",
    "curve_sheet",
    "differences",
    "differences_sheet",
    "distribution",
    "distribution_sheet",
    "events",
    "events_sheet",
    "lanes",
    "lanes_sheet",
    "layers",
    "layers_sheet",
    "occupancy",
    "occupancy_sheet",
    "percentiles",
    "percentiles_sheet",
    "picture",
    "still",
    "summary",
    "tag",
]
