"""The Python side of the explorer: what it answers to a setting."""

import asyncio
import base64
import functools
import json
import re
import subprocess
import sys
import threading

import attrs
import nbclient
import nbformat
import pytest
from nbconvert import HTMLExporter

import smmu_lab as lab
from smmu_lab.charts import breakdown, distribution
from smmu_lab.scenario.topology import PRESETS
from smmu_lab.sim.consumer import kernel_worker
from smmu_lab.view import explorer, explorer_budget, live
from smmu_lab.view.explorer_budget import (
    BUDGET,
    DRAWING,
    FEWEST,
    FLUSH,
    MOST,
    Dropped,
    TooMuch,
    Watched,
    affordable,
    asked,
    work,
)
from smmu_lab.view.knobs import applied, fixed, grid, knobs, options, values

EVIL = '"><img src=x onerror=alert(1)>'
VCMDQ = lab.approach("vcmdq")
TRACE = "nvme_dd_r1m_j1_strict_61"


@pytest.fixture
def wide():
    return lab.Scenario(workload=lab.unmaps(pages=16), smmu=lab.Smmu(ril=False), vcpus=4)


@pytest.fixture
def paths(wide):
    return [knob for group in knobs(wide, wide).values() for knob in group]


def plain(*names):
    return [{"row": name, "changes": None} for name in names]


# -- what is shown is what is simulated ------------------------------------------------------------------------------


def test_charts_need_no_widget_library(tmp_path):
    program = """
import sys, smmu_lab as lab
from smmu_lab.charts import breakdown
breakdown({"vcmdq": lab.simulate(lab.Scenario(workload=lab.unmaps(ops=1)), "vcmdq")})
lab.explore
print(*sys.modules)
"""
    fresh = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert {"anywidget", "ipywidgets", "traitlets", "IPython"} & set(fresh.stdout.split()) == set()


def test_preview_and_full_run_are_what_compare_says(wide, monkeypatch):
    monkeypatch.setattr(explorer_budget, "BUDGET", DRAWING + 1000)  # no machine is quick enough for all of it
    shown = lab.explore(wide, ["batched", "vcmdq"])
    for change in ({"workload.pages": 64}, {"smmu.ril": True, "vcpus": 2}, {"costs": "n1", "costs.wake": 2000}):
        shown.setting = change
        all_of_it = wide.but(change)
        for level in ("preview", "full"):
            some = shown.comparison.scenario
            assert some == all_of_it.but({"workload.ops": some.workload.ops})
            result = lab.compare(some, ["batched", "vcmdq"])
            number = asked(some)
            state = {"pages": some.workload.pages, "ril": some.smmu.ril, "vcpus": some.vcpus}
            state |= {"costs": some.costs.profile, "operations": number, "level": level}
            assert shown.shown["level"] == level
            assert shown.shown["pictures"]["waterfall"] == breakdown(result.samples, 860, state)
            assert shown.shown["verdict"] == result.verdict
            assert shown.shown["setting"] == shown.setting
            assert f"{number:,}" in shown.shown["basis"]
            shown.settle()
        assert shown.comparison.scenario == all_of_it
        assert shown.shown["pictures"]["distribution"] == distribution(result.samples, 860, state)


def test_a_preview_says_so_and_draws_only_what_is_in_sight(wide, monkeypatch):
    monkeypatch.setattr(explorer_budget, "BUDGET", DRAWING + 1000)
    shown = lab.explore(wide.but({"workload.ops": 3000}), ["batched", "vcmdq"])
    shown.looking = "counts"
    shown.setting = {"workload.pages": 32}
    number = asked(shown.comparison.scenario)
    assert number < 12_000
    assert f"Preview: {number:,} of 12,000 unmaps" in shown.shown["basis"]
    assert [*shown.shown["pictures"]] == ["counts"]
    assert shown.shown["warnings"] == []
    shown.looking = "distribution"
    assert f'data-operations="{number}"' in shown.shown["pictures"]["distribution"]


