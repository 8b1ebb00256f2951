"""What the record says of nodes and edges: closed forms where one vCPU is alone, conservation everywhere."""

import pytest
from hypothesis import given, reject, settings

import smmu_lab as lab
from smmu_lab.study.bounds import bound, least
from smmu_lab.study.load import bottleneck, loads
from smmu_lab.study.served import span
from tests.study.test_bounds import MACHINES, ROWS, VARIANTS, scenarios, simulate_unless_starved

OPS, PAGES = 20, 5
ALONE = lab.Scenario(
    workload=lab.unmaps(pages=PAGES, ops=OPS, think=3000, spread="constant"),
    smmu=lab.Smmu(ril=False),
    topology={"preset": "broadcast", "ats": True, "devices": 2, "shared": True},
)
"""One vCPU: an unmap is five TLBIs, and an ATC_INV for each of four devices, two behind each of two SMMUs."""


def flow(run, kind):
    """Commands along all edges of a kind."""
    made = loads(run)
    return {(a, b): made[a, b].commands for a, b, each in run.graph.edges(data="kind") if each == kind}


@pytest.mark.parametrize(
    ("name", "tlbi", "atc"),
    [
        ("batched", PAGES, 2),
        ("per-command", PAGES, 2 * (PAGES + 4)),  # each of its TLBIs and ATC_INVs fans out to all devices
        ("native-queue", PAGES, 2),
        ("short-path", PAGES, 2),
        ("virtio-iommu", PAGES, 2),  # the host's own unmap
    ],
)
def test_where_the_commands_of_an_unmap_go(name, tlbi, atc):
    """A TLBI goes to both SMMUs, an ATC_INV to the one that its device is behind."""
    run = lab.simulate(ALONE, name)
    made = loads(run)
    sent = 2 if name == "virtio-iommu" else PAGES + 4  # a map and an unmap, or commands
    for edge in [("guest0.vcpu0", "guest0.d0"), ("guest0.d0", "guest0.vsmmu0")]:
        assert made[edge].commands == sent * OPS
    assert set(flow(run, "consumes").values()) == {sent * OPS}
    for kind in ("issues", "feeds"):
        assert set(flow(run, kind).values()) == {(tlbi + atc) * OPS}
    assert set(flow(run, "translates").values()) == {atc // 2 * OPS}
    assert made["smmu1"].commands == made["smmu1.cmdq"].commands == (tlbi + atc) * OPS


def test_on_bare_metal_each_smmu_gets_what_is_its_own():
    run = lab.simulate(ALONE, "bare-metal")
    made = loads(run)
    assert flow(run, "invalidates") == {("guest0.d0", f"smmu{k}.cmdq"): (PAGES + 2) * OPS for k in range(2)}
    assert made["smmu0.cmdq"].commands == made["smmu0"].commands == (PAGES + 2) * OPS
    assert set(flow(run, "translates").values()) == {OPS}


def test_each_vsmmu_gets_its_share_of_a_domain():
    """Behind one are a device with ATS and one without, behind the other one is emulated: three TLBIs of it each."""
    layout = {
        "vsmmus": [
            {"devices": [{"vsid": 1, "ats": True}, {"vsid": 2}]},
            {"accel": False, "devices": [{"vsid": 1, "kind": "emulated"}]},
        ]
    }
    load = lab.unmaps(pages=3, ops=OPS)
    run = lab.simulate(lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), topology={"layouts": [layout]}), "batched")
    assert flow(run, "invalidates") == {("guest0.d0", f"guest0.vsmmu{k}"): n * OPS for k, n in ((0, 4), (1, 3))}
    assert set(flow(run, "issues").values()) == {4 * OPS}
    assert flow(run, "translates") == {
        ("smmu0", "guest0.vsmmu0.pcie.dev0"): OPS,
        ("smmu0", "guest0.vsmmu0.pcie.dev1"): 0,
    }


def test_an_engine_is_at_work_for_what_its_costs_say():
    scenario = ALONE.but(topology="one-smmu", vcpus=3)
    run = lab.simulate(scenario, "vcmdq")
    costs = scenario.costs
    time = 3 * OPS * (PAGES * costs.t_tlbi + costs.sync_occ)
    assert loads(run)["smmu0"].busy == pytest.approx(time / run.duration)


