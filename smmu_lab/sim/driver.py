"""The Linux driver: how an operation becomes lists, and how it polls for the end of them.

Source: arm_smmu_cmdq_batch_add and queue_poll of Linux 7.2 arm-smmu-v3.c. Guests and the host use the same driver.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.scenario import Batch
from smmu_lab.units import nanoseconds

POLL_SPIN = 10
"""Every tenth poll step is a udelay instead of a cpu_relax: ARM_SMMU_POLL_SPIN_COUNT."""
POLL_DELAY = nanoseconds("1us")
"""The first udelay; each later one is twice as long: queue_poll."""
SYNC_TIMEOUT = nanoseconds("1s")
"""ARM_SMMU_POLL_TIMEOUT_US: the driver gives up, and the unmap returns all the same."""


class Work(NamedTuple):
    """One list as issue_cmdlist gets it: the counts of a `Batch`, with or without a CMD_SYNC.

    `tail`: how many of the TLBIs follow the last ATC_INV; `leaf`, `vcmdq`: as in the batch. `bad`: an entry that nobody
    can run stands behind so many TLBIs and ATC_INVs, -1 for none; `fixed`: the driver has replaced it by a CMD_SYNC.
    `late`, `gone`: the device of the first ATC_INV behind each SMMU answers so much later, or never. `at`, `fan`: as in
    the batch.
    """

    tlbi: int
    atc: int
    ste: int
    other: int
    sync: int
    entries: int
    tail: int = 0
    leaf: bool = True
    vcmdq: bool = True
    bad: int = -1
    fixed: bool = False
    late: int = 0
    gone: bool = False
    at: tuple[int, ...] = ()
    fan: tuple[int, ...] = ()

    def behind(self, commands: int, replaced: bool = True) -> Work:
        """What is left behind its first so many TLBIs and ATC_INVs when the driver has replaced the next entry.

        Where it has not, that one is left as well.

        >>> left = Work(4, 1, 0, 0, 1, 7, bad=3).behind(3)
        >>> left.tlbi, left.atc, left.entries, left.bad, left.fixed
        (1, 1, 4, 0, True)
        """
        left = [max(0, self.tlbi - commands), min(self.atc, self.tlbi + self.atc - commands), self.ste, self.other]
        if replaced and (commands != self.bad or self.fixed):
            innocent = next((k for k, number in enumerate(left) if number), None)
            if innocent is None:  # a CMD_SYNC is replaced by a CMD_SYNC
                return self
            left[innocent] -= 1
        tlbi, atc, ste, other = left
        entries = sum(left) + self.sync + replaced
        kept = self.leaf, self.vcmdq, replaced - 1, replaced
        return Work(tlbi, atc, ste, other, self.sync, entries, 0, *kept, fan=self.fan)

    def before(self, commands: int) -> Work:
        """Its first so many TLBIs and ATC_INVs, and the entry in error behind them."""
        tlbi = min(commands, self.tlbi)
        entries = self.entries - self.behind(commands).entries + 1
        return Work(tlbi, commands - tlbi, 0, 0, 0, entries, 0, self.leaf, self.vcmdq, commands, fan=self.fan)


@cache
def lists(batch: Batch, force_sync: bool = False) -> tuple[Work, ...]:
    """Cut a batch as arm_smmu_cmdq_batch_add does: full lists of 64 without, the rest with CMD_SYNC.

    Args:
        batch: what the driver submits.
        force_sync: the SMMU has the erratum of ARM_SMMU_OPT_CMDQ_FORCE_SYNC: lists of 63, all with CMD_SYNC.

    >>> [work.entries for work in lists(Batch(tlbi=128))]
    [64, 65]
    >>> [work.entries for work in lists(Batch(tlbi=128), force_sync=True)]
    [64, 64, 3]
    """
    left = [batch.tlbi, batch.atc, batch.ste, batch.other]
    behind = list(batch.at)
    cut = []
    bad = batch.bad
    while True:
        room = CMDQ_BATCH_ENTRIES - force_sync
        part = [0, 0, 0, 0]
        for k, have in enumerate(left):
            part[k] = min(have, room)
            room -= part[k]
            left[k] -= part[k]
        last = not any(left)
        sync = int(force_sync or last)
        tlbi, atc, ste, other = part
        work = Work(tlbi, atc, ste, other, sync, sum(part) + sync, leaf=batch.leaf, vcmdq=batch.vcmdq, fan=batch.fan)
        if behind and atc:
            at = []
            for k, have in enumerate(behind):
                at.append(min(have, atc))
                atc -= at[k]
                behind[k] -= at[k]
            work = work._replace(at=tuple(at))
        if bad >= 0:
            work = work._replace(bad=min(bad, tlbi + work.atc), entries=work.entries + 1)
        cut.append(work._replace(late=batch.late, gone=batch.gone) if batch.late else work)
        bad = -1
        if last:
            return tuple(cut)


def poll_step(step: int, relax: int) -> int:
    """Length of one step of queue_poll, counted from 1, ns.

    >>> [poll_step(k, 10) for k in (1, 9, 10, 11, 20, 30)]
    [10, 10, 1000, 10, 2000, 4000]
    """
    return relax if step % POLL_SPIN else POLL_DELAY << (step // POLL_SPIN - 1)


def patience(t: int, relax: int, read: int) -> tuple[int, int]:
    """When the loop of `poll` gives up a CMD_SYNC that it never sees, and after how many reads.

    Before each step it looks whether 1 s has passed; the delays have become long by then.

    >>> patience(0, 10, 30)
    (1048582800, 200)
    """
    limit = t + SYNC_TIMEOUT
    reads, delay, stride = 0, POLL_DELAY, relax + read
    while t <= limit:
        if t + (POLL_SPIN - 1) * stride > limit:
            steps = (limit - t) // stride + 1
            return t + steps * stride, reads + steps
        t += (POLL_SPIN - 1) * stride + delay + read
        reads += POLL_SPIN
        delay *= 2
    return t, reads


def watch(t: int, moved: int, relax: int) -> int:
    """When a CPU that watches the shadow of CONS sees that it has moved: poll steps, which begin anew after each 1 s.

    Source: arm_smmu_cmdq_poll_until_not_full, and arm_smmu_cmdq_issue_cmdlist around it ("CMDQ timeout").
    """
    while True:
        seen, _ = poll(t, moved, relax, 0, 0)
        if seen - t <= SYNC_TIMEOUT or seen <= (limit := patience(t, relax, 0)[0]):
            return seen
        t = limit


def poll(t: int, visible: int, relax: int, read: int, sample: int) -> tuple[int, int]:
    """Poll CONS as __arm_smmu_cmdq_poll_until_consumed does: a step, a read, and again.

    Args:
        t: when the loop starts.
        visible: when CONS covers the CMD_SYNC.
        relax: cost of one cpu_relax, ns.
        read: cost of one read, ns.
        sample: how long after its start a read takes its value, ns.

    Returns:
        When the read that sees it is back, and the number of reads.

    >>> poll(0, 5_000, 10, 30, 30)
    (8170, 30)
    """
    reads = 0
    delay = POLL_DELAY
    stride = relax + read
    while True:
        early = visible - t - relax - sample
        steps = 1 if early <= 0 else 1 - (-early // stride) if stride else POLL_SPIN
        if steps < POLL_SPIN:
            return t + steps * stride, reads + steps
        t += (POLL_SPIN - 1) * stride + delay
        reads += POLL_SPIN
        if t + sample >= visible:
            return t + read, reads
        t += read
        delay *= 2