def test_a_new_width_simulates_nothing(wide, monkeypatch):
    shown = lab.explore(wide, ["vcmdq"])
    monkeypatch.setattr(explorer, "simulate", None)
    monkeypatch.setattr(explorer, "observed", None)
    shown.width = 700
    assert 'width="700"' in shown.shown["pictures"]["waterfall"]
    shown.width = -5
    assert 'width="480"' in shown.shown["pictures"]["waterfall"]


# -- the budget ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 16, 511, 512])
@pytest.mark.parametrize("vcpus", [1, 16])
@pytest.mark.parametrize("guests", [1, 2])
@pytest.mark.parametrize("pace", [0.5, 5.0])
def test_the_budget_is_kept(wide, pages, vcpus, guests, pace):
    scenario = wide.but({"workload.pages": pages, "vcpus": vcpus, "guests": guests})
    rows = lab.approaches()[:8]

    def cost(some):
        return DRAWING + pace * sum(work(some, rows)) * asked(some)

    if cost(scenario.but({"workload.ops": FEWEST})) > MOST:
        with pytest.raises(TooMuch, match=f"2 unmaps on each of {guests * vcpus} vCPUs under 8 approaches take about"):
            affordable(scenario, rows, [pace] * 8)
        return
    some = affordable(scenario, rows, [pace] * 8)
    assert cost(some) <= BUDGET or some.workload.ops == FEWEST
    assert some.workload.ops >= FEWEST


def test_what_is_too_much_for_a_preview_is_said_and_simulated_when_it_settles(wide):
    shown = lab.explore(wide, ["batched", "vcmdq"])
    before = shown.shown["pictures"]
    shown.setting = huge = {"guests": 16, "vcpus": 16, "workload.pages": 511, "workload.ops": 3}
    (said,) = shown.shown["problems"]
    assert said.startswith("Too much for a preview: 2 unmaps on each of 256 vCPUs under 2 approaches take about")
    assert shown.shown["pictures"] == before
    assert shown.shown["values"]["vcpus"] == 16
    assert said in shown.lasting()[1]
    shown.settle()
    assert shown.shown["problems"] == []
    assert shown.shown["level"] == "full"
    assert shown.comparison.scenario == wide.but(huge)
    shown.setting = {}
    assert shown.shown["problems"] == []


def test_a_run_that_neighbours_never_let_end_is_said_as_simulate_says_it(wide, monkeypatch):
    refusal = lab.InvalidInput(["neighbour.guests: 2 of them never let guest 0 through"])

    def starved(*_):
        raise refusal

    shown = lab.explore(wide, ["batched"])
    monkeypatch.setattr(explorer, "observed", starved)
    shown.setting = {"vcpus": 3, "workload.ops": 100_000}
    shown.settle(wait=True)
    assert shown.shown["problems"] == list(refusal.problems)


def test_never_more_than_asked_and_enough_for_a_flush(wide):
    assert affordable(wide.but({"workload.ops": 3}), [VCMDQ], [1.0]).workload.ops == 3
    assert affordable(wide.but({"workload.lazy": True, "vcpus": 16}), [VCMDQ], [2.0]).workload.ops == FLUSH
    trace = lab.Scenario(workload=lab.read_trace(TRACE).workload())
    assert asked(trace) == len(lab.simulate(trace, "vcmdq").measured)
    assert asked(affordable(trace, [VCMDQ], [1e-6])) == asked(trace)


def test_what_previews_took_corrects_the_next_one(wide, monkeypatch):
    shown = lab.explore(wide, ["batched", "vcmdq"])
    counts = []
    for tick in (50e-6, 500e-6):  # CPU time of an unmap
        now = [0.0]

        def simulated(scenario, row, now=now, tick=tick):
            now[0] += tick * asked(scenario)
            return lab.simulate(scenario, row)

        monkeypatch.setattr(explorer, "thread_time", lambda now=now: now[0])
        monkeypatch.setattr(explorer, "simulate", simulated)
        for seed in range(12):
            shown.setting = {"seed": seed}
        counts.append(asked(shown.comparison.scenario))
        assert 2 * tick * counts[-1] <= BUDGET / 1e6
    assert counts[0] > 5 * counts[1]


