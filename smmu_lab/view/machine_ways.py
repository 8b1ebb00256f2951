"""Which boxes of a machine's picture a command passes together: what a reader points at, upstream and downstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from smmu_lab.charts.gather import Cell, Gathered, users

if TYPE_CHECKING:
    from networkx import DiGraph


def ways(small: Gathered) -> Mapping[Cell, frozenset[Cell]]:
    """What shares a command's way with each cell: all before and behind it, but nothing beside it."""
    met: dict[Cell, set[Cell]] = {cell: {cell} for cell in small.cells}
    for way in {frozenset(small.of[name] for name in way if name in small.of) for way in _ways(small.graph)}:
        for cell in way:
            met[cell] |= {other for other in way if other.kind != cell.kind}
    for cell in small.cells:
        if cell.kind == "guest":
            mine = [other for other in small.cells if other.guest is cell]
            met[cell].update(mine, *(met[other] for other in mine if other.kind in ("queue", "vcpu")))
    return {cell: frozenset(cells) for cell, cells in met.items()}


def _ways(graph: DiGraph[str]) -> Iterator[frozenset[str]]:
    """What the commands of one domain in one queue for one SMMU pass; each is small, and there are many."""
    kinds = dict(graph.nodes(data="kind"))
    devices: dict[tuple[str, str], list[str]] = {}  # by domain and SMMU; of emulated ones by their root complex
    for name, about in graph.nodes.items():
        if about["kind"] == "device" and "domain" in about:
            for above in sorted(graph.predecessors(name), key=lambda up: kinds[up] != "smmu")[:1]:
                devices.setdefault((about["domain"], above), []).append(name)
    for queue, about in graph.nodes.items():
        if "row" not in about:
            continue
        vsmmus = [up for up in graph.predecessors(queue) if kinds[up] == "vsmmu"]
        domains = [up for name in vsmmus or [queue] for up in graph.predecessors(name) if kinds[up] == "domain"]
        using = users(graph, queue) if kinds[queue] == "queue" else set(graph)
        served, buses = {queue, *vsmmus}, [f"{name}.pcie" for name in vsmmus]
        waiting = [queue]
        while waiting:
            below = [
                down
                for name in waiting
                for _, down, edge in graph.out_edges(name, data="kind")
                if edge in ("consumes", "fixes", "runs")
            ]
            served.update(below)
            waiting = below
        reached = {down for name in served for down in graph.successors(name)}
        for domain in domains:
            drivers = [vcpu for vcpu in graph.predecessors(domain) if kinds[vcpu] == "vcpu"]
            driving = [vcpu for vcpu in drivers if vcpu in using]
            above = [{vcpu, domain} for vcpu in driving] or [set[str]() if drivers else {domain}]
            for place in [*(f"smmu{number}" for number in about["smmus"]), *buses]:
                passed = set() if place in buses else {place, f"{place}.cmdq"} & {place, *reached}
                for each in above:
                    yield frozenset({*each, *served, *passed, *devices.get((domain, place), ())})
