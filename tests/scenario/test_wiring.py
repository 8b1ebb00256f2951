"""The graph of a machine says what the description says: who reaches what, and who meets nobody."""

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smmu_lab.scenario import Host, Scenario, Smmu, approach
from smmu_lab.scenario.topology import Topology
from smmu_lab.scenario.wiring import KINDS, wire
from tests.scenario.test_topology import ROWS, topologies

every_row = given(draw=st.data(), row=st.sampled_from(ROWS))
of_guests = given(draw=st.data(), row=st.sampled_from([row for row in ROWS if not row.on_metal]))
on_metal = pytest.mark.parametrize("name", ["ecmdq", "bare-metal"])


@st.composite
def scenarios(draw, row):
    return Scenario(
        topology=draw(topologies(row)),
        guests=draw(st.integers(1, 3)),
        vcpus=draw(st.integers(1, 3)),
        smmu=Smmu(sids=64),
        host=Host(worker_cpus=draw(st.integers(1, 3)), placement=draw(st.sampled_from(("any", "pinned")))),
    )


def wired(draw, row):
    scenario = draw.draw(scenarios(row))
    return scenario, wire(scenario, row)


def of_kind(graph, kind, nodes=None):
    return {node for node in (graph if nodes is None else nodes) if graph.nodes[node]["kind"] == kind}


def reached(graph, node):
    """Numbers of the SMMUs that commands can get to from a node."""
    return {graph.nodes[each]["number"] for each in of_kind(graph, "smmu", networkx.descendants(graph, node))}


def instances(scenario):
    """Every vSMMU of every guest: the guest's number, the vSMMU's, its name in the graph, and itself."""
    for guest in range(scenario.guests):
        for number, (name, vsmmu, _) in enumerate(scenario.layout(guest).named()):
            yield guest, number, f"guest{guest}.{name}", vsmmu


# -- its form --------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@every_row
def test_commands_never_come_back(row, draw):
    _, graph = wired(draw, row)
    assert networkx.is_directed_acyclic_graph(graph)


@settings(max_examples=50)
@every_row
def test_every_node_and_every_edge_has_a_kind_and_hangs_on_the_host(row, draw):
    """But for a domain that no vCPU works on, and on bare metal a device that is behind no SMMU."""
    scenario, graph = wired(draw, row)
    assert {kind for _, kind in graph.nodes.data("kind")} <= set(KINDS)
    assert all(kind for _, _, kind in graph.edges.data("kind"))
    loose = [graph.nodes[node] for node in set(graph) - networkx.descendants(graph, "host") - {"host"}]
    assert all(about["kind"] == "domain" or about["what"] != "passthrough" for about in loose)
    assert len(of_kind(graph, "guest")) == scenario.guests
    assert len(of_kind(graph, "vcpu")) == scenario.guests * scenario.vcpus
    assert len(of_kind(graph, "smmu")) == len(of_kind(graph, "cmdq")) == scenario.topology.smmus
    domains = sum(len(scenario.layout(guest).domains) for guest in range(scenario.guests))
    assert len(of_kind(graph, "domain")) == domains


@settings(max_examples=50)
@of_guests
def test_a_guest_has_the_vsmmus_and_the_devices_of_its_layout(row, draw):
    scenario, graph = wired(draw, row)
    described = list(instances(scenario))
    assert of_kind(graph, "vsmmu") == {name for _, _, name, _ in described}
    devices = [each for *_, vsmmu in described for each in vsmmu.devices]
    found = [graph.nodes[each] for each in of_kind(graph, "device")]
    assert sorted(each["what"] for each in found) == sorted(each.kind for each in devices)
    assert sum(each["ats"] for each in found) == sum(each.ats for each in devices)


def test_one_machine_is_what_the_thread_draws():
    """Two SMMUs, an emulated device: three vSMMUs, three command queues, and all that a VCMDQ needs on the way."""
    graph = wire(Scenario(topology=Topology.preset("per-smmu")), approach("vcmdq"))
    assert sorted(of_kind(graph, "queue")) == [
        "guest0.vsmmu0.cmdq",
        "guest0.vsmmu0.vcmdq0",
        "guest0.vsmmu0.vcmdq1",
        "guest0.vsmmu1.cmdq",
        "guest0.vsmmu1.vcmdq0",
        "guest0.vsmmu1.vcmdq1",
        "guest0.vsmmu2.cmdq",
    ]
    way = networkx.shortest_path(graph, "guest0.vcpu0", "guest0.vsmmu0.pcie.vf0")
    assert way == ["guest0.vcpu0", "guest0.d0", "guest0.vsmmu0", "guest0.vsmmu0.pcie", "guest0.vsmmu0.pcie.vf0"]
    ways = list(networkx.all_simple_paths(graph, "guest0.vsmmu1", "smmu1"))
    assert sorted(ways, key=len) == [
        ["guest0.vsmmu1", f"guest0.vsmmu1.vcmdq{k}", "guest0.vsmmu1.vintf", "smmu1"] for k in range(2)
    ] + [["guest0.vsmmu1", "guest0.vsmmu1.cmdq", "guest0.vmm", "smmu1.cmdq", "smmu1"]]