# -- full runs beside other work -------------------------------------------------------------------------------------


def test_a_full_run_leaves_the_loop_free_and_is_dropped_when_stale(wide, monkeypatch):
    monkeypatch.setattr(explorer_budget, "BUDGET", DRAWING + 1000)
    shown = lab.explore(wide, ["batched", "vcmdq"])

    async def reader():
        shown.setting = {"vcpus": 8}
        shown.settle()
        assert shown.running
        stale = shown._task
        levels = [shown.shown["level"]]
        shown.setting = {"vcpus": 3}
        assert not shown.running
        shown.observe(lambda change: levels.append((change.new["level"], change.new["setting"]["vcpus"])), "shown")
        await stale
        assert levels == ["preview"]  # it showed nothing
        shown.settle()
        await shown._task
        assert levels == ["preview", ("full", 3)]
        assert not shown.running

    asyncio.run(reader())


def test_a_watched_run_ends_as_soon_as_it_is_stale(wide):
    looks = iter([False] * 10)
    with pytest.raises(Dropped):
        explorer.observed(wide, lab.approach("batched"), Watched(lambda: next(looks, True)))
    to_the_end = explorer.observed(wide, lab.approach("batched"), Watched(lambda: False))
    assert to_the_end.latencies == lab.simulate(wide, "batched").latencies


def test_a_bug_in_a_full_run_is_said(wide, monkeypatch):
    def broken(*_):
        raise RuntimeError("lost a wrap bit")

    shown = lab.explore(wide, ["vcmdq"])
    shown.setting = {"vcpus": 16}
    monkeypatch.setattr(explorer, "observed", broken)

    async def reader():
        shown.settle()
        await shown._task

    for settle in (shown.settle, lambda: asyncio.run(reader())):
        shown.shown = {**shown.shown, "problems": []}
        settle()
        assert shown.shown["problems"] == ["This setting could not be simulated: RuntimeError: lost a wrap bit"]
        assert shown.shown["level"] == "preview"
        assert not shown.running


# -- what is wrong is said in words, and nothing is lost -------------------------------------------------------------


def test_errors_are_words_and_the_picture_stays(wide):
    shown = lab.explore(wide, ["vcmdq"])
    before = shown.shown["pictures"]
    shown.setting = {"workload.pages": 0, "vcpus": "many", "smmu.rill": True}
    assert shown.shown["problems"] == [
        "workload.pages: 0 is not valid: a positive integer",
        "smmu.rill: unknown; did you mean 'ril'?",
        "vcpus: 'many' is not valid: an integer from 1 to 1024",
    ]
    assert shown.shown["pictures"] == before
    shown.settle()  # there is nothing to settle
    assert shown.shown["problems"]
    shown.setting = {}
    assert shown.shown["problems"] == []


def test_a_bug_is_said_in_place(wide, monkeypatch):
    def broken(*_):
        raise RuntimeError("lost a wrap bit")

    shown = lab.explore(wide, ["vcmdq"])
    monkeypatch.setattr(explorer, "simulate", broken)
    shown.setting = {"vcpus": 3}
    assert shown.shown["problems"] == ["This setting could not be simulated: RuntimeError: lost a wrap bit"]


def test_an_impossible_hybrid_keeps_the_picture_and_says_why_beside_it(wide):
    shown = lab.explore(wide, ["batched", "short-path"])
    before = shown.shown["pictures"]
    direct = {"row": "batched", "changes": {"doorbell": "direct"}}
    shown.setting = {"approaches": [direct, *plain("short-path")]}
    reasons, nothing = shown.shown["refused"]
    assert reasons.startswith("approach.doorbell: 'direct' cannot be: it needs consumer 'hardware'")
    assert nothing == ""
    assert shown.shown["pictures"] == before
    assert shown.setting["approaches"][0] == direct
    shown.setting = {"approaches": [{"row": "batched", "changes": {"host_group": 0}}, *plain("short-path")]}
    assert [name for name, *_ in shown.shown["names"]] == [*shown.comparison.samples] == ["batched*", "short-path"]


