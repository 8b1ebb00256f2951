"""What one guest command becomes on k SMMUs, worked out on paper; and whether a line is a line."""

import json
from io import StringIO
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import smmu_lab as lab
from smmu_lab.record import sectioned
from smmu_lab.scenario.topology import Topology
from smmu_lab.study import amplification
from smmu_lab.study.amplification import fit

ALONE = lab.Scenario(workload=lab.unmaps(pages=3, ops=10), smmu=lab.Smmu(ril=False))
"""One vCPU on idle queues: nothing is random in how long an unmap of three TLBIs takes."""
N = 3
SOME = (1, 2, 3, 5)


def per_smmu(name, c):
    """What one more SMMU costs an unmap of N TLBIs that a vSMMU broadcasts (docs/model.md, Costs)."""
    host = c.hsubmit + N * c.t_tlbi + c.t_sync
    return {
        "qemu-today": N * (c.ioctl + c.copy + c.conv + c.hsubmit + c.t_tlbi + c.t_sync),
        "batched": c.ioctl + N * (c.copy + c.conv) + host,
        "native-queue": c.ioctl + (N + 1) * (c.conv + 2 * c.copy) + host,
        "short-path-sync": N * c.conv + host,
    }[name]


# -- latency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qemu-today", "batched", "native-queue", "short-path-sync"])
def test_alone_broadcasting_grows_by_what_an_smmu_costs_and_instances_do_not_grow(name):
    result = amplification(ALONE, name, SOME, [False])
    every, one = result.line("broadcast").fit, result.line("per-smmu").fit
    expected = pytest.approx(per_smmu(name, ALONE.costs))
    assert (every.slope.value, every.slope.low, every.slope.high) == (expected, expected, expected)
    assert (every.shape, every.r2, every.off) == ("linear", pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert (one.shape, one.r2, one.off) == ("flat", None, 0)
    assert (one.slope.value, one.slope.low, one.slope.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["qemu-today", "batched", "native-queue", "short-path-sync", "vcmdq"])
@pytest.mark.parametrize("ats", [False, True])
def test_a_domain_behind_all_instances_costs_one_invalidation_for_each(name, ats):
    """One after the other, each with its own doorbell and its own wait: k times what one costs."""
    line = amplification(ALONE, name, SOME, [ats]).line("per-smmu", shared=True, ats=ats)
    assert [point.mean.value for point in line.points.values()] == pytest.approx(
        [k * line.points[1].mean.value for k in SOME]
    )
    assert line.fit.shape == "linear"


@pytest.mark.parametrize("name", ["qemu-today", "batched", "native-queue", "short-path", "short-path-sync"])
@pytest.mark.parametrize("ats", [False, True])
def test_for_a_shared_domain_instances_are_dearer_than_broadcasting(name, ats):
    """The same commands run on the same SMMUs; what is more is the way there."""
    result = amplification(ALONE, name, SOME, [ats])
    every, each = (result.line(preset, shared=True, ats=ats) for preset in ("broadcast", "per-smmu"))
    assert each.fit.slope.value > every.fit.slope.value
    factor = each.fit.slope.value / every.fit.slope.value
    assert f"; shared, per instance it grows {factor:.3g} times as fast as broadcasting." in result.verdict
    ran = [[point.issued for point in line.points.values()] for line in (every, each)]
    assert ran[0] == ran[1]


def test_under_the_v1_patch_a_shared_domain_with_ats_is_dearer_to_broadcast():
    """Each of k ATC_INVs is answered with one for every device; an instance of its own has one device only."""
    result = amplification(ALONE, "per-command", SOME, [True])
    every, each = (result.line(preset, shared=True, ats=True) for preset in ("broadcast", "per-smmu"))
    assert every.points[5].mean.value > each.points[5].mean.value
    assert (every.fit.shape, each.fit.shape) == ("not linear", "linear")


def test_with_company_broadcasting_is_dearer_still_and_not_linear():
    """Exits hold the VMM's lock for longer, so others wait longer: the line bends, and it is said."""
    busy = ALONE.but({"vcpus": 4, "workload.ops": 60, "workload.think": "60us"})
    result = amplification(busy, "qemu-today", (1, 4, 8, 12), [False])
    fitted = result.line("broadcast").fit
    assert fitted.slope.low > per_smmu("qemu-today", ALONE.costs)
    assert fitted.slope.low < fitted.slope.value < fitted.slope.high
    assert fitted.shape == "not linear"
    assert "grows, but not linearly (up to " in result.verdict


def test_replications_are_the_seeds_that_follow():
    scenario = ALONE.but({"vcpus": 3, "workload.ops": 20, "workload.think": "5us", "seed": 7})
    result = amplification(scenario, "batched", [2, 3], [False], replications=2)
    topology = Topology.preset("broadcast", smmus=3, drives=["d0"])
    runs = [lab.simulate(scenario.but(seed=seed, topology=topology), "batched") for seed in (7, 8)]
    point = result.line("broadcast").points[3]
    assert point.means == tuple(fmean(run.series) for run in runs)
    assert point.guest == fmean(run.counts.commands / 60 for run in runs)
    assert point.mean.low is None


def test_all_runs_leave_out_the_same_warm_up():
    scenario = ALONE.but({"vcpus": 4, "workload.ops": 60, "workload.think": 0})
    result = amplification(scenario, "short-path", [1, 2], [False], replications=2)
    assert result.warmup > 0
    topology = Topology.preset("broadcast", smmus=2, drives=["d0"])
    runs = [lab.simulate(scenario.but(seed=seed, topology=topology), "short-path") for seed in (1, 2)]
    means = tuple(fmean(run.series[result.warmup :]) for run in runs)
    assert result.line("broadcast").points[2].means == means


# -- commands --------------------------------------------------------------------------------------------------------

ONE_TLBI = ALONE.but({"workload.pages": 1, "workload.ops": 3})


def amplified(name, ats):
    """Layout to (guest's commands, each SMMU's) for an unmap of one TLBI on 1, 2, 3 and 5 SMMUs."""
    result = amplification(ONE_TLBI, name, SOME, [ats], replications=1)
    return {line.name: [(point.guest, point.issued) for point in line.points.values()] for line in result.lines}


def test_without_ats_a_broadcast_tlbi_is_a_tlbi_and_a_cmd_sync_on_every_smmu():
    assert amplified("qemu-today", False) == {
        "broadcast": [(2, (2,) * k) for k in SOME],
        "broadcast, shared": [(2, (2,) * k) for k in SOME],
        "per instance": [(2, (2, *[0] * (k - 1))) for k in SOME],
        "per instance, shared": [(2 * k, (2,) * k) for k in SOME],
    }


def test_with_ats_an_atc_inv_goes_to_its_own_smmu_only():
    """A shared domain has k devices: k ATC_INVs and a CMD_SYNC more in the guest's queue, or one pair per instance."""
    assert amplified("batched", True) == {
        "broadcast": [(4, (4, *[2] * (k - 1))) for k in SOME],
        "broadcast, shared": [(2 + k + 1, (4,) * k) for k in SOME],
        "per instance": [(4, (4, *[0] * (k - 1))) for k in SOME],
        "per instance, shared": [(4 * k, (4,) * k) for k in SOME],
    }


def test_the_v1_patch_fans_out_to_every_device_for_every_atc_inv():
    """Each of k ATC_INVs is a list for each of k devices: 2k on each SMMU beside the TLBI's own 4."""
    result = amplification(ONE_TLBI, "per-command", [*SOME, 12], [True], replications=1)
    line = result.line("broadcast", shared=True, ats=True)
    assert [point.issued for point in line.points.values()] == [(4 + 2 * k,) * k for k in (*SOME, 12)]
    assert line.fit.shape == "not linear"


def test_neighbours_are_not_counted():
    beside = ONE_TLBI.but({"guests": 2, "neighbour.guests": 1, "workload.think": "200us"})
    quiet, busy = (amplification(each, "batched", [2], [False], replications=1) for each in (ONE_TLBI, beside))
    for one, other in zip(quiet.lines, busy.lines, strict=True):
        assert (one.points[2].guest, one.points[2].issued) == (other.points[2].guest, other.points[2].issued)


# -- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "preset", "shared", "rule"),
    [
        ("vcmdq", "broadcast", False, "one-smmu-per-vcmdq"),
        ("vcmdq", "broadcast", True, "one-smmu-per-vcmdq"),
        ("virtio-iommu", "per-smmu", True, "one-viommu-per-domain"),
    ],
)
def test_a_layout_that_cannot_be_keeps_the_name_of_the_rule(name, preset, shared, rule):
    """One SMMU is no case of it; the line stays, and every table says why it is empty."""
    result = amplification(ALONE, name, SOME, [False])
    line = result.line(preset, shared)
    assert (list(line.points), line.rules) == ([1], dict.fromkeys((2, 3, 5), (rule,)))
    assert line.fit is None
    assert f"refused on 2 .. 5 SMMUs: {rule}" in result.verdict
    for sheet in result.sheets:
        assert rule in str(sheet)
    assert line.name not in result.chart()


