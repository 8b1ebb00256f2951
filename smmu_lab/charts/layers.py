"""The machine as a picture in layers: where a command goes, where it fans out, and what is shared by whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from smmu_lab.charts.gather import Cell, Gathered, Load, Loads, gather, users
from smmu_lab.charts.places import (
    BAR,
    COLUMN,
    COLUMNS,
    DOMAINS,
    KERNEL,
    LINE,
    MARGIN,
    PAD,
    VSMMUS,
    WIDTHS,
    Box,
    Plan,
    Way,
    lines,
    measure,
    pieces,
)
from smmu_lab.charts.svg import picture, tag, text
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number

if TYPE_CHECKING:
    from networkx import DiGraph

HUES = {
    "vcpu": "#0072b2",
    "domain": "#0072b2",
    "vsmmu": "#3f98cf",
    "queue": "#d55e00",
    "vmm": "#8f7a00",
    "kernel": "#8f7a00",
    "worker": "#8f7a00",
    "host-cpu": "#8f7a00",
    "cmdq": "#a6508a",
    "vintf": "#cc79a7",
    "smmu": "#009e73",
    "device": "#757575",
}
"""Of borders and edges by kind (see `smmu_lab.charts.palette`); the words say the same."""
WIDEST, THIN = 7, 1
"""Widths of the edges with most and with fewest commands, px."""
MOST_LABELS = 14
"""Of more edges side by side none has a label: nobody could tell whose it is. The table has them all."""
MARK = "\N{BLACK RIGHT-POINTING TRIANGLE}"
"""Before the word that something limits the throughput."""

Area = tuple[float, float, float, float]


def layers(
    graph: DiGraph[str], loads: Loads | None = None, bottleneck: Collection[str] = (), title: str = "The machine"
) -> str:
    """A wired graph in layers, commands from left to right.

    Edges are as wide as the commands are many that went along. A bar is a share of time at work. What holds something
    encloses it; of many things that are alike the first ones are shown, and the others as one. For programs, what is
    drawn of a cell has its place in ``gather(graph, bottleneck).cells`` as ``data-cell``, and an edge those of its ends
    as ``data-way``.

    Args:
        graph: as `smmu_lab.scenario.wiring.wire` makes it.
        loads: what a run asked of its nodes and edges; without it the picture shows structure only.
        bottleneck: names of the nodes that limit the throughput.
        title: above the picture, in one line or a few.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    titles = ["".join(filter(str.isprintable, line)) for line in title.splitlines()]
    return _Picture(graph, loads or {}, bottleneck, titles).svg()


def layers_sheet(graph: DiGraph[str], loads: Loads | None = None, bottleneck: Collection[str] = ()) -> Sheet:
    """What `layers` shows as a table, its text twin."""
    small, loads = gather(graph, bottleneck), loads or {}
    rows = []
    cells = [cell for cell in small.cells if cell.kind in COLUMN]
    for cell in sorted(cells, key=lambda cell: (COLUMN[cell.kind], cell.kind == "host-cpu")):
        load = small.load(cell, loads)
        below = [other.full for one, other in small.edges if one is cell and other.kind != "host-cpu"]
        below += [cell.parent.full] if cell.parent and cell.parent.kind == "smmu" and cell.kind != "device" else []
        rows.append(
            (
                cell.full,
                cell.kind,
                "; ".join(_about(small, cell)),
                ", ".join(below if len(below) <= 2 else [below[0], f"and {len(below) - 1} more"]),
                f"{load.commands:,}" if load and cell.kind != "host-cpu" else "",
                _busy(small, cell, loads),
                show_number(load.waiting) if load and load.waiting is not None else "",
                _limits(cell, bottleneck),
            )
        )
    head = ("what", "kind", "about", "leads to", "commands", "at work", "waiting", "throughput")
    shown = [k for k in range(len(head)) if any(row[k] for row in rows)]
    return Sheet(
        tuple(head[k] for k in shown),
        [tuple(row[k] for k in shown) for row in rows],
        left=(*head[:4], head[-1]),
        caption="what commands pass, layer by layer",
    )


