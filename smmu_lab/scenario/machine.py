"""The machine below the guests: its SMMUs, and the host."""

from __future__ import annotations

from typing import ClassVar

from smmu_lab.scenario.fields import FLAG, Settings, one_of, setting, settings, whole


@settings
class Smmu(Settings):
    """The SMMUs, the guest's virtual one and the physical one.

    Attributes:
        ril: range invalidation (IDR3.RIL): an unmap is one TLBI or a few, instead of one per page.
        queue_log2: log2 of the entries in each guest queue. QEMU offers 2^19, a guest with 4K pages allocates 2^16.
        errata: what the physical SMMU cannot take: ``tlbi-apart`` (TLBIs and device commands in one batch),
            ``leaf-apart`` (also leaf and other TLBIs in one batch), ``force-sync`` (a batch without CMD_SYNC: MMU-700
            erratum 2812531, ARM_SMMU_OPT_CMDQ_FORCE_SYNC; Linux 7.2 then offers no nesting). The host cuts its lists
            there.
        vintfs: VINTFs of each physical SMMU with VCMDQs; one of them is the host's.
        vcmdqs: VCMDQs of each, which its VINTFs share.
        sids: StreamIDs that a VINTF can replace (SID_MATCH registers; QEMU: 16).
        host_queue_log2: log2 of the entries in the host's queue. At least 2^7: Linux refuses a queue that cannot hold
            a batch of 64 and a CMD_SYNC (AS-C:5088-5100).
    """

    where: ClassVar[str] = "smmu"
    ril: bool = setting(FLAG, default=True)
    queue_log2: int = setting(whole(7, 19), default=16)
    host_queue_log2: int = setting(whole(7, 19), default=16)
    errata: str = setting(one_of("none", "tlbi-apart", "leaf-apart", "force-sync"), default="none")
    vintfs: int = setting(whole(2, 64), default=64)
    vcmdqs: int = setting(whole(2, 128), default=128)
    sids: int = setting(whole(1, 1 << 15), default=16)


@settings
class Host(Settings):
    """The machine below the guests; every vCPU has a CPU of its own besides.

    Attributes:
        worker_cpus: host CPUs that kernel workers may run on; a worker waits for one.
        placement: a worker takes ``any`` of these CPUs that is free; or they are ``pinned``, worker n to CPU n modulo
            their number.
        reporting: what the kernel reports when an ioctl fails at an entry: ``upstream`` (what Linux 7.2, or the patch,
            writes back: entries count as handled that were not issued), or ``strict`` (only what is complete).
    """

    where: ClassVar[str] = "host"
    worker_cpus: int = setting(whole(1, 1024), default=4)
    placement: str = setting(one_of("any", "pinned"), default="any")
    reporting: str = setting(one_of("upstream", "strict"), default="upstream")
