"""No throughput beats its bound, the bounds are near where they should be, and M/D/1 is what the engine makes of it."""

from statistics import fmean

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import smmu_lab as lab
from smmu_lab.record import sectioned
from smmu_lab.study.bounds import ENGINE, bound, least, md1_wait, stations

ROWS = lab.approaches()

scenarios = st.builds(
    lambda workload, ril, errata, log2, changes, **rest: lab.Scenario(
        workload=workload, smmu=lab.Smmu(ril=ril, errata=errata, queue_log2=log2), **rest
    ).but({f"costs.{name}": value for name, value in changes.items()}),
    workload=st.builds(
        lab.unmaps,
        pages=st.sampled_from([1, 3, 16, 70]),
        ops=st.sampled_from([1, 5, 20]),
        think=st.sampled_from([0, 500, 20_000]),
        rate=st.sampled_from([0, 0, 200_000]),
        spread=st.sampled_from(["exponential", "constant"]),
        ats_devices=st.sampled_from([0, 0, 2]),
        cd_every=st.sampled_from([0, 0, 3]),
        maps=st.integers(0, 2),
        lazy=st.sampled_from([False, False, True]),
    ),
    ril=st.booleans(),
    errata=st.sampled_from(["none", "tlbi-apart", "force-sync"]),
    log2=st.sampled_from([7, 16]),
    changes=st.dictionaries(
        st.sampled_from(
            ["g_cmd", "exit_kernel", "sig", "hsubmit", "mmio_w", "t_tlbi", "t_atc", "ioctl", "copy", "lpi"]
        ),
        st.sampled_from([0, 1, 50, 5000]),
        max_size=4,
    ),
    vcpus=st.sampled_from([1, 2, 6]),
    guests=st.sampled_from([1, 1, 3]),
    host=st.builds(lab.Host, worker_cpus=st.sampled_from([1, 4])),
    seed=st.integers(0, 1000),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@settings(max_examples=25)
@given(scenario=scenarios)
def test_no_resource_is_at_work_for_longer_than_the_run(row, scenario):
    """Exactly: all work lies between the first start and the last end, so ends of runs need no allowance."""
    if scenario.refuses(row):
        return
    run = lab.simulate(scenario, row)
    for name, time in stations(run).items():
        assert time <= run.duration, name


VARIANTS = [
    lab.approach("short-path").but(worker="vm", busy_poll="20us", weight=16),
    lab.approach("short-path").but(worker="host"),
    lab.approach("vcmdq").but(execution="parallel"),
    lab.approach("vcmdq").but(arbitration="round-robin"),
    lab.approach("ecmdq").but(execution="parallel", completion="msi-word"),
    lab.approach("batched").but(completion="msi-word"),
    lab.approach("vhost-iommu").but(completion="used-ring-irq", kicks="always"),
    lab.approach("virtio-iommu").but(completion="used-ring-irq"),
]


@pytest.mark.parametrize("row", VARIANTS, ids=lambda row: f"{row.name} {row.completion} {row.worker} {row.execution}")
@settings(max_examples=15)
@given(scenario=scenarios)
def test_nor_under_what_ifs(row, scenario):
    if scenario.refuses(row):
        return
    run = lab.simulate(scenario, row)
    for name, time in stations(run).items():
        assert time <= run.duration, name


@pytest.mark.parametrize("name", ["short-path-polled", "short-path", "vcmdq"])
@pytest.mark.parametrize("consume", ["conv", "t_tlbi"])
def test_lists_of_one_unmap_overlap(name, consume):
    """While the second list is written the first is consumed: each part takes its time, but not their sum."""
    scenario = lab.Scenario(workload=lab.unmaps(pages=120, ops=20, think=0), smmu=lab.Smmu(ril=False))
    slow = {"costs.g_cmd": 5000, f"costs.{consume}": 4000}
    assert 0.5 < bound([lab.simulate(scenario.but(slow), name)]).reached <= 1


DEVICES = st.builds(
    lambda kind, smmu, domain, ats: (
        {"kind": kind, "domain": domain} | ({"smmu": smmu, "ats": ats} if kind == "passthrough" else {})
    ),
    st.sampled_from(["passthrough", "passthrough", "emulated"]),
    st.integers(0, 2),
    st.sampled_from(["d0", "d1"]),
    st.booleans(),
)
VSMMUS = st.builds(
    lambda devices, accel: {
        "accel": accel and all(device["kind"] == "passthrough" for device in devices),
        "devices": [device | {"vsid": number} for number, device in enumerate(devices)],
    },
    st.lists(DEVICES, min_size=1, max_size=3),
    st.sampled_from([True, True, False]),
)
PRESETS = st.builds(
    lambda preset, **more: {"preset": preset} | more,
    preset=st.sampled_from(["broadcast", "per-smmu", "mixed"]),
    smmus=st.just(3),
    devices=st.integers(1, 2),
    ats=st.booleans(),
    shared=st.booleans(),
)
TOPOLOGIES = PRESETS | st.builds(
    lambda layouts: {"smmus": 3, "layouts": [{"vsmmus": vsmmus} for vsmmus in layouts]},
    st.lists(st.lists(VSMMUS, min_size=1, max_size=3), min_size=1, max_size=2),
)


def simulate_unless_starved(scenario, row):
    """`simulate`, if the neighbours let it end."""
    try:
        return lab.simulate(scenario, row)
    except lab.InvalidInput as error:
        if "never let guest 0 through" not in str(error):
            raise
        reject()


MACHINES = st.fixed_dictionaries(
    {
        "topology": TOPOLOGIES,
        "guests": st.just(3),
        "workload.ats_devices": st.just(0),
        "workload.cd_every": st.sampled_from([0, 0, 0, 3]),
        "workload.stall": st.sampled_from([0, 0, 0, "30us"]),
        "neighbour.guests": st.integers(0, 2),
        "neighbour.workload": st.builds(
            lab.unmaps, pages=st.sampled_from([1, 100]), think=st.sampled_from([2000, 20_000]), lazy=st.booleans()
        ),
        "host.placement": st.sampled_from(["any", "pinned"]),
    }
)


@pytest.mark.parametrize(
    "row", [*ROWS, *VARIANTS], ids=lambda row: f"{row.name} {row.completion} {row.worker} {row.execution}"
)
@settings(max_examples=40)
@given(scenario=scenarios, machine=MACHINES)
def test_nor_on_any_machine(row, scenario, machine):
    """Several SMMUs, vSMMUs that span them or emulate, domains that several are behind, and neighbours."""
    try:
        scenario = scenario.but(machine)
    except lab.InvalidInput:
        reject()
    if scenario.refuses(row):
        return
    run = simulate_unless_starved(scenario, row)
    for station, times in least(run).items():
        for name, time in times.items():
            assert time <= run.duration, (station, name)


SATURATED = lab.Scenario(workload=lab.unmaps(pages=1, ops=200, think=0), vcpus=16)


@pytest.mark.parametrize(
    ("name", "station"),
    [
        ("qemu-today", "VMM lock"),
        ("batched", "VMM lock"),
        ("native-queue", "VMM lock"),
        ("short-path", "worker"),
        ("short-path-sync", "PROD write"),
        ("virtio-iommu", "request lock"),
        ("vcmdq", ENGINE),
        ("bare-metal", ENGINE),
    ],
)
def test_a_saturated_resource_is_named_and_reached(name, station):
    limit = bound([lab.simulate(SATURATED, name)])
    assert limit.station == station
    assert 0.95 < limit.reached <= 1
    assert limit.limit == pytest.approx(limit.throughput / limit.reached)


def test_the_engine_allows_what_its_costs_say():
    """An unmap of one page is a TLBI and a CMD_SYNC."""
    costs = SATURATED.costs
    limit = bound([lab.simulate(SATURATED, "vcmdq")])
    assert limit.limit == pytest.approx(1e9 / (costs.t_tlbi + costs.sync_occ))


def test_one_vcpu_alone_is_bound_by_itself():
    """Think time and the path of one unmap without the read of CONS, as docs/model.md composes them."""
    scenario = lab.Scenario(workload=lab.unmaps(pages=3, spread="constant", ops=50), smmu=lab.Smmu(ril=False))
    limit = bound([lab.simulate(scenario, "bare-metal")])
    c = scenario.costs
    least = c.g_fix + 4 * c.g_cmd + c.mmio_w + 3 * c.t_tlbi + c.t_sync
    assert limit.station == "vCPUs"
    run_of_50 = 50 * least + 49 * 20_000  # the clock starts with the first unmap
    assert limit.reached == pytest.approx(run_of_50 / lab.simulate(scenario, "bare-metal").duration)


def test_a_recorded_guest_has_bounds_too():
    guest = lab.read_trace("nvme_dd_r4k_j4_strict_61")
    scenario = lab.Scenario(workload=guest.workload(ops=50))
    for name, limit in lab.compare(scenario, ["qemu-today", "short-path", "vcmdq", "virtio-iommu"]).bounds.items():
        assert 0.3 < limit.reached <= 1, name


def test_gathered_work_is_counted_as_it_was_done():
    """Sixteen vCPUs share host CMD_SYNCs: with one for each the bound would be beaten."""
    run = lab.simulate(SATURATED, "batched")
    each = run.scenario.costs.hsubmit + run.scenario.costs.t_sync + run.scenario.costs.ioctl
    assert run.throughput > 1e9 / (each + run.scenario.costs.vmm_lock + 2 * run.scenario.costs.vmm_cmd)
    assert bound([run]).reached <= 1


def test_pollaczek_and_khinchine():
    """Tabulated: at a load of 0.5, 0.8 and 0.9 a customer waits 0.5, 2 and 4.5 services."""
    assert [md1_wait(load, 1) for load in (0.5, 0.8, 0.9)] == pytest.approx([0.5, 2, 4.5])
    assert md1_wait(1, 1) == float("inf")


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_an_engine_with_poisson_arrivals_is_an_md1_queue(load):
    """Hundreds of vCPUs that are hardly ever busy, constant service of 1 us, everything else free.

    The wait for the engine is the stage `queue`; how late a poll sees the end delays nobody but itself. What starts
    after the first vCPU is through is left out: fewer and fewer arrive then.
    """
    vcpus, pages = 200, 9
    free = dict.fromkeys(("g_fix", "g_cmd", "mmio_w", "mmio_r", "relax"), 0)
    service = {"t_tlbi": 100, "sync_occ": 100, "t_sync": 100}  # 9 TLBIs and a CMD_SYNC: 1 us
    scenario = lab.Scenario(
        workload=lab.unmaps(pages=pages, rate=round(load * 1e6 / vcpus), ops=60),
        smmu=lab.Smmu(ril=False),
        vcpus=vcpus,
        costs=lab.costs("grace").but(free | service),
    )
    waits = []
    for seed in range(8):
        run = lab.simulate(scenario.but(seed=seed), "bare-metal")
        starts = run.ops["start"]
        last = dict(zip(run.ops["vcpu"], starts, strict=True))
        window = [
            wait for start, wait in zip(starts, run.ops["queue"], strict=True) if 50_000 < start < min(last.values())
        ]
        waits.append(fmean(window))
    estimate = sectioned(fmean(waits), waits)
    theory = md1_wait(load / 1000, 1000)
    assert estimate.half_width < 0.1 * theory
    assert estimate.low <= theory <= estimate.high
    assert bound([run]).queueing[0] == pytest.approx(theory, rel=1e-3)


def test_the_sheet_shows_what_the_bounds_say():
    result = lab.compare(SATURATED.but({"workload.ops": 20}), ["batched", "vcmdq"])
    sheet = result.bounds_sheet()
    assert [row[3] for row in sheet.rows] == [result.bounds[name].station for name in ("batched", "vcmdq")]
    assert "M/D/1" not in sheet.header
    assert result.to_dict()["runs"]["vcmdq"]["bound"]["station"] == result.bounds["vcmdq"].station
    opened = lab.compare(lab.Scenario(workload=lab.unmaps(rate=20_000, ops=50), vcpus=8), ["batched", "vcmdq"])
    rows = {row[0]: row[-2:] for row in opened.bounds_sheet().rows}
    assert rows["batched"] == ("-", "-")
    assert all(time.endswith("s") for time in rows["vcmdq"])


def test_an_engine_asked_for_too_much_has_no_wait_and_json_no_infinity():
    flooded = lab.compare(lab.Scenario(workload=lab.unmaps(rate=1_000_000, ops=20), vcpus=16), ["vcmdq"])
    assert flooded.bounds["vcmdq"].queueing is None
    assert "Infinity" not in flooded.to_json()


@pytest.mark.parametrize(
    "change", [{"vcpus": 1}, {"workload.pages": 500}, {"workload.rate": 400_000}], ids=["alone", "lists", "busy"]
)
def test_md1_is_left_out_where_it_says_nothing(change):
    """One source cannot meet itself, an operation of several lists does, and a busy vCPU is no Poisson source."""
    scenario = lab.Scenario(workload=lab.unmaps(rate=20_000, ops=50), smmu=lab.Smmu(ril=False), vcpus=8)
    assert bound([lab.simulate(scenario, "vcmdq")]).queueing is not None
    assert bound([lab.simulate(scenario.but(change), "vcmdq")]).queueing is None