def _about(small: Gathered, cell: Cell) -> list[str]:
    """What makes a cell different from others of its kind, and who shares it, in a few lines."""
    about, one = cell.about, len(cell.names) == 1
    if cell.kind == "vsmmu":
        return ["accel" if about["accel"] else "not accel"]
    if cell.kind == "domain" and one:
        return [f"ASID {about['asid']}"]
    if cell.kind == "device":
        return _device(cell)
    if cell.kind in ("vcpu", "domain", "host-cpu"):
        return []
    shared = [users(small.graph, name) for name in cell.names]
    least, most = min(map(len, shared)), max(map(len, shared))
    if cell.kind in ("queue", "cmdq", "smmu"):
        noun = "vCPU" if cell.kind == "queue" else "guest"
        if most > 1:
            return [f"shared by {most:,} {noun}s"]
        if not most:
            return ["unused"]
        if one:
            return [f"{shared[0].pop().rpartition('.')[2]} alone"]
        return [f"one {noun} {'each' if least else 'at most'}"]
    if not most:
        return ["steps in where it stops"]
    drains = f"{most} queue{'s'[: most > 1]}"
    said = [f"drains {drains}" if one else f"{drains} each" if least == most else f"{least} to {drains} each"]
    return said if cell.kind != "worker" else [*said, f"on {_cpus(small, cell)}"]


def _limits(cell: Cell, bottleneck: Collection[str]) -> str:
    """Whether a cell, or how many of its nodes, limit the throughput."""
    number = len(set(cell.names) & set(bottleneck))
    return "" if not number else "limits" if number == len(cell.names) else f"{number:,} limit"


def _device(cell: Cell) -> list[str]:
    about = cell.about
    said = [] if about["what"] == "passthrough" else [about["what"]]
    if len(cell.names) == 1:
        said += [f"{key} {about[key]:#x}" for key in ("vsid", "sid") if key in about]
    elif (guests := len({name.partition(".")[0] for name in cell.names})) > 1:
        said.append(f"of {guests:,} guests")
    return [", ".join([*said, *["ATS"] * about["ats"]])]


def _cpus(small: Gathered, cell: Cell) -> str:
    """Where workers may run."""
    allowed = [
        [cpu for _, cpu, kind in small.graph.out_edges(name, data="kind") if kind == "runs"] for name in cell.names
    ]
    if len(allowed[0]) > 1:
        return f"any of {len(allowed[0])} CPUs"
    pinned = {cpu for cpus in allowed for cpu in cpus}
    return pinned.pop() if len(pinned) == 1 else f"one of {len(pinned)} CPUs"


def _busy(small: Gathered, cell: Cell, loads: Loads) -> str:
    """Share of time at work; of several from the least to the most."""
    shares = [loads[name].busy for name in cell.names if name in loads]
    known = [f"{share:.0%}" for share in sorted(share for share in shares if share is not None)]
    return "" if not known else known[0] if known[0] == known[-1] else f"{known[0][:-1]} to {known[-1]}"


def _short(count: int) -> str:
    """A number of commands in a few letters."""
    for unit, scale, least in (("G", 10**9, 10**9), ("M", 10**6, 10**6), ("k", 10**3, 10**4)):
        if count >= least:
            return f"{show_number(count / scale)}{unit}"
    return f"{count:,}"


