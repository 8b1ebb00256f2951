"""What becomes of a guest's queue entries at the host: executed, skipped, emulated or lost, and what is reported.

Kernel interfaces of the past, of today and of this laboratory (`marshalled`, `queue`, `array`, `worker`), and a VMM
that feeds them (`vmm`). All are functions of a stretch of the guest's queue, the entry at CONS first. An entry is its
16 bytes, or None where the guest's memory does not answer. Nothing here takes time; that the host's CMD_SYNC behind a
list does not complete within the driver's 1 s is an argument (`completes`).

An entry that `decode` calls illegal counts as a command that the kernel does not take. Where the opcode is known and
only SSec is 1, the kernel itself would issue it: it looks at nothing but the opcode (inferred from
arm_vsmmu_convert_user_cmd and from arm_smmu_fix_user_cmd of the v2 patch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import attrs

from smmu_lab.arch.commands import (
    CError,
    Command,
    IllegalCommand,
    RejectedCommand,
    UnknownStream,
    decode,
    rewrite,
)
from smmu_lab.arch.layout import OPCODES
from smmu_lab.arch.queue import CMDQ_BATCH_ENTRIES
from smmu_lab.arch.ranges import atc_commands
from smmu_lab.arch.rules import ILLEGAL, Features

Reporting = Literal["strict", "upstream"]
"""What an error report covers: only what is complete, or what the code of the source writes back."""

Unsupported = Literal["skip", "error", "stop-and-fix"]
"""What a worker in the kernel does at a command that it may not run."""

Handoff = Literal["marshalled", "per-command", "array", "array-at-sync", "queue"]
"""How a VMM hands commands to the kernel."""

Completes = Callable[[Sequence[Command]], bool]
"""Whether the host's CMD_SYNC behind a list completes within the driver's 1 s (ARM_SMMU_POLL_TIMEOUT_US)."""

Entry = bytes | None

HOST_GROUP = CMDQ_BATCH_ENTRIES - 1
"""Commands of an array in one list of the host's (Linux 7.2 arm_vsmmu_cache_invalidate)."""

ENTRY_NUM_MAX = 1 << 19
"""Most entries of an array (Linux 7.2 IOMMU_HWPT_INVALIDATE_ENTRY_NUM_MAX)."""

ARM_SMMUV3 = 1
"""The data type of arrays for a vSMMU (Linux 7.2 IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3)."""

PGSIZE_BITMAP = 0x6221_5000
"""Pages and blocks of all three granules: 4K, 2M, 1G, 16K, 32M, 64K, 512M (Linux 7.2 arm_smmu_device_hw_probe)."""

HOST_FEATURES = Features.from_idr(idr0=0x0D44141B, idr1=19 << 21, idr3=0x1414, idr5=0x74)
"""The physical SMMU: both stages, ATS, range invalidation."""

_ENTRY, _PAGE_SIZE = 16, 4096

_WORKER_DOES: Mapping[str, Mapping[str, str]] = {
    "skip": {"sync": "pass", "illegal": "pass", "rejected": "pass"},
    "error": {"sync": "pass"},
    "stop-and-fix": {"sync": "pass", "rejected": "emulate", "unknown": "drop"},
}
"""What a worker does at an entry without a command for the host; where nothing is said, it stops."""

_INJECTED = {"": CError.NONE, "EFAULT": CError.ABT}
"""What the VMM writes to CONS.ERR after the ioctl of `queue`; where nothing is said, CERROR_ILL."""

_NoCommand = Literal["unreadable", "illegal", "sync", "rejected", "unknown"]
_Lists = tuple[tuple[Command, ...], ...]


def always(commands: Sequence[Command]) -> bool:
    """Every CMD_SYNC completes."""
    return True


def _id(bits: int) -> Callable[[object, attrs.Attribute[Any], int], None]:
    def check(_: object, attribute: attrs.Attribute[Any], value: int) -> None:
        if not isinstance(value, int) or not 0 <= value < 1 << bits:
            shown = hex(value) if isinstance(value, int) else repr(value)
            raise ValueError(f"{attribute.name}: {shown} is not valid: an integer, 0 to {(1 << bits) - 1:#x}")

    return check


