"""Figures of the latency with their intervals: side by side, and against one of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from html import escape

from smmu_lab.charts.axis import TimeAxis
from smmu_lab.charts.palette import identities
from smmu_lab.charts.svg import fit, picture, tag, text, ticks
from smmu_lab.record import Distribution, Estimate, Run, Sample, noun_of
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

ROW = 30
"""Height of a row, px."""
GLYPHS = {
    "mean": "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z",
    "p50": "M0-7v14",
    "p99": "M0-6l6 6-6 6-6-6z",
    "p99.9": "M-5 5h10l-5-10z",
    "max": "M-4-4l8 8m0-8l-8 8",
}
"""A shape for each figure; the ink is the approach's."""
HOLLOW = ("p99", "p99.9")


def percentiles(
    runs: Mapping[str, Run | Sample],
    width: int = 860,
    data: Mapping[str, object] | None = None,
    log: bool = True,
    hidden: Collection[str] = (),
) -> str:
    """Mean, p50, p99, p99.9 and maximum of the latency under each approach, a row each.

    A band about a mark is its 95 % interval; an arrow says that too few operations lie beyond to bound it.

    Args:
        runs: name to record, drawn in this order.
        width: of the picture, px.
        data: ``data-*`` attributes of the picture: what it shows, for programs.
        log: times are logarithmic; else linear, from zero.
        hidden: names that are not drawn; the others keep ink and marker.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    drawn = {name: run.latency for name, run in runs.items() if name not in hidden}
    figures = {name: _figures(latency) for name, latency in drawn.items()}
    known = [each for found in figures.values() for each in found.values()]
    left, right, top = _names(drawn, width), width - 24, 28
    bottom = top + ROW * len(drawn)
    ends = (end for each in known for end in (each.low, each.value, each.high) if end is not None)
    axis = TimeAxis(ends, left, right, log)
    noun = noun_of(runs.values())
    parts = [text(f"Latency of one {noun}: bands are 95 % intervals", 0, 14, "strong")]
    for time in axis.marks if known else ():
        parts += [
            tag("line", class_="line", x1=axis.at(time), x2=axis.at(time), y1=top - 4, y2=bottom),
            text(show_time(time) if time else "0", axis.at(time), bottom + 14, "faint small", "middle"),
        ]
    inks = identities(runs)
    for row, (name, found) in enumerate(figures.items()):
        y = top + ROW * (row + 0.5)
        ink, marker = inks[name]
        inside = [*_name(name, ink, marker, left, y)]
        if found:
            first, last = (axis.at(edge(each.value for each in found.values())) for edge in (min, max))
            inside.append(tag("path", d=f"M{first:.1f} {y}H{last:.1f}", stroke=ink, stroke_width=1))
        for each in found.values():
            inside += _band(each, axis, y, ink)
        for figure, each in found.items():
            inside.append(_glyph(figure, ink, axis.at(each.value), y, f"{name}: {figure} {each}"))
        exact = {f"data-{figure.replace('.', '')}-ns": each.value for figure, each in found.items()}
        parts.append(tag("g", *inside, data_approach=name, **exact))
    for place, figure in enumerate(GLYPHS):
        x = 8 + 60 * place
        parts += [_glyph(figure, "var(--ink)", x, bottom + 34, ""), text(figure, x + 10, bottom + 38, "small")]
    said = ", ".join(f"{name} {found['mean']}" for name, found in figures.items() if found)
    label = f"Mean, p50, p99, p99.9 and maximum of the latency of one {noun}; mean with its interval: {said}"
    return picture(width, bottom + 48, label, *parts, data=data)


def percentiles_sheet(runs: Mapping[str, Run | Sample]) -> Sheet:
    """The figures of `percentiles` as a table, its text twin."""
    rows = [
        (name, *(_written(found[figure]) if found else "-" for figure in GLYPHS))
        for name, run in runs.items()
        for found in (_figures(run.latency),)
    ]
    caption = f"latency of one {noun_of(runs.values())} with 95 % intervals (?: too few to say)"
    return Sheet(("approach", *GLYPHS), rows, left=("approach",), caption=caption)


def differences(
    saved: Mapping[str, Estimate],
    against: str,
    noun: str,
    width: int = 860,
    data: Mapping[str, object] | None = None,
    hidden: Collection[str] = (),
) -> str:
    """What each approach saves in the mean against one of them: paired differences with their intervals, about zero.

    Args:
        saved: name to time saved, ns; below zero it takes longer.
        against: what they are compared with.
        noun: of what.
        width: of the picture, px.
        data: ``data-*`` attributes of the picture: what it shows, for programs.
        hidden: names that are not drawn; the others keep ink and marker.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    drawn = {name: estimate for name, estimate in saved.items() if name not in hidden}
    figures = 224  # room for the words, right of the plot
    left, top = _names(drawn, width), 28
    right, bottom = width - figures, top + ROW * len(drawn)
    ends = [end for each in drawn.values() for end in (each.low, each.value, each.high) if end is not None]
    low, high = min(0.0, *ends, 0.0), max(0.0, *ends, 0.0)
    scale = (right - left - 20) / max(high - low, 1.0)

    def at(time: float) -> float:
        return left + 10 + (time - low) * scale

    parts = [text(f"Time saved per {noun} against {fit(against, width - 220, 7)}", 0, 14, "strong", title=against)]
    span = max(high - low, 1.0)
    step = [*ticks(span, int((right - left) // 70)), span + 1][1]  # where there is no room, zero alone
    for k in range(int(low / step), int(high / step) + 1):
        x = at(k * step)
        parts += [
            tag("line", class_="line" if k else "mark", x1=x, x2=x, y1=top - 4, y2=bottom),
            text(show_time(k * step) if k else "0", x, bottom + 14, "faint small", "middle"),
        ]
    inks = identities(saved)
    for row, (name, each) in enumerate(drawn.items()):
        y = top + ROW * (row + 0.5)
        ink, marker = inks[name]
        words = "reference" if name == against else in_words(each)
        inside = [*_name(name, ink, marker, left, y)]
        if each.low is not None and each.high is not None:
            whisker = f"M{at(each.low):.1f} {y}H{at(each.high):.1f}m0-5v10M{at(each.low):.1f} {y - 5}v10"
            inside.append(tag("path", d=whisker, stroke=ink, stroke_width=1.5, fill="none"))
        place = f"translate({at(each.value):.1f} {y})"
        tip = tag("title", escape(f"{name}: {words}"))
        inside += [
            tag("path", tip, d=marker, fill=ink, stroke=ink, stroke_width=1.5, transform=place),
            text(words, right + 4, y + 4, "small"),
        ]
        parts.append(tag("g", *inside, data_approach=name, data_saved_ns=each.value))
    said = ", ".join(f"{name} {in_words(each)}" for name, each in drawn.items() if name != against)
    label = f"Mean time saved per {noun} against {against}, paired, with 95 % intervals: {said}"
    return picture(width, bottom + 22, label, *parts, data=data)


def differences_sheet(saved: Mapping[str, Estimate], against: str, noun: str) -> Sheet:
    """The figures of `differences` as a table, its text twin."""
    rows = [(name, "reference" if name == against else in_words(each)) for name, each in saved.items()]
    caption = f"mean time saved per {noun} against {against}, paired, with 95 % intervals"
    return Sheet(("approach", "saved"), rows, left=("approach", "saved"), caption=caption)


def in_words(saved: Estimate) -> str:
    """A difference, and how sure it is.

    >>> in_words(Estimate(2000.0, 1900.0, 2100.0)), in_words(Estimate(-5.0, -30.0, 20.0)), in_words(Estimate(0.0))
    ('2 µs less ± 100 ns', '5 ns more ± 25 ns: perhaps none', 'the same')
    """
    if not saved.value and not saved.half_width:
        return "the same"
    said = f"{show_time(abs(saved.value))} {'less' if saved.value > 0 else 'more'}"
    if saved.low is None or saved.high is None:
        return f"{said} ± ?"
    return f"{said} ± {show_time((saved.high - saved.low) / 2)}{': perhaps none' * (saved.low <= 0 <= saved.high)}"


def _figures(latency: Distribution) -> dict[str, Estimate]:
    """What is drawn, by name; nothing of no values."""
    if not latency.values:
        return {}
    found = latency.mean, latency.p50, latency.p99, latency.p999, Estimate(latency.max)
    return dict(zip(GLYPHS, found, strict=True))


def _names(names: Collection[str], width: int) -> int:
    """Room for the names left of a plot, px."""
    return min(200, width // 3, 32 + 7 * max(map(len, names), default=0))


def _name(name: str, ink: str, marker: str, left: float, y: float) -> tuple[str, str]:
    """A name and its mark, left of a row."""
    sign = tag("path", d=marker, fill=ink, stroke=ink, stroke_width=1.5, transform=f"translate({left - 12} {y})")
    return text(fit(name, left - 22, 7), left - 24, y + 4, anchor="end", title=name), sign


def _band(each: Estimate, axis: TimeAxis, y: float, ink: str) -> Iterator[str]:
    """The interval of a figure; an arrow where the data do not bound it."""
    x = axis.at(each.value)
    low, high = (x if end is None else axis.at(end) for end in (each.low, each.high))
    if high - low > 0.5:
        yield tag("rect", x=low, y=y - 5, width=high - low, height=10, fill=ink, fill_opacity=0.3)
    if each.high is None and each.low is not None:
        yield tag("path", d=f"M{x:.1f} {y}h13m-4-4l4 4-4 4", stroke=ink, stroke_width=1.5, fill="none")


def _glyph(figure: str, ink: str, x: float, y: float, title: str) -> str:
    """The mark of a figure."""
    return tag(
        "path",
        tag("title", escape(title)) if title else "",
        d=GLYPHS[figure],
        style=f"fill:{'var(--paper)' if figure in HOLLOW else ink};stroke:{ink};stroke-width:1.8",
        transform=f"translate({x:.1f} {y:.1f})",
    )


def _written(estimate: Estimate) -> str:
    if estimate.low is None and estimate.high is None:
        return show_time(estimate.value)
    return str(estimate)
