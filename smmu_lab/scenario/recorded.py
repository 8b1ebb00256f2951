"""A recorded guest: what a real driver asked of its queue, as columns.

Times are those of the emulator that recorded: use a trace for what is asked of the queue, never for how long
it takes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from smmu_lab.arch import OPCODES
from smmu_lab.scenario.bundled import FOLDER
from smmu_lab.scenario.fields import invalid
from smmu_lab.scenario.replay import RecordedOperations, operations
from smmu_lab.sheet import Sheet

if TYPE_CHECKING:
    from smmu_lab.scenario.workload import Recorded

Section = Literal["workload", "all"]
"""Between the marks wl_begin and wl_end, or boot included."""

QEMU_OPCODES: Mapping[str, int] = {
    **OPCODES,
    "SYNC": OPCODES["CMD_SYNC"],
    "PREFETCH_CONFIG": OPCODES["PREFETCH_CFG"],
}
"""Opcodes by name, with the two names that QEMU's trace spells in its own way."""

_NAMES = {opcode: name for name, opcode in QEMU_OPCODES.items()}
_SYNC = QEMU_OPCODES["SYNC"]
_LAST_TIME = 2**63 - 1


@attrs.frozen(eq=False, repr=False)
class Doorbells:
    """Writes of CMDQ_PROD.

    Attributes:
        n: number of commands that the write published.
        cons: CONS before the write.
        first: index of the first command.
    """

    time_ns: array[int] = attrs.Factory(partial(array, "q"))
    vcpu: array[int] = attrs.Factory(partial(array, "H"))
    n: array[int] = attrs.Factory(partial(array, "I"))
    prod: array[int] = attrs.Factory(partial(array, "I"))
    cons: array[int] = attrs.Factory(partial(array, "I"))
    first: array[int] = attrs.Factory(partial(array, "I"))

    def __len__(self) -> int:
        return len(self.n)


@attrs.frozen(eq=False, repr=False)
class Commands:
    """Commands in queue order: the 16 bytes, and what QEMU decoded (0 where a command has no such field).

    Attributes:
        doorbell: index of the doorbell that published the command.
        raw: 16 bytes per command; zeros where `recorded` is 0: the queue wrapped before its dump.
    """

    opcode: array[int] = attrs.Factory(partial(array, "B"))
    doorbell: array[int] = attrs.Factory(partial(array, "I"))
    recorded: array[int] = attrs.Factory(partial(array, "B"))
    raw: bytearray = attrs.Factory(bytearray)
    asid: array[int] = attrs.Factory(partial(array, "i"))
    addr: array[int] = attrs.Factory(partial(array, "Q"))
    tg: array[int] = attrs.Factory(partial(array, "B"))
    ttl: array[int] = attrs.Factory(partial(array, "B"))
    leaf: array[int] = attrs.Factory(partial(array, "B"))
    num_pages: array[int] = attrs.Factory(partial(array, "Q"))

    def __len__(self) -> int:
        return len(self.opcode)

    def raw16(self, index: int) -> bytes | None:
        """The 16 bytes of a command as the guest wrote them, or None if they were not recorded."""
        return bytes(self.raw[16 * index : 16 * index + 16]) if self.recorded[index] else None


@attrs.frozen(eq=False, repr=False)
class ConsReads:
    """Reads of CMDQ_CONS; `doorbell` is the index of the last doorbell before, -1 for none."""

    time_ns: array[int] = attrs.Factory(partial(array, "q"))
    vcpu: array[int] = attrs.Factory(partial(array, "H"))
    cons: array[int] = attrs.Factory(partial(array, "I"))
    doorbell: array[int] = attrs.Factory(partial(array, "i"))

    def __len__(self) -> int:
        return len(self.cons)


@attrs.frozen
class Publication:
    """One doorbell as recorded; `commands` are indices into `Trace.commands`."""

    doorbell: int
    vcpu: int
    cons: int
    prod: int
    commands: range