def test_an_approach_that_the_scenario_refuses_is_left_out_with_its_reason(wide):
    shown = lab.explore(wide, ["vhost-iommu", "vcmdq"])
    shown.setting = {"workload.lazy": True}
    assert [*shown.comparison.samples] == ["vcmdq"]
    assert shown.shown["refused"][0].startswith("workload.lazy: True cannot be under vhost-iommu")
    shown.setting = {"workload.lazy": True, "approaches": plain("vhost-iommu")}
    assert shown.shown["problems"] == ["approaches: none of those chosen can run this"]
    shown.setting = {"approaches": []}
    assert shown.shown["problems"] == ["approaches: none is chosen"]


def test_what_it_refuses():
    with pytest.raises(lab.InvalidInput, match="did you mean 'short-path'"):
        lab.explore(approaches=["shortpath"])
    with pytest.raises(lab.InvalidInput, match="none given"):
        lab.explore(approaches=[])


# -- approaches ------------------------------------------------------------------------------------------------------


def test_a_row_and_its_what_ifs_have_names_of_their_own(wide):
    what_if = lab.approach("short-path").but(completion="kernel-cons")
    shown = lab.explore(wide, ["short-path", what_if])
    changed = {"row": "short-path", "changes": {"completion": "kernel-cons"}}
    assert shown.setting["approaches"] == [*plain("short-path"), changed]
    assert shown.comparison.samples["short-path*"].approach == what_if
    shown.setting = {"approaches": [*shown.setting["approaches"], {"row": "short-path", "changes": {"host_group": 63}}]}
    assert [*shown.comparison.samples] == ["short-path", "short-path*", "short-path**"]
    assert shown.comparison.samples["short-path**"].approach.host_group == 63


def test_every_column_of_an_approach_can_be_changed(wide):
    shown = lab.explore(wide, ["vcmdq"])
    columns = {column["name"]: [value for value, _ in column["choices"]] for column in shown.columns}
    assert {*columns, "name", "title"} == {field.name for field in lab.approach("vcmdq").fields()}
    assert all(column["about"] for column in shown.columns)
    for row in lab.approaches():
        assert all(row.values()[name] in choices for name, choices in columns.items())


def test_a_worker_of_your_own_takes_part(wide):
    def eager(queue, doorbell, host):
        from smmu_lab.sim.consumer import kernel_worker

        return kernel_worker(queue, doorbell, host)

    row = lab.approach("short-path").but(name="eager", consumer=eager)
    shown = lab.explore(wide, [row, "short-path"])
    assert shown.comparison.saved["eager"].value == 0
    json.dumps([shown.catalogue, shown.columns, shown.setting])
    assert "consumer=eager" in shown.as_code()["python"]


# -- the controls ----------------------------------------------------------------------------------------------------


BESIDES = {
    "workload.stall": {"workload.ats_devices": 1},
    "costs.t_sync": {"costs.sync_occ": 60},
    "costs.sync_occ": {"costs.t_sync": 2000},
    "costs.vmm_lock": {"costs.exit_user": 1770},
}
"""What else must be set for some values to be possible."""


def test_each_control_changes_the_field_that_its_path_names(wide, paths):
    for knob in paths:
        if knob.path == "workload.trace" or knob.path.startswith("topology."):
            continue
        beside = BESIDES.get(knob.path, {})
        before = applied(wide, beside)
        assert values(wide, before, beside)[knob.path] in knob.choices
        for choice in {knob.choices[0], knob.choices[-1]} - {values(wide, before, beside)[knob.path]}:
            setting = {**beside, knob.path: choice}
            changed = applied(wide, setting)
            assert values(wide, changed, setting)[knob.path] == choice
            assert changed != before


def test_each_control_says_what_it_is_and_offers_a_choice(wide, paths):
    assert len({knob.path for knob in paths}) == len(paths)
    for knob in paths:
        assert knob.about, knob.path
        assert len(knob.choices) > 1
        described = knob.described(())
        assert described["kind"] in ("steps", "choice", "flag")
        assert len({label for _, label in described["choices"]}) > 1
    json.dumps([knob.described(()) for knob in paths])
    assert options("workload.spread") == ("exponential", "constant")


