"""What the entries of a queue are, and say: the kinds of a list's commands in order, and their disassembly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from smmu_lab.arch import atc_commands, unmap_commands
from smmu_lab.record import KINDS, Run
from smmu_lab.scenario import Unmaps

TLBI, ATC_INV, CFGI, CMD_SYNC, ILLEGAL, REQUEST = range(6)
"""As in `smmu_lab.charts.palette.COMMANDS`."""
IOVA = 1 << 32
"""Where every unmap begins, as an example: the simulation counts commands, and no address matters to it."""


def kinds(work: Any) -> Iterator[int]:
    """The kind of each entry of a list, in order."""
    if not hasattr(work, "tlbi"):
        yield REQUEST
        return
    tail = work.tail if work.atc else 0
    commands = [TLBI] * (work.tlbi - tail) + [ATC_INV] * work.atc + [TLBI] * tail + [CFGI] * (work.ste + work.other)
    if work.bad >= 0:
        commands.insert(work.bad, CMD_SYNC if work.fixed else ILLEGAL)
    yield from commands
    yield from [CMD_SYNC] * work.sync


class Texts:
    """What entries say; the TLBIs and ATC_INVs of an operation count on from list to list.

    Attributes:
        known: each text, and its number.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.known: dict[str, int] = {}
        self.shapes: dict[tuple[int, int], tuple[list[str], list[str]]] = {}
        self.left: dict[int, tuple[Iterator[str], Iterator[str]]] = {}

    def of(self, op: int, work: Any) -> Iterator[tuple[int, int]]:
        """Kind and text of each entry of a list of an operation."""
        what = KINDS[self.run.ops["kind"][op]]
        if op not in self.left:
            self.left[op] = self._addresses(op, what)
        tlbi, atc = self.left[op]
        for kind in kinds(work):
            if kind == REQUEST:
                text = f"{'UNMAP' if work.batches else 'MAP'} of {work.pages:,} pages"
            elif kind == TLBI and what == "switch":
                kind, text = CFGI, "CFGI_CD"
            elif kind == TLBI:
                text = next(tlbi, "TLBI_NH_ASID" if what == "flush" else "TLBI or CFGI_CD")
            elif kind == ATC_INV:
                text = next(atc, "ATC_INV")
            elif kind == CFGI:
                text = "CFGI_STE" if work.ste else "a command that does not reach the host"
            else:
                text = {CMD_SYNC: "CMD_SYNC", ILLEGAL: "an entry that nobody can run"}[kind]
            yield kind, self.known.setdefault(text, len(self.known))

    def _addresses(self, op: int, what: str) -> tuple[Iterator[str], Iterator[str]]:
        """The TLBIs and ATC_INVs of an unmap whose size is known; a recording keeps no addresses."""
        run = self.run
        load, pages = run.scenario.load(run.ops["guest"][op]), run.ops["pages"][op]
        if not isinstance(load, Unmaps) or what != "unmap" or load.lazy or not pages:
            return iter(()), iter(())
        key = pages, load.granule
        if key not in self.shapes:
            size, shift = pages * load.granule, load.granule.bit_length() - 1
            tlbi = unmap_commands(IOVA, size, load.granule, run.scenario.smmu.ril, page_shift=shift)
            self.shapes[key] = list(map(str, tlbi)), list(map(str, atc_commands(IOVA, size, [8])))
        tlbi_texts, atc_texts = self.shapes[key]
        return cycle(tlbi_texts), cycle(atc_texts)
