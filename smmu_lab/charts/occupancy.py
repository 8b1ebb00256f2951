"""How many entries stood in a queue over a run: a line small enough for the margin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby, pairwise

from smmu_lab.charts.palette import COLOURS
from smmu_lab.charts.svg import picture, tag, text
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number, show_time

Drain = tuple[int, int, int]
"""When the first PROD write that it covers came, when CONS was stored, ns; and how many entries."""

TOP, HIGH = 36, 56
"""Room above the line, and its height, px."""


def occupancy(drains: Sequence[Drain], start: int, end: int, size: int, width: int = 300) -> str:
    """The entries between CONS and PROD as a stepped line; its first peak is marked with its value.

    All entries of a drain count from the first PROD write that it covers, as in `smmu_lab.study.load.loads`: it is what
    there may have been, never more than the queue has room for.

    Args:
        drains: of one queue, in any order.
        start: of the run, ns.
        end: of the run, ns.
        size: entries that the queue has room for.
        width: of the picture, px.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    steps = [(time, min(level, size)) for time, level in _steps(drains, start)]
    end = max(end, steps[-1][0], start + 1)
    at, peak = max(steps, key=lambda step: step[1])
    mean = sum(level * (until - since) for since, until, level in _spans(steps, end)) / (end - start)
    left, right, bottom = 4, width - 4, TOP + HIGH

    def along(time: int) -> int:
        return round(left + (right - left) * (time - start) / (end - start))

    def up(level: int) -> float:
        return round(bottom - HIGH * level / max(1, peak), 1)

    path, last = f"M{left} {bottom:g}", 0
    for x, some in groupby(steps, key=lambda step: along(step[0])):
        levels = [last, *(level for _, level in some)]
        met = (max(levels), min(levels), levels[-1])  # as much of many steps as a px can show
        path += f"H{x}" + "".join(f"V{up(b):g}" for a, b in zip((last, *met), met, strict=False) if a != b)
        last = levels[-1]
    path += f"H{right}"
    said = f"at most {peak:,} of {size:,} entries, at {_since(at - start)}; {show_number(mean)} on average"
    ink = COLOURS["doorbell"]
    beside = "start" if along(at) < width / 2 else "end"
    return picture(
        width,
        bottom + 20,
        f"Entries in the queue over time: {said}",
        text("entries in the queue over the run", left, 12, "faint small"),
        tag("line", class_="line", x1=left, x2=right, y1=bottom, y2=bottom),
        tag("path", d=f"{path}V{bottom:g}Z", fill=ink, fill_opacity=0.2),
        tag("path", tag("title", escape(said)), d=path, fill="none", stroke=ink),
        tag("path", d=f"M{along(at) - 3} {up(peak):g}a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", fill=ink),
        text(f"{peak:,}", along(at), up(peak) - 6, "small strong", beside),
        text("0", left, bottom + 14, "faint small"),
        text(show_time(end - start), right, bottom + 14, "faint small", "end"),
        data={"peak": peak, "at": at, "mean": mean, "size": size},
    )


def occupancy_sheet(drains: Sequence[Drain], start: int, end: int, parts: int = 8) -> Sheet:
    """The figures of `occupancy` as a table, its text twin: the run in parts of equal length."""
    steps = _steps(drains, start)
    end = max(end, steps[-1][0], start + 1)
    cuts = [start + (end - start) * k // parts for k in range(parts + 1)]
    rows = []
    for low, high in pairwise(cuts):
        held, most = 0, 0
        for since, until, level in _spans(steps, end):
            within = min(until, high) - max(since, low)
            if within > 0:
                held, most = held + level * within, max(most, level)
        rows.append((_since(low - start), _since(high - start), show_number(held / max(1, high - low)), f"{most:,}"))
    return Sheet(("from", "until", "mean entries", "most"), rows, caption="entries in the queue")


def _steps(drains: Iterable[Drain], start: int) -> list[tuple[int, int]]:
    """Times, and how many entries there are from then on."""
    moves = Counter({start: 0})
    for rung, end, entries in drains:
        moves[rung] += entries
        moves[end] -= entries
    level, steps = 0, []
    for time in sorted(moves):
        level += moves[time]
        steps.append((time, level))
    return steps


def _spans(steps: Sequence[tuple[int, int]], end: int) -> Iterator[tuple[int, int, int]]:
    """From when to when there are how many entries."""
    ends = [time for time, _ in steps[1:]] + [end]
    for (since, level), until in zip(steps, ends, strict=True):
        yield since, until, level


def _since(time: int) -> str:
    return show_time(time) if time else "0"
