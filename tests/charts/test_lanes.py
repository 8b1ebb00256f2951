"""Swim lanes: every bar is a span of the journal, and its text twin says the same times."""

import re

import pytest

import smmu_lab as lab
from smmu_lab.charts import lanes as chart
from smmu_lab.charts import lanes_sheet
from smmu_lab.charts.palette import COLOURS, COMMANDS
from smmu_lab.record import STAGES
from smmu_lab.sim import texts
from smmu_lab.sim.watch import watch
from smmu_lab.units import show_time

EVIL = '"><img src=x onerror=alert(1)>'
BAR = re.compile(r'data-lane="([^"]+)" data-stage="(\w+)" data-start="(\d+)" data-end="(\d+)"')


@pytest.fixture(scope="module")
def journal():
    scenario = lab.Scenario(workload=lab.unmaps(pages=4, ops=10), smmu=lab.Smmu(ril=False), vcpus=2)
    return watch(lab.simulate(scenario, lab.approach("batched").but(name=EVIL)))


def test_bars_are_the_spans(journal):
    spans = [
        (journal.lanes[span["lane"]].name, list(STAGES)[span["stage"]], str(span["start"]), str(span["end"]))
        for span in journal.spans.rows()
    ]
    drawn = chart(journal)
    assert sorted(BAR.findall(drawn)) == sorted(spans)
    assert all(f'fill="{COLOURS[stage]}"' in drawn for _, stage, _, _ in spans)


def test_a_stretch_has_what_reaches_into_it(journal):
    start, end = journal.end // 3, journal.end // 2
    within = [span for span in journal.spans.rows() if span["end"] > start and span["start"] < end]
    assert len(BAR.findall(chart(journal, start, end))) == len(within) < len(journal.spans)


def test_the_text_twin_has_the_same_times(journal):
    sheet = lanes_sheet(journal, 3)
    first = min(journal.lists.rows(), key=lambda row: row["asked"])
    assert sheet.rows[0][2:] == (
        "4 TLBI + 1 CMD_SYNC",
        *(show_time(first[name]) for name in ("asked", "published", "taken", "covered", "seen")),
    )
    assert len(sheet.rows) == 3


def test_names_are_never_markup(journal):
    assert "<img" not in chart(journal)


def test_kinds_are_those_of_the_palette():
    names = list(COMMANDS)
    assert [names[getattr(texts, name)] for name in ("TLBI", "ATC_INV", "CFGI", "CMD_SYNC", "ILLEGAL", "REQUEST")] == [
        *("TLBI", "ATC_INV", "CFGI", "CMD_SYNC", "illegal", "request")
    ]
