"""Intervals cover what they promise, and the figures are those of the textbooks."""

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.record import Distribution, Table, batch_means, quantile
from smmu_lab.record.statistics import student

TABLE = {4: 2.776, 5: 2.571, 6: 2.447, 8: 2.306, 9: 2.262, 14: 2.145, 19: 2.093, 30: 2.042}
"""Two-sided 95 % points of Student's t, from the tables."""


@pytest.mark.parametrize("freedom", TABLE)
def test_student_agrees_with_the_tables(freedom):
    assert student(freedom) == pytest.approx(TABLE[freedom], abs=0.004)


def test_the_interval_of_the_mean_covers_it_about_95_times_in_100():
    rng = random.Random(1)
    hits = 0
    for _ in range(400):
        estimate = batch_means([rng.expovariate(0.01) for _ in range(400)])
        hits += estimate.low <= 100 <= estimate.high
    assert 0.92 <= hits / 400 <= 0.98


def test_batches_keep_the_correlation_of_neighbours():
    """A random walk pulled to its mean: an interval from single values would be far too narrow."""
    rng = random.Random(2)
    hits = 0
    for _ in range(200):
        x, walk = 0.0, []
        for _ in range(4000):
            x = 0.9 * x + rng.gauss(0, 1)
            walk.append(x)
        estimate = batch_means(walk)
        hits += estimate.low <= 0 <= estimate.high
    assert hits / 200 >= 0.9


def test_the_interval_of_a_quantile_covers_it():
    rng = random.Random(3)
    hits = 0
    for _ in range(400):
        estimate = quantile(sorted(rng.random() for _ in range(1000)), 0.99)
        hits += estimate.low <= 0.99 <= (estimate.high or 1)
    assert hits / 400 >= 0.93


def test_an_end_beyond_the_data_is_unknown():
    assert quantile(range(100), 0.999).high is None
    assert batch_means([1, 2, 3]).half_width is None


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200))
def test_a_distribution_says_what_its_values_say(values):
    d = Distribution(values)
    assert d.mean.value == pytest.approx(fmean(values))
    assert d.max == max(values)
    assert sum(v <= d.p50.value for v in values) >= len(values) / 2


@given(st.lists(st.tuples(st.integers(-(2**40), 2**40), st.integers(0, 2**20)), max_size=3000))
def test_a_table_gives_back_its_rows(rows):
    table = Table({"a": "q", "b": "I"})
    for row in rows:
        table.append(row)
    assert len(table) == len(rows)
    assert list(zip(table["a"], table["b"], strict=True)) == rows
    assert [tuple(row.values()) for row in table.rows()] == rows


def test_a_float_never_enters_a_column():
    table = Table({"a": "q"})
    table.append((0.5,))
    with pytest.raises(TypeError):
        _ = table["a"]
