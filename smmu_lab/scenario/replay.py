"""Replay of a recorded guest through a simulated driver: who asked for what, in which order.

A doorbell carries the lists of one or more issue calls of the driver (Linux arm_smmu_cmdq_issue_cmdlist):
first that of the vCPU that rings, the owner; then those of the riders, vCPUs that came while it was about to
ring. A list ends with its SYNC, or after the 64 commands of a full batch, which is issued without one. An
operation is what one vCPU waits for: its full batches, if any, and the list with the SYNC.

The recording names the owner only, so two things are worked out here:

- Which lists are one operation (`_continues`): an unmap covers one contiguous range, so a full batch of TLBIs
  goes on in the list that starts at the next address.
- Who rode (`_attribute`): a vCPU that waits for its SYNC does nothing but read CONS until it sees it done.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, overload

import attrs

from smmu_lab.arch import CMDQ_BATCH_ENTRIES, OPCODES

if TYPE_CHECKING:
    from smmu_lab.scenario.recorded import Commands, Doorbells, Trace


@attrs.frozen
class RecordedOperation:
    """What one vCPU waited for.

    Attributes:
        commands: indices into `Trace.commands`; the last one is the SYNC.
        doorbell: index of the doorbell that published the SYNC.
        inferred: the vCPU rode on others' doorbells with all of it, so which one it was is an inference.
    """

    vcpu: int
    commands: Sequence[int]
    doorbell: int
    inferred: bool


@attrs.frozen(eq=False, repr=False)
class RecordedOperations(Sequence[RecordedOperation]):
    """Operations in the order of their SYNCs in the queue, as columns.

    Attributes:
        start: index of each operation's first entry in `commands`, and the end.
    """

    vcpu: array[int] = attrs.field(factory=lambda: array("H"))
    doorbell: array[int] = attrs.field(factory=lambda: array("I"))
    inferred: array[int] = attrs.field(factory=lambda: array("B"))
    start: array[int] = attrs.field(factory=lambda: array("I", [0]))
    commands: array[int] = attrs.field(factory=lambda: array("I"))

    def __len__(self) -> int:
        return len(self.vcpu)

    @overload
    def __getitem__(self, index: int) -> RecordedOperation: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordedOperation]: ...
    def __getitem__(self, index: int | slice) -> RecordedOperation | list[RecordedOperation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        commands = self.commands[self.start[i] : self.start[i + 1]]
        return RecordedOperation(self.vcpu[i], commands, self.doorbell[i], bool(self.inferred[i]))

    def of(self, vcpu: int) -> Iterator[RecordedOperation]:
        """The operations of one vCPU, in its order."""
        return (self[i] for i, each in enumerate(self.vcpu) if each == vcpu)

    def __repr__(self) -> str:
        return f"<{len(self):,} operations of {len(set(self.vcpu))} vCPUs, {sum(self.inferred):,} inferred>"


class _List(NamedTuple):
    """Commands ``[start, stop)`` of one issue call; the first list of a doorbell has rank 0: its owner's."""

    doorbell: int
    rank: int
    start: int
    stop: int


def operations(trace: Trace, section: range) -> RecordedOperations:
    """The operations whose SYNC a doorbell of `section` published, with their commands published there."""
    joined = list(_join(trace.commands, trace.doorbells))
    made = RecordedOperations()
    for parts, (vcpu, inferred) in zip(joined, _attribute(trace, joined), strict=True):
        if parts[-1].doorbell in section:
            made.vcpu.append(vcpu)
            made.inferred.append(inferred)
            made.doorbell.append(parts[-1].doorbell)
            for part in parts:
                if part.doorbell in section:
                    made.commands.extend(range(part.start, part.stop))
            made.start.append(len(made.commands))
    return made


def _lists(commands: Commands, doorbells: Doorbells) -> Iterator[_List]:
    """Cut each doorbell into the lists of its issue calls."""
    sync = OPCODES["CMD_SYNC"]
    for doorbell, (first, n) in enumerate(zip(doorbells.first, doorbells.n, strict=True)):
        rank, start = 0, first
        for stop in range(first + 1, first + n + 1):
            ends = commands.opcode[stop - 1] == sync or stop == first + n
            full = stop - start == CMDQ_BATCH_ENTRIES and not ends and commands.opcode[stop] != sync
            if ends or full:
                yield _List(doorbell, rank, start, stop)
                rank, start = rank + 1, stop


