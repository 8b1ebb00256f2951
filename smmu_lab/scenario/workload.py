"""What the guests ask for: closed or open loops of unmaps, and recorded guests.

The simulator sees an operation as the batches that the driver submits, each of which ends in a CMD_SYNC. How a batch
becomes lists of at most 64 commands, doorbells and polls is the simulated driver's business.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from smmu_lab.arch import OPCODES, VCMDQ_ACCEPTS, atc_commands, unmap_commands
from smmu_lab.scenario.bundled import traces
from smmu_lab.scenario.fields import (
    DURATION,
    FLAG,
    GRANULE,
    NATURAL,
    POSITIVE,
    Kind,
    Settings,
    invalid,
    one_of,
    setting,
    settings,
    whole,
)
from smmu_lab.scenario.layout import Reach
from smmu_lab.scenario.recorded import Commands, Publication, Section, Trace
from smmu_lab.scenario.trace import read_trace


class Batch(NamedTuple):
    """Commands between two CMD_SYNCs of one vCPU, by what becomes of them.

    Attributes:
        tlbi: TLBI_* and CFGI_CD*: the host's queue executes them.
        atc: ATC_INV: executed by the host's queue, and a device must answer before the CMD_SYNC is done.
        ste: CFGI_STE*: the VMM allocates and attaches a nested page table.
        other: the VMM takes note, nothing reaches the host (PREFETCH_CFG, RESUME, ...).
        vcmdq: a guest's VCMDQ accepts all of them.
        leaf: all its TLBIs are for the last level only.
        bad: an entry that nobody can run stands behind so many of its commands; -1 is none.
        late: how much later than usual one device answers, ns.
        gone: it never does: then `late` is how long the SMMU waits for it.
        instance: number of the guest's vSMMU that it goes to; on bare metal of the SMMU.
        at: how many of the ATC_INVs are for devices behind each SMMU that the vSMMU spans; empty is all behind the
            first.
        fan: how many devices with ATS the domain has behind each of these SMMUs; empty is none.
    """

    tlbi: int = 0
    atc: int = 0
    ste: int = 0
    other: int = 0
    vcmdq: bool = True
    leaf: bool = True
    bad: int = -1
    late: int = 0
    gone: bool = False
    instance: int = 0
    at: tuple[int, ...] = ()
    fan: tuple[int, ...] = ()


class Operation(NamedTuple):
    """One call of the guest's DMA layer: what it unmaps, and the batches it waits for, in order.

    `inferred`: the recording does not say which vCPU it was.
    """

    kind: str
    pages: int
    batches: tuple[Batch, ...]
    inferred: bool = False


MOST_PAGES = 1 << 30
"""4 TiB of 4 KiB pages in one unmap."""
MOST_OPS = 10_000_000
"""Operations of one vCPU."""


class _Load(Settings):
    """How fast operations come; shared by all workloads."""

    where: ClassVar[str] = "workload"
    think: int
    rate: int
    spread: str

    @property
    def gap(self) -> int:
        """Mean time between an end and the next start (closed loop) or between two arrivals (open loop), ns."""
        return 1_000_000_000 // self.rate if self.rate else self.think


@settings
class Unmaps(_Load):
    """Every vCPU unmaps the same amount again and again.

    Attributes:
        pages: pages per unmap.
        granule: bytes per page: 4, 16 or 64 KiB.
        ats_devices: devices of the domain with ATS on: one ATC_INV each, and a second CMD_SYNC. Where a topology has
            layouts, these say it.
        stall: how much later than usual one of these devices answers every ATC_INV.
        maps: maps of the same size that come before each unmap. Under nesting a map sends nothing; under virtio-iommu
            it is a request, and its time counts with the unmap's.
        cd_every: before every so-many-th unmap a context descriptor changes: CFGI_CD and a CMD_SYNC, which a VCMDQ does
            not take; its time counts with the unmap's; 0 is never.
        lazy: flush-queue mode (iommu.strict=0): one TLBI_NH_ASID per 255 unmaps or 10 ms, instead of one per unmap.
        think: closed loop: mean time between the end of one unmap and the start of the next.
        rate: open loop: unmaps per second and vCPU, whatever `think` says; 0 is a closed loop.
        spread: whether these times are ``exponential`` or ``constant`` (then all vCPUs start in step).
        ops: unmaps per vCPU.
    """

    pages: int = setting(POSITIVE, default=16)
    granule: int = setting(GRANULE, default=4096)
    ats_devices: int = setting(whole(0, 4096), default=0)
    stall: int = setting(DURATION, default=0)
    maps: int = setting(whole(0, 64), default=1)
    cd_every: int = setting(whole(0, 10_000_000), default=0)
    lazy: bool = setting(FLAG, default=False)
    think: int = setting(DURATION, default=20_000)
    rate: int = setting(whole(0, 1_000_000), default=0)
    spread: str = setting(one_of("exponential", "constant"), default="exponential")
    ops: int = setting(whole(1, MOST_OPS), default=1000)

    def conflicts(self) -> Iterator[str]:
        """An unmap is smaller than the address space."""
        if self.pages > MOST_PAGES:
            yield invalid(self.path("pages"), self.pages, f"at most {MOST_PAGES:,}")

    def __str__(self) -> str:
        return f"{'lazy ' if self.lazy else ''}unmaps of {self.pages} page{'s'[: self.pages > 1]}"

    def operations(self, vcpu: int, ril: bool, reaches: Sequence[Reach]) -> Iterable[Operation]:
        """All operations of one vCPU."""
        unmap = Operation("unmap", self.pages, self.batches(ril, reaches))
        if not self.cd_every:
            return repeat(unmap, self.ops)
        switch = Operation("switch", 0, on_each(reaches, lambda ats: (Batch(tlbi=1, vcmdq=False),), self.stall))
        return (each for k in range(1, self.ops + 1) for each in ([unmap] if k % self.cd_every else [switch, unmap]))

    def batches(self, ril: bool, reaches: Sequence[Reach]) -> tuple[Batch, ...]:
        """Batches of one unmap."""
        return on_each(reaches, lambda ats: unmap_batches(self.pages, self.granule, ril, ats), self.stall)

    def flush(self, reaches: Sequence[Reach]) -> Operation:
        """A flush of the flush queue."""
        return Operation("flush", 0, on_each(reaches, flush_batches, self.stall))


def _read_source(value: object) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ValueError
    _load(str(value), _version(str(value)))
    return str(value)


TRACE = Kind("the name of a bundled trace, or the path of a .csv.gz file", _read_source)


@settings
class Recorded(_Load):
    """A recorded guest is replayed. What it asked for is kept; the recorded times are an emulator's and are not.

    Attributes:
        trace: name of a bundled trace, or path of a ``.csv.gz`` file.
        replay: ``driver``: every vCPU repeats its operations through the simulated driver, which rings, gathers and
            polls as the approach makes it; ``recorded``: one thread repeats the doorbells exactly as they were, to
            check decoding and counts.
        section: the ``workload`` between its marks, or ``all`` with the boot.
        think: closed loop: time between the end of one operation and the start of the next.
        rate: open loop: operations per second and vCPU, whatever `think` says; 0 is a closed loop.
        spread: whether these times are ``exponential`` or ``constant`` (then all vCPUs start in step).
        ops: at most so many operations per vCPU (or doorbells); 0 is all.
    """

    trace: str = setting(TRACE)
    replay: str = setting(one_of("driver", "recorded"), default="driver")
    section: Section = setting(one_of("workload", "all"), default="workload")
    think: int = setting(DURATION, default=0)
    rate: int = setting(whole(0, 1_000_000), default=0)
    spread: str = setting(one_of("exponential", "constant"), default="exponential")
    ops: int = setting(NATURAL, default=0)

    def __str__(self) -> str:
        return f"recorded guest {Path(self.trace).name.removesuffix('.gz').removesuffix('.csv')}"

    @property
    def vcpus(self) -> int:
        """VCPUs of the recorded guest."""
        return self.load().vcpus

    @property
    def ril(self) -> bool:
        """The recorded guest's SMMU offered range invalidation."""
        return self.load().ril

    ats_devices: ClassVar[int] = 0
    stall: ClassVar[int] = 0
    maps: ClassVar[int] = 1

    @property
    def is_strict(self) -> bool:
        """Unmaps are seen one by one: no flush takes the place of many."""
        made = _operations(self.trace, _version(self.trace), self.section)
        return not any(operation.kind == "flush" for each in made for operation in each)

    def load(self) -> Trace:
        """The trace itself."""
        return _load(self.trace, _version(self.trace))

    def operations(self, vcpu: int, ril: bool, reaches: Sequence[Reach]) -> Sequence[Operation]:
        """All operations of one vCPU; `ril` is as it was recorded, and the guest had one vSMMU."""
        return _operations(self.trace, _version(self.trace), self.section)[vcpu][: self.ops or None]

    def publications(self) -> Iterator[tuple[Publication, list[tuple[Batch, bool]]]]:
        """The doorbells as recorded, each with its batches and whether a CMD_SYNC ends them."""
        trace = self.load()
        for each in trace.publications(self.section)[: self.ops or None]:
            if batches := list(_cut(trace.commands, each.commands, by_queue=False)):
                yield each, batches