def _copy(sids: Mapping[int, int]) -> Mapping[int, int]:
    return dict(sids) if isinstance(sids, Mapping) else sids


@attrs.frozen
class Vsmmu:
    """One guest's SMMU as the host knows it.

    Attributes:
        vmid: VMID of the guest's stage 2, 0 to 0xffff.
        sids: Physical StreamID by virtual StreamID, one for each device (Linux 7.2 IOMMU_VDEVICE_ALLOC).

    Raises:
        ValueError: A VMID or StreamID that does not fit.
    """

    vmid: int = attrs.field(validator=_id(16))
    sids: Mapping[int, int] = attrs.field(
        converter=_copy, validator=attrs.validators.deep_mapping(key_validator=_id(32), value_validator=_id(32))
    )


@attrs.frozen
class Outcome:
    """What became of a stretch of entries, given by their places in it.

    Each entry that `consumed` covers was executed, unless it is in `skipped`, `emulated` or `lost`.

    Attributes:
        issued: Lists that reached the host's queue, in order; a CMD_SYNC of the host's own follows each. With
            "ETIMEDOUT" the last one did not complete.
        consumed: Entries that CONS or entry_num moves over. If there is an error, the entry there takes the blame.
        errno: Name of the error that the ioctl returns, or that stops a worker; empty for success.
        cerror: What the guest finds in CONS.ERR.
        skipped: Entries without effect, by rule.
        emulated: Entries that the VMM deals with itself.
        lost: Entries that should have been executed, but were not, or not seen to complete.
        overwritten: The entry at `consumed` is a command like any other; the guest's driver replaces it all the same,
            so it is lost as well.
    """

    issued: tuple[tuple[Command, ...], ...]
    consumed: int
    errno: str = ""
    cerror: CError = CError.NONE
    skipped: tuple[int, ...] = ()
    emulated: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    overwritten: bool = False

    @property
    def stops_host(self) -> tuple[Command, ...]:
        """Commands at which the host's own queue stops with CERROR_ILL, and with it every guest's.

        The host's driver replaces them, so they are never executed, and nobody tells the guest. Linux 7.2 and the v2
        patch look at nothing but the opcode; "strict" refuses such a command (Arm IHI 0070, 4.4.1.1).

        >>> reserved = bytes(Command.of("TLBI_NH_VA", asid=5, tg=1))  # NUM, SCALE and TTL are 0
        >>> guest = Vsmmu(vmid=0x11, sids={})
        >>> seen = vmm(guest, [reserved], "per-command")
        >>> seen.cerror.name, [command.name for command in seen.stops_host]
        ('NONE', ['TLBI_NH_VA'])
        >>> vmm(guest, [reserved], "per-command", "strict").cerror.name
        'ILL'
        """
        return tuple(command for commands in self.issued for command in commands if _is_illegal_at_host(command))


def _is_illegal_at_host(command: Command) -> bool:
    """The physical SMMU calls it illegal: a reserved range, or what it does not implement."""
    rules = (rule for rule in ILLEGAL if command.name in rule.commands)
    return any(rule.applies(command.dw0, command, HOST_FEATURES) for rule in rules)


def _resolve(vsmmu: Vsmmu, entry: Entry, reporting: Reporting = "strict") -> Command | _NoCommand:
    """The command that the host issues for an entry, or why there is none."""
    if entry is None:
        return "unreadable"
    try:
        command = rewrite(decode(entry), vsmmu.vmid, vsmmu.sids)
        return "illegal" if reporting == "strict" and _is_illegal_at_host(command) else command
    except IllegalCommand:
        return "illegal"
    except RejectedCommand:
        return "sync" if entry[0] == OPCODES["CMD_SYNC"] else "rejected"
    except UnknownStream:
        return "unknown"


def _issue(gathered: Sequence[tuple[int, Command]], group: int, completes: Completes) -> tuple[_Lists, int | None]:
    """Lists that reach the host's queue, and the place of the first entry in the one that does not complete."""
    lists = []
    for start in range(0, len(gathered), group):
        lists.append(tuple(command for _, command in gathered[start : start + group]))
        if not completes(lists[-1]):
            return tuple(lists), gathered[start][0]
    return tuple(lists), None