def test_a_cost_goes_from_its_low_to_its_high_and_tells_its_basis(wide):
    groups = {knob.path: knob for knob in knobs(wide, wide)["Costs"]}
    assert [*groups] == [f"costs.{name}" for name in wide.costs]
    for name, cost in wide.costs.items():
        knob = groups[f"costs.{name}"]
        assert (knob.choices[0], knob.choices[-1]) == (cost.low, cost.high)
        assert cost.value in grid(cost)
        assert cost.source in knob.about
        assert cost.basis in knob.note
    other = applied(wide, {"costs": "n1"})
    assert knobs(wide, other)["Costs"][0].choices[-1] == lab.costs("n1")["exit_hvc"].high


def test_a_recorded_guest_takes_over_what_it_brings(wide):
    setting = {"workload.trace": TRACE, "workload.pages": 64, "vcpus": 7, "smmu.ril": False, "workload.think": 5000}
    guest = applied(wide, setting)
    assert guest.workload.trace == TRACE
    assert (guest.vcpus, guest.smmu.ril, guest.workload.think) == (2, True, 5000)
    assert {"workload.pages", "vcpus", "smmu.ril", "workload.lazy"} <= set(fixed(wide, guest, setting))
    assert fixed(wide, wide, {}).keys() & {"workload.pages", "vcpus", "smmu.ril", "workload.lazy"} == set()
    shown = lab.explore(guest, ["vcmdq"])
    assert shown.shown["values"]["workload.trace"] == TRACE
    assert f'data-pages="{TRACE}"' in shown.shown["pictures"]["waterfall"]
    shown.setting = {"workload.trace": "", "workload.pages": 4}
    assert shown.comparison.scenario.workload.pages == 4


@pytest.mark.parametrize("preset", PRESETS)
def test_a_topology_takes_the_number_of_smmus_where_it_leaves_it_open(wide, preset):
    setting = {"topology.preset": preset, "topology.smmus": 4, "topology.ats": True}
    made = applied(wide, setting).topology
    open_ones = fixed(wide, wide.but(topology=made), setting)
    assert made.name == preset
    assert made.smmus == 4 or "topology.smmus" in open_ones
    assert all(device.ats for device in made.layouts[0].vsmmus[0].devices if device.kind != "emulated")
    assert applied(wide, {"topology.smmus": 4}) == wide  # it says nothing without a preset


def test_a_value_that_somebody_set_gets_a_place_and_keeps_it(wide):
    shown = lab.explore(wide.but({"workload.pages": 63}), ["vcmdq"])

    def offered(path):
        return [
            value
            for group in shown.knobs.values()
            for knob in group
            if knob["path"] == path
            for value, _ in knob["choices"]
        ]

    assert [value for value in offered("workload.pages") if 60 < value < 70] == [63, 64]
    shown.setting = {"vcpus": 5, "workload.pages": 200, "seed": 99}
    shown.setting = {}
    assert offered("seed")[-1] == 99
    assert offered("workload.pages") == sorted(offered("workload.pages"))


def test_costs_of_your_own_stay_a_choice(wide):
    shown = lab.explore(wide.but(costs=lab.costs("n1").but(exit_kernel="9us")), ["short-path"])
    assert shown.shown["values"]["costs"] == "n1*"
    assert shown.comparison.scenario.costs.exit_kernel == 9000
    shown.setting = {"costs": "grace"}
    assert shown.comparison.scenario.costs == lab.costs("grace")
    shown.setting = {"costs": "n1*"}
    assert shown.comparison.scenario.costs.exit_kernel == 9000
    (costs,) = [knob for knob in shown.knobs[""] if knob["path"] == "costs"]
    assert [name for name, _ in costs["choices"]] == ["grace", "n1", "a57", "n1*"]


# -- copy as code ----------------------------------------------------------------------------------------------------

