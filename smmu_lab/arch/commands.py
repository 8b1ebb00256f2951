"""The 16-byte commands of the SMMUv3 command queue: encode, decode, disassemble, and the host's rewrite."""

from __future__ import annotations

import difflib
import operator
import struct
from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import ClassVar, SupportsIndex

import attrs

from smmu_lab.arch.layout import ATC_INV_SIZE_ALL, CFGI_RANGE_ALL, FIELDS, OPCODES, Field


class CError(IntEnum):
    """Error codes of CMDQ_CONS.ERR (Arm IHI 0070 section 7.1; Linux 7.2 CMDQ_ERR_CERROR_*_IDX)."""

    NONE = 0
    ILL = 1
    ABT = 2
    ATC_INV_SYNC = 3


class IllegalCommand(ValueError):
    """An entry at which the SMMU stops; `cerror` is the code that CMDQ_CONS.ERR then shows."""

    cerror: ClassVar[CError] = CError.ILL


class RejectedCommand(ValueError):
    """A legal command that the host kernel does not take from a guest (the ioctl gives -EIO)."""


class UnknownStream(LookupError):
    """A virtual StreamID for which the guest has no device (the ioctl gives -EIO)."""


VCMDQ_ACCEPTS = frozenset({"TLBI_NH_ASID", "TLBI_NH_VA", "ATC_INV", "CMD_SYNC"})
"""What a guest-owned VCMDQ takes; CMD_SYNC only with cs = 0 (CS_NONE).

Source: Linux 7.2 tegra241-cmdqv.c, tegra241_guest_vcmdq_supports_cmd, and OPT_TEGRA241_CMDQV for the SYNC.
"""

HOST_ACCEPTS = frozenset(
    {
        "TLBI_NSNH_ALL",
        "TLBI_NH_VA",
        "TLBI_NH_VAA",
        "TLBI_NH_ALL",
        "TLBI_NH_ASID",
        "ATC_INV",
        "CFGI_CD",
        "CFGI_CD_ALL",
    }
)
"""What the host takes in an IOMMU_HWPT_INVALIDATE array (Linux 7.2 arm_vsmmu_cache_invalidate)."""

_SSEC = 1 << 10

# Name, defined bits of dw0 and dw1, SSec bit if the command has one. CFGI_STE_RANGE comes after CFGI_ALL.
_BY_OPCODE: list[tuple[str, int, int, int] | None] = [None] * 256
for _name, _fields in FIELDS.items():
    _dw0, _dw1 = (sum(f.mask for f in _fields if f.word == word) for word in (0, 1))
    _ssec = _SSEC if any(f.name == "sid" for f in _fields) else 0
    _BY_OPCODE[OPCODES[_name]] = _name, 0xFF | _dw0, _dw1, _ssec

_ENTRY = struct.Struct("<QQ")
_set = object.__setattr__


def _unknown(word: str, valid: Collection[str]) -> str:
    by_upper = {v.upper(): v for v in valid}
    close = difflib.get_close_matches(word.upper(), by_upper, 1)
    hint = f"did you mean {by_upper[close[0]]!r}? " if close else ""
    return f"unknown; {hint}valid: {', '.join(valid) or 'none'}"


