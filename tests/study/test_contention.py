"""Who gets how much: closed forms of saturation, shortage and fairness, and pairs that are pairs."""

import json
from fractions import Fraction
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import smmu_lab as lab
from smmu_lab.scenario.layout import Device, Layout, Vsmmu
from smmu_lab.scenario.topology import Topology
from smmu_lab.study.bounds import ENGINE
from smmu_lab.study.contention import Contention, contention
from smmu_lab.study.fairness import by_guest, jain, rates

PAGES = 4
BUSY = lab.Scenario(workload=lab.unmaps(pages=PAGES, ops=60, think=0), smmu=lab.Smmu(ril=False))
"""Nobody thinks; an unmap is four TLBIs and a CMD_SYNC."""
COSTS = BUSY.costs
CONSUMED = (
    COSTS.capture + (PAGES + 1) * (COSTS.conv + 2 * COSTS.copy) + COSTS.hsubmit + PAGES * COSTS.t_tlbi + COSTS.t_sync
)
"""Time of a kernel worker for one unmap, from the table in docs/model.md."""
PRIVATE = lab.approach("vcmdq").but(execution="parallel", name="private")
IN_STEP = {"workload.spread": "constant", "workload.think": "20us"}


def points(result):
    return [point.figures for point in result.points]


# -- Jain's index ------------------------------------------------------------------------------------------------------


def test_jains_index_of_known_rates():
    """k of n that get the same, and nothing for the others, is k/n."""
    assert jain([2] * 10 + [0] * 90) == pytest.approx(0.1)
    assert jain([1, 2, 3, 4]) == pytest.approx(100 / (4 * 30))
    assert jain([7]) == jain([0, 0]) == 1


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20), st.integers(1, 1000))
def test_jains_index_needs_no_unit_and_lies_between_one_of_n_and_all(shares, unit):
    index = jain(shares)
    assert index == pytest.approx(jain([unit * each for each in shares]))
    assert 1 / len(shares) <= index * (1 + 1e-12)
    assert index <= 1 + 1e-12


def test_rates_are_those_of_operations_that_ended_while_all_are_at_work():
    """Of two guests the second is a neighbour without a pause; it stops when the first is through."""
    load = lab.unmaps(pages=PAGES, ops=5, think="50us", spread="constant")
    made = BUSY.but({"workload": load, "guests": 2, "neighbour.guests": 1, "neighbour.workload": load.but(think=0)})
    run = lab.simulate(made, PRIVATE)
    ends = {0: [], 1: []}
    for guest, start, latency in zip(run.ops["guest"], run.ops["start"], run.latencies, strict=True):
        ends[guest].append(start + latency)
    through = max(ends[0])
    assert rates(run)[0, 0] == pytest.approx(5e9 / through)
    assert rates(run)[1, 0] == pytest.approx(sum(end <= through for end in ends[1]) * 1e9 / through)


def test_rates_of_guests_are_sums_of_their_vcpus():
    assert by_guest({(0, 0): 1.0, (0, 1): 2.0, (3, 0): 5.0}) == {0: 3.0, 3: 5.0}


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_a_saturated_engine_gives_one_operation_per_its_time():
    (few, many) = points(contention(BUSY, ["vcmdq"], {"guests": [1, 24]}, replications=1))
    assert (few.station, many.station) == ("vCPUs", ENGINE)
    assert many.throughput.value == pytest.approx(1e9 / (PAGES * COSTS.t_tlbi + COSTS.sync_occ), rel=0.01)
    assert many.reached == pytest.approx(1, rel=0.01)


def test_too_few_worker_cpus_bound_the_throughput():
    row = lab.approach("short-path").but(completion="msi-word")
    over = {"host.worker_cpus": [1, 2, 3]}
    for cpus, each in enumerate(points(contention(BUSY.but(guests=10), [row], over, replications=1)), 1):
        assert each.station == "worker CPUs"
        assert each.throughput.value <= cpus * 1e9 / CONSUMED
        if cpus == 1:  # a worker that is alone on the host waits for nobody while it has the CPU
            assert each.throughput.value == pytest.approx(1e9 / CONSUMED, rel=0.02)


