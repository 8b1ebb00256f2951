"""A quiet guest beside others: what a stall and a flood do to it, and promises that are tested, as they may fail."""

import json
from importlib import import_module
from io import StringIO

import pytest
from rich.console import Console

import smmu_lab as lab
from smmu_lab.scenario import approach, approaches
from smmu_lab.scenario.topology import Topology
from smmu_lab.sim.smmu import Feed, Fifo
from smmu_lab.study.neighbours import COMPANY, VARIANTS, neighbours
from smmu_lab.study.promises import ENGINE, QUEUE, TURNS, Evidence, Op, promises

QUIET = lab.Scenario(workload=lab.unmaps(pages=8, ops=40), smmu=lab.Smmu(ril=False), vcpus=2)
RECORDED = lab.read_trace("nvme_dd_r4k_j4_strict_61").workload()
SHARED = [row.name for row in approaches() if row.host_queue == "cmdq"]
ROUND_ROBIN, PARALLEL = VARIANTS
module = import_module("smmu_lab.study.neighbours")
US = 1000


@pytest.fixture(scope="module")
def table():
    return neighbours(QUIET)


def ops_of(run, guest):
    rows = zip(run.ops.rows(), run.latencies, strict=True)
    return sorted((op["vcpu"], op["start"], latency) for op, latency in rows if op["guest"] == guest)


# -- what the companies are --------------------------------------------------------------------------------------------


def test_alone_is_the_scenario_itself():
    result = neighbours(QUIET.but(seed=5), ["batched"], replications=2)
    for seed, values in zip((5, 6), result["batched"].latency["alone"].replications, strict=True):
        series = lab.simulate(QUIET.but(seed=seed), "batched").series
        assert list(values) == series[-len(values) :]
        assert len(values) >= len(series) / 2


def test_in_all_company_the_quiet_guest_is_measured_and_nobody_else(table):
    for case in table.cases.values():
        assert list(case.latency) == list(COMPANY)
        for each in case.latency.values():
            lengths = {len(values) for values in each.replications}
            assert len(lengths) == 1
            assert 40 <= lengths.pop() <= 80  # but for the warm-up, which is the same in all company
        assert len({len(each.values) for each in case.latency.values()}) == 1


def test_the_stalled_neighbour_differs_in_the_stall_only(monkeypatch):
    seen = []
    simulate = module.simulate
    monkeypatch.setattr(module, "simulate", lambda made, row: seen.append(made) or simulate(made, row))
    neighbours(QUIET, ["vcmdq"], flood={"pages": 100, "think": 0}, stall="70us", replications=1)
    alone, equal, flood, ats, stalled, *_ = seen
    assert equal.neighbour.workload == alone.workload == QUIET.workload
    assert flood.neighbour.workload == lab.unmaps(pages=100, think=0)
    assert ats.neighbour.workload == QUIET.workload.but(ats_devices=1)
    assert stalled == ats.but({"neighbour.workload.stall": 70 * US})
    assert {each.guests for each in seen[1:5]} == {2}


# -- the shared queue --------------------------------------------------------------------------------------------------


def test_a_stall_holds_up_everybody_behind_the_hosts_cmdq(table):
    """The device does not answer for most of the time, and whoever comes then waits for half of the stall."""
    for name in SHARED:
        assert table[name].harm().low > 25 * US, name
        assert not table[name].outcomes
        assert table[name].kept is None


def test_and_nobody_whose_queue_is_private(table):
    for name, case in table.cases.items():
        if name not in SHARED:
            assert case.harm().high < US, name
            assert case.kept is True


def test_a_stall_holds_one_operation_up_for_no_longer_than_it_lasts():
    """One vCPU each, behind one CMDQ, is in front of it or behind it: an unmap of one CMD_SYNC waits for one stall."""
    one = QUIET.but(vcpus=1)
    result = neighbours(one, ["short-path-sync", "bare-metal"], stall="500us", replications=1)
    for case in result.cases.values():
        longest = {name: max(each.values) for name, each in case.latency.items()}
        assert 400 * US < longest["stalled"] - longest["ats"] < 2 * 500 * US


# -- the private engine ------------------------------------------------------------------------------------------------


def test_beside_a_flood_a_private_engine_serves_operation_by_operation_as_alone(table):
    beside = QUIET.but({"guests": 2, "neighbour.guests": 1, "neighbour.workload": module.FLOOD})
    run = lab.simulate(beside, PARALLEL)
    assert ops_of(run, 0) == ops_of(lab.simulate(QUIET, PARALLEL), 0)
    assert ops_of(run, 1)
    case = table[PARALLEL.name]
    assert case.outcomes[0][0] is ENGINE
    assert case.slowdown("flood").value == case.slowdown("flood", 0.99).value == 1
    assert case.outcomes[0][1].measured.startswith(f"0 of {4 * 5 * 80:,} operations differ")