# -- who reaches what ------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@of_guests
def test_a_queue_reaches_the_smmus_of_its_vsmmu(row, draw):
    """And others only through somebody who consumes other queues as well."""
    scenario, graph = wired(draw, row)
    for guest, number, name, vsmmu in instances(scenario):
        queues = of_kind(graph, "queue", graph.successors(name))
        assert queues
        for queue in queues:
            about = graph.nodes[queue]
            assert (about["guest"], about["instance"], about["smmus"]) == (guest, number, vsmmu.smmus)
            assert reached(graph, queue) >= set(vsmmu.smmus)
            consumers = [each for each in networkx.descendants(graph, queue) if graph.nodes[each]["kind"] in
                         ("vmm", "kernel", "worker", "vintf")]  # fmt: skip
            theirs = {each for consumer in consumers for each in networkx.ancestors(graph, consumer)}
            with_it = [graph.nodes[each]["smmus"] for each in of_kind(graph, "queue", theirs)]
            assert reached(graph, queue) <= {smmu for smmus in with_it for smmu in smmus}


@settings(max_examples=50)
@given(draw=st.data(), name=st.sampled_from(["short-path", "short-path-sync", "vhost-iommu"]))
def test_a_queue_with_a_consumer_of_its_own_reaches_no_other_smmu(draw, name):
    scenario, graph = wired(draw, approach(name))
    for _, _, vsmmu, described in instances(scenario):
        for queue in of_kind(graph, "queue", graph.successors(vsmmu)):
            if graph.nodes[queue]["row"].in_kernel:
                assert reached(graph, queue) == set(described.smmus)


@settings(max_examples=50)
@every_row
def test_a_vcpu_reaches_the_smmus_that_its_operations_are_about(row, draw):
    """By way of the domain that it works on, and of the vSMMUs that this is behind."""
    scenario, graph = wired(draw, row)
    for guest in range(scenario.guests):
        layout = scenario.layout(guest)
        for vcpu in range(scenario.vcpus):
            domain = layout.driven[vcpu % len(layout.driven)]
            node = f"guest{guest}.vcpu{vcpu}"
            assert list(graph.successors(node)) == [f"guest{guest}.{domain}"]
            real = [each for vsmmu in layout.vsmmus for each in vsmmu.devices
                    if each.kind == "passthrough" and each.domain == domain]  # fmt: skip
            assert reached(graph, node) >= {each.smmu for each in real}
            if row.on_metal:
                assert reached(graph, node) == {each.smmu for each in real}
                continue
            behind = {
                f"guest{guest}.{name}"
                for name, vsmmu, _ in layout.named()
                if any(each.domain == domain and each.kind != "bridge" for each in vsmmu.devices)
            }
            assert set(graph.successors(f"guest{guest}.{domain}")) == behind


@settings(max_examples=50)
@of_guests
def test_a_device_is_behind_its_own_smmu_only_and_an_emulated_one_behind_none(row, draw):
    scenario, graph = wired(draw, row)
    for _, _, name, vsmmu in instances(scenario):
        for number, device in enumerate(vsmmu.devices):
            node = f"{name}.pcie.{device.name or f'dev{number}'}"
            assert list(graph.successors(node)) == []
            behind = {f"smmu{device.smmu}"} if device.kind == "passthrough" else set()
            assert of_kind(graph, "smmu", graph.predecessors(node)) == behind


@pytest.mark.parametrize("row", [row for row in ROWS if not row.has_vcmdqs], ids=lambda row: row.name)
def test_a_vsmmu_without_smmus_reaches_none_and_the_vmm_serves_it(row):
    emulated = {"kind": "emulated", "vsid": 8}
    layout = {"vsmmus": [{"accel": False, "devices": [emulated]}]}
    scenario = Scenario(topology={"layouts": [layout]})
    if row.on_metal:
        assert scenario.refuses(row)
        return
    graph = wire(scenario, row)
    (queue,) = of_kind(graph, "queue")
    assert list(graph.successors(queue)) == ["guest0.vmm"]
    assert list(graph.successors("guest0.vmm")) == []


@settings(max_examples=50)
@of_guests
def test_streams_of_an_smmu_are_unique_over_all_guests(row, draw):
    _, graph = wired(draw, row)
    for smmu in of_kind(graph, "smmu"):
        devices = of_kind(graph, "device", graph.successors(smmu))
        assert len({graph.nodes[each]["sid"] for each in devices}) == len(devices)


# -- who serves, and where -------------------------------------------------------------------------------------------