@pytest.mark.parametrize("row", ["qemu-today", "short-path-sync", "vcmdq", "bare-metal", "virtio-iommu"])
def test_symmetric_guests_get_the_same(row):
    for each in points(contention(BUSY.but(IN_STEP), [row], {"guests": [2, 5], "vcpus": [1, 2]}, replications=1)):
        assert each.fairness.value == pytest.approx(1, abs=1e-3)
        assert each.fairness_vcpus.value == pytest.approx(1, abs=1e-3)


def test_three_pinned_workers_on_two_cpus_are_served_as_one_to_two():
    """Two of them share a CPU: shares 1/2, 1, 1/2 have Jain's index 2^2 / (3 x 3/2)."""
    three = BUSY.but({"guests": 3, "vcpus": 4, "host.worker_cpus": 2})
    row = lab.approach("short-path-polled").but(completion="msi-word")
    whichever, pinned = points(contention(three, [row], {"host.placement": ["any", "pinned"]}, replications=1))
    assert whichever.fairness.value == pytest.approx(1, abs=1e-3)
    assert pinned.fairness.value == pytest.approx(float(Fraction(4, 1) / (3 * Fraction(3, 2))), abs=2e-3)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_shared_nobody_is_slowed():
    """The vCPUs that are in both do the same, whoever is added: exactly 1, with an interval of no width."""
    result = contention(BUSY.but({"workload.think": "5us"}), [PRIVATE], {"guests": [1, 3], "vcpus": [1, 2]})
    for each in points(result):
        assert (each.slowdown.value, each.slowdown.low, each.slowdown.high) == (1, 1, 1)


def test_a_slowdown_compares_the_vcpus_that_are_in_both():
    """Guest 1 has a device with ATS and takes longer: that is no slowdown of guest 0."""

    def layout(ats):
        return Layout(vsmmus=[Vsmmu(devices=[Device(vsid=8, ats=ats)])])

    uneven = BUSY.but(topology=Topology(layouts=[layout(False), layout(True)]))
    one, two = points(contention(uneven, [PRIVATE], {"guests": [1, 2]}, replications=2))
    assert two.mean.value > 1.2 * one.mean.value
    assert two.slowdown.value == 1


def test_neighbours_are_felt_but_not_measured():
    quiet = BUSY.but({"workload.think": "20us", "guests": 2, "neighbour.guests": 1, "neighbour.workload.think": 0})
    over = {"neighbour.workload.pages": [1, 300]}
    light, heavy = points(contention(quiet, ["vcmdq"], over))
    assert heavy.slowdown.low > 2
    assert heavy.fairness.value == light.fairness.value == 1  # of one guest
    assert heavy.throughput.value < 1e9 / 20_000


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_point_that_a_rule_refuses_is_kept_with_the_reason():
    over = {"approach.execution": ["serial", "parallel"], "guests": [1, 2]}
    result = contention(BUSY, ["batched", "vcmdq"], over, replications=1)
    assert len(result.points) == 8
    assert [point.figures is None for point in result["batched"]] == [False, False, True, True]
    assert not any(point.refused for point in result["vcmdq"])
    reason = "approach.execution: 'parallel' cannot be: there is one hardware queue: 'serial'"
    assert result["batched"][2].refused == (reason,)
    assert "approach.execution = parallel, guests = 1 and 1 more" in repr(result)
    assert reason in repr(result)


def test_the_scenarios_own_rules_refuse_points_too():
    over = {"smmu.errata": ["none", "force-sync"]}
    _, refused = contention(BUSY, ["batched"], over, replications=1).points
    assert "the host offers no nesting" in refused.refused[0]


