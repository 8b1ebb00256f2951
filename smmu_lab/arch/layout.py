"""The bits of every SMMUv3 command, as one table: `FIELDS`.

It follows Linux 7.2 arm-smmu-v3.h, cross-checked with QEMU 10.2.2 smmuv3-internal.h; names are the ones that
these sources share. A field that neither names (SSV and SSID of a prefetch, say) counts as reserved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs


@attrs.frozen
class Field:
    """Bits [hi:lo] of one of the two 64-bit words of an entry.

    Attributes:
        name: Name as in `Command.fields`.
        word: 0 or 1 (dw0 or dw1).
        hi: Highest bit.
        lo: Lowest bit.
        address: True if the value is a byte address that stays in place, its bits below `lo` zero.
        names: Names of the values in the disassembly; an empty name is left out there.
        mask: The field's bits, in place.
        shift: Right shift that turns the masked word into the value.
    """

    name: str
    word: int
    hi: int
    lo: int
    address: bool = False
    names: tuple[str, ...] = ()
    mask: int = attrs.field(init=False)
    shift: int = attrs.field(init=False)

    @mask.default
    def _mask(self) -> int:
        return (1 << (self.hi + 1)) - (1 << self.lo)

    @shift.default
    def _shift(self) -> int:
        return 0 if self.address else self.lo

    @property
    def valid(self) -> str:
        """The values that fit, in words."""
        if self.address:
            return f"a multiple of {1 << self.lo:#x} below 2^{self.hi + 1}"
        return f"0 to {self.mask >> self.lo:#x}"


_SID = Field("sid", 0, 63, 32)
_SSV = Field("ssv", 0, 11, 11)
_SSID = Field("ssid", 0, 31, 12)
_VMID = Field("vmid", 0, 47, 32)
_ASID = Field("asid", 0, 63, 48)
_LEAF = Field("leaf", 1, 0, 0)
_RANGE = Field("range", 1, 4, 0)
_ADDR = Field("addr", 1, 63, 12, address=True)
_VA = Field("va", 1, 63, 12, address=True)
_IPA = Field("ipa", 1, 51, 12, address=True)
_NUM_TO_LEAF = (
    Field("num", 0, 16, 12),
    Field("scale", 0, 24, 20),
    Field("tg", 1, 11, 10, names=("", "4K", "16K", "64K")),
    Field("ttl", 1, 9, 8),
    _LEAF,
)
_PREFETCH = (_SID, Field("size", 1, 4, 0), _ADDR)

_TABLE: tuple[tuple[int, str, tuple[Field, ...]], ...] = (
    (0x01, "PREFETCH_CFG", _PREFETCH),
    (0x02, "PREFETCH_ADDR", _PREFETCH),
    (0x03, "CFGI_STE", (_SID, _LEAF)),
    (0x04, "CFGI_ALL", (_SID, _RANGE)),
    (0x04, "CFGI_STE_RANGE", (_SID, _RANGE)),
    (0x05, "CFGI_CD", (_SID, _SSID, _LEAF)),
    (0x06, "CFGI_CD_ALL", (_SID,)),
    (0x10, "TLBI_NH_ALL", (_VMID,)),
    (0x11, "TLBI_NH_ASID", (_VMID, _ASID)),
    (0x12, "TLBI_NH_VA", (_VMID, _ASID, _VA, *_NUM_TO_LEAF)),
    (0x13, "TLBI_NH_VAA", (_VMID, _VA, *_NUM_TO_LEAF)),
    (0x18, "TLBI_EL3_ALL", ()),
    (0x1A, "TLBI_EL3_VA", (_VA, *_NUM_TO_LEAF)),
    (0x20, "TLBI_EL2_ALL", ()),
    (0x21, "TLBI_EL2_ASID", (_ASID,)),
    (0x22, "TLBI_EL2_VA", (_ASID, _VA, *_NUM_TO_LEAF)),
    (0x23, "TLBI_EL2_VAA", (_VA, *_NUM_TO_LEAF)),
    (0x28, "TLBI_S12_VMALL", (_VMID,)),
    (0x2A, "TLBI_S2_IPA", (_VMID, _IPA, *_NUM_TO_LEAF)),
    (0x30, "TLBI_NSNH_ALL", ()),
    (0x40, "ATC_INV", (_SID, _SSV, _SSID, Field("global", 0, 9, 9), _ADDR, Field("size", 1, 5, 0))),
    (
        0x41,
        "PRI_RESP",
        (
            _SID,
            _SSV,
            _SSID,
            Field("grpid", 1, 8, 0),
            Field("resp", 1, 13, 12, names=("DENY", "FAIL", "SUCC", "3")),
        ),
    ),
    (
        0x44,
        "RESUME",
        (_SID, Field("stag", 1, 15, 0), Field("resp", 0, 13, 12, names=("TERM", "RETRY", "ABORT", "3"))),
    ),
    (0x45, "STALL_TERM", (_SID,)),
    (
        0x46,
        "CMD_SYNC",
        (
            Field("cs", 0, 13, 12, names=("NONE", "IRQ", "SEV", "3")),
            Field("msh", 0, 23, 22, names=("", "1", "OSH", "ISH")),
            Field("msiattr", 0, 27, 24),
            Field("msidata", 0, 63, 32),
            Field("msiaddr", 1, 51, 2, address=True),
        ),
    ),
)

OPCODES: Mapping[str, int] = MappingProxyType({name: opcode for opcode, name, _ in _TABLE})
"""Opcode of each command, by name. CFGI_ALL and CFGI_STE_RANGE share 0x04."""

FIELDS: Mapping[str, tuple[Field, ...]] = MappingProxyType({name: fields for _, name, fields in _TABLE})
"""Fields of each command, by name, in the order of the disassembly."""

ATC_INV_SIZE_ALL = 52
"""ATC_INV Size that means the whole address space: 2^52 pages of 4 KiB (Linux 7.2 ATC_INV_SIZE_ALL)."""

CFGI_RANGE_ALL = 31
"""CFGI_STE_RANGE Range that means all streams; the command is then called CFGI_ALL."""
