"""A figure against another one: lines with markers and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from smmu_lab.charts.palette import INKS, MARKERS
from smmu_lab.charts.svg import picture, tag, text, ticks
from smmu_lab.record import Estimate
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

Series = Mapping[str, Sequence[float | Estimate]]


def curve(
    title: str,
    across: str,
    x: Sequence[float],
    series: Series,
    show: Callable[[float], str] = show_time,
    show_x: Callable[[float], str] = show_time,
    width: int = 760,
) -> str:
    """One line per series; an `Estimate` has its interval as a whisker.

    The upright axis begins below the smallest figure, not at zero, and says so.

    Args:
        title: of the upright axis.
        across: of the other one.
        x: where the figures are, ascending.
        series: name to one figure for each `x`.
        show: writes a figure.
        show_x: writes an `x`.
        width: of the picture, px.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    points = {name: list(map(_ends, figures)) for name, figures in series.items()}
    lowest = min(low for ends in points.values() for _, low, _ in ends)
    highest = max(high for ends in points.values() for _, _, high in ends)
    span = (highest - lowest) or abs(highest) or 1.0
    bottom_value, top_value = max(0.0, lowest - span / 8), highest + span / 8
    left, right, top, bottom = 84, width - 16, 40, 300

    def at(value: float) -> float:
        return bottom - (bottom - top) * (value - bottom_value) / (top_value - bottom_value)

    def along(value: float) -> float:
        return left + (right - left) * (value - x[0]) / ((x[-1] - x[0]) or 1)

    parts = [text(title, 0, 14, "strong")]
    finer = 1
    while (top_value - bottom_value) * finer < 6:
        finer *= 10
    step = ticks((top_value - bottom_value) * finer, 6)[1] / finer
    value = -(-bottom_value // step) * step
    while value <= top_value:
        parts += [
            tag("line", class_="line", x1=left, x2=right, y1=at(value), y2=at(value)),
            text(show(value), left - 8, at(value) + 4, "faint small", "end"),
        ]
        value += step
    for each in ticks(x[-1], (right - left) // 90):
        if each >= x[0]:
            parts.append(text(show_x(each), along(each), bottom + 18, "faint small", "middle"))
    from_zero = "" if bottom_value == 0 else " (the upright axis does not begin at zero)"
    parts.append(text(f"{across}{from_zero}", (left + right) / 2, bottom + 38, "small", "middle"))
    for number, (name, ends) in enumerate(points.items()):
        ink, marker = INKS[number % len(INKS)], MARKERS[number % len(MARKERS)]
        path = "M" + "L".join(f"{along(k):.2f} {at(value):.2f}" for k, (value, _, _) in zip(x, ends, strict=True))
        drawn = [tag("path", d=path, fill="none", stroke=ink, stroke_width=2)]
        for k, (value, low, high) in zip(x, ends, strict=True):
            if high > low:
                drawn.append(tag("path", d=f"M{along(k):.2f} {at(low):.2f}V{at(high):.2f}", stroke=ink))
            tip = tag("title", escape(f"{name}: {show_x(k)}, {show(value)}"))
            place = f"translate({along(k):.2f} {at(value):.2f})"
            drawn.append(tag("path", tip, d=marker, fill=ink, stroke=ink, transform=place))
        if len(points) > 1:
            spot = left + number * (right - left) / len(points)
            key = tag("path", d=marker, fill=ink, stroke=ink, transform=f"translate({spot:.2f} 28)")
            drawn += [key, text(name, spot + 10, 32, "small")]
        parts.append(tag("g", *drawn, data_series=name))
    return picture(width, bottom + 50, f"{title} against {across}", *parts)


def curve_sheet(
    title: str,
    across: str,
    x: Sequence[float],
    series: Series,
    show: Callable[[float], str] = show_time,
    show_x: Callable[[float], str] = show_time,
) -> Sheet:
    """The figures of `curve` as a table, its text twin."""
    rows = [(show_x(at), *(_written(figures[k], show) for figures in series.values())) for k, at in enumerate(x)]
    return Sheet((across, *series), rows, left=(), caption=title)


def _ends(figure: float | Estimate) -> tuple[float, float, float]:
    if not isinstance(figure, Estimate):
        return figure, figure, figure
    low, high = (figure.value if end is None else end for end in (figure.low, figure.high))
    return figure.value, low, high


def _written(figure: float | Estimate, show: Callable[[float], str]) -> str:
    value, low, high = _ends(figure)
    return show(value) if low == high else f"{show(value)} ({show(low)} .. {show(high)})"