SETTINGS = {
    "plain": {},
    "workload": {"workload.pages": 512, "workload.lazy": True, "workload.think": 50_000, "guests": 2, "seed": 3},
    "machine": {"topology.preset": "per-smmu", "topology.smmus": 3, "topology.ats": True, "host.worker_cpus": 1},
    "costs": {"costs": "n1", "costs.exit_kernel": 700, "costs.wake": 9000},
    "recorded": {"workload.trace": TRACE, "workload.think": 2000, "smmu.queue_log2": 10},
    "hybrids": {
        "approaches": [
            *plain("vcmdq", "short-path"),
            {"row": "short-path", "changes": {"completion": "kernel-cons", "busy_poll": 5000}},
            {"row": "short-path", "changes": {}},
        ]
    },
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_code_makes_what_is_on_screen(wide, kind, tmp_path):
    shown = lab.explore(wide.but(fault=lab.Fault(), host=lab.Host(placement="pinned")), ["batched", "vcmdq"])
    shown.setting = SETTINGS[kind]
    code = shown.as_code()
    made = {}
    exec(code["python"], made)
    asked_for = applied(shown.scenario, shown.setting)
    assert made["scenario"] == asked_for
    rows = [lab.approach(each) if isinstance(each, str) else each for each in made["approaches"]]
    assert rows == [sample.approach for sample in shown.comparison.samples.values()]
    path = tmp_path / "scenario.toml"
    path.write_text(code["toml"])
    assert lab.Scenario.from_toml(path) == asked_for
    assert all(row.name.rstrip("*") in code["toml"].splitlines()[0] for row in rows)


def test_a_topology_and_costs_of_your_own_survive_as_code(wide):
    base = wide.but(
        topology=attrs.evolve(lab.Topology.preset("per-smmu"), name="mine"),
        costs=lab.costs("n1").but(wake={"value": 5000, "source": "measured by me"}),
        neighbour={"guests": 1, "workload": {"pages": 4}},
        guests=2,
    )
    made = {}
    exec(lab.explore(base, ["batched"]).as_code()["python"], made)
    assert made["scenario"] == base


# -- names, and what lasts -------------------------------------------------------------------------------------------


def test_names_are_never_markup(wide):
    topology = lab.Topology(name=EVIL, layouts=lab.Topology.preset("one-smmu").layouts)
    row = lab.approach("batched").but(name=EVIL, title=EVIL)
    shown = lab.explore(wide.but(topology=topology), [row])
    html = "".join(shown.shown["pictures"].values()) + shown.lasting()[0]
    assert "<img src=x" not in html
    assert "onerror=alert" in html  # as text
    made = {}
    exec(shown.as_code()["python"], made)
    assert made["approaches"] == [row]
    assert made["scenario"].topology == topology


def test_two_outputs(wide, monkeypatch):
    said = []
    monkeypatch.setattr(live, "display", lambda bundle, **_: said.append(bundle))
    shown = lab.explore(wide, ["batched", "vcmdq"])
    shown._ipython_display_()
    still, alive = said
    assert f'data-picture="{shown.picture}"' in still["text/html"]
    assert "<svg" not in still["text/html"]  # it would become a heap of words in an untrusted notebook
    source = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', still["text/html"])[1]
    assert base64.b64decode(source).decode() == shown.shown["pictures"]["waterfall"]
    assert shown.comparison.scenario == wide  # all of it
    assert re.search(r"mean +p99", still["text/plain"])
    assert shown.comparison.verdict in still["text/plain"]
    assert alive["application/vnd.jupyter.widget-view+json"]["model_id"] == shown.model_id


def test_nbconvert_shows_the_picture_and_a_text_reader_its_figures():
    cell = nbformat.v4.new_code_cell("import smmu_lab as lab\nlab.explore(approaches=['batched', 'vcmdq'])")
    book = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name="python3").execute()
    still, _live = book.cells[0].outputs
    assert "execute" in still.data["text/plain"]
    assert "Full run: each bar rests on 1,000 simulated unmaps" in still.data["text/plain"]
    page, _ = HTMLExporter().from_notebook_node(book)
    assert 'src="data:image/svg+xml;base64,' in page
    assert 'alt="Mean latency of one unmap by stage: batched' in page


