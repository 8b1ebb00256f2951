"""The machine of a scenario or of a run: a picture, and the same as a table, a graph and a sentence."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from smmu_lab.charts import Load, layers, layers_sheet, still
from smmu_lab.record import Run
from smmu_lab.scenario import Approach, InvalidInput, Scenario, read_approaches, wire
from smmu_lab.scenario.interchange import dot, graphml, scalars
from smmu_lab.sheet import Sheet
from smmu_lab.study.bounds import bound
from smmu_lab.study.load import bottleneck, loads
from smmu_lab.study.shown import Shown

if TYPE_CHECKING:
    from networkx import DiGraph

IDLE = 0.1
"""A part of the run: a resource that is needed for less limits nothing."""


@attrs.frozen(eq=False, repr=False)
class Machine(Shown):
    """What a command passes, from the vCPUs to the devices.

    Attributes:
        scenario: whose machine it is.
        approach: who serves it.
        graph: everything: see `smmu_lab.scenario.wire`.
        verdict: how many there are of what; of a run what limits it.
        loads: what a run asked of nodes and edges; nothing for a scenario.
        bottleneck: names of the nodes that limit the throughput.
        run: the run, if it is one's.
    """

    unfolded: ClassVar[int] = 0
    scenario: Scenario
    approach: Approach
    graph: DiGraph[str]
    verdict: str
    loads: Mapping[str | tuple[str, str], Load] = attrs.field(factory=dict)
    bottleneck: tuple[str, ...] = ()
    run: Run | None = None

    def _ipython_display_(self, **kwargs: Any) -> None:
        from smmu_lab.view.machine_live import TopologyView  # loads ipywidgets

        TopologyView(self)._ipython_display_(**kwargs)

    @property
    def place(self) -> str:
        """How large it is."""
        scenario, topology = self.scenario, self.scenario.topology
        sizes = _number(topology.smmus, "SMMU"), _number(scenario.guests, "guest"), _number(scenario.vcpus, "vCPU")
        return "{}: {}, {} of {}".format(topology.name, *sizes)

    @property
    def title(self) -> str:
        """What it is, in one line."""
        return f"{self.place}, under {self.approach.name}: {self.approach.title}"

    @property
    def sheets(self) -> Sequence[Sheet]:
        """One row for each part; of many that are alike some stand for the others."""
        return (layers_sheet(self.graph, self.loads, self.bottleneck),)

    def pictures(self) -> Sequence[str]:
        """The picture; the table says the same to those who do not see it."""
        return (still(self.to_svg(), f"{self.title}. {self.verdict}"),)

    def to_svg(self) -> str:
        """The picture; it needs nothing else."""
        title = f"{self.place}\n{self.approach.name}: {self.approach.title}"
        return layers(self.graph, self.loads, self.bottleneck, title)

    def to_dot(self) -> str:
        """The whole graph in the language of Graphviz."""
        return dot(self.graph)

    def to_graphml(self, path: str | os.PathLike[str]) -> None:
        """Write the whole graph as GraphML.

        Raises:
            InvalidInput: the file cannot be written.
        """
        graphml(self.graph, path)

    def to_dict(self) -> dict[str, Any]:
        """The whole graph with its loads, as plain data."""

        def load(what: str | tuple[str, str]) -> dict[str, Any]:
            return {"load": self.loads[what]._asdict()} if what in self.loads else {}

        return {
            "title": self.title,
            "verdict": self.verdict,
            "bottleneck": list(self.bottleneck),
            "nodes": [{"name": name} | scalars(about) | load(name) for name, about in self.graph.nodes.items()],
            "edges": [
                {"from": one, "to": other, "kind": kind} | load((one, other))
                for one, other, kind in self.graph.edges(data="kind")
            ],
        }


def show_topology(what: Scenario | Run, by: Approach | str | None = None) -> Machine:
    """Show what a command passes: which part is whose, where it fans out, and what is shared.

    Show it as the last line of a cell. In a notebook each part can be pointed at, to see the way of its commands, and
    opened, to see what it holds. Of a run it also shows how many commands went where, how busy each part was, and what
    limits the throughput.

    Args:
        what: a scenario, or a run.
        by: under which approach a scenario is shown, an object or a key of the catalogue; ``qemu-today`` unless given.
            A run has its own.

    Raises:
        InvalidInput: there is no such approach, or the scenario cannot run under it.

    >>> show_topology(Scenario(), "batched").sheets[0]
    what                     kind    about                leads to
    guest0.vcpu0             vcpu                         guest0.d0
    guest0.d0                domain  ASID 1               guest0.vsmmu0
    guest0.vsmmu0            vsmmu   accel
    guest0.vsmmu0.cmdq       queue   vcpu0 alone          guest0.vmm
    guest0.vmm               vmm     drains 1 queue       smmu0.cmdq
    smmu0.cmdq               cmdq    guest0 alone         smmu0
    smmu0                    smmu    guest0 alone         guest0.vsmmu0.pcie.dev0
    guest0.vsmmu0.pcie.dev0  device  vsid 0x8, sid 0x100
    """
    if isinstance(what, Run):
        if by is not None:
            raise InvalidInput([f"by: {by!r} is not valid: a run has its own approach, {what.approach.name}"])
        limits = bottleneck(what) if bound([what]).reached >= IDLE else ()
        return Machine(what.scenario, what.approach, what.graph, _limit(what), loads(what), limits, what)
    if not isinstance(what, Scenario):
        raise InvalidInput([f"what: {what!r} is not valid: a Scenario or a Run"])
    (row,) = read_approaches([by or "qemu-today"])
    if problems := what.refuses(row):
        raise InvalidInput(problems)
    graph = wire(what, row)
    return Machine(what, row, graph, _parts(graph))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s'[: count != 1]}"


def _parts(graph: DiGraph[str]) -> str:
    """How many there are of what."""
    kinds = Counter(kind for _, kind in graph.nodes(data="kind"))
    queues = sum("row" in about for about in graph.nodes.values())
    names = {"vmm": "VMM", "worker": "worker", "kernel": "kernel call", "vintf": "VINTF"}
    by = " and ".join(_number(kinds[kind], name) for kind, name in names.items() if kinds[kind])
    drained = f", which {by} drain{'s'[: sum(kinds[kind] for kind in names) == 1]}" if by else ""
    smmus = _number(kinds["smmu"], "SMMU")
    return f"{_number(kinds['vcpu'], 'vCPU')} and {_number(queues, 'queue')}{drained}; {smmus}."


def _limit(run: Run) -> str:
    """What limits the throughput, and by how much."""
    if not run.measured:
        return "Nothing was measured."
    limit, nodes = bound([run]), bottleneck(run)
    if limit.reached < IDLE:
        return f"Nothing limits: whatever is busiest is needed for {limit.reached:.0%} of the run."
    station = limit.station + ", with the time between their operations" * (limit.station == "vCPUs")
    where = f"{nodes[0]} and {len(nodes) - 1} more" if len(nodes) > 1 else nodes[0]
    return (
        f"What limits most: {station} ({where}), needed for at least {limit.reached:.0%} of the run. It allows "
        f"{limit.limit:,.0f} operations per second ({run.noun}); there were {limit.throughput:,.0f}."
    )