class _Picture:
    def __init__(self, graph: DiGraph[str], loads: Loads, bottleneck: Collection[str], titles: Sequence[str]) -> None:
        self.small, self.loads, self.bottleneck, self.titles = gather(graph, bottleneck), loads, bottleneck, titles
        self.number = {cell: number for number, cell in enumerate(self.small.cells)}
        head = 42 + 16 * len(titles)
        self.plan = Plan(self.small, {cell: self._box(cell) for cell in self.small.cells if cell.kind in COLUMN}, head)
        self.outer = [box for column in self.plan.columns for box in column if not box.passing]
        self.on_metal = not self.plan.columns[VSMMUS]

    def _box(self, cell: Cell) -> Box:
        load = self.small.load(cell, self.loads)
        inner = cell.parent is not None and cell.kind != "device"
        limits = _limits(cell, self.bottleneck)
        width = WIDTHS[COLUMN["smmu" if cell.parent and cell.parent.kind == "smmu" and inner else cell.kind]]
        box = Box(cell, width - (2 * PAD + 2) * inner, bar=load.busy if load else None, marked=bool(limits))
        room = box.width - box.indent - 3
        for words, style in self._words(cell, load, limits):
            box.lines += [(line, style) for line in lines(words, room, "strong" in style)]
        return box

    def _words(self, cell: Cell, load: Load | None, limits: str) -> Iterator[tuple[str, str]]:
        """The words of a box, each with a class."""
        one = len(cell.names) == 1
        title = {"vmm": "VMM", "kernel": "kernel", "cmdq": "CMDQ of the host", "vintf": "VINTF"}.get(cell.kind)
        yield title if title and one else f"{len(cell.names):,} more" if cell.more else cell.short, "strong"
        if limits:
            yield f"{MARK} {limits}", "small strong"
        ats = ", ATS" if cell.about.get("ats") else ""
        if one and cell.kind in ("device", "vintf"):
            yield cell.names[0].rpartition(".")[0].removesuffix(".pcie") + ats, "faint small"
        if one and cell.kind == "queue" and self._on_smmu(cell):
            yield cell.names[0].partition(".")[0], "faint small"
        if cell.kind == "kernel":
            yield "in the vCPU's exit", "faint small"
        if cell.kind in ("vcpu", "domain", "host-cpu") and not one and not (cell.guest and len(cell.guest.names) > 1):
            yield f"{cell.own} … {cell.names[-1].rpartition('.')[2]}", "faint small"
        for words in _about(self.small, cell):
            yield words.removesuffix(ats) if one else words, "faint small"
        if load and cell.kind in ("queue", "cmdq", "vintf"):
            yield f"{_short(load.commands)} {'requests' if cell.own == 'requests' else 'commands'}", "small"
        if load and load.waiting is not None:
            yield f"{show_number(load.waiting)} waiting{'' if one else ' each'}", "small"
        if busy := _busy(self.small, cell, self.loads):
            yield f"{ {'smmu': 'engine', 'vmm': 'lock'}.get(cell.kind, 'busy') } {busy}", "small"

    @staticmethod
    def _on_smmu(cell: Cell) -> bool:
        return cell.parent is not None and cell.parent.kind == "smmu"

    def svg(self) -> str:
        legend = lines(" \N{MIDDLE DOT} ".join(self._legend()), self.plan.width - 2 * MARGIN)
        width, height = round(self.plan.width), round(self.plan.bottom + 28 + LINE * len(legend))
        inner = [box for box in pieces(self.outer) if box not in self.outer]
        edges, labels = self._edges()
        parts = [
            *self._titles(width - 2 * MARGIN),
            *self._headings(),
            *(self._whole(lane[0], self._frame(*lane)) for lane in self.plan.lanes),
            *(self._whole(box.cell, self._draw(box)) for box in self.outer),
            *edges,
            *(self._whole(box.cell, self._draw(box)) for box in inner),
            *labels,
            *(text(words, MARGIN, self.plan.bottom + 28 + LINE * k, "faint small") for k, words in enumerate(legend)),
        ]
        return picture(width, height, ". ".join(self.titles), *parts)

    def _whole(self, cell: Cell, parts: Iterator[str]) -> str:
        """All that is drawn of a cell, with its place among those that `gather` finds."""
        return tag("g", *parts, data_cell=self.number[cell])

    def _titles(self, room: float) -> Iterator[str]:
        for number, title in enumerate(self.titles):
            first, *more = lines(title, room, strong=True)
            yield text(
                f"{first} …" if more else first, MARGIN, 18 + 16 * number, "" if number else "strong", title=title
            )

    def _headings(self) -> Iterator[str]:
        for name, column, x in zip(COLUMNS, self.plan.columns, self.plan.left, strict=True):
            if column:
                yield text("CPUs" if self.on_metal and name == "vCPUs" else name, x, self.plan.head - 16, "faint small")
        if cpus := [box.y for box in self.plan.columns[KERNEL] if box.cell.kind == "host-cpu"]:
            yield text("host CPUs for workers", self.plan.left[KERNEL], min(cpus) - 8, "faint small")

    def _frame(self, guest: Cell, top: float, end: float) -> Iterator[str]:
        """The border of a guest."""
        one, last = len(guest.names) == 1, DOMAINS if self.on_metal else VSMMUS
        width = self.plan.left[last] + WIDTHS[last]
        shape = {"x": 8, "y": top, "width": width, "height": end - top, "rx": 6, "fill": "none"}
        yield tag("rect", class_="line", stroke_dasharray="" if one else "6 3", **shape)
        words = guest.short if one else f"and {guest.short}, alike"
        if sum(len(each.names) > 1 for each, _, _ in self.plan.lanes) > 1 and not one:
            words += f" ({guest.names[0]} … {guest.names[-1]})"
        words += ": CPUs of the host" * self.on_metal
        yield text(words, MARGIN, top + 17, "strong", title=guest.full)

    def _draw(self, box: Box) -> Iterator[str]:
        """A box without what is inside."""
        cell, x, y = box.cell, box.x, box.y
        hue = HUES[cell.kind]
        shape = {
            "width": box.width,
            "height": box.height,
            "rx": 13 if cell.kind == "domain" else 3,
            "fill": "var(--paper)",
            "stroke": hue,
            "stroke_width": 3 if box.marked else 1.5,
            "stroke_dasharray": "" if cell.about.get("what", "passthrough") == "passthrough" else "4 3",
        }
        if len(cell.names) > 1:
            yield tag("rect", x=x + 3, y=y + 3, **shape)
        tip = tag("title", escape(cell.full))
        yield tag("rect", tip, x=x, y=y, data_name=cell.full, data_marked=int(box.marked), **shape)
        if cell.kind == "queue":
            yield tag("path", d=f"M{x + 5:.1f} {y:.1f}v{box.height}M{x + 9:.1f} {y:.1f}v{box.height}", stroke=hue)
        line = y + PAD + 10
        for words, style in box.lines:
            yield text(words, x + box.indent, line, style)
            line += LINE
        if box.bar is not None:
            bar = {"x": x + box.indent, "y": line - 8, "height": BAR}
            full = box.width - box.indent - 8
            yield tag("rect", class_="line", width=full, fill="none", **bar)
            yield tag("rect", width=full * min(1, box.bar), fill=hue, data_busy=box.bar, **bar)

    def _edges(self) -> tuple[list[str], list[str]]:
        """The edges, and their labels."""
        flows = {way: self.small.load(way.edge, self.loads) for way in self.plan.ways}
        most = max((load.commands for load in flows.values() if load), default=0)
        beside = Counter(round(way.near.right) for way in flows)
        taken = [(box.x - 4, box.y - 1, box.right + 4, box.bottom + 1) for box in self.outer]
        taken += [(MARGIN, top, MARGIN + 300, top + 24) for _, top, _ in self.plan.lanes]
        drawn: list[str] = []
        labels = []
        for way, load in flows.items():
            thick = max(THIN, WIDEST * load.commands / most) if load and most else 1.25
            ends = " ".join(str(self.number[cell]) for cell in way.edge)
            drawn.append(tag("g", *self._edge(way, load, thick), data_way=ends))
            if load and load.commands and beside[round(way.near.right)] <= MOST_LABELS:
                words = _short(load.commands)
                if spot := _room(way, measure(words), thick, taken):
                    taken.append(spot)
                    label = text(words, (spot[0] + spot[2]) / 2, spot[3] - 2, "small halo", "middle")
                    labels.append(tag("g", label, data_way=ends))
        return drawn, labels

    def _edge(self, way: Way, load: Load | None, thick: float) -> Iterator[str]:
        one, other = (cell.full for cell in way.edge)
        hue = HUES[way.edge[0].kind]
        (x, y, *_), (*_, to, at) = way.parts[0], way.parts[-1]
        path = f"M{x:.1f} {y:.1f}" + "".join(
            f"C{(a + c) / 2:.1f} {b:.1f} {(a + c) / 2:.1f} {d:.1f} {c:.1f} {d:.1f}" for a, b, c, d in way.parts
        )
        unused = bool(self.loads) and not (load and load.commands)
        yield tag(
            "path",
            tag("title", escape(f"{one} to {other}" + (f": {load.commands:,} commands" if load else ""))),
            d=path,
            fill="none",
            stroke=hue,
            stroke_width=thick,
            stroke_dasharray="5 4" if way.back else "2 3" if unused else "",
            data_from=one,
            data_to=other,
            data_commands=load.commands if load else "",
        )
        half = max(3.5, thick / 2 + 2.5)
        yield tag("path", d=f"M{to:.1f} {at:.1f}l{7 if way.back else -7} {-half:.1f}v{2 * half:.1f}z", fill=hue)

    def _legend(self) -> Iterator[str]:
        """What needs a word."""
        if self.loads:
            yield "wide: many commands, their number beside it"
            yield "bar: share of the run at work"
        if any(len(box.cell.names) > 1 for box in pieces(self.outer)):
            yield "doubled border: several, alike" + ", their sum or mean" * bool(self.loads)
        if any(way.back for way in self.plan.ways):
            yield "dashed: the VMM runs what stopped the hardware"
        if self.bottleneck:
            yield f"thick border, {MARK}: what limits the throughput"


def _room(way: Way, width: float, thick: float, taken: Sequence[Area]) -> Area | None:
    """Where the number beside an edge finds room: on it, or above where it is level."""
    for a, b, c, d in reversed(way.parts):
        for t in (0.5, 0.35, 0.65, 0.25, 0.75):
            x = a + (c - a) * (1.5 * t * (1 - t) + t**3)
            y = b + (d - b) * (3 * t * t * (1 - t) + t**3) - (thick / 2 + 7) * (abs(b - d) < 20)
            spot = (x - width / 2, y - 8, x + width / 2, y + 6)
            if not any(map(partial(_meet, spot), taken)):
                return spot
    return None


def _meet(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
