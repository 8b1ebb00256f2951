"""The machine as a graph: everything that a command passes on its way. The simulator builds itself from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from smmu_lab.scenario.approach import Approach, approach
from smmu_lab.scenario.scenario import Scenario

if TYPE_CHECKING:
    from networkx import DiGraph

KINDS = {
    "host": "the machine",
    "guest": "a virtual machine; on bare metal one of the host's CPUs, or several",
    "vcpu": "who unmaps",
    "domain": "an address space of the guest: an ASID and its page tables",
    "vsmmu": "what the guest takes for an SMMU",
    "root-complex": "the PCIe root complex below a vSMMU",
    "queue": "a command queue of the guest, or a ring of requests",
    "vmm": "the VMM of a guest, under its big lock",
    "kernel": "the host's kernel in the exit of a vCPU",
    "worker": "a kernel thread",
    "host-cpu": "a host CPU that workers run on",
    "vintf": "the hardware's interface for the VCMDQs of one vSMMU",
    "cmdq": "the host's command queue",
    "smmu": "a physical SMMU",
    "device": "a PCI device",
}
"""Values of a node's ``kind``."""

FIRST_SID = 0x100
"""Physical StreamIDs of an SMMU count from here, in the order of guests; any would do."""


def wire(scenario: Scenario, row: Approach) -> DiGraph[str]:
    """What a scenario is made of under an approach.

    Commands travel along the edges: vCPU, domain, vSMMU, queue, then its consumer (the VMM, the kernel in the exit of
    a vCPU, a worker, or a VINTF), the host's CMDQ (but not from a VINTF), the SMMU, and for an ATC_INV the device.
    Beside that way stand what holds something (the host its guests, SMMUs and CPUs; a guest its vCPUs and vSMMUs), the
    CPUs that a worker may run on, and the root complex between a vSMMU and its devices. On bare metal there are no
    vSMMUs: a domain's commands go to the queues of the SMMUs.

    Args:
        scenario: what is simulated.
        row: the approach.

    Returns:
        A directed graph without cycles. Every node and edge has a ``kind``; for those of nodes see `KINDS`. What is
        numbered has a ``number``. A queue has the ``row`` that serves it, its ``guest``, ``number`` in its guest,
        ``instance`` (the number of its vSMMU, or on bare metal of its SMMU) and ``smmus`` (their numbers); so has a
        cmdq on bare metal. A cmdq is ``alone`` where one thread, for one guest, can be in it and nothing else reaches
        its SMMU. A guest that is not measured is a ``neighbour``.

    >>> import networkx
    >>> from smmu_lab.scenario.topology import Topology
    >>> graph = wire(Scenario(topology=Topology.preset("per-smmu")), approach("short-path"))
    >>> print(*networkx.shortest_path(graph, "guest0.vcpu0", "smmu0"))
    guest0.vcpu0 guest0.d0 guest0.vsmmu0 guest0.vsmmu0.cmdq worker0 smmu0.cmdq smmu0
    """
    from networkx import DiGraph

    graph: DiGraph[str] = DiGraph()
    graph.add_node("host", kind="host")
    for number in range(scenario.topology.smmus):
        _add(graph, f"smmu{number}.cmdq", "cmdq", {}, number=number)
        _add(graph, f"smmu{number}", "smmu", {f"smmu{number}.cmdq": "feeds", "host": "has"}, number=number)
        graph.add_edge("host", f"smmu{number}.cmdq", kind="has")
    if row.has_worker or (row.fallback and approach(row.fallback).has_worker):
        for number in range(scenario.host.worker_cpus):
            _add(graph, f"cpu{number}", "host-cpu", {"host": "has"}, number=number)
    threads: dict[tuple[int, ...], str] = {}
    for number in range(scenario.guests):
        _Guest(graph, scenario, row, number, threads).wire()
    for number in range(scenario.topology.smmus):
        graph.nodes[f"smmu{number}.cmdq"]["alone"] = _alone(graph, f"smmu{number}")
    return graph


