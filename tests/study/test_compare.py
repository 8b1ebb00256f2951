"""A comparison is paired, says how sure it is, and shows itself without running anything."""

import json
import re
from html.parser import HTMLParser
from statistics import fmean

import pytest

import smmu_lab as lab
from smmu_lab.record import STAGES
from smmu_lab.study import Comparison
from smmu_lab.study.compare import costs_of

SCENARIO = lab.Scenario(workload=lab.unmaps(pages=8, ops=200), smmu=lab.Smmu(ril=False), vcpus=4)


@pytest.fixture(scope="module")
def comparison():
    return lab.compare(SCENARIO, ["qemu-today", "batched", "short-path", "vcmdq"])


def test_the_saving_is_the_mean_of_paired_differences(comparison):
    base, ours = comparison.runs["qemu-today"], comparison.runs["vcmdq"]
    ops = {}
    for name, run in (("base", base), ("ours", ours)):
        number = {}
        for g, v, latency in zip(run.ops["guest"], run.ops["vcpu"], run.latencies, strict=True):
            number[g, v] = number.get((g, v), -1) + 1
            ops.setdefault((number[g, v], g, v), {})[name] = latency
    paired = [each["base"] - each["ours"] for _, each in sorted(ops.items())][comparison.warmup :]
    assert comparison.saved["vcmdq"].value == pytest.approx(sum(paired) / len(paired))
    assert comparison.saved["qemu-today"].value == 0


def test_the_verdict_says_by_how_much_how_sure_and_what_it_rests_on(comparison):
    verdict = comparison.verdict
    assert verdict.startswith("vcmdq is fastest: ")
    assert "times as fast" in verdict
    assert "95 % interval" in verdict
    assert f"{800 - comparison.warmup} paired operations)" in verdict
    assert "(all inferred)" in verdict
    assert "profile grace" in verdict


def test_no_difference_is_called_none():
    same = lab.approach("qemu-today").but(name="twin")
    assert re.fullmatch(
        r"No difference: qemu-today and twin take the same time, operation by operation: \S+ .s in the mean\.",
        lab.compare(SCENARIO, ["qemu-today", same]).verdict,
    )


@pytest.mark.parametrize("ops", [1, 300])
def test_order_does_not_make_a_winner(ops):
    """With range invalidation and one idle vCPU there is nothing to batch."""
    scenario = lab.Scenario(workload=lab.unmaps(ops=ops))
    for names in (["batched", "qemu-today"], ["qemu-today", "batched"]):
        assert lab.compare(scenario, names).verdict.startswith("No difference: ")


def test_the_leader_is_tested_against_the_next():
    """Two seeds of one approach lead: the third is slower, but neither of the two is the winner."""
    scenario = SCENARIO.but({"vcpus": 1, "workload.ops": 300})
    runs = {"a": lab.simulate(scenario, "short-path"), "b": lab.simulate(scenario.but(seed=2), "short-path")}
    runs["qemu-today"] = lab.simulate(scenario, "qemu-today")
    verdict = Comparison(scenario, (runs,)).verdict
    assert re.match(r"(a and b|b and a) are fastest, and \d+ paired operations cannot tell them apart", verdict)
    assert "of qemu-today" in verdict


def test_a_baseline_that_wins_is_compared_with_the_next():
    trapped = lab.approach("qemu-today").but(name="dear")
    runs = {name: lab.simulate(SCENARIO, row) for name, row in (("qemu-today", "batched"), ("dear", trapped))}
    assert re.match(r"qemu-today is fastest: .* against .* of dear, ", Comparison(SCENARIO, (runs,)).verdict)


def test_a_timeout_and_a_missed_rate_are_said():
    slow = SCENARIO.but({"costs.t_sync": "3s", "workload.ops": 5})
    assert "timeout of 1 s" in lab.compare(slow, ["batched"]).warnings[0]
    flooded = SCENARIO.but({"workload.rate": 400_000})
    said = lab.compare(flooded, ["qemu-today", "vcmdq"]).warnings
    assert [line.split(":")[0] for line in said] == ["qemu-today", "vcmdq"]
    assert "asked for 400,000 operations per second" in said[0]
    assert not lab.compare(SCENARIO.but({"workload.rate": 1000}), ["vcmdq"]).warnings


def test_what_is_measured_is_called_by_its_name():
    lazy = lab.read_trace("nvme_fio_rr4k_d32_j4_lazy_61")
    for workload, noun in ((lazy.workload(), "flush"), (lazy.workload(replay="recorded"), "doorbell")):
        shown = repr(lab.compare(lab.Scenario(workload=workload), ["vcmdq"]))
        assert f"latency of one {noun}" in shown
        assert "unmap" not in shown


