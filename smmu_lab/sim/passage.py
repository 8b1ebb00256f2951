"""What becomes of a guest's real commands, VMIDs and StreamIDs included, on their way to the hardware under a row.

The simulation counts commands; here they have values. An approach's columns choose among the ways of
`smmu_lab.arch.vsmmu` and the queues of `smmu_lab.arch`. Nothing takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from smmu_lab.arch import VCMDQ_ACCEPTS, CError, Command, CommandQueueRegisters, Features, IllegalCommand, decode
from smmu_lab.arch.consumer import Consumer
from smmu_lab.arch.ecmdq import ECMDQ_PROD_EN, ControlPages
from smmu_lab.arch.registers import CR0_CMDQEN
from smmu_lab.arch.vcmdq import VCMDQ_EN, Vintf
from smmu_lab.arch.vsmmu import Completes, Entry, Handoff, Outcome, Reporting, Unsupported, Vsmmu, always, vmm, worker
from smmu_lab.scenario import Approach, approach

_FEATURES = Features.from_idr(idr0=0x0D44141B, idr1=0x80000000 | 19 << 21, idr3=0x1414, idr5=0x74)
"""Both stages, ATS, range invalidation, ECMDQ, and the longest queue."""

_CR0_SMMUEN = 1
_ILLEGAL = bytes(16)


def passage(
    row: Approach,
    guest: Vsmmu,
    entries: Sequence[Entry],
    reporting: Reporting = "upstream",
    completes: Completes = always,
) -> Outcome:
    """What becomes of a stretch of one queue of a guest, from CONS to PROD.

    Where hardware runs the queue, `issued` holds what it ran, the guest's own CMD_SYNCs included, cut behind each of
    them; `lost` are ATC_INVs that no device answered, and there is no errno. On a physical queue (bare metal, ECMDQ)
    the host is its own guest: every command passes as it is, its VMID and StreamID with it. Where a VCMDQ lies below
    the guest's only queue, each entry that stops it goes to the hypervisor, which does with it what QEMU of 2026 does,
    moves CONS behind it and starts the queue again (inferred). A VCMDQ that software serves takes what a VCMDQ takes;
    all else is illegal in it (inferred: no such software exists). See `queues` for what a guest sends to its other
    queue.

    With virtio-iommu there are no commands of the guest, the host makes its own: nothing is issued, nothing consumed.

    A consumer of one's own issues by `host.execute`, and so has the passage of the kernel's worker.

    Args:
        row: The approach; of its columns those that say who reads the queue, and how it reaches the hardware.
        guest: VMID and devices at the host.
        entries: 16 bytes each; None where the guest's memory does not answer.
        reporting: As in `smmu_lab.arch.vsmmu`, for a VMM.
        completes: Whether the CMD_SYNC behind a list of the host's completes; hardware asks it of each ATC_INV.

    Raises:
        Refused: A guest with more devices than a VINTF's match table holds, or with a StreamID too large for it.
        ValueError: An entry that has not 16 bytes.

    >>> guest = Vsmmu(vmid=0x11, sids={8: 0x2301})
    >>> stretch = [bytes(Command.of(name)) for name in ("TLBI_NH_ASID", "TLBI_NSNH_ALL", "CMD_SYNC")]
    >>> for name in ("qemu-today", "short-path", "vcmdq", "vcmdq-overlay", "bare-metal", "virtio-iommu"):
    ...     seen = passage(approach(name), guest, stretch)
    ...     print(seen.consumed, seen.cerror.name, ["; ".join(map(str, commands)) for commands in seen.issued])
    3 NONE ['TLBI_NH_ASID vmid=0x11 asid=0x0', 'TLBI_NH_ALL vmid=0x11']
    3 NONE ['TLBI_NH_ASID vmid=0x11 asid=0x0; TLBI_NH_ALL vmid=0x11']
    1 ILL ['TLBI_NH_ASID vmid=0x11 asid=0x0']
    3 NONE ['TLBI_NH_ASID vmid=0x11 asid=0x0', 'TLBI_NH_ALL vmid=0x11', 'CMD_SYNC CS=NONE']
    3 NONE ['TLBI_NH_ASID asid=0x0; TLBI_NSNH_ALL; CMD_SYNC CS=NONE']
    0 NONE []
    """
    if row.front == "virtio-iommu":
        return Outcome((), consumed=0)
    if row.executes_directly:
        return _hardware(row, guest, entries, reporting, completes)
    if row.is_restricted:
        entries = [entry if entry is None or vcmdq_takes(entry) else _ILLEGAL for entry in entries]
    if row.consumer == "vmm":
        group = row.host_group or len(entries) or 1
        return vmm(guest, entries, cast(Handoff, row.handoff), reporting, completes, group=group)
    unsupported = "error" if row.unsupported == "guest-routes" else row.unsupported
    return worker(guest, entries, cast(Unsupported, unsupported), completes, row.host_group or None)


def queues(row: Approach, entries: Sequence[bytes]) -> tuple[tuple[Approach, list[bytes]], ...]:
    """The queues of a guest that differ in their way to the host, and what its driver sends to each of them.

    What a VCMDQ does not take goes to the trapped queue beside it, whose row is the fallback's (Linux 7.2
    tegra241_cmdqv_get_cmdq); a CMD_SYNC goes to both. Nothing hinders a guest that does otherwise.

    >>> entries = [bytes(Command.of(name)) for name in ("TLBI_NH_ASID", "CFGI_CD", "CMD_SYNC")]
    >>> [(row.name, [decode(entry).name for entry in part]) for row, part in queues(approach("vcmdq"), entries)]
    [('vcmdq', ['TLBI_NH_ASID', 'CMD_SYNC']), ('qemu-today', ['CFGI_CD', 'CMD_SYNC'])]
    """
    if row.unsupported != "guest-routes":
        return ((row, list(entries)),)
    taken = [entry for entry in entries if vcmdq_takes(entry)]
    rest = [entry for entry in entries if not vcmdq_takes(entry) or decode(entry).name == "CMD_SYNC"]
    return (row, taken), (approach(row.fallback), rest)


def vcmdq_takes(entry: bytes) -> bool:
    """A guest's VCMDQ takes commands like this one: one of `VCMDQ_ACCEPTS`, and of CMD_SYNCs only CS_NONE."""
    try:
        command = decode(entry)
    except IllegalCommand:
        return False
    return command.name in VCMDQ_ACCEPTS and not command.fields.get("cs")