def test_both_guests_keep_their_rates_where_nothing_is_shared():
    """Without chance both rates are those alone, but for an operation at the end of the window."""
    steady = QUIET.but({"workload.spread": "constant"})
    fairness = neighbours(steady, [PARALLEL], replications=1)[PARALLEL.name].fairness
    assert [each.value for each in fairness.values()] == pytest.approx([1, 1], abs=1e-3)


# -- the private queue on a shared engine ------------------------------------------------------------------------------


def test_a_flood_slows_whoever_shares_the_engine_and_turns_bound_that(table):
    fifo, turns = table["vcmdq"], table[ROUND_ROBIN.name]
    assert fifo.slowdown("flood").low > 5
    assert turns.slowdown("flood").high < 3
    assert fifo.fairness["flood"].high < turns.fairness["flood"].low


def test_the_bound_of_turns_is_a_command_per_queue_and_turn(table):
    """8 TLBIs and a CMD_SYNC; two VCMDQs of each guest and the host's queue; a vCPU has a VCMDQ for itself."""
    costs = QUIET.costs
    longest = max(costs.t_tlbi, costs.t_atc, costs.sync_occ)
    allowed = 9 * 5 * longest + costs.t_sync - costs.sync_occ
    outcome = dict(table[ROUND_ROBIN.name].outcomes)[TURNS]
    assert outcome.answer == "holds"
    assert outcome.measured.endswith(f"allowed {allowed / 1000:.3g} µs")


# -- promises ----------------------------------------------------------------------------------------------------------


def test_promises_follow_from_the_row():
    names = {row.name: [each.name for each in promises(row, QUIET)] for row in (*approaches(), *VARIANTS)}
    assert all(not names[name] for name in SHARED)
    assert names["vcmdq"] == names["vcmdq-overlay"] == names["ecmdq"] == ["private queue"]
    assert names[ROUND_ROBIN.name] == ["private queue", "turns"]
    assert names[PARALLEL.name] == ["private engine"]


def test_no_promise_is_about_what_goes_through_the_hosts_cmdq():
    """A CFGI_CD meets those of other guests there; no ATC_INV, for a VCMDQ takes these."""
    switching = QUIET.but({"workload.cd_every": 4})
    for row in ("vcmdq", "vcmdq-overlay"):
        assert promises(approach(row).but(execution="parallel"), switching) == (QUEUE,)
    assert promises(ROUND_ROBIN, switching) == (QUEUE, TURNS)
    assert promises(approach("vcmdq-overlay").but(arbitration="round-robin"), switching) == (QUEUE,)
    assert promises(approach("ecmdq").but(execution="parallel"), switching) == (ENGINE,)  # takes CFGI_CD
    result = neighbours(switching, ["vcmdq", "vcmdq-overlay"])
    assert [case.kept for case in result.cases.values()] == [True, True]
    assert "CFGI_CD" in result.warnings[0]


@pytest.mark.parametrize(
    ("promise", "row"),
    [(QUEUE, "batched"), (QUEUE, "bare-metal"), (TURNS, "vcmdq"), (ENGINE, "vcmdq"), (ENGINE, ROUND_ROBIN)],
    ids=lambda each: getattr(each, "name", each),
)
def test_a_promise_that_a_row_cannot_keep_is_reported_as_broken(promise, row, monkeypatch):
    monkeypatch.setattr(module, "promises", lambda row, scenario: (promise,))
    result = neighbours(QUIET, [row])
    (name,) = result.cases
    assert result[name].kept is False
    assert result.verdict.startswith(f"Broken: {name} ({promise.name}); 0 of 1 promises hold")
    assert [row[:3] for row in result.promises_sheet().rows] == [(name, promise.name, "no")]


def test_hardware_that_does_not_keep_the_promise_is_reported(monkeypatch):
    """An engine whose CMD_SYNCs wait for the ATC_INVs of all queues, as an overeager designer might build it."""
    retire = Fifo.retire

    def eager(self: Fifo, feed: Feed, end: int, sync: int) -> int:
        self.everybody = max(getattr(self, "everybody", 0), feed.answered)
        feed.answered = self.everybody
        return retire(self, feed, end, sync)

    monkeypatch.setattr(Fifo, "retire", eager)
    result = neighbours(QUIET, ["vcmdq", "ecmdq", ROUND_ROBIN, PARALLEL])
    assert [dict(case.outcomes).get(QUEUE) is None for case in result.cases.values()] == [False, False, False, True]
    assert [case.kept for case in result.cases.values()] == [False, False, False, True]
    assert "Broken: vcmdq (private queue)" in result.verdict


def evidence(later, standing=0.5, stall=100 * US):
    """Unmaps of 3 us that take so much longer when the neighbour's device is stalled, a replication each."""

    def unmaps(more):
        return [Op(0, k, "unmap", 3 * US + more, 3 * US, 16) for k in range(10)]

    ops = {"ats": [unmaps(0) for _ in later], "stalled": [unmaps(more) for more in later]}
    return Evidence(QUIET, approach("vcmdq"), ops, stall, standing, others=1)