def _join(commands: Commands, doorbells: Doorbells) -> Iterator[list[_List]]:
    """Join lists into operations; one that never got its SYNC comes last."""
    sync = OPCODES["CMD_SYNC"]
    unfinished: list[list[_List]] = []
    for part in _lists(commands, doorbells):
        parts = next((each for each in unfinished if _continues(commands, doorbells, each[-1], part)), [])
        if parts:
            unfinished.remove(parts)
        parts.append(part)
        if commands.opcode[part.stop - 1] == sync:
            yield parts
        else:
            unfinished.append(parts)
    yield from unfinished


def _continues(commands: Commands, doorbells: Doorbells, before: _List, after: _List) -> bool:
    """Whether a list without SYNC goes on in a later list.

    A full batch of TLBIs by address goes on at the next address. Any other list (PREFETCH_CFG) goes on in the
    next list that the same vCPU rings.
    """
    last = before.stop - 1
    if before.stop - before.start == CMDQ_BATCH_ENTRIES and commands.addr[last] > commands.addr[last - 1]:
        following = 2 * commands.addr[last] - commands.addr[last - 1]
        return (commands.asid[after.start], commands.addr[after.start]) == (commands.asid[last], following)
    return after.rank == 0 and doorbells.vcpu[after.doorbell] == doorbells.vcpu[before.doorbell]


def _attribute(trace: Trace, joined: Iterable[list[_List]]) -> Iterator[tuple[int, bool]]:
    """The vCPU of each operation, and whether it is inferred.

    A vCPU that rang for any part of an operation owns it. The other operations of a doorbell go, in queue
    order, to the vCPUs that wait at it, in the order in which these began to read CONS: a vCPU waits for one
    operation at a time. Should none be left, to the one whose last SYNC is longest ago.
    """
    rang = trace.doorbells.vcpu
    waiting = _Waiting(trace)
    for doorbell, group in groupby(joined, key=lambda parts: parts[-1].doorbell):
        owners = [next((rang[part.doorbell] for part in parts if part.rank == 0), None) for parts in group]
        if None in owners:
            longest_ago = sorted(range(trace.vcpus), key=waiting.done.__getitem__)
            taken = {rang[doorbell], *owners}
            riders = (vcpu for vcpu in dict.fromkeys([*waiting.at(doorbell), *longest_ago]) if vcpu not in taken)
        for owner in owners:
            vcpu = next(riders, rang[doorbell]) if owner is None else owner
            waiting.done[vcpu] = doorbell
            yield vcpu, owner is None


class _Waiting:
    """Which vCPUs wait for a SYNC at a doorbell that they do not ring.

    Attributes:
        done: for each vCPU the doorbell that published its last SYNC; its next CONS read sees that done.
    """

    def __init__(self, trace: Trace) -> None:
        self.done = [-1] * trace.vcpus
        self.rings: list[list[int]] = [[] for _ in self.done]
        self.reads: list[list[tuple[int, int]]] = [[] for _ in self.done]
        for doorbell, vcpu in enumerate(trace.doorbells.vcpu):
            self.rings[vcpu].append(doorbell)
        for read, (doorbell, vcpu) in enumerate(zip(trace.cons_reads.doorbell, trace.cons_reads.vcpu, strict=True)):
            self.reads[vcpu].append((doorbell, read))

    def at(self, doorbell: int) -> list[int]:
        """The waiting vCPUs, by their first CONS read in this wait.

        The next access of a waiting vCPU is a CONS read, not a doorbell, and its last SYNC does not account
        for it.
        """
        began = {}
        for vcpu, (done, rings, reads) in enumerate(zip(self.done, self.rings, self.reads, strict=True)):
            first = bisect_left(reads, (done,)) + 1 if done >= 0 else 0
            following = bisect_left(reads, (doorbell,))
            ring = bisect_right(rings, doorbell)
            reads_next = following < len(reads) and (ring == len(rings) or reads[following][0] < rings[ring])
            if reads_next and first <= following:
                began[vcpu] = reads[first][1]
        return sorted(began, key=began.__getitem__)