@attrs.frozen(repr=False)
class Command:
    """One entry of the command queue: an immutable value, equal to another if all defined bits are.

    Reserved bits are ignored and dropped, as the SMMU ignores them, so `bytes` writes them as zero. Opcode
    0x04 is called CFGI_ALL if its Range is 31, else CFGI_STE_RANGE.

    Args:
        dw0: First 64-bit word.
        dw1: Second 64-bit word.

    Raises:
        IllegalCommand: Unknown opcode (0x07 included, as in QEMU), or SSec = 1 in a command that names a
            stream (Arm IHI 0070 section 4.1.6). In TLBI and CMD_SYNC bit 10 is reserved, hence ignored; QEMU
            10.0.2 agrees on these, but checks SSec in CFGI commands only.

    >>> c = Command.of("TLBI_NH_VA", asid=0x2A, va=0x1_0000_0000, num=24, tg=1, ttl=3, leaf=1)
    >>> print(c)
    TLBI_NH_VA asid=0x2a va=0x100000000 range=25 pages (NUM 24, SCALE 0) TG=4K TTL=3 leaf
    >>> bytes(c).hex()
    '1280010000002a000107000001000000'
    """

    dw0: int
    dw1: int

    def __init__(self, dw0: int, dw1: int) -> None:
        row = _BY_OPCODE[dw0 & 0xFF]
        if row is None:
            raise IllegalCommand(f"opcode {dw0 & 0xFF:#04x} is not a command of the SMMUv3 queue (CERROR_ILL)")
        name, mask0, mask1, ssec = row
        if dw0 & ssec:
            raise IllegalCommand(f"{name}: SSec (bit 10) is 1 on the Non-secure queue (CERROR_ILL)")
        _set(self, "dw0", dw0 & mask0)
        _set(self, "dw1", dw1 & mask1)

    @classmethod
    def of(cls, command: str, /, **fields: SupportsIndex) -> Command:
        """Build a command from its name and the values of its fields; a field not given is 0.

        Values are as stored (num is the count - 1); addresses are byte addresses. `global` is a Python
        keyword: write `global_=1`. CFGI_ALL sets range = 31 by itself.

        Raises:
            ValueError: Unknown command or field, or values that do not fit, all named in one message.

        >>> Command.of("TLBI_NH_ASID", asdi=1, vmid=0x10000)
        Traceback (most recent call last):
            ...
        ValueError: TLBI_NH_ASID.asdi: unknown; did you mean 'asid'? valid: vmid, asid
        TLBI_NH_ASID.vmid: 0x10000 is not valid: 0 to 0xffff
        """
        if command not in FIELDS:
            raise ValueError(f"command {command!r}: {_unknown(command, FIELDS)}")
        known = {f.name: f for f in FIELDS[command]}
        words = [OPCODES[command], CFGI_RANGE_ALL if command == "CFGI_ALL" else 0]
        problems = []
        for given, raw in fields.items():
            name = given.removesuffix("_")
            if (f := known.get(name)) is None:
                problems.append(f"{command}.{given}: {_unknown(given, known)}")
                continue
            try:
                value = operator.index(raw)
            except TypeError:
                problems.append(f"{command}.{name}: {raw!r} is not valid: an integer, {f.valid}")
                continue
            bits = value << f.shift
            if bits & ~f.mask:
                problems.append(f"{command}.{name}: {value:#x} is not valid: {f.valid}")
            elif command == "CFGI_ALL" and name == "range" and value != CFGI_RANGE_ALL:
                problems.append(f"CFGI_ALL.range: {value} is not valid: 31 (for less use CFGI_STE_RANGE)")
            else:
                words[f.word] = words[f.word] & ~f.mask | bits
        if problems:
            raise ValueError("\n".join(problems))
        return cls(*words)

    def but(self, /, **fields: SupportsIndex) -> Command:
        """The same command with some fields changed; errors as in `of`."""
        return Command.of(self.name, **self.fields | {n.removesuffix("_"): v for n, v in fields.items()})

    @property
    def opcode(self) -> int:
        """Bits [7:0] of dw0."""
        return self.dw0 & 0xFF

    @property
    def name(self) -> str:
        """Name in `FIELDS` and `OPCODES`."""
        row = _BY_OPCODE[self.dw0 & 0xFF]
        assert row is not None
        if row[0] == "CFGI_STE_RANGE" and self.dw1 == CFGI_RANGE_ALL:
            return "CFGI_ALL"
        return row[0]

    @property
    def fields(self) -> dict[str, int]:
        """Value of every field by name, as stored; a new dict at each access.

        >>> decode(bytes.fromhex("4620c00f000000000000000000000000")).fields
        {'cs': 2, 'msh': 3, 'msiattr': 15, 'msidata': 0, 'msiaddr': 0}
        """
        words = self.dw0, self.dw1
        return {f.name: (words[f.word] & f.mask) >> f.shift for f in FIELDS[self.name]}

    @property
    def pages(self) -> int | None:
        """Pages that the command covers; None if it covers everything in its scope, or has no range at all.

        TLBI by address: (NUM + 1) * 2^SCALE pages of the size in TG; 1 page or block if TG = 0, where NUM and
        SCALE mean nothing (QEMU 10.2.2 smmuv3_range_inval). ATC_INV: 2^Size pages of 4 KiB; None for Size 52.

        >>> [Command.of("ATC_INV", sid=1, size=n).pages for n in (0, 4, 52)]
        [1, 16, None]
        """
        fields = self.fields
        if "tg" in fields:
            return (fields["num"] + 1) << fields["scale"] if fields["tg"] else 1
        if self.name == "ATC_INV" and fields["size"] < ATC_INV_SIZE_ALL:
            return 1 << fields["size"]
        return None

    def __bytes__(self) -> bytes:
        return _ENTRY.pack(self.dw0, self.dw1)

    def __repr__(self) -> str:
        wide = {f.name for f in FIELDS[self.name] if _is_wide(f)}
        given = (f"{n}={v:#x}" if n in wide else f"{n}={v}" for n, v in self.fields.items() if v)
        return f"Command.of({', '.join([repr(self.name), *given])})".replace("global=", "global_=")

    def __str__(self) -> str:
        values = self.fields
        words = [self.name]
        for f in FIELDS[self.name]:
            value = values[f.name]
            if f.name in ("num", "scale") and values["tg"]:
                if f.name == "num":
                    words.append(f"range={_count(self.pages)} (NUM {value}, SCALE {values['scale']})")
            elif f.names:
                if f.names[value]:
                    words.append(f"{f.name.upper()}={f.names[value]}")
            elif self.name == "ATC_INV" and f.name == "size":
                words.append(f"SIZE={value} ({_count(self.pages)})")
            elif _is_wide(f):
                if value or f.name in ("sid", "asid", "va", "ipa", "addr"):
                    words.append(f"{f.name}={value:#x}")
            elif value:
                words.append(f.name if f.hi == f.lo else f"{f.name.upper()}={value}")
        return " ".join(words)