@settings(max_examples=50)
@of_guests
def test_queues_are_numbered_through_a_guest_vsmmu_by_vsmmu(row, draw):
    """Per vSMMU what the approach says: VCMDQs, then the one that traps; a single one where there is no SMMU."""
    scenario, graph = wired(draw, row)
    for guest in range(scenario.guests):
        mine = [about for _, about in graph.nodes.data() if about["kind"] == "queue" and about["guest"] == guest]
        mine.sort(key=lambda about: about["number"])
        assert [about["number"] for about in mine] == list(range(len(mine)))
        expected = []
        for number, vsmmu in enumerate(scenario.layout(guest).vsmmus):
            several = row.vcmdqs + 1 if row.queues == "cmdq+vcmdq" and vsmmu.smmus else 1
            expected += [number] * several
        assert [about["instance"] for about in mine] == expected


@settings(max_examples=50)
@of_guests
def test_a_worker_works_for_what_the_approach_says(row, draw):
    scenario, graph = wired(draw, row)
    served = [about for _, about in graph.nodes.data() if about["kind"] == "queue" and about["row"].has_worker]
    scope = {
        "queue": {(about["guest"], about["number"]) for about in served},
        "vm": {about["guest"] for about in served},
        "host": {0} if served else set(),
    }[row.worker]
    workers = of_kind(graph, "worker")
    assert len(workers) == len(scope)
    for worker in workers:
        cpus = {graph.nodes[each]["number"] for each in of_kind(graph, "host-cpu", graph.successors(worker))}
        number, there = graph.nodes[worker]["number"], scenario.host.worker_cpus
        assert cpus == ({number % there} if scenario.host.placement == "pinned" else set(range(there)))


def threads(scenario, row, smmu):
    """Who may be in the host's queue of an SMMU, from the description alone; and whether hardware reaches it, too."""
    found, hardware = set(), row.on_metal
    for guest, number, _, vsmmu in instances(scenario):
        if smmu not in vsmmu.smmus:
            continue
        trapped = [approach(row.fallback)] if row.queues == "cmdq+vcmdq" else []
        own = [row] * (row.vcmdqs or 1)
        for queue, served in enumerate([*own, *trapped]):
            if served.executes_directly:
                hardware = True
            elif served.has_worker:
                found.add(("worker", {"queue": (guest, number, queue), "vm": guest, "host": None}[served.worker]))
            else:
                found.add(("vmm", guest) if served.consumer == "vmm" else ("exit", guest, number))
    return found, hardware


@settings(max_examples=50)
@every_row
def test_a_queue_of_the_host_is_alone_if_and_only_if_one_thread_can_be_in_it(row, draw):
    """But for a thread that works for several guests: it is not said to be alone."""
    scenario, graph = wired(draw, row)
    for smmu in range(scenario.topology.smmus):
        found, hardware = threads(scenario, row, smmu)
        served = {guest for guest, _, _, vsmmu in instances(scenario) if vsmmu.smmus}
        alone = len(found) == 1 and not hardware and (row.worker != "host" or len(served) == 1)
        assert graph.nodes[f"smmu{smmu}.cmdq"]["alone"] == alone


def test_what_is_behind_a_vcmdq_may_be_a_worker():
    """It runs on the host's CPUs like any other."""
    row = approach("vcmdq").but(fallback="short-path")
    graph = wire(Scenario(), row)
    assert {about.get("kind") for name, about in graph.nodes.data() if name.startswith("cpu")} == {"host-cpu"}


# -- bare metal ------------------------------------------------------------------------------------------------------


@on_metal
@settings(max_examples=25)
@given(draw=st.data())
def test_on_bare_metal_there_is_no_vsmmu_and_each_smmu_has_its_queues(name, draw):
    scenario, graph = wired(draw, approach(name))
    for kind in ("vsmmu", "root-complex", "vmm", "kernel", "worker", "vintf"):
        assert of_kind(graph, kind) == set()
    queues = [graph.nodes[each] for each in of_kind(graph, "queue")]
    smmus = range(scenario.topology.smmus)
    if name == "bare-metal":
        assert queues == []
        assert [graph.nodes[f"smmu{k}.cmdq"]["instance"] for k in smmus] == list(smmus)
        return
    per_guest = [(about["guest"], about["number"], about["instance"]) for about in queues]
    assert sorted(per_guest) == [
        (guest, number, number // scenario.vcpus)
        for guest in range(scenario.guests)
        for number in range(scenario.vcpus * len(smmus))
    ]


TWO = {"smmus": 2, "layouts": [{"vsmmus": [{"devices": [{"vsid": 8}]}, {"devices": [{"vsid": 8, "smmu": 1}]}]}]}
NAMESAKE = {"layouts": [{"vsmmus": [{"devices": [{"vsid": 8, "name": "d0"}]}]}]}


@on_metal
@pytest.mark.parametrize("topology", [TWO, NAMESAKE], ids=["two of one name", "named as the domain"])
def test_on_bare_metal_every_device_and_domain_is_there(topology, name):
    """Names of devices are unique behind a vSMMU, of which bare metal has none."""
    scenario = Scenario(topology=topology)
    graph = wire(scenario, approach(name))
    (layout,) = scenario.topology.layouts
    assert len(of_kind(graph, "device")) == sum(len(vsmmu.devices) for vsmmu in layout.vsmmus)
    assert len(of_kind(graph, "domain")) == len(layout.domains)