# -- nothing that a setting says breaks it ---------------------------------------------------------------------------


def test_a_preview_reaches_the_operation_that_a_fault_strikes(wide):
    fault = {"kind": "illegal-command", "op": 150}
    shown = lab.explore(lab.Scenario(workload=lab.unmaps(ops=200), fault=fault))
    shown.setting = {**shown.setting, "smmu.ril": False, "workload.pages": 64}
    assert shown.shown["problems"] == []
    assert shown.comparison.scenario.workload.ops >= 151
    shown.settle(wait=True)
    assert shown.comparison.scenario.workload.ops == 200
    assert shown.shown["level"] == "full"


def test_a_full_picture_of_another_setting_settles_nothing(wide, monkeypatch):
    def broken(*_):
        raise RuntimeError("lost a wrap bit")

    shown = lab.explore(wide, ["vcmdq"])
    with monkeypatch.context() as patch:
        patch.setattr(explorer, "simulate", broken)
        shown.setting = {"vcpus": 3}
    assert shown.shown["level"] == "full"
    shown.settle(wait=True)
    assert shown.comparison.scenario.vcpus == 3
    assert shown.shown["problems"] == []


def test_the_loop_only_shows_what_a_thread_has_drawn(wide, monkeypatch):
    monkeypatch.setattr(explorer_budget, "BUDGET", DRAWING + 1000)
    shown = lab.explore(wide, ["batched", "vcmdq"])
    threads, at_first = [], []

    def spied(what, result):
        def said(*given):
            threads.append((what, threading.current_thread()))
            if at_first:
                at_first.pop()()
            return result(*given)

        return said

    async def settled():
        shown.settle()
        await shown._task

    shown.setting = {"vcpus": 3}
    monkeypatch.setattr(explorer, "drawn", spied("picture", explorer.drawn))
    for name in ("verdict", "warnings"):
        monkeypatch.setattr(explorer.Comparison, name, property(spied(name, lambda result, name=name: (name,))))
    at_first.append(lambda: setattr(shown, "width", 700))
    asyncio.run(settled())
    assert {what for what, thread in threads if thread is not threading.main_thread()} == {
        "picture",
        "verdict",
        "warnings",
    }
    assert 'width="700"' in shown.shown["pictures"]["distribution"]
    assert shown.shown["level"] == "full"

    shown.setting = {"vcpus": 4}
    threads.clear()
    at_first.append(lambda: setattr(shown, "_question", -1))
    asyncio.run(settled())
    assert len(threads) == 1  # stale: the rest is not drawn
    assert shown.shown["level"] == "preview"


def test_the_warm_up_that_bars_leave_out_is_said(wide, monkeypatch):
    shown = lab.explore(wide, ["batched", "vcmdq"])
    for length in (0, 5):
        monkeypatch.setattr(explorer.Comparison, "warmup", length)
        assert (f"the first {length} " in explorer.basis(shown.comparison, wide)) == (length > 0)


def test_no_refusal_outlives_the_approach_that_it_is_about(wide):
    shown = lab.explore(wide, ["vhost-iommu", "vcmdq"])
    shown.setting = {"workload.lazy": True}
    assert shown.shown["refused"][0]
    shown.setting = {"workload.pages": 0, "approaches": plain("short-path", "vcmdq", "batched")}
    assert shown.shown["refused"] == []
    assert [name for name, *_ in shown.shown["names"]] == ["short-path", "vcmdq", "batched"]


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ({"topology.devices": "x"}, "topology.devices: 'x' is not valid"),
        ({"topology.device": 2}, "topology.device: unknown; did you mean 'devices'?"),
        ({"topology.preset": ["per-smmu"]}, "topology.preset"),
        ({"topology.preset": "one-smmu", "topology.smmus": "x"}, "topology.smmus: 'x' is not valid"),
        ({"costs": "zzz*"}, "costs: "),
        ({"costs": "grace*"}, "costs: "),
        ({"costs": ["grace"]}, "costs: "),
        ({"workload": {"kind": "recorded", "trace": "/etc/hostname"}}, "workload: "),
        ({"approaches": [{"changes": {}}]}, "approaches[0]: "),
        ({"approaches": [{"row": ["batched"]}]}, "approaches[0]: "),
        ({"approaches": [*plain("vcmdq"), {"row": "batched", "changes": "x"}]}, "approaches[1]: "),
        ({"approaches": [None]}, "approaches[0]: "),
        ({"approaches": 5}, "approaches: 5 is not valid"),
        ({5: 1}, "a field: 5 is not valid"),
    ],
)
def test_a_malformed_setting_is_said_in_words_and_forgotten(wide, setting, problem):
    shown = lab.explore(wide, ["vcmdq"])
    shown.setting = setting
    assert [line.startswith(problem) for line in shown.shown["problems"]] == [True]
    for valid in ({}, {"workload.pages": 3}):
        shown.setting = valid
        assert shown.shown["problems"] == []
    assert shown.comparison.scenario.workload.pages == 3