def test_of_engines_in_parallel_it_is_the_mean():
    """Two VCMDQs and the host's own queue."""
    scenario = ALONE.but(topology="one-smmu", vcpus=2)
    row = lab.approach("vcmdq")
    costs, time = scenario.costs, 2 * OPS * (PAGES * scenario.costs.t_tlbi + scenario.costs.sync_occ)
    assert costs.t_tlbi
    run = lab.simulate(scenario, row.but(execution="parallel"))
    assert loads(run)["smmu0"].busy == pytest.approx(time / 3 / run.duration)


def test_the_lock_of_a_vmm_is_held_for_what_its_costs_say():
    """docs/model.md: the last part of each exit, and with the PROD write all that the VMM does for it."""
    scenario = ALONE.but(topology="one-smmu")
    run = lab.simulate(scenario, "batched")
    c, n = scenario.costs, PAGES
    handler = (n + 1) * c.vmm_cmd + c.ioctl + n * (c.copy + c.conv) + c.hsubmit + n * c.t_tlbi + c.t_sync
    exits = 2  # PROD is written, CONS is read when it has moved
    assert loads(run)["guest0.vmm"].busy == pytest.approx(OPS * (exits * c.vmm_lock + handler) / run.duration)


def test_entries_wait_as_long_as_littles_law_says():
    """One vCPU alone: each drain holds its entries from the PROD write to CONS."""
    scenario = ALONE.but(topology="one-smmu")
    run = lab.simulate(scenario, "vcmdq")
    c = scenario.costs
    held = c.mmio_w + PAGES * c.t_tlbi + c.t_sync
    made = loads(run)
    assert made["guest0.vsmmu0.vcmdq0"].waiting == pytest.approx(OPS * (PAGES + 1) * held / run.duration)
    assert made["guest0.vsmmu0.vcmdq1"] == (0, None, 0)


@pytest.mark.parametrize(("placement", "busy"), [("any", [1, 1]), ("pinned", [2, 0])])
def test_host_cpus_share_the_time_of_their_workers(placement, busy):
    """One vCPU keeps the first of two workers at work; the record counts the time it held a CPU, too."""
    host = lab.Host(worker_cpus=2, placement=placement)
    run = lab.simulate(ALONE.but(topology="per-smmu", host=host), "short-path")
    made = loads(run)
    whole = run.counts.cpu_worker / run.duration
    assert [made[f"cpu{k}"].busy for k in range(2)] == pytest.approx([whole * share / 2 for share in busy])
    assert made["worker0"].busy == pytest.approx(whole)
    assert made["worker1"] == (0, 0, None)


def test_a_vcpu_is_at_work_in_its_operations():
    run = lab.simulate(ALONE, "short-path")
    assert loads(run)["guest0.vcpu0"].busy == pytest.approx(1 - (OPS - 1) * 3000 / run.duration)


def test_what_stopped_the_hardware_goes_by_the_vmm():
    """Every third unmap there is a CFGI_CD, which a VCMDQ does not take."""
    run = lab.simulate(ALONE.but(topology="one-smmu").but({"workload.cd_every": 3}), "vcmdq-overlay")
    fixed = OPS // 3
    assert set(flow(run, "fixes").values()) == set(flow(run, "issues").values()) == {fixed}
    assert flow(run, "feeds") == {("smmu0.cmdq", "smmu0"): fixed, ("guest0.vsmmu0.vintf", "smmu0"): OPS * PAGES}
    assert loads(run)["smmu0"].commands == OPS * PAGES + fixed


def test_what_is_not_known_is_left_out():
    """Which of two VCMDQs stopped, and of two domains whose device an ATC_INV of the fan-out was for."""
    two = lab.simulate(ALONE.but(topology="per-smmu").but({"workload.cd_every": 3}), "vcmdq-overlay")
    assert ("guest0.vmm", "smmu0.cmdq") not in loads(two)
    assert loads(two)["guest0.vmm"].commands == loads(two)["smmu0"].commands - OPS * PAGES == OPS // 3
    devices = [{"vsid": k, "ats": True, "domain": f"d{k}"} for k in range(2)]
    shared = ALONE.but(topology={"layouts": [{"vsmmus": [{"devices": devices}]}]}, vcpus=2)
    assert ("smmu0", "guest0.vsmmu0.pcie.dev0") in loads(lab.simulate(shared, "batched"))
    assert ("smmu0", "guest0.vsmmu0.pcie.dev0") not in loads(lab.simulate(shared, "per-command"))


