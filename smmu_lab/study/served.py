"""What a record says of each queue, by its name in the graph."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from smmu_lab.record import KINDS, Run

MAP, UNMAP = KINDS.index("map"), KINDS.index("unmap")


@attrs.define
class Served:
    """What became of the commands, or requests, of one queue of a guest.

    Attributes:
        entries: consumed, CMD_SYNCs included.
        syncs: CMD_SYNCs among them.
        drains: times that commands were taken up.
        time: from taking up to storing CONS, all drains together, ns.
        held: the same for each entry from the first PROD write that its drain covers, all entries together, ns.
        issued: number of each SMMU to the TLBIs, ATC_INVs and CMD_SYNCs that it ran for the queue.
    """

    entries: int = 0
    syncs: int = 0
    drains: int = 0
    time: int = 0
    held: int = 0
    issued: dict[int, tuple[int, int, int]] = attrs.Factory(dict)

    @property
    def commands(self) -> int:
        """Entries that are no CMD_SYNCs."""
        return self.entries - self.syncs

    @property
    def handed(self) -> int:
        """TLBIs and ATC_INVs that SMMUs ran."""
        return sum(tlbi + atc for tlbi, atc, _ in self.issued.values())


def served(run: Run) -> Mapping[str, Served]:
    """Each queue of the guests, and on bare metal each queue of the SMMUs that the CPUs share."""
    nodes = run.graph.nodes
    names = {(about["guest"], about["number"]): name for name, about in nodes.items() if "row" in about}
    made = {name: Served() for name in names.values()}
    drains = map(run.batches.__getitem__, ("guest", "queue", "rung", "start", "end", "commands", "syncs"))
    for guest, queue, rung, start, end, entries, syncs in zip(*drains, strict=True):
        each = made[names[guest, queue]]
        each.entries += entries
        each.syncs += syncs
        each.drains += 1
        each.time += end - start
        each.held += entries * (end - rung)
    issued = map(run.issued.__getitem__, ("guest", "queue", "smmu", "tlbi", "atc", "syncs"))
    for guest, queue, smmu, tlbi, atc, syncs in zip(*issued, strict=True):
        made[names[guest, queue]].issued[smmu] = tlbi, atc, syncs
    return made


def span(run: Run) -> int:
    """From the first start to the last end of all operations, those of neighbours too, ns."""
    starts = run.ops["start"]
    ends = (start + latency for start, latency in zip(starts, run.latencies, strict=True))
    return max(ends, default=0) - min(starts, default=0)


def sent(run: Run) -> Mapping[tuple[int, int], tuple[int, int, int]]:
    """Operations, TLBIs and ATC_INVs of each vCPU, by guest and number."""
    made: dict[tuple[int, int], tuple[int, int, int]] = {}
    columns = map(run.ops.__getitem__, ("guest", "vcpu", "tlbi", "atc"))
    for guest, vcpu, tlbi, atc in zip(*columns, strict=True):
        before = made.get((guest, vcpu), (0, 0, 0))
        made[guest, vcpu] = before[0] + 1, before[1] + tlbi, before[2] + atc
    return made