@pytest.mark.parametrize(
    ("later", "answer"),
    [
        ([0, 0, 0, 0, 0], "holds"),
        ([-20, 30, 10, 0, 40], "holds"),
        ([990, 1010, 1000, 1000, 1000], "cannot tell"),  # 1 % of the stall is within the interval
        ([5000, 5100, 4900, 5000, 5000], "broken"),
        ([0, 0, 0, 0], "not tested"),  # four replications have no interval
    ],
)
def test_whether_a_private_queue_holds_is_told_by_an_interval(later, answer):
    assert QUEUE.check(evidence(later)).answer == answer


def test_a_device_that_is_hardly_ever_stalled_tests_nothing():
    assert QUEUE.check(evidence([0] * 5, standing=0.05)).answer == "not tested"
    seldom = {"pages": 1, "think": "1ms"}
    result = neighbours(QUIET.but({"workload.think": "2ms"}), ["vcmdq", "batched"], flood=seldom)
    assert result["vcmdq"].outcomes[0][1].answer == "not tested"
    assert result["vcmdq"].kept is None
    assert "1 could not be tested" in result.verdict


def test_without_intervals_nothing_holds_but_what_is_exact():
    result = neighbours(QUIET, ["vcmdq", PARALLEL], replications=2)
    assert [case.kept for case in result.cases.values()] == [None, True]
    assert "5 replications" in result.warnings[-1]


# -- where -------------------------------------------------------------------------------------------------------------


def test_on_bare_metal_guests_are_cpus_of_one_host(table):
    assert table["bare-metal"].harm().low > 25 * US
    assert dict(table["ecmdq"].outcomes)[QUEUE].answer == "holds"


def test_by_default_all_that_can_run_take_part(table):
    assert set(table.cases) == {row.name for row in (*approaches(), *VARIANTS)}
    tight = QUIET.but({"smmu.vintfs": 2, "workload.ops": 5})  # one for the host, one for a guest
    assert set(neighbours(tight, replications=1).cases) == {row.name for row in approaches() if not row.has_vcmdqs}


def test_in_a_topology_the_devices_of_the_layout_are_stalled():
    laid = QUIET.but(topology=Topology.preset("per-smmu", ats=True))
    result = neighbours(laid, ["batched", "vcmdq"])
    assert result["batched"].harm().low > 10 * US
    assert result["vcmdq"].kept is True


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"guests": 2}, {}, "guests: 2 is not valid: 1: the quiet one"),
        (
            {"workload": RECORDED},
            {},
            "workload.kind: 'recorded' cannot be",
        ),
        ({"workload.ats_devices": 1, "workload.stall": 5}, {}, r"workload\.stall: 5 is not valid"),
        ({"fault.kind": "illegal-command"}, {}, r"fault\.kind: 'illegal-command' is not valid: none"),
        ({"topology": "per-smmu"}, {}, "no device with ATS"),
        ({}, {"stall": 0}, "stall: 0 is not valid: above 0"),
        ({}, {"stall": "soon"}, "stall: 'soon' is not valid"),
        ({}, {"flood": {"pages": 0}}, r"flood\.pages: 0 is not valid: a positive integer"),
        ({}, {"flood": 3}, "flood: 3 is not valid"),
        ({}, {"replications": 0}, "replications: 0 is not valid"),
        ({}, {"approaches": []}, "none given"),
        ({}, {"approaches": ["vcmdq", "vcmdq"]}, "'vcmdq' is there twice"),
        ({"smmu.vintfs": 2}, {"approaches": ["vcmdq"]}, "vintfs"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, options, message):
    with pytest.raises(lab.InvalidInput, match=message):
        neighbours(QUIET.but(changes), **options)


# -- showing -----------------------------------------------------------------------------------------------------------


def test_it_is_shown_and_given_as_data(table):
    data = json.loads(table.to_json())
    assert list(data["approaches"]) == list(table.cases)
    assert data["approaches"]["vcmdq"]["promises"][0]["answer"] == "holds"
    assert data["approaches"]["batched"]["promises"] == []
    assert data["approaches"]["batched"]["stall"]["mean"]["value"] == table["batched"].harm().value
    assert data["stall"] == 100 * US
    assert table._repr_html_().count("<table") == 5
    assert table.verdict in repr(table)
    console = Console(file=StringIO(), width=250)
    console.print(table)
    assert "private engine" in console.file.getvalue()


def test_the_verdict_counts_the_promises_and_names_the_extremes(table):
    assert table.verdict.startswith("6 of 6 promises hold; where nothing is promised")
    assert "(per-command)" in table.verdict


def test_a_stall_in_the_p99_needs_enough_operations():
    few = neighbours(QUIET.but({"workload.ops": 20}), ["batched"])
    assert few["batched"].harm(0.99).low is None
    assert few["batched"].slowdown("flood", 0.99).low is None
    assert "100 operations" in few.warnings[-1]
