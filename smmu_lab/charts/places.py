"""Where the boxes of a layered picture stand, and the ways between them; all in px."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from unicodedata import east_asian_width

import attrs

from smmu_lab.charts.gather import Cell, Gathered

COLUMNS = {
    "vCPUs": ("vcpu",),
    "domains": ("domain",),
    "vSMMUs and their queues": ("vsmmu", "queue"),
    "VMM and kernel": ("vmm", "kernel", "worker", "host-cpu"),
    "physical SMMUs": ("smmu", "vintf", "cmdq"),
    "devices": ("device",),
}
"""The layers, from left to right, with the kinds in them."""
VCPUS, DOMAINS, VSMMUS, KERNEL, SMMUS, DEVICES = range(6)
COLUMN = {kind: number for number, kinds in enumerate(COLUMNS.values()) for kind in kinds}

WIDTHS = (108, 98, 156, 134, 156, 158)
GAPS = (46, 46, 58, 58, 46)
MARGIN = 16
"""Room beside everything."""
PAD, LINE, BAR = 7, 14, 6
"""Of a box: room around its words, a line, the bar."""
APART, INSIDE, LANES = 10, 6, 16
"""Between boxes, boxes within a box, and guests."""


@attrs.define(eq=False)
class Box:
    """Something with a place.

    Attributes:
        cell: what it shows.
        width: of the box.
        lines: its words, each with a class.
        bar: share that its bar shows.
        marked: it limits the throughput.
        passing: nothing is shown: what comes from `cell` passes by.
        inside: boxes in it, below its words.
        x: left end.
        y: upper end.
    """

    cell: Cell
    width: float
    lines: list[tuple[str, str]] = attrs.Factory(list)
    bar: float | None = None
    marked: bool = False
    passing: bool = False
    inside: list[Box] = attrs.Factory(list)
    x: float = 0
    y: float = 0

    @property
    def indent(self) -> float:
        """Room left of its words."""
        return 15 if self.cell.kind == "queue" else 8

    @property
    def words(self) -> float:
        """Height of its own words and bar."""
        return 2 * PAD - 2 + LINE * len(self.lines) + (BAR + 5 if self.bar is not None else 0)

    @property
    def height(self) -> float:
        """With what is inside."""
        return self.words + sum(each.height + INSIDE for each in self.inside) + (2 if self.inside else 0)

    @property
    def middle(self) -> float:
        """Where it is, up and down."""
        return self.y + self.height / 2

    @property
    def right(self) -> float:
        """Where it ends."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Where it ends, below."""
        return self.y + self.height

    def put(self, x: float, y: float) -> None:
        """Give it its place, and what is inside of it."""
        self.x, self.y = x, y
        stack(self.inside, x + PAD + 1, y + self.words, INSIDE)


@attrs.define(eq=False)
class Way:
    """An edge: from a box, perhaps by another one, to a box.

    Attributes:
        edge: the cells that it connects.
        one: where it begins.
        via: where it passes the column of the kernel.
        other: where it ends.
        back: it leads to the left.
        start: where it leaves, up and down.
        end: where it arrives.
    """

    edge: tuple[Cell, Cell]
    one: Box
    via: Box | None
    other: Box
    back: bool
    start: float = 0
    end: float = 0

    @property
    def near(self) -> Box:
        """The last box before its end."""
        return self.via or self.one

    @property
    def parts(self) -> list[tuple[float, float, float, float]]:
        """From where to where it goes, piece by piece; a piece begins and ends level."""
        if self.back:
            return [(self.one.x, self.start, self.other.right, self.end)]
        if self.via is None:
            return [(self.one.right, self.start, self.other.x, self.end)]
        y, left, right = self.via.middle, self.via.x, self.via.right
        return [(self.one.right, self.start, left, y), (left, y, right, y), (right, y, self.other.x, self.end)]


