"""Figures and differences stand where they are, their intervals around them."""

import re
from math import log10
from xml.etree import ElementTree

import pytest

import smmu_lab as lab
from smmu_lab.charts import differences, differences_sheet, percentiles, percentiles_sheet
from smmu_lab.record import Estimate
from smmu_lab.units import show_time

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "\"><script>alert(1)</script>&<b a='"
SAVED = {
    "qemu-today": Estimate(0.0, 0.0, 0.0),
    "batched": Estimate(4000.0, 3000.0, 5000.0),
    "vcmdq": Estimate(8000.0, 7900.0, 8100.0),
    "short-path": Estimate(-2000.0, -4500.0, 500.0),
    "native-queue": Estimate(1000.0),
}


@pytest.fixture(scope="module")
def comparison():
    scenario = lab.Scenario(workload=lab.unmaps(pages=8, ops=200), smmu=lab.Smmu(ril=False), vcpus=2)
    return lab.compare(scenario, ["qemu-today", "batched", "vcmdq"])


def groups(svg):
    return {group.get("data-approach"): group for group in ElementTree.fromstring(svg).iter(f"{SVG}g")}


def marks(group):
    """Where the marks with a title are, by the first words of the title after the name."""
    found = {}
    for path in group.iter(f"{SVG}path"):
        if (title := path.find(f"{SVG}title")) is not None:
            found[title.text.split(": ")[1].split(" ")[0]] = float(re.search(r"[\d.]+", path.get("transform"))[0])
    return found


@pytest.mark.parametrize("log", [True, False])
def test_figures_stand_on_one_scale(comparison, log):
    points = []
    for name, group in groups(percentiles(comparison.samples, log=log)).items():
        latency = comparison.samples[name].latency
        exact = {
            "mean": latency.mean.value,
            "p50": latency.p50.value,
            "p99": latency.p99.value,
            "p99.9": latency.p999.value,
            "max": max(latency.values),
        }
        assert {figure: float(group.get(f"data-{figure.replace('.', '')}-ns")) for figure in exact} == pytest.approx(
            exact, abs=0.01
        )
        at = marks(group)
        points += [(log10(value) if log else value, at[figure]) for figure, value in exact.items()]
    (x0, y0), (x1, y1) = min(points), max(points)
    for x, y in points:
        assert y == pytest.approx(y0 + (x - x0) * (y1 - y0) / (x1 - x0), abs=0.15)


def test_bands_are_the_intervals(comparison):
    svg = percentiles(comparison.samples, log=False)
    for name, group in groups(svg).items():
        latency = comparison.samples[name].latency
        at = marks(group)
        scale = (at["max"] - at["mean"]) / (latency.max - latency.mean.value)
        widths = sorted(float(band.get("width")) for band in group.iter(f"{SVG}rect"))
        mean = (latency.mean.high - latency.mean.low) * scale
        assert mean < 0.6 or any(width == pytest.approx(mean, abs=0.15) for width in widths)
        unbounded = sum(each.high is None for each in (latency.p50, latency.p99, latency.p999))
        assert unbounded == sum("h13" in path.get("d") for path in group.iter(f"{SVG}path")) >= 1


def test_the_text_twin_says_the_same(comparison):
    for name, *cells in percentiles_sheet(comparison.samples).rows:
        latency = comparison.samples[name].latency
        assert cells[0] == str(latency.mean)
        assert cells[2].startswith(show_time(latency.p99.value))
        assert cells[4] == show_time(max(latency.values))


def test_what_is_saved_stands_right_of_zero_and_what_is_lost_left():
    drawn = groups(differences(SAVED, "qemu-today", "unmap"))
    at = {
        name: float(re.findall(r"translate\(([\d.]+)", ElementTree.tostring(group).decode())[-1])
        for name, group in drawn.items()
    }
    zero = at["qemu-today"]
    assert at["vcmdq"] - zero == pytest.approx(2 * (at["batched"] - zero), abs=0.2)
    assert zero - at["short-path"] == pytest.approx((at["batched"] - zero) / 2, abs=0.2)
    whiskers = {
        name: [path.get("d") for path in group.iter(f"{SVG}path") if path.get("fill") == "none"]
        for name, group in drawn.items()
    }
    low, high = (float(end) for end in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", whiskers["batched"][0])[0])
    assert high - low == pytest.approx((at["batched"] - zero) / 2, abs=0.2)
    assert whiskers["native-queue"] == []  # nothing is known
    assert low < at["batched"] < high


def test_a_difference_that_may_be_none_is_said_in_words():
    words = dict(differences_sheet(SAVED, "qemu-today", "unmap").rows)
    assert words == {
        "qemu-today": "reference",
        "batched": "4 µs less ± 1 µs",
        "vcmdq": "8 µs less ± 100 ns",
        "short-path": "2 µs more ± 2.5 µs: perhaps none",
        "native-queue": "1 µs less ± ?",
    }
    for name, group in groups(differences(SAVED, "qemu-today", "unmap")).items():
        assert words[name] in "".join(group.itertext())


def test_names_are_never_markup(comparison):
    evil = {EVIL: comparison.samples["vcmdq"]}
    for svg in (percentiles(evil), differences({EVIL: Estimate(1.0)}, EVIL, EVIL)):
        assert set(groups(svg)) == {EVIL}
        assert "<script" not in svg
