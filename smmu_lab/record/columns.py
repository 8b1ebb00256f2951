"""Columns: what a run writes, and all that it writes. Whole numbers only; a float is refused."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence

import attrs

STAGES = {
    "build": "the driver writes the entries",
    "gather": "until PROD is written, perhaps by another vCPU",
    "space": "the queue is full",
    "lock": "the VMM's big lock is taken",
    "doorbell": "the PROD write leaves the guest",
    "wake": "until the consumer takes the commands up: its wake-up, a host CPU, earlier drains",
    "consume": "the commands are read and decoded",
    "handoff": "ioctl, copy, rewrite",
    "queue": "inserted in the host's queue, and waiting there behind earlier commands",
    "execute": "the SMMU runs the commands and the CMD_SYNC",
    "recover": "the queue stands at an error until the driver has dealt with it",
    "complete": "until the guest has seen CONS",
    "stolen": "reserved: the vCPU does not run",
}
"""The stages of an operation, in the order in which a command meets them; they sum to its latency."""

OPS = {
    "guest": "H",
    "vcpu": "H",
    "kind": "B",
    "inferred": "B",
    "pages": "Q",
    "tlbi": "I",
    "atc": "I",
    "start": "q",
    "irq_off": "q",
} | dict.fromkeys(STAGES, "q")
"""Columns of ``ops``: one row per operation, times in ns."""

BATCHES = {
    "guest": "H",
    "queue": "H",
    "rung": "q",
    "start": "q",
    "end": "q",
    "commands": "I",
    "syncs": "I",
    "prod": "I",
    "cons": "I",
}
"""Columns of ``batches``: one row per drain, times in ns.

`rung`: the first PROD write that it covers; `start`: the commands are taken up; `end`: CONS is stored. `prod`: the
register value captured; `cons`: the one stored at the end.
"""

STOPS = {
    "guest": "H",
    "queue": "H",
    "cerror": "B",
    "cons": "I",
    "stopped": "q",
    "told": "q",
    "handled": "q",
    "resumed": "q",
}
"""Columns of ``stops``: one row per error that a guest was told of, times in ns.

`cerror`, `cons`: the code in CONS.ERR, and the register value of CONS; `stopped`: the entry in error is met; `told`:
the interrupt has come; `handled`: the driver's handler begins; `resumed`: it writes GERRORN.
"""

ISSUED = {"guest": "H", "queue": "H", "smmu": "B", "tlbi": "Q", "atc": "Q", "syncs": "Q"}
"""Columns of ``issued``: one row per guest queue and physical SMMU: what that SMMU ran for it.

`tlbi`: with CFGI_CDs; `syncs`: CMD_SYNCs, those of the host's where its queue was used.
"""

KINDS = ("unmap", "flush", "doorbell", "other", "map", "switch")
"""Values of the column ``kind``."""


class Table:
    """Typed columns of equal length, appended by rows.

    >>> table = Table({"start": "q", "pages": "I"})
    >>> table.append((10, 3)); table.append((20, 4))
    >>> len(table), table["pages"].tolist()
    (2, [3, 4])
    """

    __slots__ = ("_columns", "_limit", "_pending", "_width")

    def __init__(self, types: Mapping[str, str]) -> None:
        self._columns = {name: array(code) for name, code in types.items()}
        self._pending: list[int] = []
        self._width = len(types)
        self._limit = 1024 * self._width

    def append(self, row: tuple[int, ...]) -> None:
        """Add a row with one integer per column; it is checked when it reaches the columns."""
        pending = self._pending
        pending += row
        if len(pending) >= self._limit:
            self._settle()

    def _settle(self) -> None:
        pending, width = self._pending, self._width
        for k, column in enumerate(self._columns.values()):
            column.fromlist(pending[k::width])
        pending.clear()

    def __getitem__(self, name: str) -> array[int]:
        if self._pending:
            self._settle()
        return self._columns[name]

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns, in order."""
        return tuple(self._columns)

    def __len__(self) -> int:
        """Number of rows."""
        return len(next(iter(self._columns.values()))) + len(self._pending) // self._width

    def rows(self) -> Iterator[dict[str, int]]:
        """One dict per row."""
        if self._pending:
            self._settle()
        for values in zip(*self._columns.values(), strict=True):
            yield dict(zip(self._columns, values, strict=True))

    @property
    def bytes(self) -> int:
        """Memory of the columns."""
        if self._pending:
            self._settle()
        return sum(column.itemsize * len(column) for column in self._columns.values())


@attrs.define
class Counts:
    """What one guest caused, from the first operation to the last; on bare metal all is the first one's.

    Attributes:
        commands: entries the guest published, CMD_SYNCs included.
        doorbells: PROD writes of the guest.
        drains: times a consumer took commands up.
        cons_reads: reads of CONS by the guest, trapped or not.
        exits_vmm: exits handled by the VMM.
        exits_kernel: exits handled in the kernel.
        ioctls: cache-invalidate ioctls.
        host_commands: entries inserted in the host's queue, CMD_SYNCs included.
        host_syncs: host CMD_SYNCs waited for.
        wakes: times a sleeping worker was woken.
        interrupts: interrupts that told a guest of a completion.
        fixes: entries at which a consumer halted until the VMM had dealt with them.
        timeouts: CMD_SYNC waits longer than the driver's 1 s, the guest's, or the host's for it: a correctness
            violation, never hidden.
        errors: times a queue stood at an error that the guest was told of.
        lost: commands that the guest takes for done, and that an error kept from being executed.
        exposure: page-nanoseconds between the end of an unmap and the end of the invalidation that covers it: lazy mode
            only, for a strict unmap ends after its own.
        cpu_guest: time its vCPUs spent in guest code inside the driver, ns.
        cpu_host: time its vCPU threads spent outside the guest, lock waits excluded, and the VMM for what stopped a
            VCMDQ, ns.
        cpu_worker: time its kernel worker held a host CPU, ns.
    """

    commands: int = 0
    doorbells: int = 0
    drains: int = 0
    cons_reads: int = 0
    exits_vmm: int = 0
    exits_kernel: int = 0
    ioctls: int = 0
    host_commands: int = 0
    host_syncs: int = 0
    wakes: int = 0
    interrupts: int = 0
    fixes: int = 0
    timeouts: int = 0
    errors: int = 0
    lost: int = 0
    exposure: int = 0
    cpu_guest: int = 0
    cpu_host: int = 0
    cpu_worker: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(attrs.astuple(self), attrs.astuple(other), strict=True)))
