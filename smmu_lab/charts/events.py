"""What an operation needs: exits, ioctls, CMD_SYNCs and CPU time, each on a scale of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from html import escape

from smmu_lab.charts.palette import identities
from smmu_lab.charts.svg import fit, picture, tag, text
from smmu_lab.record import Run, Sample, noun_of
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number, show_time

EVENTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "exits to VMM": ("exits_vmm", show_number),
    "exits to kernel": ("exits_kernel", show_number),
    "ioctls": ("ioctls", show_number),
    "host SYNCs": ("host_syncs", show_number),
    "CONS reads": ("cons_reads", show_number),
    "wakes": ("wakes", show_number),
    "interrupts": ("interrupts", show_number),
    "CPU: guest": ("cpu_guest", show_time),
    "CPU: VMM, host": ("cpu_host", show_time),
    "CPU: worker": ("cpu_worker", show_time),
}
"""Name to field of `Counts` and how it is written. CPU time is by thread: the vCPU inside and outside the guest, and a
kernel worker."""

ROW = 22
"""Height of a row, px."""
CELL = 90
"""Least width of a column, px."""


def events(
    runs: Mapping[str, Run | Sample],
    width: int = 860,
    data: Mapping[str, object] | None = None,
    hidden: Collection[str] = (),
) -> str:
    """What one operation needs under each approach, a small chart for each kind of event, all from zero.

    Each kind has its own scale: bars of one column compare, those of different columns do not. A zero has no bar.

    Args:
        runs: name to record, drawn in this order.
        width: of the picture, px.
        data: ``data-*`` attributes of the picture: what it shows, for programs.
        hidden: names that are not drawn; the others keep ink and marker.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    drawn = {name: run for name, run in runs.items() if name not in hidden}
    inks = identities(runs)
    left = min(196, 28 + 7 * max(map(len, drawn), default=0))
    most = max(1, int((width - left) // CELL))
    bands = -(-len(EVENTS) // most)
    columns = -(-len(EVENTS) // bands)
    cell, high = (width - left) / columns, ROW * len(drawn) + 34
    noun = noun_of(runs.values())
    parts = [text(f"Per {noun}; each column from zero, on its own scale", 0, 14, "strong")]
    rows: dict[str, list[str]] = {name: [] for name in drawn}
    for place, (event, (field, show)) in enumerate(EVENTS.items()):
        x, top = left + cell * (place % columns), 30 + high * (place // columns) + 18
        values = {name: run.per_operation(field) for name, run in drawn.items()}
        full = max(values.values(), default=0.0) or 1.0
        foot = top + ROW * len(drawn)
        parts += [text(event, x, top - 6, "small"), tag("line", class_="line", x1=x, x2=x, y1=top, y2=foot)]
        for row, (name, value) in enumerate(values.items()):
            y = top + ROW * (row + 0.5)
            long = (cell - 58) * value / full
            if place % columns == 0:
                ink, marker = inks[name]
                sign = tag(
                    "path", d=marker, fill=ink, stroke=ink, stroke_width=1.5, transform=f"translate({left - 12} {y})"
                )
                rows[name] += [text(fit(name, left - 22, 7), left - 24, y + 4, anchor="end", title=name), sign]
            rows[name] += [
                tag(
                    "rect",
                    tag("title", escape(f"{name}, {event}: {show(value)}")),
                    x=x,
                    y=y - 6,
                    width=long,
                    height=12,
                    fill=inks[name][0],
                    data_event=field,
                    data_value=value,
                ),
                text(show(value) if value else "0", x + long + 4, y + 4, "small" if value else "faint small"),
            ]
    parts += [tag("g", *inside, data_approach=name) for name, inside in rows.items()]
    label = f"Events and CPU time of one {noun}: {'; '.join(_line(name, run) for name, run in drawn.items())}"
    return picture(width, 30 + high * bands, label, *parts, data=data)


def events_sheet(runs: Mapping[str, Run | Sample]) -> Sheet:
    """The figures of `events` as a table, its text twin."""
    rows = [(name, *(show(run.per_operation(field)) for field, show in EVENTS.values())) for name, run in runs.items()]
    caption = f"events and CPU time per {noun_of(runs.values())}"
    return Sheet(("approach", *EVENTS), rows, left=("approach",), caption=caption)


def _line(name: str, run: Run | Sample) -> str:
    figures = {event: (run.per_operation(field), show) for event, (field, show) in EVENTS.items()}
    return f"{name} {', '.join(f'{event} {show(value)}' for event, (value, show) in figures.items() if value)}"
