"""Charts are pure functions of records: read back what was drawn and hold it to the record."""

from xml.etree import ElementTree

import pytest

from smmu_lab.charts import breakdown, breakdown_sheet
from smmu_lab.charts.svg import ticks
from smmu_lab.record import STAGES
from smmu_lab.scenario import Scenario, Smmu, Unmaps, approach
from smmu_lab.sim import simulate
from smmu_lab.units import show_time

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("qemu-today", "batched", "short-path", "vcmdq")
EVIL = "\"><script>alert(1)</script>&<b a='"


@pytest.fixture(scope="module")
def runs():
    scenario = Scenario(workload=Unmaps(pages=16, ops=50), smmu=Smmu(ril=False), vcpus=4)
    return {name: simulate(scenario, name) for name in NAMES}


def rows(svg):
    return {row.get("data-approach"): row for row in ElementTree.fromstring(svg).iter(f"{SVG}g")}


def bars(row, kind):
    return [bar for bar in row.iter(f"{SVG}rect") if bar.get(kind)]


def test_widths_are_the_breakdown(runs):
    drawn = rows(breakdown(runs))
    scale = (
        sum(float(bar.get("width")) for bar in bars(drawn["qemu-today"], "data-ns"))
        / runs["qemu-today"].latency.mean.value
    )
    for name, run in runs.items():
        segments = {bar.get("data-stage"): bar for bar in bars(drawn[name], "data-ns")}
        assert set(segments) == {stage for stage in STAGES if run.breakdown[stage]}
        for stage, bar in segments.items():
            assert float(bar.get("data-ns")) == pytest.approx(run.breakdown[stage], abs=0.01)
            assert float(bar.get("width")) == pytest.approx(run.breakdown[stage] * scale, abs=0.02)
        assert float(drawn[name].get("data-mean-ns")) == pytest.approx(run.latency.mean.value, abs=0.01)
        assert float(drawn[name].get("data-p99-ns")) == run.latency.p99.value


@pytest.mark.parametrize("kind", ["data-ns", "data-share"])
@pytest.mark.parametrize("width", [480, 860, 1200])
def test_segments_stand_end_to_end_from_zero(runs, width, kind):
    drawn = rows(breakdown(runs, width))
    starts = set()
    for row in drawn.values():
        x = float(bars(row, kind)[0].get("x"))
        starts.add(x)
        for bar in bars(row, kind):
            assert float(bar.get("x")) == pytest.approx(x, abs=0.02)
            x = float(bar.get("x")) + float(bar.get("width"))
        assert x < width
    assert len(starts) == 1


def test_shares_fill_the_panel(runs):
    totals = [sum(float(bar.get("width")) for bar in bars(row, "data-share")) for row in rows(breakdown(runs)).values()]
    assert totals == pytest.approx([totals[0]] * len(runs), abs=0.1)


def test_the_text_twin_says_the_same(runs):
    sheet = breakdown_sheet(runs)
    for cells in sheet.rows:
        figures = dict(zip(sheet.header, cells, strict=True))
        run = runs[figures["approach"]]
        assert figures["mean"] == show_time(run.latency.mean.value)
        assert figures["p99"] == show_time(run.latency.p99.value)
        for stage, ns in run.breakdown.items():
            assert figures.get(stage, "-") == (show_time(ns) if ns else "-")
        drawn = "".join(rows(breakdown(runs))[figures["approach"]].itertext())
        assert f"{figures['mean']}  p99 {figures['p99']}" in drawn


def test_pure(runs):
    assert breakdown(runs) == breakdown(dict(runs))
    assert 'data-pages="16"' in breakdown(runs, data={"pages": 16})


def test_names_are_never_markup(runs):
    row = approach("batched").but(name=EVIL, title=EVIL)
    run = simulate(Scenario(workload=Unmaps(ops=5)), row)
    svg = breakdown({EVIL: run}, data={"costs": EVIL})
    tree = ElementTree.fromstring(svg)  # still well-formed
    assert {element.tag.removeprefix(SVG) for element in tree.iter()} <= {
        *("svg", "style", "title", "g", "rect", "text", "tspan", "line", "path")
    }
    assert rows(svg)[EVIL].get("data-approach") == EVIL
    assert tree.get("data-costs") == EVIL
    assert "<script" not in svg


def test_a_run_without_operations_is_drawn_as_nothing():
    from smmu_lab.record import BATCHES, OPS, Counts, Run, Table

    empty = Run(
        scenario=Scenario(),
        approach=approach("batched"),
        ops=Table(OPS),
        batches=Table(BATCHES),
        guests=(Counts(),),
        queues=(),
        events={},
    )
    assert not bars(rows(breakdown({"batched": empty}))["batched"], "data-ns")
    assert "mean" in repr(breakdown_sheet({"batched": empty}))


@pytest.mark.parametrize("full", [0.7, 1, 9, 999, 33_700, 250_000, 14_000_000])
def test_ticks_are_round_and_few(full):
    marks = ticks(full, 5)
    assert marks[0] == 0
    assert marks[-1] <= full
    assert 1 <= len(marks) <= 6
    assert full < 1 or len(marks) > 1