class Plan:
    """Gives boxes their places: in columns, and those of a guest in a lane.

    Args:
        small: the graph.
        boxes: one for each cell that is shown; those that stand within another are put into it here.
        head: room for titles, above.

    Attributes:
        columns: boxes of each column, without what is inside.
        ways: the edges.
        lanes: from where to where each guest reaches.
        left: where each column begins.
        width: of the picture.
        bottom: the lowest end of all.
    """

    def __init__(self, small: Gathered, boxes: Mapping[Cell, Box], head: float) -> None:
        self.head = head
        self.columns: list[list[Box]] = [[] for _ in COLUMNS]
        for cell, box in boxes.items():
            inner = cell.parent in boxes and cell.kind != "device"
            (boxes[cell.parent].inside if inner and cell.parent else self.columns[COLUMN[cell.kind]]).append(box)
        for box in boxes.values():  # what the hardware has for guests first
            box.inside.sort(key=lambda each: each.cell.kind == "cmdq")
        passing: dict[Cell, Box] = {}
        self.ways = []
        for one, other in small.edges:
            if one not in boxes or other not in boxes or other.kind == "host-cpu":
                continue
            if (COLUMN[one.kind], COLUMN[other.kind]) == (VSMMUS, SMMUS) and one not in passing:
                passing[one] = Box(one, WIDTHS[KERNEL], passing=True)
            back = small.kind((one, other)) == "fixes"
            self.ways.append(Way((one, other), boxes[one], passing.get(one), boxes[other], back))
        self.columns[KERNEL] += passing.values()
        self.left: list[float] = []
        x = float(MARGIN)
        for column, width, gap in zip(self.columns, WIDTHS, (*GAPS, 0), strict=True):
            self.left.append(x)
            x += (width + gap) * bool(column)
        self.width = max(x + width for x, width, column in zip(self.left, WIDTHS, self.columns, strict=True) if column)
        self.width += MARGIN
        self.lanes: list[tuple[Cell, float, float]] = []
        guests = [cell for cell in small.cells if cell.kind == "guest"]
        for guest in sorted(guests, key=lambda cell: len(cell.names) > 1):
            self._lane(guest)
        self._kernel()
        self._smmus()
        ends = [box.bottom for column in self.columns for box in column] + [end for _, _, end in self.lanes]
        self.bottom = max(ends)
        self._ports()

    def _lane(self, guest: Cell) -> None:
        """The parts of a guest, below the guests before it."""
        top = self.lanes[-1][2] + LANES if self.lanes else self.head
        vcpus, domains, vsmmus = (
            [box for box in column if box.cell.guest is guest] for column in self.columns[:KERNEL]
        )
        below = top + 26
        spare = max(0, tall(vcpus, APART) - tall(vsmmus or domains, APART)) / 2
        stack(vsmmus, self.left[VSMMUS], below + spare, APART + 2)
        stack(domains, self.left[DOMAINS], below + spare, APART)
        for column, boxes in ((DOMAINS, domains if vsmmus else []), (VCPUS, vcpus)):
            self._settle(column, boxes, below, [[way.other for way in self.ways if way.one is box] for box in boxes])
        served = sum(box.height + APART for box in self.columns[KERNEL] if self._served(box) == {guest})
        ends = [box.bottom for boxes in (vcpus, domains, vsmmus) for box in boxes]
        self.lanes.append((guest, top, max([*ends, below + served]) + APART))

    def _served(self, box: Box) -> set[Cell | None]:
        """The guests that a box in the kernel's column is for."""
        return {each.cell.guest for each in self._queues(box)}

    def _queues(self, box: Box) -> list[Box]:
        """What leads to a box in the kernel's column; to a VMM that only steps in, the vSMMUs of its guest."""
        leading = [way.one for way in self.ways if box in (way.via, way.other) and not way.back]
        return leading or [each for each in self.columns[VSMMUS] if each.cell.guest is box.cell.guest]

    def _settle(self, column: int, boxes: list[Box], top: float, beside: list[list[Box]]) -> None:
        """Put boxes into a column, as near as can be to those that they are connected with."""
        wish = {box: middle(others, top) for box, others in zip(boxes, beside, strict=True)}
        order = sorted(boxes, key=wish.__getitem__)
        wishes = [wish[box] - box.height / 2 for box in order]
        for box, y in zip(order, spread(wishes, [box.height + APART for box in order], top), strict=True):
            box.put(self.left[column], y)

    def _kernel(self) -> None:
        """Beside the queues that they serve; the CPUs of the host below."""
        cpus = [box for box in self.columns[KERNEL] if box.cell.kind == "host-cpu"]
        others = [box for box in self.columns[KERNEL] if box not in cpus]
        self._settle(KERNEL, others, self.head, list(map(self._queues, others)))
        stack(cpus, self.left[KERNEL], max([box.bottom for box in others], default=self.head) + 44, INSIDE)

    def _smmus(self) -> None:
        """The SMMUs with the devices behind them, and the devices that are behind none."""
        behind: dict[Cell | None, list[Box]] = {}
        for box in self.columns[DEVICES]:
            behind.setdefault(box.cell.parent or box.cell.guest, []).append(box)
        above = {box.cell: box for column in self.columns for box in column}
        blocks = []
        for cell in dict.fromkeys([*(box.cell for box in self.columns[SMMUS]), *behind]):
            smmu = above[cell] if cell and cell.kind == "smmu" else None
            leading = [way.near for way in self.ways if smmu and way.other in (smmu, *smmu.inside) and not way.back]
            beside = leading or ([above[cell]] if cell in above and not smmu and cell else [])
            devices = behind.get(cell, [])
            height = max(smmu.height if smmu else 0, tall(devices, INSIDE))
            blocks.append((middle(beside, self.head), height, smmu, devices))
        blocks.sort(key=lambda block: block[0])
        heights = [height + APART + 4 for _, height, _, _ in blocks]
        for (_, height, smmu, devices), y in zip(
            blocks, spread([wish - height / 2 for wish, height, _, _ in blocks], heights, self.head), strict=True
        ):
            if smmu:
                smmu.put(self.left[SMMUS], y + (height - smmu.height) / 2)
            stack(devices, self.left[DEVICES], y + (height - tall(devices, INSIDE)) / 2, INSIDE)

    def _ports(self) -> None:
        """Where edges leave and arrive, in the order of what they come from and lead to."""
        right: dict[Box, list[tuple[float, Way]]] = {}
        left: dict[Box, list[tuple[float, Way]]] = {}
        for way in self.ways:
            one, other = (left, right) if way.back else (right, left)
            one.setdefault(way.one, []).append(((way.via or way.other).middle, way))
            other.setdefault(way.other, []).append((way.near.middle, way))
        for side in (right, left):
            for box, ways in side.items():
                high = box.words if box.inside else box.height
                for number, (_, way) in enumerate(sorted(ways, key=lambda each: each[0]), 1):
                    y = box.y + high * number / (len(ways) + 1)
                    if box is way.one:
                        way.start = y
                    else:
                        way.end = y


