"""The machine, live: point at a part to see the way of its commands, open it to see what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import traitlets

from smmu_lab.charts import layers
from smmu_lab.charts.gather import Cell, Gathered, gather
from smmu_lab.charts.places import COLUMN
from smmu_lab.view.live import Live, script, style
from smmu_lab.view.machine import details, label, named
from smmu_lab.view.machine_facts import Facts
from smmu_lab.view.machine_ways import ways

if TYPE_CHECKING:
    from smmu_lab.view.topology import Machine


class TopologyView(Live):
    """A picture to walk in. It asks nothing of Python once it is there.

    Attributes:
        machine: what is shown.
        svg: its picture.
        about: what it is, and its verdict.
        cells: what each box of the picture is, holds and is connected with, in the order of ``data-cell``.
        selected: name of the node whose details are open, the first of several; or nothing.
    """

    _esm = script("topology")
    _css = style("topology")

    svg = traitlets.Unicode().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)
    cells: traitlets.List[Any] = traitlets.List().tag(sync=True)
    selected = traitlets.Unicode().tag(sync=True)

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        small = gather(machine.graph, machine.bottleneck)
        super().__init__(
            svg=layers(machine.graph, machine.loads, machine.bottleneck, ""),
            about={"title": machine.title, "verdict": machine.verdict, "limits": list(machine.bottleneck[:1])},
            cells=cells(machine, small),
        )

    def lasting(self) -> tuple[str, str]:
        """What the machine shows where nothing is alive."""
        return self.machine._repr_html_(), repr(self.machine)


def cells(machine: Machine, small: Gathered) -> list[dict[str, Any]]:
    """Every box as plain data, in the order of `Gathered.cells`."""
    facts = Facts(machine.scenario, machine.approach, machine.graph, machine.run, machine.loads)
    met = ways(small)
    number = {cell: place for place, cell in enumerate(small.cells)}
    return [
        {
            "name": cell.names[0],
            "title": cell.full,
            "kind": named(facts, cell),
            "label": label(facts, cell, small.load(cell, machine.loads), bool({*cell.names} & {*machine.bottleneck})),
            "layer": COLUMN.get(cell.kind, -1),
            "way": sorted(number[other] for other in met[cell]),
            **_plain(facts, cell),
        }
        for cell in small.cells
    ]


def _plain(facts: Facts, cell: Cell) -> dict[str, Any]:
    told = details(facts, cell)
    sheets = [
        {
            "caption": sheet.caption,
            "header": sheet.header,
            "rows": list(sheet.rows),
            "left": [name in sheet.left for name in sheet.header],
        }
        for sheet in told.sheets
    ]
    return {"rows": told.rows, "sheets": sheets, "svg": told.svg}