def test_a_layout_that_cannot_be_anywhere_is_told_of():
    """A CFGI_CD is for one SMMU; requests of virtio-iommu are not deferred."""
    switching = amplification(ALONE.but({"workload.cd_every": 2}), "batched", [1, 2], [False])
    assert switching.line("broadcast").rules == {2: ("workload.cd_every",)}
    lazy = amplification(ALONE.but({"workload.lazy": True}), "virtio-iommu", [1, 2], [False])
    assert {(k, names[0]) for line in lazy.lines for k, names in line.rules.items()} == {
        (1, "workload.lazy"),
        (2, "workload.lazy"),
    }
    assert "broadcast and per instance and broadcast, shared: refused on 1 .. 2 SMMUs: workload.lazy" in lazy.verdict
    assert (lazy.warnings, lazy.pictures()) == ((), ())
    assert "workload.lazy" in lazy._repr_html_()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"smmus": []}, "smmus: [] is not valid"),
        ({"smmus": "8"}, "smmus: '8' is not valid"),
        ({"smmus": [0, 1, 65]}, "smmus: 0 is not valid: an integer from 1 to 64\nsmmus: 65 is not valid"),
        ({"ats": ["no"]}, "ats: 'no' is not valid: true or false"),
        ({"replications": 0}, "replications: 0 is not valid: a positive integer"),
        ({"by": "qemu"}, "approach 'qemu': unknown"),
    ],
)
def test_what_is_not_valid_is_named(given, problem):
    with pytest.raises(lab.InvalidInput) as raised:
        amplification(ALONE, **{"smmus": [1], **given})
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    ("scenario", "problem"),
    [
        (ALONE.but({"workload.ats_devices": 1}), r"workload\.ats_devices"),
        (lab.Scenario(workload=lab.read_trace("nvme_dd_r1m_j1_strict_61").workload()), r"workload\.kind: 'recorded'"),
        (ALONE.but({"fault.kind": "illegal-command"}), r"fault\.kind"),
    ],
)
def test_a_scenario_without_room_for_a_topology_is_refused(scenario, problem):
    with pytest.raises(lab.InvalidInput, match=problem):
        amplification(scenario)


