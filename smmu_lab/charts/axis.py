"""What charts of latency share: an axis of time, linear or logarithmic, and the key of approaches above the plot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, pairwise
from math import ceil, floor, log10

from smmu_lab.charts.svg import fit, tag, text, ticks

GAP = 56
"""Px between two figures at the axis."""
LINE = 18
"""Height of a line of the key, px."""


class TimeAxis:
    """Where times stand from left to right.

    Args:
        times: what must fit, ns.
        left: px.
        right: px.
        log: logarithmic, from below the smallest time; else linear, from zero.
    """

    def __init__(self, times: Iterable[float], left: float, right: float, log: bool = True) -> None:
        known = [max(1.0, time) for time in times] or [1.0]
        self.left, self.right, self.log = left, right, log
        if log:
            low, high = log10(min(known)), log10(max(known))
            room = max((high - low) * 0.03, 0.01)
            self._low, self._high = max(0.0, low - room), high + room
        else:
            self._low, self._high = 0.0, max(known) * 1.03
        self._scale = (right - left) / (self._high - self._low)

    def at(self, time: float) -> float:
        """Where a time stands, px."""
        value = log10(max(1.0, time)) if self.log else time
        return self.left + (value - self._low) * self._scale

    @property
    def marks(self) -> Sequence[float]:
        """Round times to write at the axis, as many as have room."""
        most = int((self.right - self.left) // GAP)
        if not self.log:
            return ticks(self._high, most)
        low, high = 10**self._low, 10**self._high
        decades = range(floor(self._low), ceil(self._high) + 1)
        choices = [
            [digit * 10**k for k in decades for digit in digits if low <= digit * 10**k <= high]
            for digits in (range(1, 10), (1, 2, 5), (1,))
        ]
        if step := ticks(high - low, most)[1:2]:
            choices.append([k * step[0] for k in range(ceil(low / step[0]), floor(high / step[0]) + 1)])
        roomy = (marks for marks in choices if len(marks) > 1 and self._apart(marks))
        return next(roomy, next(marks for k in count(1) if self._apart(marks := choices[2][::k])))

    def _apart(self, marks: Sequence[float]) -> bool:
        return all(self.at(b) - self.at(a) >= GAP for a, b in pairwise(marks))


def key(inks: Mapping[str, tuple[str, str]], width: float, top: float) -> Iterator[tuple[str, str, float]]:
    """Name, entry and foot of each approach, in lines as long as the picture is wide.

    Args:
        inks: ink and marker by name.
        width: of the picture, px.
        top: of the first line, px.
    """
    x, y = 0.0, top + LINE
    for name, (ink, marker) in inks.items():
        words = fit(name, min(240, width - 20), 7)
        wide = 28 + 6.4 * len(words)
        if x and x + wide > width:
            x, y = 0.0, y + LINE
        sign = tag(
            "path", d=marker, fill=ink, stroke=ink, stroke_width=1.5, transform=f"translate({x + 6:.1f} {y - 4:.1f})"
        )
        yield name, sign + text(words, x + 16, y, "small", title=name), y
        x += wide
