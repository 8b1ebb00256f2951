"""What is told of each part of a machine, held to what can be known otherwise."""

import json
from collections import Counter

import networkx
import pytest

import smmu_lab as lab
from smmu_lab.charts.gather import gather, users
from smmu_lab.scenario.topology import PRESETS
from smmu_lab.view import live
from smmu_lab.view.machine import label
from smmu_lab.view.machine_facts import MOST, Facts
from smmu_lab.view.machine_live import TopologyView, cells
from smmu_lab.view.machine_ways import ways

OPS = 70
SCENARIO = lab.Scenario(workload=lab.unmaps(pages=1, ops=OPS), smmu=lab.Smmu(queue_log2=7, host_queue_log2=7))


def told(what, by=None):
    """What is said of each cell, by its title; the rows as a dict, and so each table, by its caption."""
    shown = lab.show_topology(what, by)
    found = {}
    for cell in cells(shown, gather(shown.graph, shown.bottleneck)):
        sheets = {each["caption"]: [dict(zip(each["header"], row, strict=True)) for row in each["rows"]]
                  for each in cell["sheets"]}  # fmt: skip
        found[cell["title"]] = cell | {"rows": dict(cell["rows"]), "sheets": sheets}
        assert len(cell["rows"]) == len(found[cell["title"]]["rows"])  # no label twice
    return found


@pytest.mark.parametrize("vcpus", [1, 3])
@pytest.mark.parametrize("by", ["qemu-today", "batched", "short-path", "vcmdq-overlay", "bare-metal"])
def test_prod_and_cons_are_what_was_published(by, vcpus):
    """An unmap of one page is a TLBI and a CMD_SYNC; a pointer has as many bits as entries, and one to wrap."""
    name = "smmu0.cmdq" if by == "bare-metal" else "guest0.vsmmu0.cmdq"
    part = told(lab.simulate(SCENARIO.but(vcpus=vcpus), by))[name]
    published = 2 * OPS * vcpus
    registers = part["sheets"]["registers of the CMDQ at the end"]
    assert [row["register"] for row in registers] == ["CMDQ_PROD", "CMDQ_CONS"]
    for row, offset in zip(registers, ("0x98", "0x9c"), strict=True):
        assert row["offset"] == offset
        assert int(row["value"], 16) == published % 256
        assert int(row["index"]) == published % 128
        assert int(row["wrap"]) == published // 128 % 2
    assert part["rows"]["LOG2SIZE"] == "7: 128 entries"
    assert part["rows"]["entries consumed"] == f"{published:,}, {published // 2} CMD_SYNCs among them"


def test_vcmdqs_share_what_was_published_and_lie_apart():
    parts = told(lab.simulate(SCENARIO.but(vcpus=3), "vcmdq"))
    for number, vcpus in ((0, 2), (1, 1)):  # CPU modulo 2
        (prod, cons) = parts[f"guest0.vsmmu0.vcmdq{number}"]["sheets"][f"registers of the VCMDQ {number} at the end"]
        assert (prod["offset"], cons["offset"]) == (f"{4 + 0x80 * number:#x}", f"{0x80 * number:#x}")
        assert int(prod["value"], 16) == int(cons["value"], 16) == 2 * OPS * vcpus % 256
    assert parts["guest0.vsmmu0.vcmdq1"]["rows"]["used by"] == "guest0.vcpu1"


def test_an_ecmdq_says_that_it_is_enabled():
    part = told(lab.simulate(SCENARIO, "ecmdq"))["guest0.smmu0.ecmdq0"]
    (prod, cons) = part["sheets"]["registers of the ECMDQ 0 at the end, enabled"]
    assert (prod["offset"], cons["offset"]) == ("0x8", "0xc")
    assert prod["value"] == cons["value"] == f"{1 << 31 | 2 * OPS:#x}"
    assert (prod["index"], prod["wrap"]) == ("140", "0")  # of 256


def test_a_ring_has_slots_and_no_wrap_bit():
    part = told(lab.simulate(SCENARIO, "vhost-iommu"))["guest0.vsmmu0.requests"]
    rows = part["sheets"]["the ring at the end"]
    requests = int(part["rows"]["requests answered"])
    assert requests == 2 * OPS  # a MAP before each UNMAP
    assert {row["next slot"] for row in rows} == {str(requests % 128)}
    assert part["rows"]["mean requests per drain"] == "1"


def test_drains_are_those_of_the_record():
    run = lab.simulate(SCENARIO.but(vcpus=4), "batched")
    rows = told(run)["guest0.vsmmu0.cmdq"]["rows"]
    assert int(rows["drains"]) == len(run.batches) == run.counts.drains
    assert rows["largest drain"] == f"{max(run.batches['commands'])} entries"
    assert float(rows["mean commands per drain"]) == pytest.approx(4 * OPS / len(run.batches), rel=0.01)