# -- the line --------------------------------------------------------------------------------------------------------

NUMBERS = st.lists(st.integers(1, 64), min_size=3, max_size=8, unique=True).map(sorted)


@given(NUMBERS, st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 8))
def test_points_on_a_line_are_linear_and_equal_ones_flat(smmus, base, slope, replications):
    line = fit(smmus, [[base + slope * k] * replications for k in smmus])
    assert (line.shape, line.slope.value, line.r2) == ("linear", pytest.approx(slope), pytest.approx(1))
    assert line.off == pytest.approx(0, abs=1e-6 * slope * 64)
    level = fit(smmus, [[base / 7] * replications for _ in smmus])
    assert (level.shape, level.slope.value, level.r2, level.off) == ("flat", 0, None, 0)


@given(NUMBERS, st.integers(0, 2**32))
def test_the_slope_and_its_interval_are_those_of_the_textbook(smmus, seed):
    """cov(k, y) / var(k) in each replication, and a t interval over replications."""
    from random import Random

    rng = Random(seed)
    means = [[rng.uniform(1_000, 2_000) for _ in range(5)] for _ in smmus]
    middle = fmean(smmus)
    slopes = [
        sum((k - middle) * each[r] for k, each in zip(smmus, means, strict=True))
        / sum((k - middle) ** 2 for k in smmus)
        for r in range(5)
    ]
    expected = sectioned(fmean(slopes), slopes)
    made = fit(smmus, means).slope
    assert (made.value, made.low, made.high) == pytest.approx((expected.value, expected.low, expected.high), abs=1e-6)