@lru_cache(maxsize=8)
def _load(source: str, version: object) -> Trace:
    return read_trace(source)


def _version(source: str) -> object:
    """What changes when a file does; a bundled trace does not."""
    if source in traces() or not os.path.exists(source):
        return None
    stat = os.stat(source)
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=8)
def _operations(source: str, version: object, section: Section) -> list[list[Operation]]:
    trace = _load(source, version)
    commands = trace.commands
    made: list[list[Operation]] = [[] for _ in range(trace.vcpus)]
    shapes: dict[object, Operation] = {}
    for each in trace.operations(section):
        batches = tuple(batch for batch, _ in _cut(commands, each.commands, by_queue=True))
        pages = sum(commands.num_pages[k] for k in each.commands if commands.opcode[k] in _BY_ADDRESS)
        kind = "unmap" if pages else "flush" if any(batch.tlbi for batch in batches) else "other"
        operation = Operation(kind, pages, batches, each.inferred)
        made[each.vcpu].append(shapes.setdefault(operation, operation))
    return made


def _cut(table: Commands, commands: Sequence[int], by_queue: bool) -> Iterator[tuple[Batch, bool]]:
    """Cut a stretch of commands after each CMD_SYNC, and also where a VCMDQ would refuse what follows.

    Yields:
        A batch, and whether a CMD_SYNC of the stretch ends it.
    """
    counts: Any = Counter()
    accepted = leaf = True
    for k in commands:
        opcode = table.opcode[k]
        takes = opcode in _VCMDQ
        if opcode == _SYNC or (by_queue and takes != accepted and counts):
            yield Batch(**counts)._replace(vcmdq=accepted, leaf=leaf), opcode == _SYNC
            counts.clear()
            accepted = leaf = True
        if opcode != _SYNC:
            accepted = accepted and takes
            leaf = leaf and bool(table.leaf[k])
            counts[_BECOMES.get(opcode, "other")] += 1
    if counts:
        yield Batch(**counts)._replace(vcmdq=accepted, leaf=leaf), False