@pytest.mark.parametrize(("preset", "by"), [("one-smmu", "batched"), ("mixed", "qemu-today"), ("per-smmu", "vcmdq")])
def test_what_an_smmu_ran_sums_to_the_record(preset, by):
    run = lab.simulate(SCENARIO.but(topology={"preset": preset, "ats": True}, guests=3, vcpus=2), by)
    parts = told(run)
    ran = [row for part in parts.values() for row in part["sheets"].get("what it ran for whom", ())]
    for column, name in (("tlbi", "TLBI"), ("atc", "ATC_INV"), ("syncs", "CMD_SYNC")):
        assert sum(int(row[name]) for row in ran) == sum(run.issued[column]) > 0
    for row in ran:
        assert row["VMID"] == str(int(row["for"].removeprefix("guest")) + 1)  # in the order of guests, from 1
    per_queue = [row for part in parts.values() for row in part["sheets"].get("what SMMUs ran for it", ())]
    assert sum(int(row["TLBI"]) for row in per_queue) == sum(run.issued["tlbi"])


def test_streams_and_vmids_are_where_the_hardware_needs_them():
    parts = told(SCENARIO.but(topology={"preset": "per-smmu", "devices": 2}, guests=2), "vcmdq")
    held = parts["smmu1"]["sheets"]["VINTFs"]
    assert [row["VINTF"] for row in held] == ["guest0.vsmmu1.vintf", "guest1.vsmmu1.vintf"]
    assert [row["VMID"] for row in held] == ["1", "2"]
    assert held[1]["StreamIDs"] == parts["guest1.vsmmu1.vintf"]["rows"]["StreamIDs"]
    devices = [row for name in ("guest0.vsmmu1", "guest1.vsmmu1") for row in parts[name]["sheets"]["devices"]]
    streams = [row["StreamID"].split(" → ") for row in devices]
    assert [int(virtual, 16) for virtual, _ in streams] == [1024, 1032] * 2  # as the preset says
    assert len({physical for _, physical in streams}) == 4  # of one SMMU, each its own
    assert parts["guest0.vsmmu2"]["sheets"]["devices"][0]["StreamID"] == "0x8"  # emulated: no physical one
    assert parts["smmu0"]["rows"]["VCMDQs"] == "4 of 128, besides the host's"


def test_a_vcpu_says_how_long_its_operations_take():
    run = lab.simulate(SCENARIO.but(vcpus=2), "qemu-today")
    parts = told(run)
    of = [[took for took, vcpu in zip(run.latencies, run.ops["vcpu"], strict=True) if vcpu == k] for k in (0, 1)]
    for k, took in enumerate(of):
        rows = parts[f"guest0.vcpu{k}"]["rows"]
        assert rows["operations"] == f"unmap: {OPS}"
        assert rows["sent"] == f"{OPS} TLBIs and CFGI_CDs, 0 ATC_INVs"
        mean, unit = rows["mean latency"].split()
        assert float(mean) == pytest.approx(sum(took) / len(took) / 1000, rel=0.002)
        assert unit == "µs"
        assert rows["exits of guest0, all vCPUs"].startswith(f"{run.counts.exits_vmm:,} to the VMM")
    assert parts["guest0.vmm"]["rows"]["ioctls"] == f"{run.counts.ioctls:,}"
    assert {row["what"]: row["count"] for row in parts["guest0"]["sheets"]["what it caused in the whole run"]}[
        "commands"
    ] == f"{2 * 2 * OPS:,}"


def test_a_scenario_tells_structure_and_settings_only():
    parts = told(SCENARIO.but(topology="per-smmu", guests=2, vcpus=2, smmu={"ril": False}), "short-path")
    assert parts["smmu0"]["rows"]["IDR3.RIL"] == "0: a TLBI for each page"
    queue = parts["guest0.vsmmu0.cmdq"]
    assert set(queue["rows"]) == {"LOG2SIZE", "used by", "doorbell", "consumed by", "completion"}
    assert not queue["sheets"]
    for part in parts.values():
        assert not part["svg"]
        assert not {"commands", "operations", "drains per", "ran", "wakes"} & set(part["rows"])


def test_of_many_some_are_listed_and_the_rest_counted():
    run = lab.simulate(SCENARIO.but({"workload.ops": 3}, guests=64, topology="one-smmu"), "batched")
    shown = lab.show_topology(run)
    small = gather(shown.graph, shown.bottleneck)
    (many,) = (cell for cell in small.cells if cell.kind == "queue" and len(cell.names) > 1)
    part = told(run)[many.full]
    ((caption, rows),) = part["sheets"].items()
    assert caption == f"each of them (the first {MOST} of {len(many.names)})"
    assert [row["what"] for row in rows] == list(many.names[:MOST])
    assert {row["commands"] for row in rows} == {"3"}
    assert part["rows"]["commands, all together"] == f"{3 * len(many.names):,}"
    assert {row["PROD"] for row in rows} == {"0x6"}