@attrs.frozen(eq=False, repr=False)
class Trace:
    """A recorded guest, as columns.

    Attributes:
        vcpus: highest vCPU that accessed the SMMU, plus one.
        log2size: log2 of the entries of the command queue; indices carry the wrap bit above it.
        ril: the SMMU offered range invalidation (IDR3.RIL).
        marks: when the guest said ``boot_done``, ``wl_begin``, ``wl_end`` (ns).
    """

    name: str
    path: str
    vcpus: int
    log2size: int
    ril: bool
    marks: Mapping[str, int]
    doorbells: Doorbells
    commands: Commands
    cons_reads: ConsReads

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.vcpus} vCPUs, {len(self.doorbells):,} doorbells, "
            f"{len(self.commands):,} commands, {len(self.cons_reads):,} CONS reads"
        )

    def __repr__(self) -> str:
        return f"<Trace {self}>"

    def sheet(self) -> Sheet:
        """The summary, one figure per row."""
        rows = [(key.replace("_", " "), _plain(value)) for key, value in self.summary().items()]
        return Sheet(("figure", "value"), rows, left=("figure", "value"))

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()

    def workload(self, **load: Any) -> Recorded:
        """This guest as a workload of a scenario.

        Args:
            **load: fields of `smmu_lab.scenario.workload.Recorded`: how it is replayed, and how fast.

        Raises:
            InvalidInput: an unknown field or a value that is not valid.
        """
        from smmu_lab.scenario.workload import Recorded

        return Recorded(trace=self.name if Path(self.path).parent == FOLDER else self.path, **load)

    def operations(self, section: Section = "workload") -> RecordedOperations:
        """What each vCPU waited for, in the order of the SYNCs; how, says `smmu_lab.scenario.replay`."""
        return operations(self, self._doorbells_of(section))

    def publications(self, section: Section = "workload") -> list[Publication]:
        """The doorbells as recorded."""
        d = self.doorbells
        return [
            Publication(i, d.vcpu[i], d.cons[i], d.prod[i], range(d.first[i], d.first[i] + d.n[i]))
            for i in self._doorbells_of(section)
        ]

    def summary(self, section: Section = "workload") -> dict[str, Any]:
        """Figures of one section.

        ``nonsync_per_sync`` counts commands since the last SYNC in queue order, whoever wrote them; it and
        the ``*_counts`` are dicts of value to count. ``pages_per_tlbi`` is about TLBIs by address.
        """
        rung = self._doorbells_of(section)
        published = self._commands_of(rung)
        opcode = self.commands.opcode
        per_doorbell = sorted(self.doorbells.n[i] for i in rung) or [0]
        syncs = Counter(self.commands.doorbell[i] for i in published if opcode[i] == _SYNC)
        pages = [self.commands.num_pages[i] for i in published if self.commands.num_pages[i]]
        nonsync: Counter[int] = Counter()
        since = -1
        for i, code in enumerate(opcode[published.start : published.stop]):
            if code == _SYNC:
                nonsync[i - since - 1] += 1
                since = i
        begin, end = self._span(section)
        reads = bisect_right(self.cons_reads.time_ns, end) - bisect_left(self.cons_reads.time_ns, begin)
        doorbells = len(rung) or 1
        return {
            "trace": self.name,
            "section": section,
            "vcpus": self.vcpus,
            "doorbells": len(rung),
            "commands": len(published),
            "syncs": syncs.total(),
            "ops": dict(Counter(_NAMES[opcode[i]] for i in published)),
            "commands_per_doorbell": {
                "mean": len(published) / doorbells,
                "p50": per_doorbell[len(per_doorbell) // 2],
                "p99": per_doorbell[min(len(per_doorbell) - 1, len(per_doorbell) * 99 // 100)],
                "max": per_doorbell[-1],
            },
            "commands_per_doorbell_counts": dict(sorted(Counter(self.doorbells.n[i] for i in rung).items())),
            "syncs_per_doorbell_counts": dict(sorted(Counter(syncs[i] for i in rung).items())),
            "share_of_doorbells_with_several_syncs": sum(n > 1 for n in syncs.values()) / doorbells,
            "nonsync_per_sync": dict(sorted(nonsync.items())),
            "pages_per_tlbi": {"mean": sum(pages) / (len(pages) or 1), "max": max(pages, default=0)},
            "cons_reads": reads,
            "cons_reads_per_doorbell": reads / doorbells,
            "ringing_vcpus": len({self.doorbells.vcpu[i] for i in rung}),
        }

    def _span(self, section: Section) -> tuple[int, int]:
        if section == "all":
            return 0, _LAST_TIME
        if section == "workload":
            return self.marks.get("wl_begin", 0), self.marks.get("wl_end", _LAST_TIME)
        raise ValueError(invalid("section", section, "'workload' or 'all'"))

    def _doorbells_of(self, section: Section) -> range:
        begin, end = self._span(section)
        time_ns = self.doorbells.time_ns
        return range(bisect_left(time_ns, begin), bisect_right(time_ns, end))

    def _commands_of(self, rung: range) -> range:
        doorbell = self.commands.doorbell
        return range(bisect_left(doorbell, rung.start), bisect_left(doorbell, rung.stop))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value}"
