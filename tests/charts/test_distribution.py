"""The distribution's lines are held to the sorted latencies themselves."""

import re
from bisect import bisect_left
from itertools import pairwise
from math import log10
from xml.etree import ElementTree

import pytest

from smmu_lab.charts import distribution, distribution_sheet
from smmu_lab.charts.axis import GAP, TimeAxis
from smmu_lab.charts.distribution import BEYOND
from smmu_lab.record import BATCHES, OPS, Counts, Run, Table
from smmu_lab.record.statistics import quantile
from smmu_lab.scenario import Scenario, approach
from smmu_lab.units import show_time

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "\"><script>alert(1)</script>&<b a='"


def made(name, latencies):
    """A run whose operations took so long."""
    ops = Table(OPS)
    for number, latency in enumerate(latencies):
        row = dict.fromkeys(OPS, 0) | {"start": number * 10**6, "build": latency}
        ops.append(tuple(row.values()))
    row = approach(name)
    counts = (Counts(),)
    return Run(
        scenario=Scenario(),
        approach=row,
        ops=ops,
        batches=Table(BATCHES),
        guests=counts,
        queues=(),
        events={},
        dropped=0,
    )


def spread(count, seed=1):
    """Latencies between 1 and 300 us, many of them alike, in no order."""
    state = seed
    for _ in range(count):
        state = state * 6364136223846793005 % 2**64
        yield 1000 + 250 * int(2 ** (state / 2**64 * 10))