KINDS = {
    "vCPUs": {"vcpu"},
    "command engine": {"smmu"},
    "VMM lock": {"vmm"},
    "worker": {"worker"},
    "worker CPUs": {"host-cpu"},
    "request lock": {"queue"},
    "PROD write": {"queue"},
}


@pytest.mark.parametrize(
    "row", [*ROWS, *VARIANTS], ids=lambda row: f"{row.name} {row.completion} {row.worker} {row.execution}"
)
@settings(max_examples=20)
@given(scenario=scenarios, machine=MACHINES)
def test_nothing_is_lost_on_the_way(row, scenario, machine):
    """What goes in comes out; no share exceeds the whole; and no bound asks for more than there was."""
    try:
        scenario = scenario.but(machine)
    except lab.InvalidInput:
        reject()
    if scenario.refuses(row):
        return
    run = simulate_unless_starved(scenario, row)
    made, graph, kind = loads(run), run.graph, dict(run.graph.nodes(data="kind"))

    def passed(edges, *kinds):
        return sum(made[a, b].commands for a, b, by in edges if by in kinds and (a, b) in made)

    for name in graph:
        into, out = graph.in_edges(name, data="kind"), graph.out_edges(name, data="kind")
        if kind[name] in ("vcpu", "domain"):
            assert made[name].commands == passed(out, "drives", "invalidates"), name
        if kind[name] in ("domain", "vsmmu"):
            assert made[name].commands == passed(into, "drives", "invalidates"), name
        if kind[name] == "queue":
            assert made[name].commands == passed(out, "consumes") or row.on_metal, name
        if kind[name] in ("worker", "kernel", "vintf"):
            assert made[name].commands == passed(into, "consumes"), name
        if name in made and kind[name] == "cmdq" and not row.on_metal:
            assert made[name].commands == passed(into, "issues") == passed(out, "feeds"), name
        if name in made and made[name].busy is not None:
            assert 0 <= made[name].busy <= 1 + 1e-9, name
    for times in least(run).values():
        for name, time in times.items():
            if kind[name] in ("vmm", "worker", "smmu", "host-cpu"):
                assert time <= made[name].busy * span(run) + 1e-6, name
    limits = bottleneck(run)
    assert {kind[name] for name in limits} <= KINDS[bound([run]).station]
    assert limits


def test_the_busiest_of_several_limits():
    """Eight vCPUs on the domain of the second SMMU, none on that of the first."""
    load = lab.unmaps(pages=1, ops=200, think=0)
    scenario = lab.Scenario(workload=load, vcpus=16, topology={"preset": "broadcast", "drives": ["d1"]})
    for name in ("bare-metal", "ecmdq"):
        run = lab.simulate(scenario, name)
        assert bottleneck(run) == ("smmu1",)
    per_smmu = scenario.but(topology={"preset": "per-smmu", "drives": ["d1", "d1", "d0"]}, guests=2)
    run = lab.simulate(per_smmu, "short-path")
    assert set(bottleneck(run)) <= {"worker1", "worker3"}
    assert loads(run)[bottleneck(run)[0]].busy == max(
        load.busy for name, load in loads(run).items() if str(name).startswith("worker")
    )


def test_a_bound_with_neighbours_is_of_the_measured_time():
    """What neighbours do before and after the measured operations loads nobody then."""
    flood = lab.unmaps(pages=64, think=0)
    scenario = lab.Scenario(
        workload=lab.unmaps(pages=1, ops=30, think=0),
        smmu=lab.Smmu(ril=False),
        guests=4,
        vcpus=4,
        neighbour={"guests": 3, "workload": flood},
    )
    for name in ("batched", "short-path", "vcmdq"):
        run = lab.simulate(scenario, name)
        assert span(run) > run.duration
        assert bound([run]).reached <= 1
        assert all(name.startswith("guest0") for name in least(run)["vCPUs"])