def test_a_difference_within_the_interval_is_not_claimed():
    """Two seeds of the wake-up latency: the same distribution, so no honest difference."""
    scenario = SCENARIO.but({"vcpus": 1, "workload.ops": 300})
    twin = lab.approach("short-path").but(name="twin")
    runs = {"a": lab.simulate(scenario, "short-path"), "b": lab.simulate(scenario.but(seed=2), twin)}
    assert re.search(r"as far as \d+ paired operations can tell", Comparison(scenario, (runs,)).verdict)


def test_bare_metal_is_a_reference_not_a_choice():
    result = lab.compare(SCENARIO, ["bare-metal", "native-queue", "qemu-today"])
    assert result.fastest == ("native-queue",)
    assert "of qemu-today" in result.verdict
    assert lab.compare(SCENARIO, ["bare-metal", "batched"]).verdict.startswith("batched takes ")


def test_json_holds_what_the_tables_show(comparison):
    data = json.loads(comparison.to_json())
    assert data["verdict"] == comparison.verdict
    assert lab.Scenario.from_dict(data["scenario"]) == SCENARIO
    for name, run in comparison.runs.items():
        assert data["runs"][name]["counts"]["exits_vmm"] == run.counts.exits_vmm
        assert sum(data["runs"][name]["breakdown"].values()) == pytest.approx(run.latency.mean.value)
    assert data["costs"]["exit_user"]["source"]


def test_pandas_gets_every_operation(comparison):
    frame = comparison.to_pandas()
    assert (frame[list(STAGES)].sum(axis=1) == frame["latency"]).all()
    assert frame.groupby("approach")["latency"].mean()["vcmdq"] == pytest.approx(fmean(comparison.runs["vcmdq"].series))
    assert set(frame["seed"]) == {SCENARIO.seed}


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def test_html_has_no_script_and_escapes_names():
    evil = lab.approach("batched").but(name="<script>alert(1)</script>")
    shown = lab.compare(SCENARIO.but({"workload.ops": 20}), ["qemu-today", evil])._repr_html_()
    tags = Tags()
    tags.feed(shown)
    assert "script" not in tags.seen
    assert "<script>alert(1)</script>" in tags.text


def test_names_must_differ():
    with pytest.raises(lab.InvalidInput, match="twice"):
        lab.compare(SCENARIO, ["batched", "batched"])
    with pytest.raises(lab.InvalidInput, match="none given"):
        lab.compare(SCENARIO, [])


def test_a_guest_that_asks_for_nothing_is_no_contest(tmp_path):
    from pathlib import Path

    idle = Path(__file__).parents[1] / "data" / "traces" / "idle10s_strict_61.csv.gz"
    result = lab.compare(lab.Scenario(workload=lab.read_trace(idle).workload()), ["qemu-today", "vcmdq"])
    assert result.verdict == "Nothing was invalidated, so there is nothing to compare."
    assert repr(result)
    assert json.loads(result.to_json())


def test_every_stage_names_costs_that_exist():
    for row in lab.approaches():
        for stage in STAGES:
            assert set(costs_of(stage, row)) <= set(lab.costs("grace"))


@pytest.mark.parametrize("row", lab.approaches(), ids=lambda row: row.name)
def test_a_stage_without_its_costs_takes_no_time(row):
    """The stages' costs are named rightly: with those at zero the stage is empty, on one idle vCPU."""
    scenario = lab.Scenario(workload=lab.unmaps(pages=4, ops=3, spread="constant"), smmu=lab.Smmu(ril=False))
    run = lab.simulate(scenario, row)
    for stage in ("build", "doorbell", "consume", "handoff"):
        names = costs_of(stage, row)
        zero = dict.fromkeys((*names, *(["vmm_lock"] if "exit_user" in names else [])), 0)
        without = lab.simulate(scenario.but({f"costs.{name}": 0 for name in zero}), row)
        assert without.breakdown[stage] == 0, (row.name, stage)
        assert (run.breakdown[stage] > 0) == bool(names), (row.name, stage)


def test_what_a_context_switch_takes_counts_with_the_unmaps():
    """It is what sends a VCMDQ's guest to its trapped queue, so a verdict without it would name the wrong winner."""
    load = lab.unmaps(pages=1, cd_every=1, think=0, ops=300)
    result = lab.compare(lab.Scenario(workload=load, smmu=lab.Smmu(ril=False), vcpus=8), ["short-path-sync", "vcmdq"])
    assert result.noun == "switch + unmap"
    assert result.choices[0] == "short-path-sync"
    fast, slow = (result.samples[name] for name in result.choices)
    assert fast.throughput > slow.throughput