def _is_wide(f: Field) -> bool:
    """Identifiers and addresses (shown in hexadecimal), as against small encoded numbers."""
    return f.hi - f.lo >= 6


def _count(pages: int | None) -> str:
    return "all" if pages is None else "1 page" if pages == 1 else f"{pages} pages"


def decode(raw16: bytes | bytearray | memoryview) -> Command:
    """Decode one 16-byte queue entry (two little-endian 64-bit words).

    Raises:
        IllegalCommand: As `Command`: the SMMU would stop here with CERROR_ILL.
        ValueError: Not 16 bytes.

    >>> print(decode(bytes.fromhex("05000000080000000100000000000000")))
    CFGI_CD sid=0x8 leaf
    >>> decode(bytes([7] + [0] * 15))
    Traceback (most recent call last):
        ...
    smmu_lab.arch.commands.IllegalCommand: opcode 0x07 is not a command of the SMMUv3 queue (CERROR_ILL)
    """
    try:
        dw0, dw1 = _ENTRY.unpack(raw16)
    except struct.error:
        raise ValueError(f"raw16: {len(raw16)} bytes are not valid: an entry has 16") from None
    return Command(dw0, dw1)


def rewrite(command: Command, vmid: int, sids: Mapping[int, int]) -> Command:
    """The command that the host issues for a guest's command.

    VMID becomes the guest's own, NSNH_ALL becomes NH_ALL with that VMID, a virtual StreamID becomes the
    physical one (Linux 7.2 arm_vsmmu_convert_user_cmd; a VCMDQ does the same in hardware).

    Args:
        command: What the guest wrote.
        vmid: VMID of the guest's stage 2, 0 to 0xffff.
        sids: Physical StreamID by virtual StreamID, for every device of the guest.

    Raises:
        RejectedCommand: The command is not in `HOST_ACCEPTS`.
        UnknownStream: The command names a virtual StreamID that is not in `sids`.

    >>> print(rewrite(Command.of("TLBI_NSNH_ALL"), vmid=0x11, sids={}))
    TLBI_NH_ALL vmid=0x11
    >>> print(rewrite(Command.of("ATC_INV", sid=0x100), vmid=0x11, sids={0x100: 0x2301}))
    ATC_INV sid=0x2301 addr=0x0 SIZE=0 (1 page)
    """
    if command.name not in HOST_ACCEPTS:
        raise RejectedCommand(f"{command.name}: the host does not take it (valid: {', '.join(sorted(HOST_ACCEPTS))})")
    if command.name == "TLBI_NSNH_ALL":
        return Command.of("TLBI_NH_ALL", vmid=vmid)
    vsid = command.fields.get("sid")
    if vsid is None:
        return command.but(vmid=vmid)
    if vsid not in sids:
        valid = ", ".join(map(hex, sids)) or "none"
        raise UnknownStream(f"{command.name}.sid: the guest has no device {vsid:#x} (valid: {valid})")
    return command.but(sid=sids[vsid])
