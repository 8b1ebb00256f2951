"""NVIDIA's Tegra241 CMDQV: hardware command queues that a guest writes by itself (VCMDQ), in interfaces (VINTF)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar

from smmu_lab.arch.commands import VCMDQ_ACCEPTS, CError, Command, UnknownStream, rewrite
from smmu_lab.arch.consumer import (
    BASE_LOG2SIZE,
    CONS_ERR,
    GERROR_CMDQ_ERR,
    Consumer,
    Memory,
    Refused,
    RegisterError,
    Stop,
    integer,
)
from smmu_lab.arch.rules import Features

VCMDQ_REGISTERS: Mapping[str, int] = MappingProxyType(
    {
        "CONS": 0x00,
        "PROD": 0x04,
        "CONFIG": 0x08,
        "STATUS": 0x0C,
        "GERROR": 0x10,
        "GERRORN": 0x14,
        "BASE": 0x10000,
        "BASE+4": 0x10004,
        "CONS_INDX_BASE": 0x10008,
        "CONS_INDX_BASE+4": 0x1000C,
    }
)
"""Offset of each register of LVCMDQ 0 in the two 64 KiB pages of a VINTF (Linux 7.2 tegra241-cmdqv.c)."""

VCMDQ_STRIDE = 0x80
"""From a register of one LVCMDQ to the same register of the next."""

VCMDQ_EN = VCMDQ_ENABLED = 1 << 0
VINTF_EN, VINTF_VMID_SHIFT, VINTF_HYP_OWN = 1 << 0, 1, 1 << 17

_PAGE1, _PAGES = 0x10000, 0x20000
_POINTER = 0xFFFFF
_MAX_LVCMDQS, _MAX_VINTFS, _MAX_SIDS = 128, 64, 16
_VMID, _VSID, _PSID, _ADDRESS = (1 << 16) - 1, (1 << 20) - 1, (1 << 32) - 1, (1 << 64) - 1
_MIN_LENGTH, _ENTRY_SHIFT, _PAGE = 32, 4, 0x1000


class Lvcmdq(Consumer):
    """One queue of a VINTF; `Vintf` makes and allocates it.

    A queue that is not allocated takes no write (inferred). While it runs, CONS and page 1 are read-only (inferred
    from the physical queue); page 1 of a guest's queue always is, because the kernel gives the guest page 0 only.
    GERROR has bit 0 for the error, as the physical GERROR (inferred: Linux writes the register back as a whole).

    Attributes:
        allocated: CMDQ_ALLOC.ALLOCATED of the VCMDQ.
    """

    REGISTERS: ClassVar[Mapping[str, int]] = VCMDQ_REGISTERS
    _ADDR: ClassVar[int] = (1 << 48) - (1 << 5)

    def __init__(self, vintf: Vintf, memory: Memory, features: Features, answered: Callable[[Command], bool]) -> None:
        super().__init__(memory, features, answered=answered)
        self.allocated = False
        self._vintf = vintf
        self._values = {name: 0 for name in VCMDQ_REGISTERS if not name.endswith("+4")}

    @property
    def enabled(self) -> bool:
        """STATUS.ENABLED: CONFIG.EN of a queue that has a BASE, in an enabled VINTF."""
        return bool(self._vintf.enabled and self._values["BASE"] and self._values["CONFIG"] & VCMDQ_EN)

    @property
    def error_active(self) -> bool:
        """GERROR and GERRORN differ: nothing runs."""
        return self._values["GERROR"] != self._values["GERRORN"]

    def drain(self) -> int:
        """Disable the queue, forget an ATC_INV that was not answered, and give CONS.

        The host does so before the queue changes hands or is saved: its CMD_SYNC on the physical queue takes the
        time-out, so that none is told to the next VM (Linux 7.2 tegra241_vcmdq_hw_flush_timeout).
        """
        self._values["CONFIG"] = 0
        self._atc_timeout = False
        return self._stored("CONS")

    def _stored(self, register: str) -> int:
        if register == "STATUS":
            return VCMDQ_ENABLED * self.enabled
        mask = {"CONS": CONS_ERR | self.queue.mask, "PROD": self.queue.mask}
        return self._values[register] & mask.get(register, -1)

    def _store(self, register: str, value: int) -> None:
        page1 = VCMDQ_REGISTERS[register] >= _PAGE1
        if not self.allocated or (page1 and not self._vintf.hyp_own):
            return
        if register in ("STATUS", "GERROR") or (self.enabled and (page1 or register == "CONS")):
            return
        defined = {
            "CONS": CONS_ERR | _POINTER,
            "PROD": _POINTER,
            "CONFIG": VCMDQ_EN,
            "GERRORN": GERROR_CMDQ_ERR,
            "BASE": self._ADDR | BASE_LOG2SIZE,
        }
        self._values[register] = value & defined.get(register, -1)
        self._consume()

    def _accept(self, command: Command) -> Command:
        if command.name == "CMD_SYNC" and command.fields["cs"]:
            raise Stop(CError.ILL, "CMD_SYNC: a VCMDQ takes CS = NONE only (CERROR_ILL)")
        if self._vintf.hyp_own or command.name == "CMD_SYNC":
            return command
        if command.name not in VCMDQ_ACCEPTS:
            valid = ", ".join(sorted(VCMDQ_ACCEPTS))
            raise Stop(CError.ILL, f"{command.name}: a guest's VCMDQ does not take it (valid: {valid}) (CERROR_ILL)")
        try:
            return rewrite(command, self._vintf.vmid, self._vintf.sids)
        except UnknownStream as unknown:
            raise Stop(CError.ILL, f"{unknown} (CERROR_ILL)") from None

    def _report(self, error: int) -> None:
        self._values["GERROR"] ^= error
        self.interrupts.append("cmdqv")

    def _allocate(self, addr: int, log2size: int) -> None:
        """Source: Linux 7.2 tegra241_vintf_alloc_lvcmdq_user."""
        self.allocated = True
        self.executed, self.interrupts, self.fetched, self.stopped_by = [], [], 0, ""
        self._values["BASE"] = addr | log2size

    def _release(self) -> None:
        """Source: Linux 7.2 tegra241_vcmdq_hw_deinit."""
        self.drain()
        self._values |= {"PROD": 0, "CONS": 0, "BASE": 0, "CONS_INDX_BASE": 0, "GERRORN": self._values["GERROR"]}
        self.allocated = False


class Vintf:
    """A virtual interface: the queues of one VM, its VMID, and its StreamIDs.

    Of what a guest's queue fetches, the hardware replaces the VMID by the VINTF's and the StreamID by the match
    table; it takes nothing but TLBI_NH_ASID, TLBI_NH_VA, ATC_INV and CMD_SYNC with CS = NONE. The rest is CERROR_ILL
    on that queue only, and so is a StreamID without a match (inferred). A queue of the host kernel (HYP_OWN) takes
    every command that the physical queue takes, as it is, but CMD_SYNC with CS = NONE only (OPT_TEGRA241_CMDQV).

    Source: Linux 7.2 tegra241-cmdqv.c; the refusals of the calls in iommufd's viommu.c where named.

    Args:
        memory: Where the queues lie, by the address that the hardware sees.
        features: What the SMMU implements; IDR1.CMDQS limits the length of a queue.
        vmid: VMID of the VM's stage 2.
        hyp_own: The VINTF of the host kernel.
        lvcmdqs: Number of queues, 1 to 128.
        sids_per_vintf: Entries of the match table, 1 to 16.
        contiguous: Whether the guest's memory from an address on, so many bytes, is contiguous for the hardware.
        answered: Whether the device answers an ATC_INV, which has its physical StreamID, in time.

    Attributes:
        allocated: Someone has it, the host or a VM; `Cmdqv` takes it back. Else each call is ENOENT.
        enabled: CONFIG.EN; the VINTF begins enabled.
        hyp_own: CONFIG.HYP_OWN.
        lvcmdqs: The queues.
        sids: Physical StreamID by virtual StreamID: the match table.
        vmid: CONFIG.VMID.

    Raises:
        ValueError: A number that the registers cannot hold.

    >>> class Ram(dict):
    ...     read = lambda self, addr, n: self[addr]
    >>> ram = Ram({0x1000: bytes(Command.of("ATC_INV", sid=8)), 0x1010: bytes(Command.of("CFGI_STE", sid=8))})
    >>> features = Features.from_idr(idr0=0x0d44141b, idr1=0x02730010, idr3=0x1414, idr5=0x74)
    >>> vintf = Vintf(ram, features, vmid=0x11)
    >>> vintf.match(vsid=8, psid=0x2301)
    0
    >>> queue = vintf.allocate(0, addr=0x1000, length=64)
    >>> queue.write32("CONFIG", VCMDQ_EN)
    >>> queue.write32("PROD", 2)
    >>> [str(command) for command in queue.executed], hex(queue.read32("CONS")), queue.read32("GERROR")
    (['ATC_INV sid=0x2301 addr=0x0 SIZE=0 (1 page)'], '0x1000001', 1)
    >>> vintf.err_map.hex()
    '01000000000000000000000000000000'
    >>> ram[0x1010] = bytes(Command.of("CMD_SYNC"))
    >>> queue.write32("GERRORN", 1)
    >>> hex(queue.read32("CONS")), vintf.err_map == bytes(16)
    ('0x1000002', True)
    """

    def __init__(
        self,
        memory: Memory,
        features: Features,
        vmid: int,
        *,
        hyp_own: bool = False,
        lvcmdqs: int = 2,
        sids_per_vintf: int = 16,
        contiguous: Callable[[int, int], bool] = lambda addr, length: True,
        answered: Callable[[Command], bool] = lambda atc_inv: True,
    ) -> None:
        for name, value, most in (("lvcmdqs", lvcmdqs, _MAX_LVCMDQS), ("sids_per_vintf", sids_per_vintf, _MAX_SIDS)):
            integer(name, value, 1, most)
        self.allocated, self.hyp_own = True, hyp_own
        self.vmid, self.enabled = 0, False
        self.lvcmdqs = tuple(Lvcmdq(self, memory, features, answered) for _ in range(lvcmdqs))
        self.sids: dict[int, int] = {}
        self._cmdqs = features.cmdqs
        self._slots: list[int | None] = [None] * sids_per_vintf
        self._contiguous = contiguous
        self._vms: tuple[Vintf, ...] = (self,)
        self.enable(vmid)

    @property
    def config(self) -> int:
        """CONFIG: EN, VMID and HYP_OWN. A guest, which sees the VINTF as its own VINTF 0, reads HYP_OWN as 0."""
        return VINTF_EN * self.enabled | self.vmid << VINTF_VMID_SHIFT | VINTF_HYP_OWN * self.hyp_own

    @property
    def err_map(self) -> bytes:
        """LVCMDQ_ERR_MAP: bit k is 1 while queue k has an active error; what an event of the vEVENTQ carries."""
        active = sum(queue.error_active << k for k, queue in enumerate(self.lvcmdqs))
        return active.to_bytes(_MAX_LVCMDQS // 8, "little")

    def enable(self, vmid: int) -> None:
        """Set CONFIG.VMID and CONFIG.EN; queues that wait for it run.

        Raises:
            Refused: ENOENT, the VINTF is no VM's; EEXIST, the VMID is another VM's; EBUSY, the VMID would change while
                a queue is allocated or a StreamID has an entry (the last two inferred: Linux never does it).
            ValueError: Not a VMID.
        """
        self._require()
        self._enable(vmid)

    def _enable(self, vmid: int) -> None:
        vmid = integer("vmid", vmid, 0, _VMID, "#x")
        vmids = [vintf.vmid for vintf in self._vms if vintf.allocated and vintf is not self]
        if vmid in vmids:
            raise Refused("EEXIST", f"vmid: {vmid:#x} is another VM's (valid: none of {_hexes(vmids)})")
        if vmid != self.vmid and (self.sids or self.lvcmdqs[0].allocated):
            held = "a queue is allocated or a StreamID has an entry"
            raise Refused("EBUSY", f"vmid: {vmid:#x} is not valid while {held} (valid: {self.vmid:#x})")
        self.vmid, self.enabled = vmid, True
        for queue in self.lvcmdqs:
            queue._consume()

    def disable(self) -> None:
        """Clear CONFIG.EN: no queue runs."""
        self.enabled = False

    def match(self, vsid: int, psid: int) -> int:
        """Give a device its entry in the match table, the first free one (IOMMU_VDEVICE_ALLOC).

        Args:
            vsid: StreamID that the guest knows, at most 20 bits: those of SID_MATCH. (Linux 7.2 itself checks 32.)
            psid: StreamID of the device.

        Returns:
            Index of the entry.

        Raises:
            Refused: ENOENT, the VINTF is no VM's; EINVAL, not a StreamID or too large; EEXIST, one that has an entry,
                `psid` in whichever VM (a device has one vdevice, viommu.c); ENOSPC, no entry is free.
        """
        self._require()
        vsid, psid = _argument("vsid", vsid, _VSID, "#x"), _argument("psid", psid, _PSID, "#x")
        if vsid in self.sids:
            raise Refused("EEXIST", f"vsid: {vsid:#x} has an entry (valid: none of {_hexes(self.sids)})")
        psids = [psid for vintf in self._vms for psid in vintf.sids.values()]
        if psid in psids:
            raise Refused("EEXIST", f"psid: {psid:#x} has an entry (valid: none of {_hexes(psids)})")
        if None not in self._slots:
            raise Refused("ENOSPC", f"the match table is full (valid: at most {len(self._slots)} StreamIDs)")
        index = self._slots.index(None)
        self._slots[index] = vsid
        self.sids[vsid] = psid
        return index

    def unmatch(self, vsid: int) -> None:
        """Take a device out of the match table.

        Raises:
            Refused: EINVAL, not a StreamID; ENOENT, no such entry.
        """
        vsid = _argument("vsid", vsid, _VSID, "#x")
        if vsid not in self.sids:
            raise Refused("ENOENT", f"vsid: {vsid:#x} has no entry (valid: {_hexes(self.sids)})")
        self._slots[self._slots.index(vsid)] = None
        del self.sids[vsid]

    def allocate(self, index: int, addr: int, length: int) -> Lvcmdq:
        """Map a queue and set its BASE (IOMMU_HW_QUEUE_ALLOC); user space enables it by CONFIG.

        Two queues of a VM may share memory: no rule against it is known (inferred).

        Args:
            index: Which; in ascending order only.
            addr: Where it lies, a multiple of `length`.
            length: Bytes, a power of two from 32 to 2^IDR1.CMDQS entries of 16.

        Raises:
            Refused: ENOENT, the VINTF is no VM's; EFAULT, memory is not contiguous (viommu.c, before what follows);
                EINVAL, an index, length or address that is not valid; EEXIST, the queue is allocated; EIO, the one
                before it is not.
        """
        self._require()
        addr, length = _argument("addr", addr, _ADDRESS, "#x"), _argument("length", length)
        if not self._contiguous(addr, length):
            raise Refused("EFAULT", f"addr: the {length} bytes at {addr:#x} are not contiguous in physical memory")
        index = _argument("index", index, len(self.lvcmdqs) - 1)
        queue = self.lvcmdqs[index]
        if queue.allocated:
            raise Refused("EEXIST", f"index: LVCMDQ {index} is allocated{self._next()}")
        if index and not self.lvcmdqs[index - 1].allocated:
            raise Refused("EIO", f"index: LVCMDQ {index} needs LVCMDQ {index - 1} first{self._next()}")
        most = 1 << self._cmdqs + _ENTRY_SHIFT
        if length & length - 1 or not _MIN_LENGTH <= length <= most:
            raise Refused("EINVAL", f"length: {length} is not valid: a power of two, {_MIN_LENGTH} to {most}")
        if addr & ~Lvcmdq._ADDR or addr & length - 1:
            raise Refused("EINVAL", f"addr: {addr:#x} is not valid: a multiple of {length:#x} below 2^48")
        queue._allocate(addr, length.bit_length() - 1 - _ENTRY_SHIFT)
        return queue

    def release(self, index: int) -> None:
        """Disable and unmap a queue; in descending order only.

        Raises:
            Refused: ENOENT, the queue is not allocated; EBUSY, the one after it is.
        """
        live = [k for k, queue in enumerate(self.lvcmdqs) if queue.allocated]
        if index not in live:
            raise Refused("ENOENT", f"index: LVCMDQ {index} is not allocated{self._last(live)}")
        if index != live[-1]:
            raise Refused("EBUSY", f"index: LVCMDQ {index + 1} depends on LVCMDQ {index}{self._last(live)}")
        self.lvcmdqs[live[-1]]._release()

    def pinned(self, addr: int, length: int) -> bool:
        """Whether a page there holds part of an allocated queue: to unmap it gives EBUSY.

        Source: Linux 7.2 iopt_unmap_iova_range; a page has 4 KiB here.
        """
        return any(
            addr // _PAGE <= (queue.base + (queue.queue.size << _ENTRY_SHIFT) - 1) // _PAGE
            and queue.base // _PAGE <= (addr + length - 1) // _PAGE
            for queue in self.lvcmdqs
            if queue.allocated
        )

    def at(self, offset: int) -> tuple[Lvcmdq, str]:
        """The queue and the register at an offset in the two pages of the VINTF, as `read32` and the like take it.

        Raises:
            RegisterError: Nothing is there.

        >>> vintf = Vintf({}, Features.from_idr(idr0=0, idr1=0x02730010, idr3=0, idr5=0), vmid=1)
        >>> queue, register = vintf.at(0x10080)
        >>> queue is vintf.lvcmdqs[1], register
        (True, 'BASE')
        """
        offset = integer("offset", offset, 0, _PAGES - 1, "#x")
        index, within = divmod(offset & ~_PAGE1, VCMDQ_STRIDE)
        names = {at: name for name, at in VCMDQ_REGISTERS.items()}
        name = names.get(offset & _PAGE1 | within)
        if index >= len(self.lvcmdqs) or name is None:
            last = len(self.lvcmdqs) - 1
            valid = ", ".join(f"{name} {at:#x}" for name, at in VCMDQ_REGISTERS.items())
            raise RegisterError(f"offset {offset:#x}: no register; valid: {VCMDQ_STRIDE:#x} * (0 to {last}) + {valid}")
        return self.lvcmdqs[index], name

    def reset(self) -> None:
        """Release every queue, clear CONFIG and the match table (Linux 7.2 tegra241_vintf_hw_deinit)."""
        for queue in reversed(self.lvcmdqs):
            if queue.allocated:
                queue._release()
        self.vmid, self.enabled = 0, False
        self.sids.clear()
        self._slots = [None] * len(self._slots)

    def _require(self) -> None:
        if not self.allocated:
            raise Refused("ENOENT", "vintf: this one is no VM's (valid: what Cmdqv.allocate gives, until it is freed)")

    def _next(self) -> str:
        free = next((k for k, queue in enumerate(self.lvcmdqs) if not queue.allocated), None)
        return f" (valid: {'none is left' if free is None else free})"

    def _last(self, live: list[int]) -> str:
        return f" (valid: {live[-1] if live else 'none'})"


class Cmdqv:
    """The device: its queues, split evenly among VINTFs; VINTF 0 is the host kernel's, each other one VM's.

    Arguments not named here are those of `Vintf`. Linux allocates all queues of VINTF 0 at boot; here it is left to
    the caller, who knows where they shall lie.

    Args:
        memory: Physical memory.
        features: What the SMMU implements.
        vintfs: Number of VINTFs, a power of two, 2 to 64.
        vcmdqs: Number of queues in all, a power of two, `vintfs` to 128.
        sids_per_vintf: As in `Vintf`.
        contiguous: As in `Vintf`.
        answered: As in `Vintf`.

    Attributes:
        vintfs: The VINTFs.

    Raises:
        ValueError: A number that PARAM and CMDQ_ALLOC cannot hold.

    >>> cmdqv = Cmdqv({}, Features.from_idr(idr0=0, idr1=0x02730010, idr3=0, idr5=0), vintfs=2, vcmdqs=4)
    >>> cmdqv.allocate(vmid=7) is cmdqv.vintfs[1], len(cmdqv.vintfs[1].lvcmdqs)
    (True, 2)
    >>> cmdqv.allocate(vmid=8)
    Traceback (most recent call last):
        ...
    smmu_lab.arch.consumer.Refused: ENOSPC: no VINTF is free (valid: at most 1 VM)
    """

    def __init__(
        self,
        memory: Memory,
        features: Features,
        vintfs: int = 64,
        vcmdqs: int = 128,
        *,
        sids_per_vintf: int = 16,
        contiguous: Callable[[int, int], bool] = lambda addr, length: True,
        answered: Callable[[Command], bool] = lambda atc_inv: True,
    ) -> None:
        for name, value, least, most in (
            ("vintfs", vintfs, 2, _MAX_VINTFS),
            ("vcmdqs", vcmdqs, vintfs, _MAX_LVCMDQS),
        ):
            if not least <= integer(name, value, 0) <= most or value & value - 1:
                raise ValueError(f"{name}: {value} is not valid: a power of two, {least} to {most}")
        self.vintfs = tuple(
            Vintf(
                memory,
                features,
                vmid=0,
                hyp_own=not k,
                lvcmdqs=vcmdqs // vintfs,
                sids_per_vintf=sids_per_vintf,
                contiguous=contiguous,
                answered=answered,
            )
            for k in range(vintfs)
        )
        vms = self.vintfs[1:]
        for vintf in vms:
            vintf.allocated = vintf.enabled = False
            vintf._vms = vms

    def allocate(self, vmid: int) -> Vintf:
        """Give a VM the first free VINTF, reset, then enabled (IOMMU_VIOMMU_ALLOC; Linux 7.2 tegra241_vintf_hw_init).

        Raises:
            Refused: ENOSPC, no VINTF is free; EEXIST, the VMID is another VM's.
            ValueError: Not a VMID.
        """
        vintf = next((vintf for vintf in self.vintfs if not vintf.allocated), None)
        if not vintf:
            most = len(self.vintfs) - 1
            raise Refused("ENOSPC", f"no VINTF is free (valid: at most {most} VM{'s' * (most > 1)})")
        vintf.reset()
        vintf._enable(vmid)
        vintf.allocated = True
        return vintf

    def free(self, vintf: Vintf) -> None:
        """Take a VINTF back, its queues and StreamIDs with it, as when the VM's iommufd is closed.

        Raises:
            Refused: ENOENT, the VINTF is no VM's.
        """
        if vintf not in self.vintfs[1:] or not vintf.allocated:
            valid = ", ".join(str(k) for k, other in enumerate(self.vintfs) if k and other.allocated)
            raise Refused("ENOENT", f"vintf: this one is no VM's (valid: VINTF {valid or 'none'})")
        vintf.reset()
        vintf.allocated = False


def _argument(name: str, value: int, most: int | None = None, form: str = "d") -> int:
    try:
        return integer(name, value, 0, most, form)
    except RegisterError as error:
        raise Refused("EINVAL", str(error)) from None


def _hexes(numbers: Iterable[int]) -> str:
    return ", ".join(map(hex, numbers)) or "none"
