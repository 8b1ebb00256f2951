"""A big machine is simulated at the cost of a small one, and in memory that grows with its record only."""

import json

import pytest

from smmu_lab.scenario import approach
from smmu_lab.sim import simulate
from smmu_lab.study import machines as study
from smmu_lab.study.machines import PRESETS, THINKS, machine, machines, machines_sheet

EVENTS = 2
"""How many times as many events a command may take on eight SMMUs, where nothing is busy for long."""


@pytest.fixture(scope="module")
def measured():
    return machines(["batched"], commands=6_000, repetitions=1)


def test_all_guests_run_on_both_machines():
    one, eight = (machine(preset, "1ms", 5_000) for preset in PRESETS)
    assert (one.topology.smmus, eight.topology.smmus) == (1, 8)
    assert (one.guests, one.vcpus, one.workload) == (eight.guests, eight.vcpus, eight.workload) == (64, 8, one.workload)


@pytest.mark.parametrize("row", study.ROWS)
def test_a_command_takes_about_as_many_events_on_eight_smmus(row):
    runs = [simulate(machine(preset, "1ms", 20_000), row) for preset in PRESETS]
    one, eight = (sum(run.events.values()) / run.counts.commands for run in runs)
    assert eight < EVENTS * one


@pytest.mark.parametrize("row", study.ROWS)
def test_a_command_takes_a_bounded_part_of_the_record(row):
    run = simulate(machine(PRESETS[1], "1ms", 20_000), row)
    record = sum(table.bytes for table in (run.ops, run.batches, run.issued))
    assert record / run.counts.commands < 50


def test_every_load_and_machine_is_measured(measured):
    assert [(each["think"], each["machine"]) for each in measured] == [(t, p) for t in THINKS for p in PRESETS]
    assert all(each["commands"] == 9 * 64 * 8 for each in measured)
    assert json.loads(json.dumps(measured)) == measured


def test_the_first_machine_is_what_others_are_compared_with(measured):
    for each in measured:
        same = each["machine"] == PRESETS[0]
        assert (each["ratio"] == {"min": 1.0, "median": 1.0, "max": 1.0}) == same


def test_the_table_has_a_row_for_each(measured):
    sheet = machines_sheet(measured)
    assert len(sheet.rows) == len(measured)
    assert all(len(row) == len(sheet.header) for row in sheet.rows)


def test_approaches_that_are_measured_exist():
    assert all(approach(row) for row in study.ROWS)
