"""What a comparison rests on: a warm-up that all runs share, and replications of paired seeds."""

import json
import re
from statistics import fmean, stdev

import pytest

import smmu_lab as lab
from smmu_lab.record import mser5
from smmu_lab.record.statistics import student
from smmu_lab.study import Comparison
from smmu_lab.study.compare import FEWEST, MOST

NAMES = ["qemu-today", "short-path", "vcmdq"]
SCENARIO = lab.Scenario(workload=lab.unmaps(pages=4, ops=60), smmu=lab.Smmu(ril=False), vcpus=2)
CROWDED = lab.Scenario(workload=lab.unmaps(think=0, ops=60), smmu=lab.Smmu(ril=False), vcpus=16)


@pytest.fixture(scope="module")
def sure():
    return lab.compare(SCENARIO, NAMES, precision=0.05)


def test_all_runs_leave_out_what_the_slowest_to_settle_needs():
    result = lab.compare(CROWDED, NAMES)
    cuts = {name: mser5(lab.simulate(CROWDED, name).series).length for name in NAMES}
    assert len(set(cuts.values())) > 1
    assert result.warmup == max(cuts.values()) > 0
    for name, run in result.runs.items():
        kept = lab.simulate(CROWDED, name).series[result.warmup :]
        assert run.latency.mean.value == result.samples[name].latency.mean.value == fmean(kept)
        assert run.breakdown == result.samples[name].breakdown
    assert f"960 operations, the first {result.warmup} dropped as warm-up" in repr(result)


def test_the_transient_of_a_closed_loop_is_left_out():
    """All vCPUs start at once and the worker is asleep: the first operations take longer than all later ones."""
    result = lab.compare(CROWDED, ["short-path"])
    run = lab.simulate(CROWDED, "short-path")
    assert fmean(run.series[: result.warmup]) > 1.2 * result.samples["short-path"].latency.mean.value


def test_seeds_follow_each_other_and_are_shared(sure):
    assert len(sure.replications) >= FEWEST
    for number, runs in enumerate(sure.replications):
        assert list(runs) == NAMES
        assert {run.scenario for run in runs.values()} == {SCENARIO.but(seed=SCENARIO.seed + number)}
    assert sure.scenario == SCENARIO


def test_the_mean_is_a_t_interval_over_replications(sure):
    for name in NAMES:
        means = [fmean(runs[name].series[sure.warmup :]) for runs in sure.replications]
        n, mean = len(means), fmean(means)
        half = student(n - 1) * (sum((each - mean) ** 2 for each in means) / (n - 1) / n) ** 0.5
        assert sure.samples[name].latency.mean.value == pytest.approx(mean)
        assert sure.samples[name].latency.mean.half_width == pytest.approx(half, abs=1e-6)
        assert half <= 0.05 * mean


def test_differences_are_paired_by_seed(sure):
    saved = [
        fmean(runs["qemu-today"].series[sure.warmup :]) - fmean(runs["vcmdq"].series[sure.warmup :])
        for runs in sure.replications
    ]
    assert sure.saved["vcmdq"].value == pytest.approx(fmean(saved))
    assert sure.saved["vcmdq"].half_width == pytest.approx(student(len(saved) - 1) * stdev(saved) / len(saved) ** 0.5)


def test_common_seeds_make_a_difference_surer_than_its_parts(sure):
    """Where both sides wait for the same wake-ups and gaps, most of the noise cancels."""
    trapped = lab.compare(SCENARIO, ["short-path", "short-path-trapped-cons"], precision=0.05)
    apart = [sample.latency.mean.half_width for sample in trapped.samples.values()]
    assert trapped.difference(*trapped.samples).half_width < sum(each**2 for each in apart) ** 0.5


def test_quantiles_and_breakdown_are_of_all_replications(sure):
    for name, sample in sure.samples.items():
        pooled = [value for runs in sure.replications for value in runs[name].series[sure.warmup :]]
        assert sorted(pooled) == sample.latency.ordered
        assert sum(sample.breakdown.values()) == pytest.approx(fmean(pooled))
        ioctls = sum(runs[name].counts.ioctls for runs in sure.replications)
        assert sample.per_operation("ioctls") == ioctls / (120 * len(sure.replications))


def test_it_says_what_it_rests_on(sure):
    number, each = len(sure.replications), 120 - sure.warmup
    assert f"{number} paired replications of {each} operations" in sure.verdict
    assert f"{number} replications of 120 operations" in repr(sure)
    data = json.loads(sure.to_json())["runs"]["vcmdq"]
    assert (data["replications"], data["operations"], data["warmup"]) == (number, 120 * number, sure.warmup)
    assert not sure.warnings


def test_no_more_replications_than_needed(sure):
    if len(sure.replications) > FEWEST:
        assert Comparison(SCENARIO, sure.replications[:-1], 0.05).imprecise
    exact = lab.Scenario(workload=lab.unmaps(ops=5, spread="constant"))
    assert len(lab.compare(exact, ["qemu-today"], precision=0.001).replications) == FEWEST


def test_a_precision_out_of_reach_ends_and_is_said():
    tiny = lab.Scenario(workload=lab.unmaps(ops=1))
    result = lab.compare(tiny, ["short-path", "vcmdq"], precision=1e-6)
    assert len(result.replications) == MOST
    assert result.imprecise == ("short-path",)
    assert re.match(
        r"short-path: after 64 replications the mean is known to ± .*%, not to the ± 0.00%", result.warnings[0]
    )


def test_a_latency_that_never_settles_is_said():
    """A run of a hundred operations in which each one of the second half is slower."""
    run = lab.simulate(lab.Scenario(workload=lab.unmaps(ops=100)), "vcmdq")
    run.series = list(range(100))
    result = Comparison(run.scenario, ({"vcmdq": run},))
    assert result.warmup == 50
    assert result.warnings[0].startswith("vcmdq: latency has not settled")


@pytest.mark.parametrize("precision", [0, 1, 0.0, 1.0, -0.1, float("nan"), "0.01", True])
def test_a_precision_is_a_share(precision):
    with pytest.raises(lab.InvalidInput, match=r"precision: .* is not valid: a number above 0 and below 1"):
        lab.compare(SCENARIO, ["vcmdq"], precision=precision)


def test_maps_count_where_they_are_sent_and_the_caption_says_where_they_are_not():
    result = lab.compare(SCENARIO, ["qemu-today", "virtio-iommu"])
    assert "latency of one map + unmap (under nesting a map sends nothing)" in repr(result)
    assert "Mean latency of one map + unmap by stage" in result._repr_html_()
    run = result.runs["virtio-iommu"]
    assert len(run.ops) == 2 * len(run.measured) == 2 * 120
    assert sum(run.series) == sum(run.latencies)
    without = lab.compare(SCENARIO.but({"workload.maps": 0}), ["qemu-today", "virtio-iommu"])
    assert without.noun == "unmap"
    assert without.samples["virtio-iommu"].latency.mean.value < result.samples["virtio-iommu"].latency.mean.value


def test_exposed_pages_are_shown_where_there_are_any():
    lazy = lab.Scenario(workload=lab.unmaps(pages=8, ops=600, lazy=True))
    shown = lab.compare(lazy, ["vcmdq"])
    assert "exposed pages" in shown.time_sheet().header
    exposure = shown.runs["vcmdq"].counts.exposure
    assert shown.samples["vcmdq"].exposed == pytest.approx(exposure / shown.runs["vcmdq"].duration)
    assert 0 < shown.samples["vcmdq"].exposed < 8 * 256
    assert "exposed pages" not in lab.compare(SCENARIO, ["vcmdq"]).time_sheet().header
