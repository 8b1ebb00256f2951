from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smmu_lab.arch.veventq import LOST_EVENTS, SEQUENCE_MAX, VEvent, VEventQueue

EVENT = bytes(range(32))
MAP = bytes(range(16))
STEPS = st.lists(st.just("push") | st.integers(0, 4), max_size=60)
"""Events to report, and numbers of events to read."""


def headers(events):
    return [(event.flags, event.sequence) for event in events]


@given(st.integers(1, 4), st.sampled_from([0, SEQUENCE_MAX - 5]), STEPS)
def test_every_event_is_read_once_in_order_or_told_as_lost(depth, first, steps):
    queue, read, pushed, kept = VEventQueue(depth, first), [], 0, []
    for step in steps:
        if step == "push":
            if len(queue) < depth:
                kept.append(pushed)
            queue.push(pushed.to_bytes(32, "little"))
            pushed += 1
        else:
            taken = queue.read(step)
            assert len(taken) <= step
            read += taken
        assert len(queue) <= depth
    read += queue.read()
    assert [int.from_bytes(event.data, "little") for event in read if not event.flags] == kept

    expected = first
    for event in read:
        lost = (event.sequence - expected) & SEQUENCE_MAX  # numbers that no header carries
        passed = (event.sequence - first) & SEQUENCE_MAX
        if event.flags:
            assert (event.flags, event.data) == (LOST_EVENTS, b"")
            assert not {*range(passed - lost, passed + 1)} & {*kept}
        else:
            assert int.from_bytes(event.data, "little") == passed
            assert not {*range(passed - lost, passed)} & {*kept}
        expected = (event.sequence + 1) & SEQUENCE_MAX
    assert (expected - first) & SEQUENCE_MAX == pushed


@given(st.integers(1, 4), st.lists(st.booleans(), max_size=40))
def test_only_the_last_header_of_a_queue_stands_for_lost_events(depth, pushes):
    queue = VEventQueue(depth)
    for push in pushes:
        queue.push(EVENT) if push else queue.read(1)
    events = queue.read()
    assert all(not event.flags for event in events[:-1])


def test_a_gap_in_the_sequence_is_the_number_of_lost_events():
    # the example of struct iommufd_vevent_header in Linux 7.2 include/uapi/linux/iommufd.h: 3, then 6
    queue = VEventQueue(4)
    for _ in range(6):
        queue.push(EVENT)
    assert headers(queue.read(2)) == [(0, 0), (0, 1)]
    queue.push(EVENT)
    assert headers(queue.read()) == [(0, 2), (0, 3), (0, 6)]


def test_a_loss_at_the_end_is_told_by_a_header_without_data():
    # the second example there: 3, then LOST_EVENTS with sequence 4
    queue = VEventQueue(4)
    for _ in range(5):
        queue.push(EVENT)
    events = queue.read()
    assert headers(events[-2:]) == [(0, 3), (LOST_EVENTS, 4)]
    assert events[-1].data == b""
    assert queue.read() == []


def test_int_max_is_followed_by_0():
    queue = VEventQueue(2, sequence=2**31 - 1)
    queue.push(EVENT)
    queue.push(MAP)
    assert headers(queue.read()) == [(0, 2**31 - 1), (0, 0)]


def test_a_read_gives_the_header_and_then_the_event():
    # struct iommufd_vevent_header { u32 flags, sequence }
    queue = VEventQueue(1)
    queue.push(MAP)
    queue.push(MAP)
    first, lost = queue.read()
    assert bytes(first) == struct.pack("<II", 0, 0) + MAP
    assert bytes(lost) == struct.pack("<II", 1, 1)
    assert first == VEvent(0, 0, MAP)


@pytest.mark.parametrize("size", [0, 15, 17, 31, 33])
def test_an_event_has_32_bytes_and_an_error_map_16(size):
    with pytest.raises(ValueError, match=rf"^event: {size} bytes are not valid: 32 \(SMMUv3 event\) or 16"):
        VEventQueue(1).push(bytes(size))


@pytest.mark.parametrize("depth", [-1, 0, 1 << 32, None])
def test_a_queue_has_a_depth(depth):
    with pytest.raises(ValueError, match=f"^depth: {depth} is not valid: 1 to 0xffffffff"):
        VEventQueue(depth)


def test_a_negative_number_of_events_is_refused():
    with pytest.raises(ValueError, match=r"^n: -1 is not valid: 0 or more, or None for all$"):
        VEventQueue(1).read(-1)
