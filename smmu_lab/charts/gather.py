"""A wired graph made small enough to look at: of many things that are alike a few stand for themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

if TYPE_CHECKING:
    from networkx import DiGraph

MOST = 8
"""So many alike things are all shown; of more, the first ones."""
FEW = 4
"""The same for guests, for queues of a vSMMU, and for devices of an SMMU; and for parts of large guests one less."""
MARKS = 3
"""So many marked things are shown by themselves, wherever they stand; of more, only some."""

PLURAL = {
    "vcpu": "vCPUs",
    "domain": "domains",
    "vsmmu": "vSMMUs",
    "queue": "queues",
    "vcmdq": "VCMDQs",
    "ecmdq": "ECMDQs",
    "requests": "rings",
    "vmm": "VMMs",
    "kernel": "callers",
    "worker": "workers",
    "host-cpu": "CPUs",
    "vintf": "VINTFs",
    "cmdq": "CMDQs",
    "smmu": "SMMUs",
    "device": "devices",
    "guest": "guests",
}
"""What several are called: of a kind, for all kinds that are shown, or of some queues by their name."""


class Load(NamedTuple):
    """What a run asked of a node or an edge of its graph.

    Attributes:
        commands: TLBIs, CFGI_CDs and ATC_INVs that passed; under virtio-iommu requests up to the VMM or the worker.
            CMD_SYNCs are not counted.
        busy: share of the time at work, 0 to 1; of several alike the mean.
        waiting: mean number of entries in it.
    """

    commands: int
    busy: float | None = None
    waiting: float | None = None


Loads = Mapping[str | tuple[str, str], Load]


@attrs.frozen(eq=False)
class Cell:
    """What is shown as one: a node, or several that are alike.

    Attributes:
        kind: of its nodes.
        names: of its nodes, in the order of the graph.
        about: attributes of the first.
        guest: the guest, or guests, that it is inside of; None is the host.
        parent: the cell that it is inside of, besides that.
        more: others like them stand for themselves.
    """

    kind: str
    names: tuple[str, ...]
    about: Mapping[str, Any]
    guest: Cell | None
    parent: Cell | None
    more: bool

    @property
    def short(self) -> str:
        """Its name within what it is inside of; of several their number."""
        if len(self.names) == 1:
            return self.own
        plural = PLURAL.get(self.own.rstrip("0123456789"), PLURAL[self.kind])
        return f"{len(self.names):,} {plural}{' more' if self.more else ''}"

    @property
    def own(self) -> str:
        """Name of the first within what it is inside of."""
        return self.names[0].rpartition(".")[2]

    @property
    def full(self) -> str:
        """Name of the node; of several their number, and the first and the last."""
        first, last = self.names[0], self.names[-1]
        if len(self.names) == 1:
            return first
        (guest, dot, _), (other, _, rest) = first.partition("."), last.partition(".")
        if dot and guest != other:
            return f"{self.short.removesuffix(' more')} of {guest} … {other}"
        return f"{first} … {rest or last} ({len(self.names):,})"


@attrs.frozen
class Gathered:
    """The small graph.

    Attributes:
        graph: the whole one.
        of: the cell of each node that is shown.
        edges: (from, to) to the edges of the whole graph that stand for it; what lies within a parent is no edge.
    """

    graph: DiGraph[str]
    of: Mapping[str, Cell]
    edges: Mapping[tuple[Cell, Cell], Sequence[tuple[str, str]]]

    @property
    def cells(self) -> list[Cell]:
        """All cells, in the order of the graph."""
        return list(dict.fromkeys(self.of.values()))

    def kind(self, edge: tuple[Cell, Cell]) -> str:
        """Kind of an edge."""
        return str(self.graph.edges[self.edges[edge][0]]["kind"])

    def load(self, what: Cell | tuple[Cell, Cell], loads: Loads) -> Load | None:
        """Commands of all of its nodes or edges, and the means of the rest; None if nothing is known."""
        parts: Iterable[str | tuple[str, str]] = what.names if isinstance(what, Cell) else self.edges[what]
        known = [loads[part] for part in parts if part in loads]
        if not known:
            return None
        busy, waiting = [
            sum(some) / len(some) if (some := [value for value in column if value is not None]) else None
            for column in ([each.busy for each in known], [each.waiting for each in known])
        ]
        return Load(sum(each.commands for each in known), busy, waiting)


def users(graph: DiGraph[str], name: str) -> set[str]:
    """Names of the nodes that share a node: vCPUs a queue, queues a consumer, guests a CMDQ or an SMMU."""
    kind = graph.nodes[name]["kind"]
    if kind == "queue":
        (above,) = _before(graph, name, "vsmmu", "has") or [name]
        found = {vcpu for domain in _before(graph, above, "domain") for vcpu in _before(graph, domain, "vcpu")}
        row, own = graph.nodes[name]["row"], name.rpartition(".")[2]
        if own.startswith(("vcmdq", "ecmdq")):  # chosen by the number of the vCPU
            turn, among = int(own[5:]), row.vcmdqs or None
            return {v for v in found if (n := graph.nodes[v]["number"]) == turn or (among and n % among == turn)}
        return found
    if kind in ("cmdq", "smmu"):
        passed, waiting = {name}, [name]
        while waiting:
            above = graph.in_edges(waiting, data="kind")
            waiting = list({up for up, _, edge in above if edge != "has"} - passed)
            passed.update(waiting)
        owners = {each.partition(".")[0] for each in passed if graph.nodes[each]["kind"] in ("queue", "domain")}
        return owners - {name}
    return set(_before(graph, name, "queue")) if kind in ("vmm", "worker", "kernel", "vintf") else set()


def gather(graph: DiGraph[str], marked: Collection[str] = ()) -> Gathered:
    """The small graph of a wired one.

    Args:
        graph: as `smmu_lab.scenario.wiring.wire` makes it.
        marked: names of nodes that stand for themselves even among many, if they are few.
    """
    return _Gathering(graph, marked).gathered()


class _Gathering:
    """Gives each node the key of its cell, from the guests down to the devices."""

    def __init__(self, graph: DiGraph[str], marked: Collection[str]) -> None:
        self.graph = graph
        self.keys: dict[str, Hashable] = {}
        self.named: dict[str, list[str]] = {}
        for name, kind in graph.nodes(data="kind"):
            self.named.setdefault(kind, []).append(name)
        self.must = set(marked) if len(marked) <= MARKS else set()
        for _ in range(3):  # a queue, its vSMMU, its guest
            above = graph.in_edges(self.must, data="kind")
            self.must |= {up for up, _, kind in above if kind in ("has", "consumes") and up != "host"}

    def gathered(self) -> Gathered:
        self._guests()
        self._host()
        self._queues()
        self._consumers()
        self._devices()
        self.members: dict[Hashable, list[str]] = {}
        for name in self.graph:
            if name in self.keys:
                self.members.setdefault(self.keys[name], []).append(name)
        self.single = {self._place(names[0]) for names in self.members.values() if len(names) == 1}
        self.cells: dict[Hashable, Cell] = {}
        of = {name: self._cell(self.keys[name]) for name in self.graph if name in self.keys}
        edges: dict[tuple[Cell, Cell], list[tuple[str, str]]] = {}
        for one, other, kind in self.graph.edges(data="kind"):
            if kind != "has" and one in of and other in of and of[one].parent is not of[other]:
                edges.setdefault((of[one], of[other]), []).append((one, other))
        return Gathered(self.graph, of, edges)

    def _cell(self, key: Hashable) -> Cell:
        if key not in self.cells:
            names = self.members[key]
            inside = self._inside(names[0])
            guests = {self.keys[guest] for name in names if (guest := _guest(name)) in self.keys}
            self.cells[key] = Cell(
                kind=self.graph.nodes[names[0]]["kind"],
                names=tuple(names),
                about=self.graph.nodes[names[0]],
                guest=self._cell(*guests) if len(guests) == 1 and key not in guests else None,
                parent=self._cell(self.keys[inside]) if inside else None,
                more=len(names) > 1 and self._place(names[0]) in self.single,
            )
        return self.cells[key]

    def _place(self, name: str) -> tuple[str, Hashable]:
        """Where a node stands beside others of its kind."""
        place = self._inside(name) or (_guest(name) if self.graph.nodes[name]["kind"] != "guest" else "")
        return self.graph.nodes[name]["kind"], self.keys.get(place)

    def _inside(self, name: str) -> str:
        """The vSMMU or the SMMU that a node is drawn inside of, or beside, if there is one."""
        graph, kind = self.graph, self.graph.nodes[name]["kind"]
        if kind == "device":
            bus = _before(graph, name, "root-complex")
            return next(iter(_before(graph, name, "smmu") or (_before(graph, bus[0], "vsmmu") if bus else ())), "")
        if kind == "queue" and (above := _before(graph, name, "vsmmu", "has")):
            return above[0]
        below = graph.out_edges(name, data="kind") if kind in ("queue", "vintf", "cmdq") else ()
        return next((down for _, down, edge in below if edge == "feeds"), "")

    def _split(
        self, names: Sequence[str], most: int, where: Hashable, alike: Callable[[str], Hashable], inside: str = ""
    ) -> None:
        """Keys for things of one place: of more than `most` alike the first and the marked ones stand for themselves.

        Args:
            names: of these.
            most: so many.
            where: the place.
            alike: what makes one like another.
            inside: what they are inside of, if it may be gathered; then they are, too.
        """
        classes: dict[Hashable, list[str]] = {}
        for name in names:
            classes.setdefault(alike(name), []).append(name)
        if len(classes) > max(most, FEW):
            classes = {None: list(names)}
        for what, members in classes.items():
            free = [name for name in members if self._is_one(inside) and self._is_one(_guest(name))]
            if len(members) > most or len(free) < len(members):
                free = [*dict.fromkeys([*(name for name in free if name in self.must), *free])][: max(0, most - 1)]
            rest = where, what
            for name in members:
                self.keys[name] = name if name in free else rest

    def _is_one(self, name: str) -> bool:
        """Nothing else is in its cell, as far as that is known."""
        return self.keys.get(name, name) == name

    def _guests(self) -> None:
        guests, graph = self.named["guest"], self.graph
        parts: dict[str, list[str]] = {name: [] for name in guests}
        for name in graph:
            if (guest := _guest(name)) in parts:
                parts[guest].append(name)
        kinds = {guest: frozenset(Counter(map(self._sort, names)).items()) for guest, names in parts.items()}
        vsmmus, queues = (len(self.named.get(kind, ())) / len(guests) for kind in ("vsmmu", "queue"))
        few = FEW - (vsmmus > 2) - (queues > 2 * MOST) if len(set(kinds.values())) == 1 else FEW // 2
        self._split(guests, few, "guest", kinds.__getitem__)
        shown = sum(map(self._is_one, guests))
        self.inner = MOST if len(guests) == 1 or shown * queues <= 2 * MOST else FEW - 1
        for kind in ("vcpu", "domain", "vsmmu"):
            for guest in guests:
                mine = [name for name in parts[guest] if graph.nodes[name]["kind"] == kind]
                self._split(mine, self.inner, (kind, self.keys[guest]), self._alike, guest)

    def _sort(self, name: str) -> Hashable:
        """What makes a node like another one."""
        about = self.graph.nodes[name]
        given = {key: value for key, value in about.items() if key not in ("number", "asid", "vsid", "sid", "guest")}
        given["row"] = getattr(about.get("row"), "name", "")
        given["smmus"] = len(about.get("smmus", ()))
        return tuple((key, value) for key, value in sorted(given.items()) if key not in ("instance", "domain"))

    def _alike(self, name: str) -> Hashable:
        """What makes a vCPU, a domain or a vSMMU like another one of its guest."""
        below = self.graph.out_edges(name, data="kind")
        kinds = "has" if self.graph.nodes[name]["kind"] == "vsmmu" else "invalidates"
        return frozenset(self._sort(down) for _, down, kind in below if kind == kinds)

    def _host(self) -> None:
        self._split(self.named["smmu"], self.inner, "smmu", lambda name: None)
        cpus = self.named.get("host-cpu", ())
        allowed = Counter(
            name for name, _, kind in self.graph.out_edges(self.named.get("worker", ()), "kind") if kind == "runs"
        )
        pinned = any(number < len(cpus) for number in allowed.values())
        self._split(cpus, FEW if pinned else 1, "host-cpu", lambda name: None)
        for name in self.named["cmdq"]:
            self.keys[name] = "cmdq", self.keys[self._inside(name)]

    def _queues(self) -> None:
        """Of each vSMMU; and those of the hardware on bare metal, of each guest and SMMU."""
        places: dict[Hashable, list[str]] = {}
        for name in self.named.get("queue", ()):
            places.setdefault((self.keys[self._inside(name)], self.keys[_guest(name)]), []).append(name)
        metal = max(2, MOST // len(places)) if places and not self.named.get("vsmmu") else FEW
        for place, names in places.items():
            row = {name: self.graph.nodes[name]["row"].name for name in names}
            self._split(names, metal, ("queue", place), row.__getitem__, self._inside(names[0]))

    def _consumers(self) -> None:
        """Who serves the same queues stands together."""
        for kind in ("vmm", "kernel", "worker", "vintf"):
            for name in self.named.get(kind, ()):
                served = frozenset(self.keys[queue] for queue in _before(self.graph, name, "queue"))
                place = self.keys[_guest(name)] if kind == "vmm" else self.keys.get(self._inside(name))
                whole = kind == "vintf" and not self._is_one(self._inside(name))
                self.keys[name] = kind, None if whole or kind == "vmm" else served, place

    def _devices(self) -> None:
        """Behind each SMMU; those that are behind none, with their vSMMU."""
        places: dict[Hashable, list[str]] = {}
        for name in self.named.get("device", ()):
            places.setdefault(self.keys.get(self._inside(name)), []).append(name)
        room = min(FEW, max(1, 2 * MOST // max(1, len(places))))
        for place, names in places.items():
            self._split(names, room, ("device", place), self._sort, self._inside(names[0]))


def _guest(name: str) -> str:
    """The guest that a node is inside of, if it is inside of one."""
    return name.partition(".")[0]


def _before(graph: DiGraph[str], name: str, kind: str, edge: str = "") -> list[str]:
    """Nodes of a kind that lead to a node."""
    leading = graph.in_edges(name, data="kind")
    return [up for up, _, by in leading if graph.nodes[up]["kind"] == kind and (not edge or by == edge)]
