"""A machine and what a run says of it, looked up once for all of its parts; and how it is put into rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.charts.gather import Loads
from smmu_lab.charts.occupancy import Drain
from smmu_lab.record import KINDS, Run
from smmu_lab.scenario import Approach, Scenario
from smmu_lab.sheet import Sheet
from smmu_lab.study.served import Served, sent, served
from smmu_lab.units import show_number

if TYPE_CHECKING:
    from networkx import DiGraph

MOST = 20
"""Rows of a table; how many more there are is said."""
FIRST_VMID = 1
"""VMIDs of an SMMU count from here, in the order of guests; Linux keeps 0 to itself."""

Rows = list[tuple[str, str]]


@attrs.frozen
class Details:
    """What a part is and holds.

    Attributes:
        rows: label and value.
        sheets: tables.
        svg: its occupancy over time, of a queue.
    """

    rows: Rows
    sheets: Sequence[Sheet] = ()
    svg: str = ""


@attrs.define(slots=False, eq=False)
class Facts:
    """A machine, and what a run says of it; without a run there is only the structure.

    Attributes:
        scenario: whose machine it is.
        row: who serves it.
        graph: see `smmu_lab.scenario.wire`.
        run: what happened, if it ran.
        loads: see `smmu_lab.study.load.loads`.
    """

    scenario: Scenario
    row: Approach
    graph: DiGraph[str]
    run: Run | None = None
    loads: Loads = attrs.field(factory=dict)

    def about(self, name: str) -> Mapping[str, Any]:
        """Attributes of a node."""
        found: Mapping[str, Any] = self.graph.nodes[name]
        return found

    def before(self, name: str, *kinds: str) -> list[str]:
        """Nodes of some kinds that lead to a node."""
        return [up for up in self.graph.predecessors(name) if self.about(up)["kind"] in kinds]

    def after(self, name: str, *kinds: str) -> list[str]:
        """Nodes of some kinds that a node leads to."""
        return [down for down in self.graph.successors(name) if self.about(down)["kind"] in kinds]

    @cached_property
    def served(self) -> Mapping[str, Served]:
        """What became of the entries of each queue."""
        return served(self.run) if self.run else {}

    @cached_property
    def drains(self) -> Mapping[tuple[int, int], list[Drain]]:
        """The drains of each queue, by guest and number."""
        found: dict[tuple[int, int], list[Drain]] = {}
        if self.run:
            columns = map(self.run.batches.__getitem__, ("guest", "queue", "rung", "end", "commands"))
            for guest, queue, rung, end, entries in zip(*columns, strict=True):
                found.setdefault((guest, queue), []).append((rung, end, entries))
        return found

    @cached_property
    def pointers(self) -> Mapping[tuple[int, int], tuple[int, int]]:
        """PROD and CONS at the end, by guest and number."""
        return {(guest, queue): (prod, cons) for guest, queue, prod, cons in (self.run.queues if self.run else ())}

    @cached_property
    def span(self) -> tuple[int, int]:
        """When the run began and ended, ns."""
        assert self.run
        starts = self.run.ops["start"]
        ends = [start + took for start, took in zip(starts, self.run.latencies, strict=True)]
        return min(starts, default=0), max(ends, default=0)

    @cached_property
    def took(self) -> Mapping[tuple[int, int], list[int]]:
        """Latencies of all operations of each vCPU, by guest and number, ns."""
        found: dict[tuple[int, int], list[int]] = {}
        if self.run:
            columns = self.run.ops["guest"], self.run.ops["vcpu"], self.run.latencies
            for guest, vcpu, latency in zip(*columns, strict=True):
                found.setdefault((guest, vcpu), []).append(latency)
        return found

    @cached_property
    def did(self) -> Mapping[tuple[int, int], Counter[str]]:
        """How many operations of each kind each vCPU did, by guest and number."""
        found: dict[tuple[int, int], Counter[str]] = {}
        if self.run:
            columns = map(self.run.ops.__getitem__, ("guest", "vcpu", "kind"))
            for guest, vcpu, kind in zip(*columns, strict=True):
                found.setdefault((guest, vcpu), Counter())[KINDS[kind]] += 1
        return found

    @cached_property
    def sent(self) -> Mapping[tuple[int, int], tuple[int, int, int]]:
        """Operations, TLBIs and ATC_INVs of each vCPU, by guest and number."""
        return sent(self.run) if self.run else {}

    @cached_property
    def vmids(self) -> Mapping[tuple[str, int], int]:
        """The VMID of each guest at each SMMU."""
        return {
            (smmu, guest): FIRST_VMID + place
            for smmu, about in self.graph.nodes.items()
            if about["kind"] == "smmu"
            for place, guest in enumerate(sorted({guest_of(device) for device in self.after(smmu, "device")}))
        }

    # -- in rows -----------------------------------------------------------------------------------------------------

    def vmid(self, smmu: str, guest: int) -> str:
        """The VMID of a guest at an SMMU, in words."""
        return str(self.vmids.get((smmu, guest), "none"))

    def busy(self, name: str, what: str) -> Rows:
        """How much of the run a part was at work, if that is known."""
        load = self.loads.get(name)
        return [(what, f"{load.busy:.1%} of the run")] if load and load.busy is not None else []

    def passed(self, name: str) -> int:
        """Commands, or requests, that were taken out of a queue; none without a run."""
        each = self.served.get(name, Served())
        return each.entries if self.about(name)["row"].front == "virtio-iommu" else each.commands

    def commands(self, name: str) -> Rows:
        """How many commands passed, if that is known."""
        return [("commands", f"{self.loads[name].commands:,}")] if name in self.loads else []

    def queues(self, names: Sequence[str]) -> list[Sheet]:
        """What was taken out of some queues."""
        rows = []
        for name in names:
            each, passed = self.served.get(name), self.passed(name)
            mean = show_number(passed / each.drains) if each and each.drains else ""
            rows.append((name, *((f"{passed:,}", f"{each.drains:,}", mean) if each else ("", "", ""))))
        return [table(rows, ("queue", "commands", "drains", "per drain"), "its queues")] if rows else []


def guest_of(name: str) -> int:
    """Number of the guest that a node belongs to."""
    return int(name.partition(".")[0].removeprefix("guest"))


def many(count: int, noun: str, plural: str = "") -> str:
    """A number of things.

    >>> many(1, "entry", "entries"), many(1200, "command")
    ('1 entry', '1,200 commands')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names, the first ones of many.

    >>> listed(["a", "b", "c"], 2), listed([])
    ('a, b and 1 more', 'none')
    """
    known = list(names)
    more = len(known) - most
    return ", ".join(known[:most]) + f" and {more:,} more" * (more > 0) if known else "none"


def stream(about: Mapping[str, Any]) -> str:
    """A StreamID as the guest knows it, and as the SMMU does.

    >>> stream({"vsid": 8, "sid": 0x100})
    '0x8 → 0x100'
    """
    return " \N{RIGHTWARDS ARROW} ".join(f"{about[key]:#x}" for key in ("vsid", "sid") if key in about) or "none"


def table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...], caption: str, words: int = 1) -> Sheet:
    """At most `MOST` rows, and only columns that say something; the first ones hold `words`."""
    more = f" (the first {MOST} of {len(rows):,})" if len(rows) > MOST else ""
    kept = [k for k in range(len(head)) if not k or any(row[k] for row in rows)]
    shown = [tuple(row[k] for k in kept) for row in rows[:MOST]]
    return Sheet(tuple(head[k] for k in kept), shown, left=head[:words], caption=caption + more)