def _below(consumed: int, places: Iterable[int]) -> tuple[int, ...]:
    return tuple(place for place in places if place < consumed)


def _check_group(group: int) -> None:
    if group < 1:
        raise ValueError(f"group: {group} is not valid: 1 or more")


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in (valid := get_args(choices)):
        raise ValueError(f"{name}: {value!r} is not valid: {', '.join(map(repr, valid))}")


def marshalled(
    vsmmu: Vsmmu,
    entry: bytes,
    completes: Completes = always,
    ats: bool = True,
    pgsize_bitmap: int = PGSIZE_BITMAP,
) -> Outcome:
    """One command as the VMM decoded it: the interface of the first patch of March 2023.

    It returns nothing: what it does not take is lost without a word. It does not look virtual StreamIDs up: ATC_INV,
    and likewise the tail of every TLBI, goes to every device of the domain.

    Source: arm_smmu_cache_invalidate_user in the v1 patch,
    aa327f9ea61e5a4771c13e53639e33955b9acde3.1678348754.git.nicolinc@nvidia.com. Inferred: the domain spans all
    devices of the guest; a TLBI by address stays one command with the fields that the guest chose; CFGI_CD_ALL
    reaches only SubstreamID 0, since the VMM has none to pass.

    Args:
        vsmmu: The guest.
        entry: 16 bytes.
        completes: Whether the CMD_SYNC behind a list completes.
        ats: The devices have ATS enabled; without it no ATC_INV is issued.
        pgsize_bitmap: Page and block sizes of the host's SMMU. A TLBI by address needs a granule in it; TG = 0, legal
            though it is, names none (R. Murphy, 1467e666-1b6c-c285-3f79-f8e8b088718b@arm.com).

    Raises:
        IllegalCommand: An entry that the VMM cannot decode.
        ValueError: An entry that has not 16 bytes.

    >>> guest = Vsmmu(vmid=0x11, sids={8: 0x2301, 16: 0x2302})
    >>> for commands in marshalled(guest, bytes(Command.of("TLBI_NH_ASID", asid=5))).issued:
    ...     print(*commands, sep="; ")
    TLBI_NH_ASID vmid=0x11 asid=0x5
    ATC_INV sid=0x2301 addr=0x0 SIZE=52 (all); ATC_INV sid=0x2302 addr=0x0 SIZE=52 (all)
    """
    command = decode(entry)
    f = command.fields
    devices = vsmmu.sids.values()
    lists: list[list[Command]] = []
    start = size = ssid = 0
    match command.name:
        case "CFGI_CD" | "CFGI_CD_ALL":
            lists.append([Command.of("CFGI_CD", sid=sid, ssid=f.get("ssid", 0), leaf=1) for sid in devices])
            ats = False
        case "TLBI_NH_VA" | "TLBI_NH_VAA" if pgsize_bitmap & (granule := 1 << 10 + 2 * f["tg"] if f["tg"] else 0):
            lists.append([command.but(vmid=vsmmu.vmid)])
            start, size = f["va"], (command.pages or 0) * granule
        case "TLBI_NH_ASID" | "TLBI_NH_ALL":
            lists.append([command.but(vmid=vsmmu.vmid)])
        case "ATC_INV":
            start, size, ssid = f["addr"], (command.pages or 0) << 12, f["ssid"] * f["ssv"]
        case _:
            return Outcome((), consumed=1, lost=(0,))
    if ats:
        lists.append(atc_commands(start, min(size, (1 << 64) - start), devices, ssid or None))
    issued = tuple(tuple(commands) for commands in lists if commands)
    complete = [completes(commands) for commands in issued]
    return Outcome(issued, consumed=1, lost=() if all(complete) else (0,))