class _Ram:
    """A small memory with a queue at address 0."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry is not None and len(entry) != 16:
                raise ValueError(f"entries: one of {len(entry)} bytes is not valid: an entry has 16")
        self.entries = entries

    def read(self, addr: int, n: int, /) -> bytes:
        entry = self.entries[addr // n]
        if entry is None:
            raise LookupError(addr)
        return entry

    def write(self, addr: int, data: bytes, /) -> None:
        raise LookupError(addr)


def _hardware(
    row: Approach, guest: Vsmmu, entries: Sequence[Entry], reporting: Reporting, completes: Completes
) -> Outcome:
    """The queue that hardware runs, up to an error that the guest is told."""
    unanswered: set[int] = set()

    def answered(atc_inv: Command) -> bool:
        if not (in_time := completes((atc_inv,))):
            unanswered.add(len(queue.executed))
        return in_time

    queue, prefix, flags = _queue(row, guest, _Ram(entries), max(1, (len(entries) - 1).bit_length()), answered)
    queue.write32(f"{prefix}PROD", len(entries) | flags)
    lists: list[list[Command]] = [[]]
    skipped: list[int] = []
    emulated: list[int] = []
    lost: list[int] = []
    ran = place = 0
    errno, cerror = "", CError.NONE
    while True:
        for number, command in enumerate(queue.executed[ran:], ran):
            if number in unanswered:
                lost.append(place)
            lists[-1].append(command)
            if command.name == "CMD_SYNC":
                lists.append([])
            place += 1
        ran = len(queue.executed)
        if queue.error_active:
            cerror = CError(queue.read32(f"{prefix}CONS") >> 24 & 7)
        if row.unsupported != "stop-and-fix" or cerror != CError.ILL:
            break
        fixed = vmm(guest, entries[place : place + 1], "per-command", reporting, completes)
        lists += [*map(list, fixed.issued), []]
        errno, cerror = fixed.errno, fixed.cerror
        if cerror:
            break
        skipped += [place] * len(fixed.skipped)
        emulated += [place] * len(fixed.emulated)
        place += 1
        for register, value in (("CONFIG", 0), ("CONS", place), ("GERRORN", queue.read32("GERROR")), ("CONFIG", 1)):
            queue.write32(register, value)
    issued = tuple(tuple(commands) for commands in lists if commands)
    return Outcome(issued, place, errno, cerror, tuple(skipped), tuple(emulated), tuple(lost))


def _queue(
    row: Approach, guest: Vsmmu, ram: _Ram, log2size: int, answered: Callable[[Command], bool]
) -> tuple[Consumer, str, int]:
    """A queue that runs, what its registers' names begin with, and what every write of PROD must carry."""
    if row.host_queue == "vcmdq":
        vintf = Vintf(ram, _FEATURES, guest.vmid, lvcmdqs=1, answered=answered)
        for vsid, psid in guest.sids.items():
            vintf.match(vsid, psid)
        vcmdq = vintf.allocate(0, 0, 16 << log2size)
        vcmdq.write32("CONFIG", VCMDQ_EN)
        return vcmdq, "", 0
    smmu = CommandQueueRegisters(ram, _FEATURES, answered=answered)
    smmu.write64("CMDQ_BASE", log2size)
    smmu.write32("CR0", _CR0_SMMUEN | CR0_CMDQEN)
    if row.host_queue == "cmdq":
        return smmu, "CMDQ_", 0
    ecmdq = ControlPages(smmu, idr6=0).queues[0]
    ecmdq.write64("BASE", log2size)
    return ecmdq, "", ECMDQ_PROD_EN
