"""What an SMMU implements, when a command is illegal for it, and where QEMU leaves the specification.

Three tables: `Features` (the ID registers), `ILLEGAL` (every reason for CERROR_ILL that depends on more than the
opcode) and `DEVIATIONS` (QEMU 10.0.2 against Arm IHI 0070). A rule set is nothing but the set of deviations that
apply: none for "arm", all for "qemu".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs

from smmu_lab.arch.commands import Command

Rules = Literal["arm", "qemu"]


def _register32(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{attribute.name}: {value:#x} is not valid: 0 to 0xffffffff")


@attrs.frozen(kw_only=True)
class Features:
    """What the ID registers say about the command queue: the raw registers, and their fields by name.

    Fields as in QEMU 10.2.2 smmuv3-internal.h and Linux 7.2 arm-smmu-v3.h; IDR5.DS as in Arm IHI 0070 section 6.3.

    Raises:
        ValueError: A value that is no 32-bit register, or IDR1.CMDQS above 19.

    >>> qemu = Features.from_idr(idr0=0x0d44101b, idr1=0x02730010, idr3=0x1414, idr5=0x74)
    >>> qemu.s1p, qemu.s2p, qemu.ats, qemu.ril, qemu.cmdqs
    (True, True, False, True, 19)
    """

    idr0: int = attrs.field(converter=operator.index, validator=_register32)
    idr1: int = attrs.field(converter=operator.index, validator=_register32)
    idr3: int = attrs.field(converter=operator.index, validator=_register32)
    idr5: int = attrs.field(converter=operator.index, validator=_register32)

    def __attrs_post_init__(self) -> None:
        if self.cmdqs > 19:
            raise ValueError(f"idr1: CMDQS (bits 25:21) of {self.cmdqs} is not valid: 0 to 19")

    @classmethod
    def from_idr(cls, *, idr0: int, idr1: int, idr3: int, idr5: int) -> Features:
        """The features of an SMMU with these ID registers."""
        return cls(idr0=idr0, idr1=idr1, idr3=idr3, idr5=idr5)

    @property
    def s1p(self) -> bool:
        """Stage 1 translation."""
        return bool(self.idr0 >> 1 & 1)

    @property
    def s2p(self) -> bool:
        """Stage 2 translation."""
        return bool(self.idr0 & 1)

    @property
    def hyp(self) -> bool:
        """EL2 (hypervisor) stage 1 contexts."""
        return bool(self.idr0 >> 9 & 1)

    @property
    def ats(self) -> bool:
        """PCIe Address Translation Services: ATC_INV."""
        return bool(self.idr0 >> 10 & 1)

    @property
    def msi(self) -> bool:
        """Message-signalled interrupts: CMD_SYNC can write a word to memory."""
        return bool(self.idr0 >> 13 & 1)

    @property
    def pri(self) -> bool:
        """PCIe Page Request Interface: PRI_RESP."""
        return bool(self.idr0 >> 16 & 1)

    @property
    def vmw(self) -> bool:
        """VMID wildcards: CR0.VMW."""
        return bool(self.idr0 >> 17 & 1)

    @property
    def stall(self) -> bool:
        """Faulting transactions can stall (STALL_MODEL is not 0b01): RESUME, STALL_TERM."""
        return self.idr0 >> 24 & 3 != 1

    @property
    def cmdqs(self) -> int:
        """log2 of the most entries that the command queue can have."""
        return self.idr1 >> 21 & 0x1F

    @property
    def ril(self) -> bool:
        """Range invalidation: NUM, SCALE, TTL and TG of a TLBI."""
        return bool(self.idr3 >> 10 & 1)

    @property
    def ds(self) -> bool:
        """52-bit addresses with 4 KiB and 16 KiB pages."""
        return bool(self.idr5 >> 7 & 1)


@attrs.frozen
class Illegal:
    """One reason for which the SMMU stops at a command with CERROR_ILL.

    Attributes:
        commands: Names of the commands that it concerns.
        reason: What is wrong, in words.
        applies: Whether this entry breaks it: dw0 as fetched, the command without its SSec bit, the features.
        source: Section of Arm IHI 0070.
        deviation: Key in `DEVIATIONS` if QEMU does not check it.
    """

    commands: tuple[str, ...]
    reason: str
    applies: Callable[[int, Command, Features], bool]
    source: str
    deviation: str | None = None


SSEC = 1 << 10
"""SSec bit in dw0 of the commands that name a stream: the Secure one, so 1 is illegal on the Non-secure queue."""

_CFGI = "CFGI_STE", "CFGI_STE_RANGE", "CFGI_ALL", "CFGI_CD", "CFGI_CD_ALL"
_RANGED = (
    *("TLBI_NH_VA", "TLBI_NH_VAA", "TLBI_S2_IPA"),
    *("TLBI_EL2_VA", "TLBI_EL2_VAA", "TLBI_EL3_VA"),
)
_TG_16K = 2


def _ssec(dw0: int, command: Command, features: Features) -> bool:
    return bool(dw0 & SSEC)


def _reserved_range(dw0: int, command: Command, features: Features) -> bool:
    f = command.fields
    no_level = f["ttl"] == 0 or (f["ttl"] == 1 and f["tg"] == _TG_16K and not features.ds)
    return features.ril and f["tg"] != 0 and f["num"] == f["scale"] == 0 and no_level


ILLEGAL: tuple[Illegal, ...] = (
    Illegal(_CFGI, "SSec (bit 10) is 1 on the Non-secure queue", _ssec, "4.1.6"),
    Illegal(
        ("PREFETCH_CFG", "PREFETCH_ADDR"),
        "SSec (bit 10) is 1 on the Non-secure queue",
        _ssec,
        "4.1.6",
        "prefetch_ssec",
    ),
    Illegal(
        ("ATC_INV", "PRI_RESP", "RESUME", "STALL_TERM"),
        "SSec (bit 10) is 1 on the Non-secure queue",
        _ssec,
        "4.1.6",
        "unsupported_accepted",
    ),
    Illegal(
        ("TLBI_NH_ALL", "TLBI_NH_ASID", "TLBI_NH_VA", "TLBI_NH_VAA"),
        "stage 1 is not implemented (IDR0.S1P = 0)",
        lambda dw0, command, features: not features.s1p,
        "4.4.2",
    ),
    Illegal(
        ("TLBI_S12_VMALL", "TLBI_S2_IPA"),
        "stage 2 is not implemented (IDR0.S2P = 0)",
        lambda dw0, command, features: not features.s2p,
        "4.4.3",
    ),
    Illegal(
        ("CFGI_CD", "CFGI_CD_ALL"),
        "stage 1 is not implemented (IDR0.S1P = 0)",
        lambda dw0, command, features: not features.s1p,
        "4.3.3 and 4.3.4",
        "cfgi_cd_no_s1",
    ),
    Illegal(
        ("TLBI_EL3_ALL", "TLBI_EL3_VA"),
        "only valid on the Secure queue",
        lambda dw0, command, features: True,
        "4.4.2.5 and 4.4.2.6",
        "unsupported_accepted",
    ),
    Illegal(
        ("TLBI_EL2_ALL", "TLBI_EL2_ASID", "TLBI_EL2_VA", "TLBI_EL2_VAA"),
        "EL2 is not implemented (IDR0.HYP = 0)",
        lambda dw0, command, features: not features.hyp,
        "4.4.2.7 to 4.4.2.10",
        "unsupported_accepted",
    ),
    Illegal(
        ("ATC_INV",),
        "ATS is not implemented (IDR0.ATS = 0)",
        lambda dw0, command, features: not features.ats,
        "4.5.1",
        "unsupported_accepted",
    ),
    Illegal(
        ("PRI_RESP",),
        "PRI is not implemented (IDR0.PRI = 0)",
        lambda dw0, command, features: not features.pri,
        "4.5.2",
        "unsupported_accepted",
    ),
    Illegal(
        ("PRI_RESP",),
        "Resp = 3 is reserved",
        lambda dw0, command, features: command.fields["resp"] == 3,
        "4.5.2",
        "unsupported_accepted",
    ),
    Illegal(
        ("RESUME", "STALL_TERM"),
        "nothing can stall (IDR0.STALL_MODEL = 0b01)",
        lambda dw0, command, features: not features.stall,
        "4.7.1 and 4.7.2",
        "unsupported_accepted",
    ),
    Illegal(
        _RANGED,
        "TG is not 0, but NUM and SCALE are, and TTL names no level: reserved",
        _reserved_range,
        "4.4.1.1",
        "ril_reserved",
    ),
    Illegal(
        ("CMD_SYNC",),
        "CS = 3 is reserved",
        lambda dw0, command, features: command.fields["cs"] == 3,
        "4.7.3",
        "sync_cs3",
    ),
)
"""Every reason for CERROR_ILL beside an unknown opcode (sections of Arm IHI 0070)."""


@attrs.frozen
class Deviation:
    """One point at which QEMU 10.0.2 does not do what the specification asks, or picks what it leaves open.

    Attributes:
        qemu: What QEMU does, observed on its SMMUv3 model.
        arm: What Arm IHI 0070 asks for.
        source: Function in QEMU's hw/arm/smmuv3.c, and section of the specification.
        open: The specification leaves it open (CONSTRAINED UNPREDICTABLE, or no valid state), or no register
            shows it; both rule sets then do as QEMU does.
    """

    qemu: str
    arm: str
    source: str
    open: bool = False


DEVIATIONS: Mapping[str, Deviation] = MappingProxyType(
    {
        "unsupported_accepted": Deviation(
            "TLBI_EL2_*, TLBI_EL3_*, ATC_INV, PRI_RESP, RESUME and STALL_TERM are consumed without effect or error",
            "CERROR_ILL without the feature, or with SSec = 1 or a reserved value",
            "smmuv3_cmdq_consume (smmuv3_unhandled_cmd); 4.4.2, 4.5, 4.7",
        ),
        "prefetch_ssec": Deviation(
            "SSec is not looked at in PREFETCH_*", "SSec = 1 is CERROR_ILL", "smmuv3_cmdq_consume; 4.1.6"
        ),
        "sync_cs3": Deviation(
            "CS = 3 counts as SIG_IRQ: one bit is tested", "reserved: CERROR_ILL", "smmuv3_cmdq_consume; 4.7.3"
        ),
        "ril_reserved": Deviation(
            "reserved combinations of TG, NUM, SCALE and TTL cover what their formula says",
            "CERROR_ILL",
            "smmuv3_range_inval; 4.4.1.1",
        ),
        "cfgi_cd_no_s1": Deviation(
            "CFGI_CD and CFGI_CD_ALL are taken without stage 1",
            "CERROR_ILL",
            "smmuv3_cmdq_consume; 4.3.3 and 4.3.4",
        ),
        "misaligned_base": Deviation(
            "the queue lies at bits [51:6] of CMDQ_BASE, wherever that is",
            "the queue is aligned to its size, at least to 32 bytes: lower address bits count as 0",
            "Q_BASE, SMMU_BASE_ADDR_MASK; 6.3.26",
        ),
        "cons_write_live": Deviation(
            "CMDQ_CONS can be written while CR0.CMDQEN is 1", "read-only then", "smmu_writel; 6.3.28"
        ),
        "base_write_live": Deviation(
            "CMDQ_BASE can be written while CR0.CMDQEN is 1",
            "read-only then (SMMUv3.2 on; left open before)",
            "smmu_writell; 6.3.26",
        ),
        "prod_high_bits": Deviation(
            "bits of CMDQ_PROD above the wrap bit are stored and read back",
            "bits 31:20 read 0; those between may be stored, without effect",
            "smmu_writel; 6.3.27",
        ),
        "reserved_bits": Deviation(
            "CR0, IRQ_CTRL, GERRORN, CMDQ_BASE and CMDQ_CONS store reserved bits; only CR0ACK drops some",
            "reserved bits, and bits of features that are not there, read as 0",
            "smmu_writel, smmu_writell, SMMU_CR0_RESERVED; 6.3",
        ),
        "overfull": Deviation(
            "PROD more than the size ahead of CONS: all is run up to PROD, some slots twice",
            "not a valid state",
            "smmuv3_cmdq_consume; 6.3.27",
            open=True,
        ),
        "gerrorn_nonpending": Deviation(
            "toggling a bit of GERRORN that is not pending makes it look pending",
            "CONSTRAINED UNPREDICTABLE",
            "smmuv3_write_gerrorn; 6.3 SMMU_GERRORN",
            open=True,
        ),
        "wide_prod": Deviation(
            "a 64-bit access to a 32-bit register reads 0 and writes nothing",
            "CONSTRAINED UNPREDICTABLE; this is one choice",
            "smmu_writell, smmu_readll; 6.2",
            open=True,
        ),
        "ril_unaligned": Deviation(
            "an address below the alignment of TG is split down to pieces of no page at all",
            "what is invalidated is UNPREDICTABLE; no register shows it",
            "smmuv3_range_inval; 4.4.1.1",
            open=True,
        ),
    }
)
"""Deviations of QEMU 10.0.2 by name."""

RULES: Mapping[str, frozenset[str]] = MappingProxyType({"arm": frozenset(), "qemu": frozenset(DEVIATIONS)})
"""The rule sets: which deviations apply."""