def queue(
    vsmmu: Vsmmu, entries: Sequence[Entry], reporting: Reporting = "upstream", completes: Completes = always
) -> Outcome:
    """The kernel reads the guest's queue by itself: the interface of the second patch, of May 2023.

    What it may not run it passes over in silence. The rest is one list; where nothing is left, that is a CMD_SYNC
    alone. At a virtual StreamID without a device it stops and writes CERROR_ILL into CONS.ERR; all that it gathered
    before is lost. So is a list whose CMD_SYNC times out, for CONS has arrived at PROD by then. "strict" first issues
    what was gathered, and leaves CONS at what is not complete.

    Source: arm_smmu_fix_user_cmd and arm_smmu_cache_invalidate_user in the v2 patch, 17/17,
    6bacfc7213e9934f81bdc06a47bf58816f87e63b.1683688960.git.nicolinc@nvidia.com. Not modelled: a list longer than the
    host's queue, for which the driver waits without end (inferred).

    Args:
        vsmmu: The guest.
        entries: From CONS to PROD. At one that cannot be read (None) the call ends with -EFAULT, nothing is issued, and
            CONS is not written; "strict" issues what came before, and puts CONS there with CERROR_ABT.
        reporting: "upstream" for what the patch does.
        completes: Whether the CMD_SYNC behind the list completes.

    Raises:
        ValueError: An entry that has not 16 bytes, or an argument that is not valid.

    >>> guest = Vsmmu(vmid=0x11, sids={8: 0x2301})
    >>> stretch = [bytes(Command.of(name, sid=sid)) for name, sid in (("CFGI_STE", 8), ("ATC_INV", 8), ("ATC_INV", 9))]
    >>> lossy = queue(guest, stretch)
    >>> lossy.issued, lossy.consumed, lossy.errno, lossy.cerror.name, lossy.skipped, lossy.lost
    ((), 2, 'ENODEV', 'ILL', (0,), (1,))
    >>> queue(guest, stretch, "strict").issued
    ((Command.of('ATC_INV', sid=0x2301),),)
    """
    _check_choice("reporting", reporting, Reporting)
    if not entries:
        return Outcome((), consumed=0, errno="EINVAL")
    gathered: list[tuple[int, Command]] = []
    skipped: list[int] = []
    consumed, errno, cerror = len(entries), "", CError.NONE
    for place, entry in enumerate(entries):
        match _resolve(vsmmu, entry, reporting):
            case "unreadable":
                consumed, errno, cerror = place, "EFAULT", CError.ABT
                break
            case "unknown":
                consumed, errno, cerror = place, "ENODEV", CError.ILL
                break
            case Command() as command:
                gathered.append((place, command))
            case _:
                skipped.append(place)
    where = tuple(place for place, _ in gathered)
    if reporting == "upstream" and errno == "EFAULT":
        return Outcome((), consumed=0, errno=errno)
    if reporting == "upstream" and errno:
        return Outcome((), consumed, errno, cerror, tuple(skipped), lost=where)
    issued: _Lists = ()
    if gathered or not errno:
        issued = (tuple(command for _, command in gathered),)
        if not completes(issued[0]):
            errno, cerror = "ETIMEDOUT", CError.NONE
            consumed = where[0] if where and reporting == "strict" else consumed
            return Outcome(issued, consumed, errno, cerror, _below(consumed, skipped), lost=_below(consumed, where))
    return Outcome(issued, consumed, errno, cerror, tuple(skipped))


def _array_error(entries: Sequence[Entry], entry_len: int, data_type: int, reserved: int, memory: bool) -> str:
    """Why an array is refused before any command is looked at."""
    if reserved:
        return "EOPNOTSUPP"
    if not 0 < entry_len <= _PAGE_SIZE or len(entries) > ENTRY_NUM_MAX:
        return "EINVAL"
    if not memory:
        return "ENOMEM"
    if data_type != ARM_SMMUV3 or not entries:
        return "EINVAL"
    if None in entries:
        return "EFAULT"
    return "E2BIG" if any(any(entry[_ENTRY:]) for entry in entries if entry) else ""