def lines(svg):
    """By approach, the corners of its line, px."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        for path in group.iter(f"{SVG}path"):
            if path.get("fill") == "none":
                corners = re.findall(r"([\d.]+) ([\d.]+)V([\d.]+)", path.get("d"))
                found[group.get("data-approach")] = [tuple(map(float, corner)) for corner in corners]
    return found


def scales(svg):
    """What an upright px is in decades, and where the top is: from the axis as written."""
    levels = {
        float(text.text.removesuffix(" %")): float(text.get("y")) - 4
        for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
        if re.fullmatch(r"[\d.]+ %", text.text or "")
    }
    return levels[100], (levels[10] - levels[100])


def places(svg):
    """Where the axis writes its times, in ns."""
    scale = {"ns": 1, "µs": 1e3, "ms": 1e6}
    words = [
        (re.fullmatch(r"([\d.]+) (ns|µs|ms)", text.text or ""), float(text.get("x")))
        for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]
    return [(float(word[1]) * scale[word[2]], x) for word, x in words if word]


@pytest.mark.parametrize("count", [40, 1000, 20_000])
def test_every_corner_is_a_share_that_took_longer(count):
    ordered = sorted(spread(count))
    svg = distribution({"batched": made("batched", spread(count))})
    corners = lines(svg)["batched"]
    top, decade = scales(svg)
    (one, x1), *_, (other, x2) = places(svg)
    assert 2 < len(corners) < 200
    for x, before, after in corners:
        share = 10 ** ((top - before) / decade)
        time = 10 ** (log10(one) + (x - x1) / (x2 - x1) * log10(other / one))
        near = [each for each in ordered if time / 1.004 <= each <= time * 1.004]
        low = bisect_left(ordered, near[-1])
        assert (count - low) / count / 1.01 <= share <= (count - bisect_left(ordered, near[0])) / count * 1.01
        assert 10 ** ((top - after) / decade) >= BEYOND / count / 1.01
    assert 10 ** ((top - corners[-1][2]) / decade) == pytest.approx(BEYOND / count, rel=0.01)
    assert corners == sorted(corners, key=lambda corner: (corner[0], corner[1]))


@pytest.mark.parametrize("log", [True, False])
def test_quantiles_are_exact_and_marked_on_their_level(log):
    run = made("batched", spread(20_000))
    svg = distribution({"batched": run}, log=log)
    group = next(ElementTree.fromstring(svg).iter(f"{SVG}g"))
    ordered = sorted(spread(20_000))
    top, decade = scales(svg)
    marks = {}
    for path in group.iter(f"{SVG}path"):
        if path.find(f"{SVG}title") is not None:
            marks[path.find(f"{SVG}title").text.split(" ")[1]] = [
                float(number) for number in re.findall(r"[\d.]+", path.get("transform"))
            ]
    for name, q in {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}.items():
        exact = ordered[-(-len(ordered) * round(q * 1000) // 1000) - 1]
        assert int(group.get(f"data-{name.replace('.', '')}-ns")) == exact
        x, y = marks[name]
        assert (y - top) / decade == pytest.approx(-log10(1 - q), abs=0.01)
        assert any(corner[0] == x and corner[1] <= y + 0.1 <= corner[2] + 0.2 for corner in lines(svg)["batched"])


def test_a_quantile_is_drawn_where_enough_operations_took_longer():
    """Then its interval has an upper end: no figure is drawn that the tables call unbounded."""
    for count in (*range(5, 30), 500, 598, 599, 600, 601, 700, 5999, 6000, 6001):
        values = range(1000, 1000 + count)
        group = next(ElementTree.fromstring(distribution({"batched": made("batched", values)})).iter(f"{SVG}g"))
        for name, per_mille in {"p50": 500, "p99": 990, "p999": 999}.items():
            drawn = group.get(f"data-{name}-ns")
            beyond = sum(each > values[-(-count * per_mille // 1000) - 1] for each in values)
            assert (drawn is not None) == (beyond >= BEYOND), (count, name)
            assert drawn is None or quantile(values, per_mille / 1000).high is not None


def test_a_constant_latency_is_a_wall_and_none_is_no_line():
    svg = distribution({"batched": made("batched", [5000] * 100), "vcmdq": made("vcmdq", [])})
    ((_, before, after),) = lines(svg)["batched"]
    top, decade = scales(svg)
    assert before == pytest.approx(top, abs=0.1)
    assert (after - top) / decade == pytest.approx(-log10(BEYOND / 100), abs=0.02)
    assert "vcmdq" not in lines(svg)
    assert "here at once" in distribution({"vcmdq": made("vcmdq", [7000] * BEYOND)})


def test_many_operations_make_a_small_picture():
    runs = {name: made(name, spread(100_000, seed)) for seed, name in enumerate(("batched", "vcmdq"), 1)}
    assert len(distribution(runs)) < 15_000


def test_the_text_twin_says_the_same():
    runs = {"batched": made("batched", spread(1000)), "vcmdq": made("vcmdq", spread(300))}
    for cells in distribution_sheet(runs).rows:
        figures = dict(zip(("approach", "count", "p50", "p99", "p99.9"), cells, strict=True))
        group = next(
            each
            for each in ElementTree.fromstring(distribution(runs)).iter(f"{SVG}g")
            if each.get("data-approach") == figures["approach"]
        )
        for name in ("p50", "p99", "p99.9"):
            drawn = group.get(f"data-{name.replace('.', '')}-ns")
            assert figures[name] == (show_time(int(drawn)) if drawn else "?")


def test_the_ink_of_the_others_stays_when_one_is_hidden():
    runs = {name: made("short-path", spread(50)) for name in ("short-path", "short-path*", "mine")}

    def inks(svg):
        return {
            group.get("data-approach"): [(path.get("d"), path.get("fill")) for path in group.iter(f"{SVG}path")][:1]
            for group in ElementTree.fromstring(svg).iter(f"{SVG}g")
        }

    both, one = inks(distribution(runs)), inks(distribution(runs, hidden=["short-path"]))
    assert one == {name: ink for name, ink in both.items() if name != "short-path"}


def test_names_are_never_markup():
    svg = distribution({EVIL: made("batched", spread(50))}, data={"costs": EVIL})
    tree = ElementTree.fromstring(svg)
    assert next(tree.iter(f"{SVG}g")).get("data-approach") == EVIL
    assert "<script" not in svg


@pytest.mark.parametrize("times", [(1, 1), (7, 9), (5100, 5900), (900, 120_000), (60, 10**9), (999_999, 10**6)])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("width", [150, 430, 1100])
def test_an_axis_holds_its_times_and_writes_round_ones_apart(times, log, width):
    axis = TimeAxis(times, 50, 50 + width, log)
    assert 50 <= axis.at(times[0]) <= axis.at(times[1]) <= 50 + width
    places = [axis.at(mark) for mark in axis.marks]
    assert all(50 - 0.01 <= place <= 50 + width + 0.01 for place in places)
    assert all(b - a >= GAP - 0.01 for a, b in pairwise(places)) or not log