@pytest.mark.parametrize(
    ("approaches", "over", "message"),
    [
        ([], {}, "approaches: none given"),
        (["vcmdq", "vcmdq"], {}, "approaches: 'vcmdq' is there twice"),
        (["vcmqd"], {}, "did you mean 'vcmdq'"),
        (["vcmdq"], {"gusts": [1]}, "gusts: unknown; did you mean 'guests'"),
        (["vcmdq"], {"approach.excution": ["serial"]}, "approach.excution: unknown"),
        (["vcmdq"], {"guests": []}, r"over\['guests'\]: \[\] is not valid: a list of at least one value"),
        (["vcmdq"], {"guests": "12"}, "a list of at least one value"),
        (["batched"], {"approach.execution": ["parallel"]}, "there is one hardware queue"),
    ],
)
def test_what_cannot_be_run_is_refused(approaches, over, message):
    with pytest.raises(lab.InvalidInput, match=message):
        contention(BUSY, approaches, over, replications=1)


def test_too_many_runs_are_refused_before_the_first():
    started = []
    with pytest.raises(lab.InvalidInput, match=r"over: 4,160 runs \(2 approaches x 13 x 32 points x 5 replications\)"):
        contention(BUSY, ["vcmdq", "batched"], {"guests": range(13), "vcpus": range(32)}, progress=started.append)
    assert not started


@pytest.mark.parametrize("number", [0, 2.5, "5"])
def test_replications_are_a_positive_number(number):
    with pytest.raises(lab.InvalidInput, match=r"replications: .* is not valid: a positive integer"):
        contention(BUSY, ["vcmdq"], {}, replications=number)


# -- showing -----------------------------------------------------------------------------------------------------------


def test_replications_use_the_seeds_from_the_scenarios_on():
    varied = BUSY.but({"workload.think": "1us", "seed": 7, "vcpus": 3})
    (each,) = points(contention(varied, ["vcmdq"], {}, replications=3))
    seen = [lab.simulate(varied.but(seed=seed), "vcmdq").throughput for seed in (7, 8, 9)]
    assert min(seen) < each.throughput.value < max(seen)
    assert each.throughput.value == pytest.approx(3 / sum(1 / rate for rate in seen))


def shown(over, approaches=("vcmdq", "batched")) -> Contention:
    return contention(BUSY, approaches, over, replications=1)


def test_a_curve_is_drawn_when_one_number_varies():
    chart = shown({"guests": [3, 1], "host.worker_cpus": [2]}).chart()
    assert chart.count("data-series") == 2
    assert ">guests" in chart
    assert "<title>vcmdq: 3," in chart
    assert "10 µs" in shown({"workload.think": ["10us", 5000]}).chart()
    assert "900 ns" in shown({"costs.t_sync": [600, "900ns"]}).chart()


@pytest.mark.parametrize(
    "over",
    [{"guests": [1, 2], "vcpus": [1, 2]}, {"smmu.ril": [True, False]}, {"host.placement": ["any", "pinned"]}, {}],
)
def test_no_curve_is_drawn_otherwise(over):
    result = shown(over)
    assert result.chart() == ""
    assert "<img" not in result._repr_html_()


def test_an_approach_that_cannot_run_at_every_point_is_not_drawn():
    chart = shown({"approach.vcmdqs": [1, 2]}).chart()
    assert chart.count("data-series") == 1


def test_it_is_shown_and_given_as_data():
    result = shown({"guests": [1, 2], "topology": [Topology()]})
    data = json.loads(result.to_json())
    assert [point["at"] for point in data["points"]][:2] == [{"guests": n, "topology": "plain"} for n in (1, 2)]
    assert data["points"][0]["mean"]["value"] == result.points[0].figures.mean.value
    html = result._repr_html_()
    assert "<table" in html
    assert result.verdict.replace("'", "&#x27;") in html
    assert result.verdict in repr(result)
    console = Console(file=StringIO(), width=200)
    console.print(result)
    assert result.verdict[:60] in console.file.getvalue()


def test_what_has_no_interval_is_said():
    assert "5 replications" in shown({}).warnings[-1]
    assert "100 operations" in contention(BUSY, ["vcmdq"], {}).warnings[-1]
    assert contention(BUSY.but({"workload.ops": 100}), ["vcmdq"], {}).warnings == ()
