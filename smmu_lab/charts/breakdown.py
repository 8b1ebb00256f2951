"""Where the time goes: the stages of an operation as stacked bars."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from itertools import accumulate, pairwise

from smmu_lab.charts.palette import COLOURS, PARTIES, WAITING, ink_on
from smmu_lab.charts.svg import fit, picture, tag, text, ticks
from smmu_lab.record import STAGES, Run, Sample, noun_of
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

ROW, BAR = 30, 20
"""Height of a row and of the bar in it, px."""
NARROW = 680
"""Below this width the shares stand under the times, px."""


def breakdown(runs: Mapping[str, Run | Sample], width: int = 860, data: Mapping[str, object] | None = None) -> str:
    """Where the time of one operation goes under each approach: stacked bars, a stage a segment.

    One panel is time, linear and from zero, with a whisker to p99. The other has the same segments as shares of the
    mean: where one approach takes twenty times as long as another, it still shows what each spends it on.

    Args:
        runs: name to record, drawn in this order.
        width: of the picture, px.
        data: ``data-*`` attributes of the picture: what it shows, for programs.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    means = {name: sum(run.breakdown.values()) for name, run in runs.items()}
    p99s = {name: float(run.latency.p99.value) if run.measured else 0.0 for name, run in runs.items()}
    full = max(*means.values(), *p99s.values(), 1.0)
    left = min(200, 16 + 7 * max(map(len, runs)))
    figures = 140  # room for mean and p99, right of their bars
    top = 32
    bottom = top + ROW * len(runs)
    if width >= NARROW:
        panel, down = round((width - left - figures) * 0.6), 0
        right = left + panel + figures
    else:
        panel, down, right = width - left - figures, bottom + 28, left  # shares stand below
    share = width - right - 1

    parts = [
        text(f"Latency of one {_noun(runs)}: mean by stage, whisker to p99", 0, 14, "strong"),
        text("Shares of the mean", 0 if down else right, down + 14, "strong"),
    ]
    for at in ticks(full, panel // 70):
        x = left + panel * at / full
        parts += [
            tag("line", class_="line", x1=x, x2=x, y1=top - 4, y2=bottom),
            text(show_time(at) if at else "0", x, bottom + 14, "faint small", "middle"),
        ]
    for row, (name, run) in enumerate(runs.items()):
        y = top + ROW * row + (ROW - BAR) / 2
        mean, p99 = means[name], p99s[name]
        end, tip, middle = left + panel * mean / full, left + panel * p99 / full, y + BAR / 2
        inside = [
            *(
                text(fit(name, left - 10, 7), left - 8, line + 4, anchor="end", title=f"{name}: {run.approach.title}")
                for line in sorted({middle, middle + down})
            ),
            *_segments(run, name, left, y, panel / full),
            tag("path", class_="mark", fill="none", d=f"M{end:.2f} {middle}H{tip:.2f}M{tip:.2f} {middle - 5}v10"),
            _figures(mean, p99, max(end, tip) + 6, middle + 4),
            *(_segments(run, name, right, down + y, share / mean, labels=True) if mean else ()),
        ]
        parts.append(tag("g", *inside, data_approach=name, data_mean_ns=mean, data_p99_ns=p99))
    legend = bottom + down + (20 if down else 36)
    parts.append(text("thick: work, thin: waiting", width - 1, legend + 48, "faint small", "end"))
    used = [
        stage
        for stage in STAGES
        if stage not in ("recover", "stolen") or any(run.breakdown[stage] for run in runs.values())
    ]
    parts += _legend(used, legend, width)
    height = legend + 8 + 16 * (max(len(set(stages) & set(used)) for stages in PARTIES.values()))
    return picture(width, height, summary(runs), *parts, data=data)


def breakdown_sheet(runs: Mapping[str, Run | Sample]) -> Sheet:
    """The figures of `breakdown` as a table, its text twin."""
    used = [stage for stage in STAGES if any(run.breakdown[stage] for run in runs.values())]
    rows = [
        (
            name,
            *(show_time(run.breakdown[stage]) if run.breakdown[stage] else "-" for stage in used),
            show_time(sum(run.breakdown.values())),
            show_time(run.latency.p99.value) if run.measured else "-",
        )
        for name, run in runs.items()
    ]
    return Sheet(("approach", *used, "mean", "p99"), rows, left=("approach",), caption="where the mean goes")


def summary(runs: Mapping[str, Run | Sample]) -> str:
    """What `breakdown` shows, in one line for those who cannot see it."""
    said = (f"{name} {show_time(sum(run.breakdown.values()))}" for name, run in runs.items())
    return f"Mean latency of one {_noun(runs)} by stage: {', '.join(said)}"


def _noun(runs: Mapping[str, Run | Sample]) -> str:
    return noun_of(runs.values())


def _segments(run: Run | Sample, name: str, x: float, y: float, scale: float, labels: bool = False) -> Iterator[str]:
    """One bar. `scale`: px per ns; `labels`: write the stage into segments that are wide enough."""
    mean = sum(run.breakdown.values())
    edges = accumulate(run.breakdown.values(), initial=0.0)
    for (stage, ns), (start, end) in zip(run.breakdown.items(), pairwise(edges), strict=True):
        wide = (end - start) * scale
        if not ns:
            continue
        yield tag(
            "rect",
            tag("title", escape(f"{name}, {stage}: {show_time(ns)}, {ns / mean:.0%}")),
            class_="edge" if wide > 3 else "",
            x=x + start * scale,
            y=y + inset(stage),
            width=wide,
            height=BAR - 2 * inset(stage),
            fill=COLOURS[stage],
            data_stage=stage,
            **{"data-share" if labels else "data-ns": ns / mean if labels else ns},
        )
        if labels and wide > 6.6 * len(stage) + 6:
            ink = f"fill:{ink_on(COLOURS[stage])};pointer-events:none"
            yield text(stage, x + (start + end) / 2 * scale, y + BAR / 2 + 4, "small", "middle", style=ink)


def _figures(mean: float, p99: float, x: float, y: float) -> str:
    """The mean, and smaller what the whisker shows."""
    tail = tag("tspan", escape(f"  p99 {show_time(p99)}"), class_="faint small", font_weight="normal")
    return tag("text", tag("tspan", escape(show_time(mean)), class_="strong"), tail, class_="halo", x=x, y=y)


def _legend(used: list[str], y: float, width: int) -> Iterator[str]:
    """Stages under the party that is at it; a thick bar is work, a thin one waiting."""
    for column, (party, stages) in enumerate(PARTIES.items()):
        x = column * width / len(PARTIES)
        yield text(party, x, y, "faint small")
        for row, stage in enumerate(each for each in stages if each in used):
            line = y + 16 * (row + 1)
            high = 12 - inset(stage)
            yield tag("rect", x=x, y=line - 4 - high / 2, width=14, height=high, fill=COLOURS[stage], data_key=stage)
            tip = tag("title", escape(f"{stage}: {STAGES[stage]}"))
            yield tag("text", tip, escape(stage), class_="small", x=x + 20, y=line, data_key=stage)


def inset(stage: str) -> int:
    """How much thinner than a full bar a stage is drawn, above and below, px."""
    return 4 if stage in WAITING else 0
