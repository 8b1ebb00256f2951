from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch import Queue


def linux(n, cons, prod):
    """Empty, full and space in the form of Linux 7.2 arm-smmu-v3.c."""
    idx, wrp = (1 << n) - 1, 1 << n
    same_wrap, same_index = prod & wrp == cons & wrp, prod & idx == cons & idx
    ahead = (prod & idx) - (cons & idx)
    return same_index and same_wrap, same_index and not same_wrap, (1 << n) - ahead if same_wrap else -ahead


def linux_consumed(n, cons, p):
    idx, wrp = (1 << n) - 1, 1 << n
    if cons & wrp == p & wrp:
        return cons & idx > p & idx
    return cons & idx <= p & idx


def qemu(n, cons, prod):
    """Empty and full in the form of QEMU 10.2.2 smmuv3-internal.h."""
    mask = (2 << n) - 1
    return prod & mask == cons & mask, (cons ^ prod) & mask == 1 << n


def check_state(q, cons, prod, model):
    """`model` holds the unconsumed pointers of the queue, oldest first."""
    n = q.log2size
    assert q.distance(cons, prod) == len(model)
    assert q.space(cons, prod) == q.size - len(model)
    assert q.empty(cons, prod) == (not model)
    assert q.full(cons, prod) == (len(model) == q.size)
    assert (q.empty(cons, prod), q.full(cons, prod), q.space(cons, prod)) == linux(n, cons, prod)
    assert (q.empty(cons, prod), q.full(cons, prod)) == qemu(n, cons, prod)
    for k in range(min(q.size, 64) + 2):
        assert q.has_space(cons, prod, k) == (k <= q.size - len(model))
    assert not any(q.consumed(cons, p) for p in model)


@pytest.mark.parametrize("log2size", range(5))
def test_every_legal_state_of_a_small_queue_agrees_with_a_deque(log2size):
    q = Queue(log2size)
    for cons in range(2 * q.size):
        prod, model = cons, deque()
        check_state(q, cons, prod, model)
        for _ in range(q.size):
            model.append(prod)
            prod = q.advance(prod)
            check_state(q, cons, prod, model)
            assert len({q.index(p) for p in model}) == len(model)


@pytest.mark.parametrize("log2size", range(5))
def test_an_entry_of_a_small_queue_is_consumed_until_cons_is_a_lap_ahead(log2size):
    q = Queue(log2size)
    for p in range(2 * q.size):
        for lead in range(2 * q.size):
            cons = q.advance(p, lead)
            assert q.consumed(cons, p) == (0 < lead <= q.size) == linux_consumed(log2size, cons, p)


@given(st.integers(0, 19), st.lists(st.integers(-40, 40), max_size=60), st.integers(0, 2**20 - 1))
def test_a_queue_behaves_as_a_deque_over_any_history(log2size, steps, start):
    q = Queue(log2size)
    cons = prod = start & q.mask
    model: deque[int] = deque()
    for step in steps:
        for _ in range(min(step, q.size - len(model))):
            model.append(prod)
            prod = q.advance(prod)
        for _ in range(min(-step, len(model))):
            assert model.popleft() == cons
            done = cons
            cons = q.advance(cons)
            assert q.consumed(cons, done)
        check_state(q, cons, prod, model)


@given(st.integers(0, 19), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_forms_of_linux_and_qemu_agree_on_raw_registers(log2size, cons, prod):
    q = Queue(log2size)
    empty, full, space = linux(log2size, cons, prod)
    assert (q.empty(cons, prod), q.full(cons, prod)) == (empty, full) == qemu(log2size, cons, prod)
    if q.distance(cons, prod) <= q.size:
        assert q.space(cons, prod) == space
    assert q.consumed(cons, prod) == linux_consumed(log2size, cons, prod)


@given(st.integers(0, 19), st.integers(0, 2**32 - 1), st.integers(0, 2**20), st.integers(0, 2**20))
def test_advance_adds_up_and_keeps_only_bit_31(log2size, p, j, k):
    q = Queue(log2size)
    moved = q.advance(p, k)
    assert moved & ~q.mask == p & 1 << 31
    assert q.advance(q.advance(p, j), k) == q.advance(p, j + k)
    assert q.distance(p, moved) == k % (2 * q.size)
    assert q.wrap(moved) << log2size | q.index(moved) == moved & q.mask


@pytest.mark.parametrize("log2size", [-1, 20, 3.0, "8"])
def test_a_queue_has_at_most_2_to_the_19_entries(log2size):
    with pytest.raises(ValueError, match=r"^log2size: .* is not valid: 0 to 19$"):
        Queue(log2size)