def array(
    vsmmu: Vsmmu,
    entries: Sequence[Entry],
    reporting: Reporting = "upstream",
    completes: Completes = always,
    group: int = HOST_GROUP,
    *,
    data_type: int = ARM_SMMUV3,
    reserved: int = 0,
    memory: bool = True,
) -> Outcome:
    """IOMMU_HWPT_INVALIDATE of today: an array of commands, issued in lists of 63; `consumed` is entry_num.

    It ends with -EIO at a command that it does not take, or that names an unknown virtual StreamID. entry_num then is
    the place of that command, although the list that was being filled has not been issued. If a CMD_SYNC times out,
    entry_num is the place of the last command of its list. "strict" issues the list that is being filled, and reports
    no more than what is complete.

    Source: Linux 7.2 arm_vsmmu_cache_invalidate, iommufd_hwpt_invalidate and iommu_copy_struct_from_full_user_array;
    that both reports claim too much is inferred from reading them, and so is -EINVAL for an array that is too large.

    Args:
        vsmmu: The guest.
        entries: All of one length (entry_len). Fewer than 16 bytes are filled up with zeros; of more, the others must
            be zero (-E2BIG). None stands for memory of the VMM's that cannot be read (-EFAULT).
        reporting: "upstream" for what Linux 7.2 does.
        completes: Whether the CMD_SYNC behind a list completes.
        group: Commands in one list.
        data_type: Of the array; anything but `ARM_SMMUV3` gives -EINVAL.
        reserved: The field __reserved; anything but 0 gives -EOPNOTSUPP.
        memory: The kernel has memory for a copy; without, -ENOMEM, and entry_num stays as it was.

    Raises:
        ValueError: Entries of different length, or an argument that is not valid.

    >>> guest = Vsmmu(vmid=0x11, sids={})
    >>> tlbi, sync = bytes(Command.of("TLBI_NH_ASID", asid=5)), bytes(Command.of("CMD_SYNC"))
    >>> [len(commands) for commands in array(guest, [tlbi] * 64).issued]
    [63, 1]
    >>> reports = [array(guest, [tlbi] * 65 + [sync], reporting) for reporting in ("upstream", "strict")]
    >>> [(report.errno, report.consumed, report.lost, len(report.issued)) for report in reports]
    [('EIO', 65, (63, 64), 1), ('EIO', 65, (), 2)]
    """
    _check_choice("reporting", reporting, Reporting)
    _check_group(group)
    lengths = {len(entry) for entry in entries if entry is not None}
    if len(lengths) > 1:
        raise ValueError(f"entries: lengths of {sorted(lengths)} bytes are not valid: an array has one entry_len")
    if errno := _array_error(entries, max(lengths, default=_ENTRY), data_type, reserved, memory):
        done = len(entries) if errno == "ENOMEM" and reporting == "upstream" else 0
        return Outcome((), done, errno, lost=tuple(range(done)))
    gathered: list[tuple[int, Command]] = []
    for place, entry in enumerate(entries):
        command = _resolve(vsmmu, entry and entry[:_ENTRY].ljust(_ENTRY, b"\0"), reporting)
        if not isinstance(command, Command):
            errno = "EIO"
            break
        gathered.append((place, command))
    end = len(gathered)
    ready = end - end % group if errno and reporting == "upstream" else end
    issued, late = _issue(gathered[:ready], group, completes)
    if late is None:
        return Outcome(issued, end, errno, lost=tuple(range(ready, end)))
    done = late if reporting == "strict" else late + len(issued[-1]) - 1
    return Outcome(issued, done, "ETIMEDOUT", lost=tuple(range(late, done)))


