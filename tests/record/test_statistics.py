"""Intervals cover what they promise, and the figures are those of the textbooks."""

import random
from fractions import Fraction
from itertools import chain
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.record import Distribution, Table, Warmup, batch_means, mser5, quantile, sectioned
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


def plain_mser5(values):
    """MSER-5 from its definition: each cut tried, each error summed anew."""
    batches = [Fraction(sum(values[k : k + 5]), 5) for k in range(0, len(values) - len(values) % 5, 5)]
    half = len(batches) // 2
    errors = []
    for cut in range(half + 1):
        rest = batches[cut:]
        mean = sum(rest) / len(rest)
        errors.append(sum((each - mean) ** 2 for each in rest) / len(rest) ** 2)
    best = errors.index(min(errors))
    return Warmup(5 * best, best < half)


@given(st.lists(st.integers(0, 10**9) | st.just(7), min_size=100, max_size=160))
def test_mser5_is_its_definition(values):
    assert mser5(values) == plain_mser5(values)


@given(st.lists(st.integers(101, 10**6), max_size=60), st.integers(101, 200))
def test_mser5_cuts_a_transient_before_a_constant_to_the_batch(transient, more):
    values = transient + [100] * (more + len(transient))
    assert mser5(values) == Warmup(-(-len(transient) // 5) * 5)


def test_mser5_keeps_what_is_constant_periodic_or_short():
    assert mser5([8] * 1000) == Warmup(0)
    assert mser5([1, 2, 3, 4, 5] * 100) == Warmup(0)
    assert mser5(range(99)) == Warmup(0)


def test_what_never_settles_is_said_to():
    assert mser5(range(1000)) == Warmup(500, settled=False)


def test_of_independent_values_little_is_cut_and_hardly_ever_half():
    rng = random.Random(4)
    warmups = [mser5([int(rng.expovariate(1e-3)) for _ in range(400)]) for _ in range(200)]
    assert sum(each.length for each in warmups) / 200 < 400 * 0.06
    assert sum(not each.settled for each in warmups) <= 4


def test_a_t_interval_is_that_of_the_tables():
    """Mean 10, standard deviation 1, 5 values: 2.776 / sqrt(5)."""
    values = [9, 9, 10, 11, 11]
    assert stdev(values) == 1
    assert sectioned(10, values).half_width == pytest.approx(2.776 / 5**0.5, rel=2e-3)
    assert sectioned(10, values[:4]).half_width is None


def test_the_interval_of_a_quantile_covers_it_when_neighbours_are_alike():
    """The p99 of a random walk pulled to its mean: replications know it, order statistics do not."""
    rng = random.Random(5)
    deviation = (1 / (1 - 0.9**2)) ** 0.5
    true = NormalDist(10**6, 10**5 * deviation).inv_cdf(0.99)

    def walk():
        x = rng.gauss(0, deviation)
        values = []
        for _ in range(400):
            x = 0.9 * x + rng.gauss(0, 1)
            values.append(round(10**6 + 10**5 * x))
        return values

    hits = naive = 0
    for _ in range(100):
        replications = [walk() for _ in range(10)]
        of_replications = Distribution(*replications).quantile(0.99)
        of_one = Distribution(list(chain(*replications))).quantile(0.99)
        assert of_replications.value == of_one.value
        hits += of_replications.low <= true <= of_replications.high
        naive += of_one.low <= true <= of_one.high
    assert hits >= 90
    assert naive < 80


def test_a_replication_too_short_for_a_quantile_bounds_nothing():
    replications = [list(range(50))] * 6
    assert Distribution(*replications).p99.half_width is None
    assert Distribution(*replications).p50.half_width is not None
