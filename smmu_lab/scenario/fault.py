"""One thing that goes wrong in a run: an entry that nobody can run, or a device that does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from smmu_lab.scenario.costs import Costs
from smmu_lab.scenario.fields import DURATION, Settings, one_of, setting, settings, whole
from smmu_lab.scenario.workload import Batch

BAD_ENTRY = ("illegal-command", "unknown-sid")
"""Faults that are one more entry in the queue."""
FAULTS = (*BAD_ENTRY, "atc-timeout", "stalled-device")


@settings
class Fault(Settings):
    """What strikes one operation.

    Attributes:
        kind: ``none``; ``illegal-command`` (one more entry, of an opcode that no SMMU knows); ``unknown-sid`` (one more
            ATC_INV, for a virtual StreamID without a device); ``atc-timeout`` (a device never answers the ATC_INVs, and
            the SMMU gives up after the cost `atc_timeout`); ``stalled-device`` (the answer is late by `delay`).
        guest: whose operation.
        vcpu: which of its vCPUs.
        op: number of the operation on that vCPU, from 0.
        after: so many commands of the operation's first list stand before the additional entry, at most all.
        delay: how late the answer of a stalled device is.
    """

    where: ClassVar[str] = "fault"
    kind: str = setting(one_of("none", *FAULTS), default="none")
    guest: int = setting(whole(0, 1023), default=0)
    vcpu: int = setting(whole(0, 1023), default=0)
    op: int = setting(whole(0, 10_000_000), default=0)
    after: int = setting(whole(0, 1 << 20), default=0)
    delay: int = setting(DURATION, default="100us")

    def __bool__(self) -> bool:
        return self.kind != "none"

    @property
    def bad_entry(self) -> bool:
        """It is one more entry in the queue."""
        return self.kind in BAD_ENTRY

    def strike(self, batches: tuple[Batch, ...], costs: Costs) -> tuple[Batch, ...]:
        """The batches of the operation that it strikes.

        >>> from smmu_lab.scenario.costs import costs
        >>> [batch.bad for batch in Fault(kind="illegal-command", after=9).strike((Batch(tlbi=4),), costs("grace"))]
        [4]
        """
        if self.bad_entry:
            first, *others = batches
            return first._replace(bad=min(self.after, first.tlbi + first.atc)), *others
        gone = self.kind == "atc-timeout"
        late = costs.atc_timeout if gone else self.delay
        return tuple(batch._replace(late=late, gone=gone) if batch.atc else batch for batch in batches)

    def __str__(self) -> str:
        return f"{self.kind} in operation {self.op} of vCPU {self.guest}.{self.vcpu}"

    def conflicts(self) -> Iterator[str]:
        """A device that is late is late by something."""
        if self.kind == "stalled-device" and not self.delay:
            yield 'fault.delay: 0 is not valid: a duration such as "100us"'