def worker(
    vsmmu: Vsmmu,
    entries: Sequence[Entry],
    unsupported: Unsupported = "skip",
    completes: Completes = always,
    group: int | None = None,
) -> Outcome:
    """A consumer in the kernel, a thread or the doorbell's own exit: the short path that nobody built.

    It reports strictly: CONS passes nothing that should have been executed and is not complete. A CMD_SYNC asks
    nothing of it, for it waits for a CMD_SYNC of the host's own before it moves CONS. It stops with CERROR_ILL at a
    virtual StreamID without a device, and with CERROR_ABT at an entry that cannot be read. If the host's CMD_SYNC times
    out, CONS stays before that list, with CERROR_ATC_INV_SYNC: the guest acknowledges, and the list is issued again.

    Source: the thread wakes on a doorbell (J. Gunthorpe, ZB23WJu2BEH0yC/y@nvidia.com), exits for what it may not run
    (K. Tian, BN9PR11MB52760914939B62A61E5309858C889@BN9PR11MB5276.namprd11.prod.outlook.com). The rest is inferred.

    Args:
        vsmmu: The guest.
        entries: From CONS to PROD.
        unsupported: What it does at a command that is not in `HOST_ACCEPTS`: "skip" passes over it; "error" stops with
            CERROR_ILL; "stop-and-fix" issues what came before and has the VMM deal with it, which stops with CERROR_ILL
            at an illegal entry, and drops a command for an unknown virtual StreamID.
        completes: Whether the CMD_SYNC behind a list completes.
        group: Most commands in one list; None for no limit.

    Raises:
        ValueError: An entry that has not 16 bytes, or an argument that is not valid.

    >>> guest = Vsmmu(vmid=0x11, sids={})
    >>> stretch = [bytes(Command.of(name)) for name in ("TLBI_NSNH_ALL", "CMD_SYNC", "CFGI_ALL", "TLBI_NH_ALL")]
    >>> worker(guest, stretch, "stop-and-fix").issued
    ((Command.of('TLBI_NH_ALL', vmid=0x11),), (Command.of('TLBI_NH_ALL', vmid=0x11),))
    >>> worker(guest, stretch, "error").consumed
    2
    """
    _check_choice("unsupported", unsupported, Unsupported)
    if group is not None:
        _check_group(group)
    runs: list[list[tuple[int, Command]]] = [[]]
    skipped: list[int] = []
    emulated: list[int] = []
    consumed, errno, cerror = len(entries), "", CError.NONE
    for place, entry in enumerate(entries):
        what = _resolve(vsmmu, entry)
        if isinstance(what, Command):
            runs[-1].append((place, what))
        elif what not in (does := _WORKER_DOES[unsupported]):
            consumed, cerror = place, CError.ABT if what == "unreadable" else CError.ILL
            break
        else:
            (emulated if does[what] == "emulate" else skipped).append(place)
            if does[what] != "pass":
                runs.append([])
    issued: _Lists = ()
    for run in runs:
        lists, late = _issue(run, group or len(run) or 1, completes)
        issued += lists
        if late is not None:
            consumed, errno, cerror = late, "ETIMEDOUT", CError.ATC_INV_SYNC
            break
    return Outcome(issued, consumed, errno, cerror, _below(consumed, skipped), _below(consumed, emulated))