@pytest.mark.parametrize("by", ["short-path", "ecmdq"])
def test_a_large_machine_fits_into_a_message(by):
    big = SCENARIO.but({"workload.ops": 4}, guests=64, vcpus=8, topology="grace-8-smmu")
    view = TopologyView(lab.show_topology(lab.simulate(big, by)))
    assert len(json.dumps([view.cells, view.svg])) < 200_000


MACHINES = [
    pytest.param(preset, by, id=f"{preset} {by}")
    for preset in PRESETS
    for by in ("batched", "short-path", "vcmdq", "ecmdq", "bare-metal", "vcmdq-overlay")
    if not lab.Scenario(topology=preset, guests=5, vcpus=3).refuses(lab.approach(by))
]


def workers(graph, cell):
    """The nodes of a cell; of CPUs the workers that may run there."""
    if cell.kind != "host-cpu":
        return set(cell.names)
    return {up for name in cell.names for up in graph.predecessors(name)} - {"host"}


@pytest.mark.parametrize(("preset", "by"), MACHINES)
def test_the_way_of_a_command_is_one_in_the_graph(preset, by):
    """Whatever stands out beside a box leads to it, or is led to by it, and nothing is of its own kind."""
    graph = lab.show_topology(lab.Scenario(topology=preset, guests=5, vcpus=3), by).graph
    small = gather(graph)
    met = ways(small)
    linked = graph.copy()
    linked.remove_node("host")
    for name, what in graph.nodes(data="what"):
        if what == "emulated":  # by the VMM of its guest
            linked.add_edges_from((up, name) for up in graph if up == f"{name.partition('.')[0]}.vmm")
    for cell, others in met.items():
        assert cell in others
        assert all(cell in met[other] for other in others if "guest" not in (cell.kind, other.kind))
        if cell.kind == "guest":
            assert {other for other in small.cells if other.guest is cell} <= others
            continue
        mine = workers(graph, cell)
        near = mine.union(*(networkx.ancestors(linked, each) | networkx.descendants(linked, each) for each in mine))
        for other in others - {cell}:
            assert other.kind != cell.kind
            assert near & workers(graph, other)
        if cell.kind == "queue":
            using = {small.of[vcpu] for name in cell.names for vcpu in users(graph, name)}
            assert {other for other in others if other.kind == "vcpu"} == using


@pytest.mark.parametrize("by", ["qemu-today", "short-path", "vcmdq", "bare-metal"])
def test_the_only_command_passes_everything_that_is_used(by):
    small = gather(lab.show_topology(lab.Scenario(), by).graph)
    vcpu = small.of["guest0.vcpu0"]
    kinds = Counter(cell.kind for cell in ways(small)[vcpu])
    assert kinds["vcpu"] == kinds["domain"] == kinds["smmu"] == kinds["device"] == 1
    assert kinds["queue"] == {"vcmdq": 2, "bare-metal": 0}.get(by, 1)  # a VCMDQ, and the one that traps


def test_a_box_is_named_for_those_who_do_not_see_it():
    run = lab.simulate(SCENARIO, "qemu-today")
    shown = lab.show_topology(run)
    small, facts = gather(shown.graph), Facts(SCENARIO, run.approach, run.graph, run, shown.loads)
    said = {name: label(facts, cell, small.load(cell, shown.loads), name == "smmu0") for name, cell in small.of.items()}
    assert said["guest0.vsmmu0.cmdq"].startswith("guest0.vsmmu0.cmdq, CMDQ, 70 commands, ")
    assert said["guest0.vsmmu0.cmdq"].endswith(" waiting")
    busy = f"{shown.loads['smmu0'].busy:.0%}"
    assert said["smmu0"] == f"smmu0, physical SMMU, 70 commands, {busy} at work, limits the throughput"
    assert said["guest0"] == "guest0, guest"


def test_a_notebook_gets_a_picture_that_lasts_and_the_live_view(monkeypatch):
    shown, outputs = lab.show_topology(SCENARIO, "batched"), []
    monkeypatch.setattr(live, "display", lambda bundle, **more: outputs.append(bundle))
    shown._ipython_display_()
    picture, widget = outputs
    assert shown._repr_html_() in picture["text/html"]
    assert picture["text/plain"] == repr(shown)
    assert "application/vnd.jupyter.widget-view+json" in widget
