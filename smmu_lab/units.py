"""Time and size at the edge: whole nanoseconds and whole bytes inside, ``"2.5us"`` and ``"64KiB"`` outside.

A float never becomes a time: ``"0.3us"`` is exactly 300, and ``"0.3ns"`` is refused.
"""

from __future__ import annotations

import re
from fractions import Fraction

TIME = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
SIZE = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def nanoseconds(value: object) -> int:
    """Read a duration.

    Args:
        value: whole nanoseconds, or a text such as ``"2.5us"``, ``"10 ms"`` or ``"380"``.

    Raises:
        ValueError: not a duration, negative, or not a whole number of nanoseconds.

    >>> nanoseconds("2.5us"), nanoseconds(380), nanoseconds("10 ms")
    (2500, 380, 10000000)
    """
    return _whole(value, TIME, "ns")


def size_in_bytes(value: object) -> int:
    """Read a size.

    Args:
        value: whole bytes, or a text such as ``"64KiB"``.

    Raises:
        ValueError: not a size, negative, or not a whole number of bytes.

    >>> size_in_bytes("64KiB"), size_in_bytes(4096)
    (65536, 4096)
    """
    return _whole(value, SIZE, "B")


def _whole(value: object, units: dict[str, int], default: str) -> int:
    if type(value) is int:
        exact = Fraction(value)
    elif isinstance(value, str) and (parts := re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) *(\D*)", value.strip())):
        if (unit := parts[2] or default) not in units:
            raise ValueError(f"unknown unit {unit!r}: one of {', '.join(units)}")
        exact = Fraction(parts[1]) * units[unit]
    else:
        raise ValueError(f"{value!r} is not a number with a unit")
    if exact < 0 or exact.denominator != 1:
        raise ValueError(f"{value!r} is not a whole, non-negative number of {default}")
    return int(exact)


def show_time(ns: float) -> str:
    """Write a duration for people, with three significant digits.

    >>> show_time(380), show_time(2500), show_time(10_000_000), show_time(18_437)
    ('380 ns', '2.5 µs', '10 ms', '18.4 µs')
    """
    for unit, scale in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)):
        if abs(ns) < 999.5 * scale or unit == "s":
            return f"{show_number(ns / scale)} {unit}"
    raise AssertionError


def show_size(size: int) -> str:
    """Write a size for people.

    >>> show_size(65536), show_size(2093056)
    ('64 KiB', '2044 KiB')
    """
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"


def show_number(value: float) -> str:
    """Write a number for people, with three significant digits or all before the point.

    >>> show_number(0.9481), show_number(8), show_number(1024.4)
    ('0.948', '8', '1,024')
    """
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