def vmm(
    vsmmu: Vsmmu,
    entries: Sequence[Entry],
    handoff: Handoff,
    reporting: Reporting = "upstream",
    completes: Completes = always,
    *,
    group: int = HOST_GROUP,
    lookup: bool = True,
    ats: bool = True,
) -> Outcome:
    """A VMM that consumes the guest's queue as QEMU does, and hands the host's commands to the kernel.

    It stops with CERROR_ILL at an illegal entry (what `decode` refuses; QEMU looks at SSec in CFGI commands only), with
    CERROR_ABT at one that it cannot read, and with CERROR_ILL where an ioctl fails, whatever the errno. It emulates
    CMD_SYNC and what is not in `HOST_ACCEPTS`, and drops a command for a virtual StreamID behind which it has no device
    of the host's. How commands reach the kernel:

    - "marshalled": each by `marshalled`. There is no error to report, and no virtual StreamID is looked up.
    - "per-command": each by an `array` of one (QEMU as merged).
    - "array": all that it met by one `array`, after the loop (RFC v3). "upstream" leaves out the ioctl if the loop
      ended at a bad entry, so that all before it is lost; and if the ioctl fails, CONS goes back to the last command
      that entry_num counts as handled, one before the failing one. "strict" hands over first, and puts CONS at the
      failing command.
    - "array-at-sync": by one `array` at each CMD_SYNC and before a bad entry. What no CMD_SYNC follows stays in the
      queue: the caller presents it again with what comes after. A driver that fills its queue without a CMD_SYNC,
      and then waits for space, would wait for ever.
    - "queue": the kernel reads the queue, see `queue`; the VMM looks at nothing. An empty stretch makes no ioctl. If
      CONS has arrived at PROD, the VMM has no entry to point at, and tells the guest nothing.

    Source: QEMU 10.2.2 smmuv3_cmdq_consume; smmuv3_accel_issue_inv_cmd (13b941aaff48); RFC v3 12/15 and 13/15,
    20250714155941.22176-13-shameerali.kolothum.thodi@huawei.com and
    20250714155941.22176-14-shameerali.kolothum.thodi@huawei.com, which lacks ATC_INV, taken here as in RFC v2.
    Inferred: all of "array-at-sync"; what the VMM does with "marshalled" and "queue", CERROR_ABT for -EFAULT included.

    Args:
        vsmmu: The guest.
        entries: From CONS to PROD.
        handoff: The way to the kernel.
        reporting: "upstream" for what the VMM's and the kernel's code do.
        completes: Whether the CMD_SYNC behind a list completes.
        group: Commands of an array in one list.
        lookup: The VMM looks virtual StreamIDs up (QEMU: smmu_find_sdev, and the device's vdev). Without, it passes
            them on, and the kernel refuses the unknown ones with -EIO.
        ats: With "marshalled": the devices have ATS enabled.

    Raises:
        ValueError: An entry that has not 16 bytes, or an argument that is not valid.

    >>> guest = Vsmmu(vmid=0x11, sids={8: 0x2301})
    >>> stretch = [bytes(Command.of("TLBI_NH_ASID", asid=5)), bytes(Command.of("ATC_INV", sid=8)), bytes(16)]
    >>> for handoff in ("per-command", "array"):
    ...     seen = vmm(guest, stretch, handoff)
    ...     print(len(seen.issued), seen.consumed, seen.cerror.name, seen.lost)
    2 2 ILL ()
    0 2 ILL (0, 1)
    """
    _check_choice("handoff", handoff, Handoff)
    _check_choice("reporting", reporting, Reporting)
    _check_group(group)
    if handoff == "queue":
        read = queue(vsmmu, entries, reporting, completes) if entries else Outcome((), 0)
        at_prod = read.consumed == len(entries)
        return attrs.evolve(read, cerror=CError.NONE if at_prod else _INJECTED.get(read.errno, CError.ILL))
    lookup &= handoff != "marshalled"
    arrays: list[list[int]] = [[]]
    skipped: list[int] = []
    emulated: list[int] = []
    consumed, errno, cerror = len(entries), "", CError.NONE
    for place, entry in enumerate(entries):
        what = _resolve(vsmmu, entry, reporting)
        if isinstance(what, Command) or (what == "unknown" and not lookup):
            arrays[-1].append(place)
        elif what == "unknown":
            skipped.append(place)
        elif what in ("sync", "rejected"):
            emulated.append(place)
        else:
            consumed, cerror = place, CError.ABT if what == "unreadable" else CError.ILL
            break
        if handoff in ("marshalled", "per-command") or (handoff == "array-at-sync" and what == "sync"):
            arrays.append([])
    rfc_v3 = handoff == "array" and reporting == "upstream"
    lost: list[int] = []
    if rfc_v3 and cerror:
        gathered = arrays.pop()
        lost = [place for place in gathered if isinstance(_resolve(vsmmu, entries[place], reporting), Command)]
        skipped += [place for place in gathered if place not in lost]
    elif handoff == "array-at-sync" and not cerror and (held := arrays.pop()):
        consumed = held[0]
    issued: _Lists = ()
    for where in filter(None, arrays):
        given = [entries[place] for place in where]
        if handoff == "marshalled":
            done = marshalled(vsmmu, given[0] or b"", completes, ats)
        else:
            done = array(vsmmu, given, reporting, completes, group)
        issued += done.issued
        lost += [where[place] for place in done.lost]
        if done.errno:
            consumed = where[max(done.consumed - rfc_v3, 0)]
            errno, cerror = done.errno, CError.ILL
            break
    overwritten = bool(errno) and isinstance(_resolve(vsmmu, entries[consumed], reporting), Command)
    passed, dealt_with, missed = (_below(consumed, each) for each in (skipped, emulated, lost))
    return Outcome(issued, consumed, errno, cerror, passed, dealt_with, missed, overwritten)