_SYNC = OPCODES["CMD_SYNC"]
_VCMDQ = frozenset(OPCODES[name] for name in VCMDQ_ACCEPTS)
_BECOMES = {
    opcode: "atc" if name == "ATC_INV" else "ste" if name.startswith(("CFGI_STE", "CFGI_ALL")) else "tlbi"
    for name, opcode in OPCODES.items()
    if name.startswith(("TLBI_", "CFGI_")) or name == "ATC_INV"
}
_BY_ADDRESS = frozenset(opcode for name, opcode in OPCODES.items() if name.endswith(("_VA", "_VAA", "_IPA")))


@cache
def unmap_batches(pages: int, granule: int, ril: bool, ats_devices: int) -> tuple[Batch, ...]:
    """Batches of one strict unmap: the TLBIs, and after their CMD_SYNC the ATC_INVs.

    Source: arm_smmu_domain_inv_range, Linux 7.2 (TLBI and ATC_INV are never in one batch).

    >>> [batch[:2] for batch in unmap_batches(128, 4096, False, 0)]
    [(128, 0)]
    >>> [batch[:2] for batch in unmap_batches(511, 4096, True, 2)]
    [(2, 0), (0, 2)]
    """
    size = pages * granule
    commands = unmap_commands(1 << 32, size, granule=granule, ril=ril, page_shift=granule.bit_length() - 1)
    tlbi = Batch(tlbi=len(commands))
    if not ats_devices:
        return (tlbi,)
    return tlbi, Batch(atc=len(atc_commands(1 << 32, size, range(ats_devices))))


def on_each(reaches: Sequence[Reach], batches: Callable[[int], tuple[Batch, ...]], stall: int) -> tuple[Batch, ...]:
    """The batches that each vSMMU gets for one domain, one vSMMU after the other.

    Source: arm_smmu_domain_inv_range, Linux 7.2: what one SMMU must do is submitted before the next one's.

    Args:
        reaches: the vSMMUs that the domain's devices are behind.
        batches: those for so many devices with ATS.
        stall: how late one of the devices behind each SMMU answers.

    >>> two = [Reach(0, (0, 1), (1, 2)), Reach(3, (4,), (0,))]
    >>> made = on_each(two, lambda ats: unmap_batches(16, 4096, True, ats), 0)
    >>> [(batch.instance, batch.tlbi, batch.atc, batch.at) for batch in made]
    [(0, 1, 0, ()), (0, 0, 3, (1, 2)), (3, 1, 0, ())]
    """
    made = []
    for instance, _, ats in reaches:
        devices = sum(ats)
        for batch in batches(devices):
            at = tuple([batch.atc // devices * here for here in ats]) if batch.atc and len(ats) > 1 else ()
            fan = ats if devices else ()
            made.append(batch._replace(instance=instance, at=at, fan=fan, late=stall if devices else 0))
    return tuple(made)


def flush_batches(ats_devices: int) -> tuple[Batch, ...]:
    """Batches of a flush-queue flush: TLBI_NH_ASID, then ATC_INV of everything on each device.

    Source: fq_flush_iotlb, Linux 7.2 dma-iommu.c.
    """
    flush = Batch(tlbi=1, leaf=False)
    return (flush, Batch(atc=ats_devices)) if ats_devices else (flush,)
