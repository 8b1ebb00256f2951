"""Which commands an address range becomes: the decompositions of the Linux driver."""

from __future__ import annotations

from collections.abc import Iterable

from smmu_lab.arch.commands import Command
from smmu_lab.arch.layout import ATC_INV_SIZE_ALL

_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30

_GRANULES = {12: (4 * _KIB, 2 * _MIB, _GIB), 14: (16 * _KIB, 32 * _MIB), 16: (64 * _KIB, 512 * _MIB)}
"""Page and block sizes by log2 of the page size (Linux 7.2 arm_smmu_device_hw_probe, pgsize_bitmap)."""

_ATC_PAGE_SHIFT = 12


def unmap_commands(
    iova: int,
    size: int,
    granule: int = 4096,
    ril: bool = True,
    leaf: bool = True,
    asid: int = 0,
    page_shift: int = 12,
) -> list[Command]:
    """The TLBI commands with which Linux invalidates a range, in order; without the CMD_SYNC.

    With range invalidation: pieces of at most 31 * 2^SCALE pages, lowest set bits first. Without: one TLBI
    per granule, or one TLBI_NH_ASID from 2^(log2(granule) - 3) granules on (512 pages, 2 MiB, at 4 KiB).
    Size 0 stands for everything: TLBI_NH_ASID.

    Source: Linux 7.2 arm_smmu_cmdq_batch_add_range (AS-C:2398) and arm_smmu_inv_size_too_big (AS-C:2475).

    Args:
        iova: First byte; a multiple of `granule`.
        size: Bytes; a multiple of `granule`.
        granule: Bytes that one translation maps: a page or a block.
        ril: The SMMU has range invalidation (IDR3.RIL).
        leaf: Only last-level entries changed. If not, and the number of pages is 1 modulo 32, the range with
            `ril` grows by one page: an erratum forbids NUM = 0, SCALE = 0, TTL = 0.
        asid: Address space, 0 to 0xffff.
        page_shift: log2 of the page size: 12, 14 or 16.

    Raises:
        ValueError: A value that is not valid, or with `ril` 2^32 pages and more (SCALE has 5 bits).

    >>> for c in unmap_commands(0x1_0000_0000, 132 << 10, asid=0x2A):
    ...     print(c)
    TLBI_NH_VA asid=0x2a va=0x100000000 range=1 page (NUM 0, SCALE 0) TG=4K TTL=3 leaf
    TLBI_NH_VA asid=0x2a va=0x100001000 range=32 pages (NUM 0, SCALE 5) TG=4K TTL=3 leaf
    >>> [len(unmap_commands(0, n << 12, ril=False)) for n in (1, 511, 512)]
    [1, 511, 1]
    """
    if page_shift not in _GRANULES:
        raise ValueError(f"page_shift: {page_shift!r} is not valid: {_one_of(_GRANULES)}")
    if granule not in _GRANULES[page_shift]:
        valid = _one_of(_GRANULES[page_shift])
        raise ValueError(f"granule: {granule!r} is not valid with page_shift {page_shift}: {valid}")
    _check_range(iova, size, granule)
    granule_shift = granule.bit_length() - 1
    if not size or (not ril and size >> granule_shift >= 1 << (granule_shift - 3)):
        return [Command.of("TLBI_NH_ASID", asid=asid)]
    if not ril:
        return [Command.of("TLBI_NH_VA", asid=asid, va=va, leaf=leaf) for va in range(iova, iova + size, granule)]

    pages = size >> page_shift
    if pages >> 32:
        raise ValueError(f"size: {size:#x} is not valid: below 2^32 pages of {1 << page_shift:#x} bytes")
    ttl = 4 - (granule_shift - 3) // (page_shift - 3) if leaf else 0
    if not leaf and pages & 31 == 1:
        pages += 1
    commands = []
    while pages:
        scale = (pages & -pages).bit_length() - 1
        num = (pages >> scale) & 31
        commands.append(
            Command.of(
                "TLBI_NH_VA",
                asid=asid,
                va=iova,
                num=num - 1,
                scale=scale,
                tg=(page_shift - 10) // 2,
                ttl=ttl,
                leaf=leaf,
            )
        )
        iova += num << (scale + page_shift)
        pages -= num << scale
    return commands


def atc_cover(iova: int, size: int) -> tuple[int, int]:
    """Address and Size field of the one ATC_INV that covers a range: an aligned power of two of 4 KiB pages.

    It is the smallest such block, and may still be far larger than the range. Size 0 stands for everything.
    Source: Linux 7.2 arm_smmu_atc_inv_to_cmd (span = fls(first page ^ last page)).

    Args:
        iova: First byte.
        size: Bytes.

    Raises:
        ValueError: Negative, or beyond 2^64.

    >>> atc_cover(0x8000, 0x4000), atc_cover(0x7000, 0x4000), atc_cover(0, 0)
    ((32768, 2), (0, 4), (0, 52))
    """
    _check_range(iova, size, 1)
    if not size:
        return 0, ATC_INV_SIZE_ALL
    first, last = iova >> _ATC_PAGE_SHIFT, (iova + size - 1) >> _ATC_PAGE_SHIFT
    span = (first ^ last).bit_length()
    return first >> span << (span + _ATC_PAGE_SHIFT), span


def atc_commands(iova: int, size: int, sids: Iterable[int], ssid: int | None = None) -> list[Command]:
    """One ATC_INV per stream for a range (see `atc_cover`); without the CMD_SYNC.

    Args:
        iova: First byte.
        size: Bytes; 0 for everything.
        sids: StreamIDs, 0 to 0xffffffff.
        ssid: SubstreamID (PASID); None for traffic without one.

    Raises:
        ValueError: A value that is not valid.

    >>> [str(c) for c in atc_commands(0x8000, 0x4000, sids=[8, 16])]
    ['ATC_INV sid=0x8 addr=0x8000 SIZE=2 (4 pages)', 'ATC_INV sid=0x10 addr=0x8000 SIZE=2 (4 pages)']
    """
    addr, size_field = atc_cover(iova, size)
    substream = {} if ssid is None else {"ssv": 1, "ssid": ssid}
    return [Command.of("ATC_INV", sid=sid, addr=addr, size=size_field, **substream) for sid in sids]


def _check_range(iova: int, size: int, granule: int) -> None:
    for name, value in (("iova", iova), ("size", size)):
        if not isinstance(value, int) or value < 0 or value % granule:
            raise ValueError(f"{name}: {value!r} is not valid: a multiple of {granule} from 0 on")
    if iova + size > 1 << 64:
        raise ValueError(f"size: {size:#x} is not valid: iova + size beyond 2^64")


def _one_of(values: Iterable[int]) -> str:
    return "one of " + ", ".join(map(str, values))