def test_what_a_recorded_guest_takes_over_may_be_anything(wide):
    shown = lab.explore(wide, ["vcmdq"])
    for nothing in ("x", [], None, True):
        shown.setting = {"workload.trace": TRACE, "workload.pages": nothing}
        assert shown.shown["problems"] == []
    shown.setting = {"workload.pages": 3}
    assert shown.comparison.scenario.workload.pages == 3


def test_an_entry_without_changes_is_the_row_itself(wide):
    shown = lab.explore(wide, ["vcmdq"])
    shown.setting = {"approaches": [{"row": "batched"}, "short-path"]}
    assert json.dumps(shown.setting["approaches"]) == json.dumps(plain("batched", "short-path"))
    assert [*shown.comparison.samples] == ["batched", "short-path"]
    shown.setting = {"approaches": plain("vcmdq")}
    assert json.dumps(shown.setting["approaches"]) == json.dumps(plain("vcmdq"))  # the browser compares it as text
    shown.setting = {"approaches": ["shortpath"]}
    assert "did you mean 'short-path'" in shown.shown["refused"][0]


def test_a_setting_reads_no_file(wide, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a password\n")
    shown = lab.explore(wide, ["vcmdq"])
    for trace in (str(secret), None, ["x"]):
        shown.setting = {"workload.trace": trace}
        (problem,) = shown.shown["problems"]
        assert problem.startswith("workload.trace: ")
        assert TRACE in problem
        assert "a password" not in problem


class Eager:
    def __call__(self, queue, doorbell, host):
        return kernel_worker(queue, doorbell, host)


@pytest.mark.parametrize("consumer", [functools.partial(kernel_worker), Eager(), lambda *of: kernel_worker(*of)])
def test_any_worker_takes_part_and_has_a_name_in_code(wide, consumer):
    row = lab.approach("short-path").but(name="mine", consumer=consumer)
    shown = lab.explore(wide, [row])
    json.dumps([shown.catalogue, shown.columns, shown.setting])
    code = shown.as_code()["python"]
    assert "# consumer: your own function, define it above" in code
    made = {"consumer": consumer}
    exec(code, made)
    assert made["approaches"] == [row]


def test_code_keeps_the_name_of_a_variant_that_is_called_like_a_row(wide):
    row = lab.approach("batched").but(name="vcmdq")
    made = {}
    exec(lab.explore(wide, [row]).as_code()["python"], made)
    assert made["approaches"] == [row]


def test_what_lasts_says_what_is_wrong(wide):
    shown = lab.explore(wide.but({"workload.lazy": True}), ["vhost-iommu"])
    for text in shown.lasting():
        assert "none of those chosen can run this" in text
        assert "cannot be under vhost-iommu" in text
    shown = lab.explore(wide, ["vcmdq"])
    shown.setting = {"smmu.<img>": 1}
    html, words = shown.lasting()
    assert "smmu.&lt;img&gt;: unknown" in html
    assert "smmu.<img>: unknown" in words
    assert all("last setting that was simulated" in text for text in (html, words))
    assert "<img>" not in html
