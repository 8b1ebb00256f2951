"""Occupancy of a queue: read back what was drawn, and hold it to the drains and to what the loads say."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from smmu_lab.charts.occupancy import occupancy, occupancy_sheet
from smmu_lab.scenario import Scenario, Smmu, Unmaps
from smmu_lab.sim import simulate
from smmu_lab.study.load import loads
from smmu_lab.study.served import span
from smmu_lab.view.machine_facts import Facts

SVG = "{http://www.w3.org/2000/svg}"
SIMPLE = [(0, 400, 2), (200, 300, 5), (600, 1000, 1)]


def line(svg):
    """The stepped line, as (x, y) of each corner."""
    (path,) = (each for each in ElementTree.fromstring(svg).iter(f"{SVG}path") if each.find(f"{SVG}title") is not None)
    x = y = 0.0
    corners = []
    for step, *numbers in re.findall(r"([MHV])([\d.]+)(?: ([\d.]+))?", path.get("d")):
        if step == "M":
            x, y = map(float, numbers)
        elif step == "H":
            x = float(numbers[0])
        else:
            y = float(numbers[0])
        corners.append((x, y))
    return corners


def test_the_line_is_the_entries_between_prod_and_cons():
    corners = line(occupancy(SIMPLE, 0, 1000, 128, width=1008))  # 1 px is 1 ns
    zero, peak = corners[0][1], min(y for _, y in corners)

    def at(time):
        return round(7 * (zero - [y for x, y in corners if x - 4 <= time][-1]) / (zero - peak))

    for time in (1, 100, 250, 350, 500, 700, 999):
        assert at(time) == sum(entries for rung, end, entries in SIMPLE if rung <= time < end)


def test_the_peak_is_marked_with_its_value():
    svg = ElementTree.fromstring(occupancy(SIMPLE, 0, 1000, 128))
    assert (svg.get("data-peak"), svg.get("data-at"), svg.get("data-mean")) == ("7", "200", "1.7")
    assert "at most 7 of 128 entries, at 200 ns; 1.7 on average" in svg.get("aria-label")
    assert "7" in {text.text for text in svg.iter(f"{SVG}text")}


@pytest.mark.parametrize("by", ["qemu-today", "short-path", "vcmdq", "vhost-iommu", "ecmdq"])
def test_the_mean_is_what_the_loads_say_and_the_twin_sums_to_it(by):
    run = simulate(Scenario(workload=Unmaps(pages=20, ops=30), smmu=Smmu(ril=False, queue_log2=7), vcpus=4), by)
    facts, known = Facts(run.scenario, run.approach, run.graph, run), loads(run)
    for name, about in run.graph.nodes.items():
        if about["kind"] != "queue":
            continue
        drains = facts.drains.get((about["guest"], about["number"]), [])
        svg = ElementTree.fromstring(occupancy(drains, *facts.span, 128))
        assert float(svg.get("data-mean")) == pytest.approx(known[name].waiting, abs=0.006)
        assert int(svg.get("data-peak")) <= (256 if by == "ecmdq" else 128)
        means = [float(row[2].replace(",", "")) for row in occupancy_sheet(drains, *facts.span).rows]
        assert sum(means) / len(means) == pytest.approx(known[name].waiting, rel=0.01, abs=0.01)
        assert max(int(row[3]) for row in occupancy_sheet(drains, *facts.span).rows) == int(svg.get("data-peak"))
    assert span(run) == facts.span[1] - facts.span[0]


def test_many_drains_stay_small_and_keep_their_peak():
    drains = [(10 * k, 10 * k + 5, 1 + (k == 70_007)) for k in range(100_000)]
    svg = occupancy(drains, 0, 1_000_000, 1 << 16)
    assert len(svg) < 10_000
    corners = line(svg)
    assert min(y for _, y in corners) < sorted(y for _, y in corners)[-1] - 50
    assert 'data-peak="2"' in svg
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(corners))


def test_an_unused_queue_is_flat():
    assert 'data-peak="0"' in occupancy([], 0, 0, 128)
    assert {row[3] for row in occupancy_sheet([], 0, 80).rows} == {"0"}
