"""PROD and CONS arithmetic of an SMMUv3 queue."""

from __future__ import annotations

import attrs

_BIT31 = 1 << 31


def _log2size(value: int) -> int:
    if not isinstance(value, int) or not 0 <= value <= 19:
        raise ValueError(f"log2size: {value!r} is not valid: 0 to 19")
    return value


CMDQ_BATCH_ENTRIES = 64
"""Commands that the Linux driver publishes at once: BITS_PER_LONG (AS-C:850)."""


@attrs.frozen
class Queue:
    """Arithmetic on the raw PROD and CONS values of a queue of 2^log2size entries.

    A pointer holds the index in bits [log2size-1:0] and the wrap bit at bit log2size; the higher bits (ERR,
    OVF, or OWNED in the driver's shadow) are ignored. Arguments stand in the order of the pointers on
    their way: `cons` before `prod`. Results hold for legal states, distance(cons, prod) <= size.

    Source: Linux 7.2 arm-smmu-v3.c:128-160 (queue_has_space and following); QEMU 10.2.2 has the same
    predicates in another form. log2size is at most 19 (Arm IHI 0070, IDR1.CMDQS).

    Attributes:
        log2size: log2 of the number of entries, 0 to 19.
        size: Number of entries.
        mask: Bits of a pointer, the wrap bit included.

    Raises:
        ValueError: log2size out of range.

    >>> q = Queue(log2size=3)
    >>> q.full(cons=0b0000, prod=0b1000), q.empty(cons=0b1000, prod=0b1000), q.space(cons=0b0110, prod=0b1001)
    (True, True, 5)
    """

    log2size: int = attrs.field(converter=_log2size)
    size: int = attrs.field(init=False)
    mask: int = attrs.field(init=False)

    @size.default
    def _size(self) -> int:
        return 1 << self.log2size

    @mask.default
    def _mask(self) -> int:
        return (2 << self.log2size) - 1

    def index(self, pointer: int) -> int:
        """Slot to which the pointer points, 0 to size - 1."""
        return pointer & (self.size - 1)

    def wrap(self, pointer: int) -> int:
        """Wrap bit, 0 or 1."""
        return (pointer >> self.log2size) & 1

    def distance(self, cons: int, prod: int) -> int:
        """Entries from `cons` up to, not including, `prod`; more than `size` is not a legal state."""
        return (prod - cons) & self.mask

    def empty(self, cons: int, prod: int) -> bool:
        """Same index, same wrap bit."""
        return not (prod ^ cons) & self.mask

    def full(self, cons: int, prod: int) -> bool:
        """Same index, other wrap bit."""
        return (prod ^ cons) & self.mask == self.size

    def space(self, cons: int, prod: int) -> int:
        """Free entries."""
        return self.size - self.distance(cons, prod)

    def has_space(self, cons: int, prod: int, k: int) -> bool:
        """Room for `k` more entries; never true for `k` > size."""
        return self.space(cons, prod) >= k

    def consumed(self, cons: int, pointer: int) -> bool:
        """`cons` has moved past the entry at `pointer`: valid until the queue wraps twice past it."""
        return 0 < self.distance(pointer, cons) <= self.size

    def advance(self, pointer: int, k: int = 1) -> int:
        """Pointer `k` entries further on; bit 31 is kept, the other bits above the wrap bit become 0."""
        return (pointer & _BIT31) | ((pointer + k) & self.mask)