def test_a_square_is_not_linear_and_two_points_are_open():
    assert fit([1, 2, 4, 8], [[k * k * 100.0] for k in (1, 2, 4, 8)]).shape == "not linear"
    assert fit([1, 8], [[100.0], [800.0]]).shape == "open"


def test_noise_about_a_level_is_flat_and_a_hump_is_not():
    """Its slope is nothing as well, but it is no level."""
    noise = [[1000 + (-1) ** (k + r) for r in range(6)] for k in range(4)]
    assert fit([1, 2, 3, 4], noise).shape == "flat"
    hump = [[1000.0] * 6, [2000.0] * 6, [2000.0] * 6, [1000.0] * 6]
    assert fit([1, 2, 3, 4], hump).shape == "not linear"


# -- showing ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return amplification(ALONE, "batched", [1, 2, 4])


def test_it_is_given_as_data(result):
    data = json.loads(result.to_json())
    assert data["approach"] == "batched"
    assert len(data["lines"]) == 8
    line = data["lines"][0]
    assert (line["layout"], line["shared"], line["ats"]) == ("broadcast", False, False)
    assert line["fit"]["slope"]["value"] == pytest.approx(per_smmu("batched", ALONE.costs))
    assert list(line["points"]) == ["1", "2", "4"]
    assert data["scenario"] == ALONE.to_dict()


def test_it_is_shown_in_words_tables_and_pictures(result):
    assert "batched without ATS: broadcast and broadcast, shared: grows linearly, +" in result.verdict
    assert "per instance: flat, +0 ns (0 ns .. 0 ns) per SMMU" in result.verdict
    for figures in ("4 -> 16 (4 x 4)", "16 -> 16 (4 x 4)", "4 -> 4 (4 + 3 x 0)", "6 -> 18 (6 + 3 x 4)"):
        assert figures in str(result)
    html = result._repr_html_()
    assert html.count("<img") == 4
    assert html.count("<table") == 7
    assert html.index("<table") < html.index("<details>")
    console = Console(file=StringIO(), width=200)
    console.print(result)
    assert "per instance, shared" in console.file.getvalue()


def test_what_makes_a_figure_less_than_it_seems_is_told(result):
    """Ten operations have no p99 to speak of, and of too few replications nothing has an interval."""
    assert result.warnings == ("No p99 has an interval: that takes 100 operations in a replication, and there are 10.",)
    once = amplification(ALONE.but({"costs.t_sync": "2s"}), "batched", [1], [False], replications=1)
    late, few = once.warnings
    assert late.startswith("broadcast on 1, per instance on 1, broadcast, shared on 1, ")
    assert late.endswith(": some waits were longer than the driver's timeout of 1 s.")
    assert few.startswith("Not every figure has an interval")
    assert few in str(once)


def test_lines_that_coincide_are_told_in_the_title(result):
    assert "Latency of one unmap, without ATS (broadcast = broadcast, shared)<" in result.chart()
    assert "Latency of one unmap, with ATS<" in result.chart(ats=True)
    pair = result.chart(shared=False)
    assert "per instance" in pair
    assert "shared" not in pair
    commands = result.chart(what="commands")
    assert "unmap, without ATS (broadcast = broadcast, shared = per instance, shared)<" in commands


def test_progress_is_told_of_every_run():
    told = []
    amplification(ALONE, "vcmdq", [1, 2], [False], replications=2, progress=told.append)
    assert len(told) == 2 * (1 + 1 + 2 + 2)
    assert told[0] == "broadcast on 1 SMMU, seed 1"