def _add(graph: DiGraph[str], name: str, kind: str, behind: dict[str, str], **more: Any) -> str:
    """A node, and the edges that lead to it: from where, and of what kind."""
    graph.add_node(name, kind=kind, **more)
    for before, edge in behind.items():
        graph.add_edge(before, name, kind=edge)
    return name


def emulation(row: Approach) -> Approach:
    """What serves a vSMMU whose devices the VMM emulates: it must see every command."""
    if row.decodes_all and row.queues != "cmdq+vcmdq":
        return row
    return approach("virtio-iommu" if row.front == "virtio-iommu" else "qemu-today")


class _Guest:
    """One guest, as it is added to the graph.

    Args:
        threads: the kernel's worker threads, by what they work for.
    """

    def __init__(
        self, graph: DiGraph[str], scenario: Scenario, row: Approach, number: int, threads: dict[tuple[int, ...], str]
    ) -> None:
        self.graph, self.scenario, self.row, self.number, self.threads = graph, scenario, row, number, threads
        self.layout = scenario.layout(number)
        about = {"number": number, "neighbour": scenario.is_neighbour(number)}
        self.name = _add(graph, f"guest{number}", "guest", {"host": "has"}, **about)
        self.vsmmus = [name for name, _, _ in self.layout.named()]
        self.queues = 0

    def wire(self) -> None:
        layout, name, metal = self.layout, self.name, self.row.on_metal
        for v in range(self.scenario.vcpus):
            _add(self.graph, f"{name}.vcpu{v}", "vcpu", {name: "has"}, number=v)
        driven = layout.driven
        for asid, domain in enumerate(layout.domains, 1):
            drivers = {
                f"{name}.vcpu{v}": "drives" for v in range(self.scenario.vcpus) if driven[v % len(driven)] == domain
            }
            _add(self.graph, f"{name}.{domain}", "domain", drivers, asid=asid)
        (self._metal if metal else self._instances)()
        for domain in layout.domains:
            for reach in layout.reaches(domain, metal):
                for below in self._invalidated(reach.instance):
                    self.graph.add_edge(f"{name}.{domain}", below, kind="invalidates")

    def _invalidated(self, instance: int) -> Iterable[str]:
        if not self.row.on_metal:
            return [f"{self.name}.{self.vsmmus[instance]}"]
        if self.row.queues == "cmdq":
            return [f"smmu{instance}.cmdq"]
        return [f"{self.name}.smmu{instance}.ecmdq{v}" for v in range(self.scenario.vcpus)]

    def _metal(self) -> None:
        graph, row = self.graph, self.row
        for smmu in range(self.scenario.topology.smmus):
            if row.queues == "ecmdq":
                for v in range(self.scenario.vcpus):
                    queue = self._queue(f"{self.name}.smmu{smmu}.ecmdq{v}", row, smmu, (smmu,))
                    graph.add_edge(self.name, queue, kind="has")
                    graph.add_edge(queue, f"smmu{smmu}", kind="feeds")
            elif not self.number:
                about = {"row": row, "guest": 0, "instance": smmu, "smmus": (smmu,)}
                graph.nodes[f"smmu{smmu}.cmdq"].update(about)
        for name, vsmmu, devices in self.layout.named():
            for device, each in zip(devices, vsmmu.devices, strict=True):
                self._device(f"{self.name}.{name}.{device}", each, {})

    def _instances(self) -> None:
        graph = self.graph
        for number, (own, vsmmu, devices) in enumerate(self.layout.named()):
            about = {"number": number, "accel": vsmmu.accel}
            name = _add(graph, f"{self.name}.{own}", "vsmmu", {self.name: "has"}, **about)
            bus = _add(graph, f"{name}.pcie", "root-complex", {name: "has"})
            for device, each in zip(devices, vsmmu.devices, strict=True):
                self._device(f"{bus}.{device}", each, {bus: "has"})
            for queue, served in self._queues(vsmmu.smmus):
                made = self._queue(f"{name}.{queue}", served, number, vsmmu.smmus)
                graph.add_edge(name, made, kind="has")
                self._consume(made, served, name)

    def _device(self, name: str, device: Any, behind: dict[str, str]) -> None:
        about = {"what": device.kind, "ats": device.ats}
        if device.vsid is not None:
            about["vsid"] = device.vsid
        if device.kind == "passthrough":
            smmu = f"smmu{device.smmu}"
            about["sid"] = FIRST_SID + self.graph.out_degree(smmu)
            behind = behind | {smmu: "translates"}
        if device.kind != "bridge":
            about["domain"] = f"{self.name}.{device.domain}"
        _add(self.graph, name, "device", behind, **about)

    def _queues(self, smmus: tuple[int, ...]) -> Iterator[tuple[str, Approach]]:
        """The queues of a vSMMU, and what serves each; those of the hardware first, then the one that traps."""
        row = self.row if smmus else emulation(self.row)
        if row.queues == "cmdq+vcmdq":
            for k in range(row.vcmdqs):
                yield f"vcmdq{k}", row
            yield "cmdq", approach(row.fallback)
        else:
            yield "requests" if row.queues == "virtqueue" else "cmdq", row

    def _queue(self, name: str, row: Approach, instance: int, smmus: tuple[int, ...]) -> str:
        about = {"row": row, "guest": self.number, "number": self.queues, "instance": instance, "smmus": smmus}
        self.queues += 1
        return _add(self.graph, name, "queue", {}, **about)

    def _consume(self, queue: str, row: Approach, vsmmu: str) -> None:
        """The edges from a queue to whoever consumes it, and from there to the SMMUs."""
        graph, smmus = self.graph, self.graph.nodes[queue]["smmus"]
        vmm = f"{self.name}.vmm"
        if row.consumer == "vmm":
            consumer = _add(graph, vmm, "vmm", {queue: "consumes"})
        elif row.consumer == "kernel-caller":
            consumer = _add(graph, f"{queue}.kernel", "kernel", {queue: "consumes"})
        elif row.has_worker:
            consumer = self._worker(queue, row)
        else:
            vintf = _add(graph, f"{vsmmu}.vintf", "vintf", {queue: "consumes"})
            graph.add_edge(vintf, f"smmu{smmus[0]}", kind="feeds")
            if row.unsupported != "stop-and-fix":
                return
            consumer = _add(graph, vmm, "vmm", {vintf: "fixes"})
        for smmu in smmus:
            graph.add_edge(consumer, f"smmu{smmu}.cmdq", kind="issues")

    def _worker(self, queue: str, row: Approach) -> str:
        """The thread that works for a queue, and the CPUs that it may run on."""
        graph, host = self.graph, self.scenario.host
        about = graph.nodes[queue]
        scope = {"queue": (self.number, about["number"]), "vm": (self.number,), "host": ()}[row.worker]
        threads = self.threads
        if scope not in threads:
            number = len(threads)
            threads[scope] = _add(graph, f"worker{number}", "worker", {}, number=number)
            cpus = [number % host.worker_cpus] if host.placement == "pinned" else range(host.worker_cpus)
            for cpu in cpus:
                graph.add_edge(threads[scope], f"cpu{cpu}", kind="runs")
        graph.add_edge(queue, threads[scope], kind="consumes")
        return threads[scope]


def _alone(graph: DiGraph[str], smmu: str) -> bool:
    """One thread at a time can be in the host's queue, and nothing else reaches its SMMU."""
    feeds = [each for each in graph.predecessors(smmu) if graph.edges[each, smmu]["kind"] == "feeds"]
    issuers = [each for each in graph.predecessors(f"{smmu}.cmdq") if each != "host"]
    if len(feeds) > 1 or len(issuers) != 1:
        return False
    (issuer,) = issuers
    return (
        len({graph.nodes[queue]["guest"] for queue in graph.predecessors(issuer) if "guest" in graph.nodes[queue]}) == 1
    )
