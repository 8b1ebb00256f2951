"""What became of every entry of every queue: the stamps that a record leaves out, in columns of whole nanoseconds."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import attrs

from smmu_lab.record.columns import Table
from smmu_lab.record.run import Run

LISTS = {
    "guest": "H",
    "vcpu": "H",
    "queue": "H",
    "op": "I",
    "first": "I",
    "entries": "I",
    "begin": "I",
    "owner": "B",
} | dict.fromkeys(("asked", "written", "published", "taken", "visible", "covered", "seen"), "q")
"""Columns of ``lists``: one row per issue call, by queue and in its order; times in ns, -1 for never.

`queue`: number in ``queues``; `op`: row of the run's ``ops``; `first`: row of its first entry in ``entries``, and
`entries` how many; `begin`: count of entries before it in its queue; `owner`: its vCPU writes PROD for itself and for
those that ride along. `asked`: the driver begins to write it, with its place allocated; `written`: its last entry is;
`published`: PROD covers it; `taken`: the consumer takes it up; `visible`: the end of its work can be seen; `covered`:
CONS covers it; `seen`: its vCPU has seen that, if it waits for a CMD_SYNC.
"""

ENTRIES = {"kind": "B", "text": "I", "start": "q", "done": "q"}
"""Columns of ``entries``: one row per command, in the order of ``lists``; times in ns, -1 for what the SMMU never sees.

`kind`: number in `smmu_lab.charts.palette.COMMANDS`; `text`: number in ``texts``; `start`, `done`: of the list at the
SMMU that holds it.
"""

SPANS = {"lane": "H", "row": "B", "stage": "B", "thin": "B", "start": "q", "end": "q", "first": "I", "last": "I"}
"""Columns of ``spans``: who is at work when, by lane and row and in the order of time, ns.

`row`: within the lane; spans of one row never overlap. `thin`: it only waits. `first`, `last`: rows of ``lists``, those
that it is about.
"""

OPS = {"end": "q", "took": "q", "number": "I"}
"""Columns of ``ops``: one row per operation, in the order of the run's; ns. `number`: in its vCPU, from 0."""

MOVES = {"queue": "H", "prod": "B", "time": "q", "count": "I"}
"""Columns of ``moves``: every PROD write (`prod` = 1) and every step of CONS, by queue; `count`: what it covers."""


@attrs.frozen
class Lane:
    """Somebody who works on commands.

    Attributes:
        name: as in the graph of the run.
        kind: ``vcpu``, ``exit``, ``vmm``, ``kernel``, ``worker``, ``cmdq`` or ``smmu``.
        rows: how many things it has at a time.
        hidden: spans that found no row, and are left out.
    """

    name: str
    kind: str
    rows: int = 1
    hidden: int = 0


@attrs.frozen
class Ring:
    """A queue.

    Attributes:
        name: as in the graph of the run.
        size: entries.
    """

    name: str
    size: int


@attrs.frozen(eq=False)
class Journal:
    """What became of every entry, from the start of a run to `end`.

    Attributes:
        run: whose it is.
        end: the time up to which it is complete, ns.
        whole: that is the end of the run.
        queues: of guests.
        lanes: who works on commands, in the order in which a command meets them.
        texts: what entries say.
        lists: `LISTS`.
        entries: `ENTRIES`.
        spans: `SPANS`.
        moves: `MOVES`.
        ops: `OPS`.
    """

    run: Run
    end: int
    whole: bool
    queues: Sequence[Ring]
    lanes: Sequence[Lane]
    texts: Sequence[str]
    lists: Table
    entries: Table
    spans: Table
    moves: Table
    ops: Table

    @property
    def tables(self) -> Mapping[str, Table]:
        """All columns, by the name of their table."""
        own = attrs.asdict(self, recurse=False)
        return {name: own[name] for name in ("lists", "entries", "spans", "moves", "ops")}

    def at(self, queue: int, time: int) -> tuple[int, int]:
        """PROD and CONS of a queue at a time, as counts of entries; a move is in force at its own instant."""
        prod = cons = 0
        columns = (self.moves[name] for name in MOVES)
        for number, is_prod, when, count in zip(*columns, strict=True):
            if number == queue and when <= time:
                prod, cons = (count, cons) if is_prod else (prod, count)
        return prod, cons

    def columns(self) -> tuple[list[tuple[str, str, int]], bytes]:
        """All columns one behind the other, little-endian, and the name, type and length of each; 64-bit ones first."""
        found: list[tuple[str, array[int]]] = [
            (f"{name}.{column}", table[column]) for name, table in self.tables.items() for column in table.names
        ]
        found.sort(key=lambda each: -each[1].itemsize)
        return [(name, column.typecode, len(column)) for name, column in found], b"".join(map(_little, found))


def _little(column: tuple[str, array[int]]) -> bytes:
    import sys

    values = column[1]
    if sys.byteorder == "big":
        values = array(values.typecode, values)
        values.byteswap()
    return values.tobytes()


def arranged(spans: Sequence[tuple[int, int]], most: int) -> Iterator[int]:
    """Rows for spans that come in the order of their starts, so that those of one row never overlap.

    Args:
        spans: (start, end) of each.
        most: rows; what fits in none is -1.

    >>> list(arranged([(0, 5), (1, 3), (3, 9), (5, 6), (5, 6)], 2))
    [0, 1, 1, 0, -1]
    """
    ends: list[int] = []
    for start, end in spans:
        row = next((row for row, over in enumerate(ends) if over <= start), len(ends))
        if row == most:
            yield -1
            continue
        ends[row : row + 1] = [end]
        yield row
