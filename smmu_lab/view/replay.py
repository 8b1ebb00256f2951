"""The microscope: one recorded run, replayed command by command."""

from __future__ import annotations

from typing import Any

import traitlets

from smmu_lab.charts import lanes, lanes_sheet, still
from smmu_lab.charts.lanes import named
from smmu_lab.record import Run
from smmu_lab.record.journal import Journal
from smmu_lab.units import show_time
from smmu_lab.view.live import Live, script, style

SEEN = 6
"""Lists that the picture shows from the start on."""


class Microscope(Live):
    """A run, replayed in the browser: it asks nothing of Python once it is there.

    Attributes:
        journal: what is replayed.
        record: its columns, one behind the other.
        parts: (name, type, length) of each.
        about: names and figures beside them.
    """

    _esm = script("replay", "lanes", "ring", "microscope")
    _css = style("microscope")

    record = traitlets.Bytes().tag(sync=True)
    parts: traitlets.List[Any] = traitlets.List().tag(sync=True)
    about = traitlets.Dict().tag(sync=True)

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        parts, record = journal.columns()
        super().__init__(record=record, parts=parts, about=described(journal))

    def lasting(self) -> tuple[str, str]:
        """Its beginning as a picture, and the first commands in words."""
        chart = lanes(self.journal, end=window(self.journal))
        words = f"{titled(self.journal.run)}\n\n{lanes_sheet(self.journal, SEEN)!r}"
        return still(chart, summary(self.journal)), words


def titled(run: Run) -> str:
    """What is replayed, in a line."""
    return f"{run.approach.name}: {run.scenario.workload}, {run.scenario.vcpus} vCPU{'s'[: run.scenario.vcpus > 1]}"


def window(journal: Journal) -> int:
    """A time from the start on in which a few lists come to their end, ns."""
    ends = sorted(time for time in journal.lists["covered"] if time >= 0)
    return max(1000, ends[: max(1, SEEN)][-1] if ends else journal.end)


def summary(journal: Journal) -> str:
    """What is replayed, for those who do not see it."""
    commands, lists = len(journal.entries), len(journal.lists)
    return (
        f"Replay of {commands:,} commands in {lists:,} lists over {show_time(journal.end)}, in lanes by who is at work"
    )


def described(journal: Journal) -> dict[str, Any]:
    """What the columns do not say."""
    run = journal.run
    stops = run.stops
    kept = range(len(stops))
    many = f"{len(journal.entries):,} commands, {show_time(journal.end)}"
    return {
        "title": titled(run),
        "note": many if journal.whole else f"the first {many}",
        "summary": summary(journal),
        "end": journal.end,
        "window": window(journal),
        "lanes": [
            {
                "name": named(lane),
                "title": lane.name,
                "rows": lane.rows,
                "hidden": lane.hidden,
                "guest": _guest(lane.name),
            }
            for lane in journal.lanes
        ],
        "rings": [{"name": ring.name, "size": ring.size, "guest": _guest(ring.name)} for ring in journal.queues],
        "texts": list(journal.texts),
        "p99": run.latency.p99.value if run.measured else 0,
        "slowest": max(run.latencies, default=0),
        "stops": [
            {
                "queue": stops["queue"][k],
                "times": [stops[name][k] for name in ("stopped", "told", "handled", "resumed")],
            }
            for k in kept
            if stops["stopped"][k] <= journal.end
        ],
    }


def _guest(name: str) -> str:
    """The guest that a node belongs to; empty for what is the host's."""
    owner = name.partition(".")[0]
    return owner if owner.startswith("guest") else ""
