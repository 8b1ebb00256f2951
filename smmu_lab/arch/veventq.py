"""The queue in which the kernel keeps a guest's events for the VMM: IOMMU_VEVENTQ_ALLOC."""

from __future__ import annotations

import struct
from collections import deque
from typing import Any

import attrs

LOST_EVENTS = 1 << 0
"""Flag of a header that stands for lost events, without data (Linux 7.2 IOMMU_VEVENTQ_FLAG_LOST_EVENTS)."""

SEQUENCE_MAX = (1 << 31) - 1
"""The sequence number that 0 follows: INT_MAX."""

_HEADER = struct.Struct("<II")
_SIZES = 16, 32


@attrs.frozen
class VEvent:
    """What one read gives: a header, and the event behind it.

    Attributes:
        flags: `LOST_EVENTS` or 0.
        sequence: Number of the event, 0 to `SEQUENCE_MAX`; with `LOST_EVENTS` that of the last one lost.
        data: 32 bytes of an SMMUv3 event, 16 of an LVCMDQ error map, or none behind `LOST_EVENTS`.
    """

    flags: int
    sequence: int
    data: bytes = b""

    def __bytes__(self) -> bytes:
        return _HEADER.pack(self.flags, self.sequence) + self.data


def _depth(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not isinstance(value, int) or not 1 <= value < 1 << 32:
        raise ValueError(f"{attribute.name}: {value!r} is not valid: 1 to 0xffffffff (the ioctl gives -EINVAL)")


@attrs.define
class VEventQueue:
    """Events of one type for one vSMMU, in order, at most `depth` of them.

    Every event takes the next sequence number. One that finds the queue full is dropped, and leaves its number in a
    header with `LOST_EVENTS` at the end of the queue, of which there is never more than one: a further lost event
    moves it on, and the next event that fits takes its place, so that the gap in the numbers tells of the loss.
    The header takes no room: it does not count towards `depth`.

    Source: Linux 7.2 iommufd_viommu_report_event, iommufd_vevent_handler and iommufd_veventq_fops_read; commit
    50c842dd6cd3. Not modelled: an event that is lost because the kernel has no memory for it.

    Attributes:
        depth: Most events that it holds (veventq_depth), 1 to 2^32 - 1.
        sequence: Number of the next event.

    Raises:
        ValueError: A depth that is not valid.

    >>> queue = VEventQueue(depth=1)
    >>> for number in range(3):
    ...     queue.push(bytes([number] * 32))
    >>> [(event.flags, event.sequence, len(event.data)) for event in queue.read()]
    [(0, 0, 32), (1, 2, 0)]
    """

    depth: int = attrs.field(validator=_depth)
    sequence: int = 0
    _events: deque[VEvent] = attrs.field(factory=deque, init=False)

    def __len__(self) -> int:
        """Events that it holds, the `LOST_EVENTS` header not counted."""
        return len(self._events) - self._lossy

    @property
    def _lossy(self) -> bool:
        return bool(self._events) and self._events[-1].flags == LOST_EVENTS

    def push(self, event: bytes) -> None:
        """Report an event, as the driver does in its interrupt handler.

        Raises:
            ValueError: Neither 32 bytes (SMMUv3 event) nor 16 (LVCMDQ error map).
        """
        if len(event) not in _SIZES:
            raise ValueError(f"event: {len(event)} bytes are not valid: 32 (SMMUv3 event) or 16 (LVCMDQ error map)")
        full = len(self) == self.depth
        if self._lossy:
            self._events.pop()
        self._events.append(VEvent(LOST_EVENTS, self.sequence) if full else VEvent(0, self.sequence, bytes(event)))
        self.sequence = (self.sequence + 1) & SEQUENCE_MAX

    def read(self, n: int | None = None) -> list[VEvent]:
        """Take out the oldest `n` events, or all; a `LOST_EVENTS` header is one of them.

        Raises:
            ValueError: A negative number.
        """
        if n is not None and n < 0:
            raise ValueError(f"n: {n} is not valid: 0 or more, or None for all")
        number = len(self._events) if n is None else min(n, len(self._events))
        return [self._events.popleft() for _ in range(number)]
