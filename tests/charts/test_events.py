"""Bars of events are the counts of the runs, per operation, from zero."""

from xml.etree import ElementTree

import pytest

import smmu_lab as lab
from smmu_lab.charts import events, events_sheet
from smmu_lab.charts.events import EVENTS

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "\"><script>alert(1)</script>&<b a='"
NAMES = ("qemu-today", "short-path", "vcmdq")


@pytest.fixture(scope="module")
def runs():
    scenario = lab.Scenario(workload=lab.unmaps(pages=8, ops=50), smmu=lab.Smmu(ril=False))
    return {name: lab.simulate(scenario, name) for name in NAMES}


def bars(svg):
    return {
        (group.get("data-approach"), bar.get("data-event")): bar
        for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        for bar in group.iter(f"{SVG}rect")
    }


@pytest.mark.parametrize("width", [480, 540, 860, 1200])
def test_each_bar_is_its_count_on_the_scale_of_its_column(runs, width):
    found = bars(events(runs, width))
    assert set(found) == {(name, field) for name in NAMES for field, _ in EVENTS.values()}
    for field, _ in EVENTS.values():
        counts = {name: getattr(run.counts, field) / 50 for name, run in runs.items()}
        longest = max(float(found[name, field].get("width")) for name in NAMES)
        for name, count in counts.items():
            bar = found[name, field]
            assert float(bar.get("data-value")) == pytest.approx(count, abs=0.005)
            assert float(bar.get("width")) == pytest.approx(longest * count / (max(counts.values()) or 1), abs=0.02)
            assert float(bar.get("x")) + float(bar.get("width")) < width
        assert len({found[name, field].get("x") for name in NAMES}) == 1
    assert float(found["vcmdq", "ioctls"].get("width")) == 0
    assert float(found["qemu-today", "ioctls"].get("data-value")) == 8  # one a command


def test_the_text_twin_says_the_same(runs):
    for name, *cells in events_sheet(runs).rows:
        drawn = bars(events(runs))
        for cell, (field, show) in zip(cells, EVENTS.values(), strict=True):
            assert cell == show(getattr(runs[name].counts, field) / 50)
            assert cell in drawn[name, field].find(f"{SVG}title").text


def test_names_are_never_markup(runs):
    svg = events({EVIL: runs["vcmdq"]})
    assert {name for name, _ in bars(svg)} == {EVIL}
    assert "<script" not in svg
