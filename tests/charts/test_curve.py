"""A curve shows its figures where they are, and its table says the same."""

import re
from xml.etree import ElementTree

import pytest

from smmu_lab.charts import curve, curve_sheet
from smmu_lab.charts.curve import INKS, MARKERS
from smmu_lab.charts.palette import contrast
from smmu_lab.record import Estimate

X = [1000, 2000, 4000]
SERIES = {"one": [10_000.0, 20_000.0, 40_000.0], "<two>": [Estimate(5_000.0, 4_000.0, 6_000.0)] * 3}


def places(svg):
    """Where the markers are, by series."""
    root = ElementTree.fromstring(svg)
    found = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        moves = [each.get("transform") for each in group if each.find("{http://www.w3.org/2000/svg}title") is not None]
        found[group.get("data-series")] = [tuple(map(float, re.findall(r"[\d.]+", move))) for move in moves]
    return found


def test_figures_stand_at_their_places():
    """Twice as far is twice as far, both ways; equal figures are level."""
    found = places(curve("latency", "wake-up", X, SERIES))
    (x1, y1), (x2, y2), (x3, y3) = found["one"]
    assert (x3 - x2) == pytest.approx(2 * (x2 - x1), abs=0.05)
    assert (y2 - y3) == pytest.approx(2 * (y1 - y2), abs=0.05)
    assert len({y for _, y in found["<two>"]}) == 1


def test_the_picture_says_when_it_does_not_begin_at_zero():
    assert "does not begin at zero" in curve("latency", "wake-up", X, {"one": SERIES["one"]})
    assert "does not begin at zero" not in curve("latency", "wake-up", X, {"one": [0.0, 1.0, 2.0]})


def test_names_are_escaped():
    assert "<two>" not in curve("<b>", "<i>", X, SERIES)


def test_the_table_has_the_same_figures():
    rows = str(curve_sheet("latency", "wake-up", X, SERIES))
    assert "20 µs" in rows
    assert "5 µs (4 µs .. 6 µs)" in rows


def test_no_series_is_told_by_its_hue_alone_and_each_stands_out():
    assert len(set(MARKERS)) == len(MARKERS) == len(INKS)
    for ink in INKS:
        assert min(contrast(ink, "#ffffff"), contrast(ink, "#111111")) >= 3
