"""Who is at work on which commands when: a stretch of a journal as swim lanes."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from smmu_lab.charts.palette import COLOURS, COMMANDS, ink_on
from smmu_lab.charts.svg import fit, picture, tag, text, ticks
from smmu_lab.record import STAGES
from smmu_lab.record.journal import Journal, Lane
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_time

ROW, GAP, THICK, THIN = 14, 8, 12, 5
"""Height of a row, space between lanes, height of a bar of work and of one that waits, px."""
LEFT = 140
MOST = 2_000
"""Bars of a picture; what comes later is not drawn, and that is said."""


def named(lane: Lane) -> str:
    """What a lane is called beside it.

    >>> named(Lane("guest0.exits", "exit")), named(Lane("smmu0.cmdq", "cmdq")), named(Lane("worker0", "worker"))
    ('guest0 KVM exits', 'smmu0 host queue', 'worker0')
    """
    owner, _, own = lane.name.partition(".")
    kinds = {"exit": "KVM exits", "cmdq": "host queue", "smmu": "engine", "vmm": "VMM"}
    return f"{owner} {kinds.get(lane.kind, own)}".strip()


def lanes(journal: Journal, start: int = 0, end: int | None = None, width: int = 860) -> str:
    """The lanes of a journal between two times. A thick bar is work, a thin one waiting, as in the breakdown.

    Args:
        journal: what became of every entry.
        start: ns.
        end: ns; unless given, that of the journal.
        width: of the picture, px.

    Returns:
        An ``<svg>`` that stands alone and needs no script.
    """
    end = max(journal.end if end is None else end, start + 1)
    scale = (width - LEFT - 16) / (end - start)
    places, y = [], 40
    for lane in journal.lanes:
        places.append(y)
        y += lane.rows * ROW + GAP
    parts = [text(f"Who is at work, {show_time(start)} to {show_time(end)}: thick works, thin waits", 0, 14, "strong")]
    for at in ticks(end - start, max(1, (width - LEFT) // 90)):
        x = LEFT + at * scale
        parts += [
            tag("line", class_="line", x1=x, x2=x, y1=32, y2=y),
            text(show_time(start + at) if start + at else "0", x, 28, "faint small", "middle" if at else "start"),
        ]
    for lane, top in zip(journal.lanes, places, strict=True):
        name = named(lane)
        parts.append(text(fit(name, LEFT - 12, 6.4), 0, top + lane.rows * ROW / 2 + 4, title=name))
    drawn, more = 0, 0
    for lane_, row, stage, thin, since, until, _, _ in zip(
        *map(journal.spans.__getitem__, journal.spans.names), strict=True
    ):
        if until <= start or since >= end:
            continue
        if drawn == MOST:
            more += 1
            continue
        drawn += 1
        left, right = LEFT + (max(since, start) - start) * scale, LEFT + (min(until, end) - start) * scale
        parts += _bar(
            journal.lanes[lane_],
            list(STAGES)[stage],
            bool(thin),
            (left, right),
            places[lane_] + row * ROW,
            (since, until),
        )
    if more:
        parts.append(text(f"and {more:,} more bars, not drawn", width - 1, 14, "faint small", "end"))
    return picture(
        width, y + 4, f"Swim lanes of {journal.run.approach.name}, {show_time(start)} to {show_time(end)}", *parts
    )


def _bar(lane: Lane, stage: str, thin: bool, x: tuple[float, float], y: float, times: tuple[int, int]) -> Iterator[str]:
    left, right = x
    wide, high = max(0.8, right - left), THIN if thin else THICK
    since, until = times
    tip = f"{named(lane)}: {stage}, {show_time(since)} to {show_time(until)} ({show_time(until - since)})"
    yield tag(
        "rect",
        tag("title", escape(tip)),
        x=left,
        y=y + (ROW - high) / 2,
        width=wide,
        height=high,
        fill=COLOURS[stage],
        data_lane=lane.name,
        data_stage=stage,
        data_start=since,
        data_end=until,
    )
    if not thin and wide > 6.4 * len(stage) + 6:
        ink = f"fill:{ink_on(COLOURS[stage])};pointer-events:none"
        yield text(stage, left + wide / 2, y + ROW / 2 + 4, "small", "middle", style=ink)


def lanes_sheet(journal: Journal, most: int = 12) -> Sheet:
    """The first lists of a journal and their times, the text twin of `lanes`."""
    lists, entries = journal.lists, journal.entries
    kinds = list(COMMANDS)
    order = sorted(range(len(lists)), key=lambda row: lists["asked"][row])[:most]
    stamps = ("asked", "published", "taken", "covered", "seen")
    rows = []
    for row in order:
        first, many = lists["first"][row], lists["entries"][row]
        held = [kinds[kind] for kind in entries["kind"][first : first + many]]
        said = " + ".join(f"{held.count(kind)} {kind}" for kind in dict.fromkeys(held))
        times = [show_time(lists[name][row]) if lists[name][row] >= 0 else "-" for name in stamps]
        who = f"guest{lists['guest'][row]}.vcpu{lists['vcpu'][row]}"
        rows.append((who, journal.queues[lists["queue"][row]].name, said, *times))
    head = ("vCPU", "queue", "list", "begins at", "PROD covers it", "taken up", "CONS covers it", "seen")
    return Sheet(head, rows, left=head[:3], caption=f"the first lists of {len(lists):,}")
