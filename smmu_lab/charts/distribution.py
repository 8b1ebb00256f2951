"""How latencies are distributed: for each time, the share of operations that took longer."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from html import escape
from math import ceil, log10

from smmu_lab.charts.axis import TimeAxis, key
from smmu_lab.charts.palette import identities
from smmu_lab.charts.svg import picture, tag, text
from smmu_lab.record import Run, Sample, noun_of
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
BEYOND = 6
"""Operations that must have taken longer than what is drawn: with fewer, nothing bounds a quantile from above."""
DECADES = 4
"""The least share drawn is 10 to the minus this."""
LEVELS = 120
"""Shares at which a line is read, at most, besides the quantiles."""
HEIGHT = 230
"""Of the plot, px."""


def distribution(
    runs: Mapping[str, Run | Sample],
    width: int = 860,
    data: Mapping[str, object] | None = None,
    log: bool = True,
    hidden: Collection[str] = (),
) -> str:
    """The tail of the latency under each approach: for each time, the share of operations that took longer.

    The share is logarithmic, so that one in a thousand is as visible as one in two. A line ends where fewer than
    `BEYOND` operations took longer. It stands on a few hundred of them, the quantiles among them exactly.

    Args:
        runs: name to record.
        width: of the picture, px.
        data: ``data-*`` attributes of the picture: what it shows, for programs.
        log: times are logarithmic, too; else linear, from zero.
        hidden: names that are not drawn; the others keep ink and marker.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    drawn = {name: run.latency for name, run in runs.items() if name not in hidden}
    steps = {name: _steps(latency.ordered) for name, latency in drawn.items()}
    inks = identities(runs)
    keys = list(key({name: inks[name] for name in drawn}, width, 18))
    most = max((len(latency.values) for latency in drawn.values()), default=0)
    decades = min(DECADES, ceil(log10(most / BEYOND))) if most > BEYOND else 1
    left, right, top = 46, width - 42, max((foot for _, _, foot in keys), default=18) + 16
    bottom = top + HEIGHT
    axis = TimeAxis((time for found in steps.values() for time, _, _ in (found[:1] + found[-1:])), left, right, log)

    def level(share: float) -> float:
        return top - HEIGHT * max(log10(share), -decades) / decades

    noun = noun_of(runs.values())
    parts = [text(f"Share of {noun}s that took longer", 0, 14, "strong")]
    for k in range(decades + 1):
        y = level(10**-k)
        parts += [
            tag("line", class_="line", x1=left, x2=right, y1=y, y2=y),
            text(f"{10 ** (2 - k):g} %", left - 6, y + 4, "faint small", "end"),
        ]
    for quantile, q in QUANTILES.items():
        if 1 - q > 0.99 * 10**-decades:
            y = level(1 - q)
            dashes = tag("line", class_="line", x1=left, x2=right, y1=y, y2=y, stroke_dasharray="2 3")
            parts += [dashes, text(quantile, right + 6, y + 4, "small")]
    for time in axis.marks if any(steps.values()) else ():
        x = axis.at(time)
        parts += [
            tag("line", class_="line", x1=x, x2=x, y1=top, y2=bottom),
            text(show_time(time) if time else "0", x, bottom + 16, "faint small", "middle"),
        ]
    for number, (name, entry, _) in enumerate(keys):
        thick = 3.4 - 1.8 * number / len(keys)  # a line that later ones cover still shows beside them
        ink, marker = inks[name]
        path = "L".join(
            f"{axis.at(time):.1f} {level(before):.1f}V{level(after):.1f}" for time, before, after in steps[name]
        )
        inside = [entry, tag("path", d=f"M{path}", fill="none", stroke=ink, stroke_width=thick)] if path else [entry]
        figures = _figures(drawn[name].ordered)
        for quantile, time in figures.items():
            inside.append(
                tag(
                    "path",
                    tag("title", escape(f"{name}: {quantile} {show_time(time)}")),
                    d=marker,
                    fill=ink,
                    stroke=ink,
                    stroke_width=1.5,
                    transform=f"translate({axis.at(time):.1f} {level(1 - QUANTILES[quantile]):.1f})",
                )
            )
        exact = {f"data-{quantile.replace('.', '')}-ns": time for quantile, time in figures.items()}
        parts.append(tag("g", *inside, data_approach=name, **exact))
    note = f"A line ends where fewer than {BEYOND} {noun}s took longer" + (
        "." if any(steps.values()) else ": here at once."
    )
    parts.append(text(note, left, bottom + 36, "faint small"))
    said = ", ".join(f"{name} {show_time(latency.p99.value)}" for name, latency in drawn.items() if latency.values)
    label = f"Share of {noun}s that took longer than a time; 1 % took longer than: {said}"
    return picture(width, bottom + 44, label, *parts, data=data)


def distribution_sheet(runs: Mapping[str, Run | Sample]) -> Sheet:
    """The figures of `distribution` as a table, its text twin."""
    rows = []
    for name, run in runs.items():
        figures = _figures(run.latency.ordered)
        cells = (show_time(figures[quantile]) if quantile in figures else "?" for quantile in QUANTILES)
        rows.append((name, f"{len(run.latency.values):,}", *cells))
    noun = noun_of(runs.values())
    caption = f"latency of one {noun} that half, 1 % and 0.1 % exceed (?: fewer than {BEYOND} took longer)"
    return Sheet(("approach", f"{noun}s", *QUANTILES), rows, left=("approach",), caption=caption)


def _figures(ordered: Sequence[int]) -> dict[str, int]:
    """The quantiles that enough operations exceed."""
    places = {name: ceil(len(ordered) * q) - 1 for name, q in QUANTILES.items()}
    return {name: ordered[place] for name, place in places.items() if 0 <= place < len(ordered) - BEYOND}


def _steps(ordered: Sequence[int]) -> list[tuple[int, float, float]]:
    """Times, ascending, with the shares that took at least as long and longer."""
    n = len(ordered)
    if n <= BEYOND:
        return []
    longer = {round(n * (BEYOND / n) ** (k / LEVELS)) for k in range(LEVELS + 1)}  # even on a logarithmic axis
    places = {max(0, n - each - 1) for each in longer} | {0} | {ceil(n * q) - 1 for q in QUANTILES.values()}
    times = sorted({ordered[place] for place in places if place < n - BEYOND})
    return [
        (time, (n - bisect_left(ordered, time)) / n, max(n - bisect_right(ordered, time), BEYOND) / n) for time in times
    ]
