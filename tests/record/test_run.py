"""What is measured, and what a run's figures leave out: read off records that are written by hand."""

from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.record import BATCHES, KINDS, OPS, STAGES, Counts, Run, Sample, Table, noun_of, settling
from smmu_lab.scenario import Scenario, Unmaps, approach, read_trace

UNMAP, FLUSH, OTHER, MAP = map(KINDS.index, ("unmap", "flush", "other", "map"))


def record(rows, workload=None, seed=1, counts=None):
    """A run from (kind, vCPU, start, latency) in the order of their ends; all time is in `build`."""
    ops = Table(OPS)
    for kind, vcpu, start, latency in rows:
        row = dict.fromkeys(OPS, 0)
        row |= {"vcpu": vcpu, "kind": kind, "start": start, "build": latency, "irq_off": 2 * latency}
        ops.append(tuple(row.values()))
    scenario = Scenario(workload=workload or Unmaps(), seed=seed)
    guests = (counts or Counts(),)
    row = approach("batched")
    return Run(scenario=scenario, approach=row, ops=ops, batches=Table(BATCHES), guests=guests, queues=(), events={})


def unmaps(latencies, **more):
    return record([(UNMAP, 0, 1000 * k, latency) for k, latency in enumerate(latencies)], **more)


def test_maps_count_with_the_unmap_that_they_precede_on_their_vcpu():
    rows = [
        (MAP, 0, 0, 1),
        (MAP, 1, 0, 10),
        (MAP, 0, 1, 2),
        (UNMAP, 1, 10, 20),
        (UNMAP, 0, 3, 3),
        (UNMAP, 0, 9, 4),
        (MAP, 0, 13, 900),  # no unmap follows
    ]
    run = record(rows)
    assert run.series == [1 + 2 + 3, 10 + 20, 4]
    assert run.values(run.ops["irq_off"]) == [12, 60, 8]
    assert [rows[k][2:] for k in run.measured] == [(3, 3), (10, 20), (9, 4)]
    assert run.breakdown["build"] == run.latency.mean.value == 40 / 3
    assert Sample((run,), 1).breakdown["build"] == 34 / 2
    assert run.noun == "map + unmap"


def test_the_noun_of_a_comparison_names_the_map_where_anybody_sends_one():
    assert noun_of([unmaps([1]), record([(MAP, 0, 0, 1), (UNMAP, 0, 1, 1)])]) == "map + unmap"
    assert noun_of([unmaps([1]), unmaps([2])]) == "unmap"
    assert noun_of([record([(FLUSH, 0, 0, 1), (OTHER, 0, 0, 1)])]) == "flush"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 99), max_size=3), st.integers(0, 99)), max_size=30),
    st.data(),
)
def test_a_measured_operation_is_the_sum_of_its_rows(operations, data):
    """Any interleaving of vCPUs."""
    queues = {vcpu: [] for vcpu in range(3)}
    wanted = {vcpu: [] for vcpu in range(3)}
    for vcpu, maps, unmap in operations:
        queues[vcpu] += [(MAP, vcpu, 0, each) for each in maps] + [(UNMAP, vcpu, 0, unmap)]
        wanted[vcpu].append(sum(maps) + unmap)
    rows = []
    while left := [vcpu for vcpu, queue in queues.items() if queue]:
        rows.append(queues[data.draw(st.sampled_from(left))].pop(0))
    run = record(rows)
    longest = max(map(len, wanted.values()))
    expected = [wanted[vcpu][k] for k in range(longest) for vcpu in range(3) if k < len(wanted[vcpu])]
    assert run.series == expected
    cut = data.draw(st.integers(0, len(expected)))
    assert run.total(run.latencies, cut) == sum(expected[cut:])


def test_figures_leave_out_the_warmup_and_counts_do_not():
    run = unmaps([900, 500, 200, 100, 100] + [10, 12] * 100, counts=Counts(ioctls=410))
    assert run.warmup == 5
    assert run.latency.mean.value == run.breakdown["build"] == 11
    assert run.irq_off == 22
    assert run.latency.max == 12
    assert run.per_operation("ioctls") == 410 / 205
    assert run.throughput == pytest.approx(205 * 1e9 / run.duration)
    data = run.to_dict()
    assert (data["operations"], data["warmup"], data["replications"]) == (205, 5, 1)
    assert sum(data["breakdown"].values()) == data["latency"]["mean"]["value"]


def test_a_recorded_guest_and_a_flush_queue_have_no_warmup():
    """A phase of a recording is no transient, and a flush every 255 unmaps is none either."""
    values = [900] * 20 + [10] * 200
    assert settling([unmaps(values)]).length == 20
    recorded = read_trace("nvme_dd_r1m_j1_strict_61").workload()
    for load in (recorded, Unmaps(lazy=True)):
        assert unmaps(values, workload=load).latency.mean.value == fmean(values)


def test_replications_are_judged_by_their_sum():
    """One of them may look settled from the start; all together do not."""
    runs = [unmaps([10] * 210), *(unmaps([100] * 5 + [10] * 205, seed=seed) for seed in range(2, 6))]
    assert [run.warmup for run in runs] == [0, 5, 5, 5, 5]
    assert settling(runs).length == 5


def test_a_sample_pools_equal_parts():
    runs = [unmaps([first, 10, 10 + k], seed=k, counts=Counts(wakes=k)) for k, first in enumerate((99, 50, 7))]
    sample = Sample(tuple(runs), 1)
    assert sorted(sample.latency.values) == [10, 10, 10, 10, 11, 12]
    assert sample.latency.mean.value == pytest.approx(63 / 6) == sample.breakdown["build"]
    assert sample.measured == 9
    assert sample.per_operation("wakes") == 3 / 9
    assert sample.duration == sum(run.duration for run in runs)


def test_exposed_pages_are_page_time_over_time():
    """Two pages exposed for half of the run each: one at an instant in the mean (Little's law)."""
    run = unmaps([10] * 100)
    run.guests[0].exposure = run.duration
    assert run.sample.exposed == 1


def test_stages_sum_to_the_mean():
    run = unmaps([3, 4, 5])
    assert set(run.breakdown) == set(STAGES)
    assert sum(run.breakdown.values()) == 4