def stack(boxes: Sequence[Box], x: float, y: float, gap: float) -> None:
    """Put boxes one below the other."""
    for box in boxes:
        box.put(x, y)
        y += box.height + gap


def tall(boxes: Sequence[Box], gap: float) -> float:
    """Height of a stack."""
    return sum(box.height + gap for box in boxes) - gap if boxes else 0


def middle(boxes: Sequence[Box], without: float) -> float:
    """Where boxes are on average."""
    return sum(box.middle for box in boxes) / len(boxes) if boxes else without


def spread(wishes: Sequence[float], heights: Sequence[float], top: float) -> list[float]:
    """Places in a column, in order and without overlap, nearest to what is wished for (least squares).

    >>> spread([10, 12, 100], [20, 20, 20], 0)
    [1.0, 21.0, 100.0]
    """
    pools: list[tuple[float, int]] = []  # sum of the first places that are wished for, and of how many
    offset, offsets = 0.0, []
    for wish, height in zip(wishes, heights, strict=True):
        offsets.append(offset)
        pools.append((wish - offset, 1))
        offset += height
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, number = pools.pop()
            pools[-1] = pools[-1][0] + total, pools[-1][1] + number
    starts = [max(top, total / number) for total, number in pools for _ in range(number)]
    return [start + before for start, before in zip(starts, offsets, strict=True)]


def measure(words: str, strong: bool = False) -> float:
    """Width of words, with room for wide fonts."""
    return sum(_letter(letter) for letter in words) * (1.19 if strong else 1)


def _letter(letter: str) -> float:
    if east_asian_width(letter) in "WF":
        return 12
    if letter in "mwMW@%—":
        return 11.2
    return 8 if letter.isupper() else 3.9 if letter in " .,:il|'j" else 6.8


def lines(words: str, room: float, strong: bool = False) -> list[str]:
    """Words broken into lines that fit; between words where that is possible.

    >>> lines("shared by 4 vCPUs", 60)
    ['shared by', '4 vCPUs']
    """
    made: list[str] = []
    for word in words.split(" "):
        if made and measure(f"{made[-1]} {word}", strong) <= room:
            made[-1] += f" {word}"
            continue
        made.append("")
        for letter in word:
            if made[-1] and measure(made[-1] + letter, strong) > room:
                made.append("")
            made[-1] += letter
    return made


def pieces(boxes: Sequence[Box]) -> Iterator[Box]:
    """Boxes, each followed by what is inside."""
    for box in boxes:
        yield box
        yield from pieces(box.inside)
