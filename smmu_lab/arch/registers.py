"""The registers of an SMMUv3 command queue, and the consumer behind them: no clock, no threads."""

from __future__ import annotations

import difflib
import operator
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from smmu_lab.arch.commands import CError, Command, IllegalCommand
from smmu_lab.arch.queue import Queue
from smmu_lab.arch.rules import ILLEGAL, RULES, SSEC, Features, Illegal, Rules


class Memory(Protocol):
    """The memory in which the queue lies, by byte address."""

    def read(self, addr: int, n: int, /) -> bytes:
        """The `n` bytes at `addr`; raises LookupError (KeyError, IndexError) if nothing answers there."""

    def write(self, addr: int, data: bytes, /) -> None:
        """Put `data` at `addr`; raises as `read`."""


class RegisterError(ValueError):
    """An access that no program can make: no such register, or a value that does not fit."""


REGISTERS: Mapping[str, int] = MappingProxyType(
    {
        "IDR0": 0x00,
        "IDR1": 0x04,
        "IDR3": 0x0C,
        "IDR5": 0x14,
        "CR0": 0x20,
        "CR0ACK": 0x24,
        "IRQ_CTRL": 0x50,
        "IRQ_CTRLACK": 0x54,
        "GERROR": 0x60,
        "GERRORN": 0x64,
        "CMDQ_BASE": 0x90,
        "CMDQ_BASE+4": 0x94,
        "CMDQ_PROD": 0x98,
        "CMDQ_CONS": 0x9C,
    }
)
"""Offset of each register in page 0 (Linux 7.2 arm-smmu-v3.h). CMDQ_BASE has 64 bits, CMDQ_BASE+4 is its upper half."""

CR0_CMDQEN = 1 << 3
GERROR_CMDQ_ERR = 1 << 0
GERROR_MSI_CMDQ_ABT_ERR = 1 << 4
IRQ_CTRL_GERROR_IRQEN = 1 << 0

_CR0_SMMUEN, _CR0_PRIQEN, _CR0_EVENTQEN, _CR0_ATSCHK, _CR0_VMW = 1 << 0, 1 << 1, 1 << 2, 1 << 4, 7 << 6
_IRQ_CTRL_PRIQ, _IRQ_CTRL_EVENTQ = 1 << 1, 1 << 2
_GERROR_DEFINED = 0x1FD
_BASE_RA, _BASE_ADDR, _BASE_LOG2SIZE = 1 << 62, (1 << 56) - (1 << 5), 0x1F
_CONS_ERR_SHIFT, _CONS_ERR = 24, 0x7F << 24

_QEMU_CR0ACK = 0x3DF
"""Bits of CR0 that QEMU acknowledges (~SMMU_CR0_RESERVED)."""
_QEMU_BASE_ADDR = (1 << 52) - (1 << 6)
"""Bits of CMDQ_BASE that QEMU takes as the address (SMMU_BASE_ADDR_MASK)."""

_LIVE = {"CMDQ_BASE": "base_write_live", "CMDQ_CONS": "cons_write_live"}
"""Registers that are read-only while the queue is enabled, and the deviation that takes writes all the same."""

_ALL_BITS = 0xFFFFFFFF
_SIG_IRQ = 1
_ENTRY = struct.Struct("<QQ")


class _Stop(Exception):
    """The queue stops at the entry at CONS."""

    def __init__(self, cerror: CError, reason: str) -> None:
        super().__init__(reason)
        self.cerror = cerror


class CommandQueueRegisters:
    """The command queue of one SMMU as a program sees it: registers, and commands that run when one is written.

    Commands run inside the write of CMDQ_PROD, CR0 or GERRORN that makes them runnable, all of them, in order, as
    in QEMU's `smmuv3_cmdq_consume`; hardware may take its time, but ends in the same state. At a bad command the
    queue stops: CONS stays at it, CONS.ERR holds the code, GERROR.CMDQ_ERR toggles. Nothing runs until GERRORN
    agrees again; then the entry at CONS is fetched anew (Arm IHI 0070 section 7.1, Linux 7.2
    __arm_smmu_cmdq_skip_err). With CR0.SMMUEN an ATC_INV goes to its device; one that is not answered stops the next
    CMD_SYNC (section 3.9.1.4), but not its repetition: Linux counts on that, the specification is silent.

    Args:
        memory: Where the queue lies; a LookupError at a fetch is CERROR_ABT.
        features: What the SMMU implements.
        rules: "arm" for the specification, "qemu" for QEMU 10.0.2 with its `DEVIATIONS`.
        answered: Whether the device answers an ATC_INV in time; by default each does.

    Attributes:
        executed: Commands that ran, in order; `reset` leaves it.
        fetched: Number of entries read from memory, those that turned out illegal included.
        interrupts: Wired interrupts raised, in order: "cmd-sync" or "gerror".
        stopped_by: What the last error was, in words; empty before the first.

    Raises:
        RegisterError: Unknown rule set.

    >>> class Ram(dict):
    ...     read = lambda self, addr, n: self[addr]
    >>> ram = Ram({0x1000: bytes(Command.of("TLBI_NSNH_ALL")), 0x1010: bytes([7] + [0] * 15)})
    >>> features = Features.from_idr(idr0=0x0d44101b, idr1=0x02730010, idr3=0x1414, idr5=0x74)
    >>> regs = CommandQueueRegisters(ram, features=features)
    >>> regs.write64("CMDQ_BASE", 0x1000 | 4)
    >>> regs.write32("CR0", CR0_CMDQEN)
    >>> regs.write32("CMDQ_PROD", 2)
    >>> [str(command) for command in regs.executed], hex(regs.read32("CMDQ_CONS")), regs.read32("GERROR")
    (['TLBI_NSNH_ALL'], '0x1000001', 1)
    >>> regs.stopped_by
    'entry 1 at 0x1010: opcode 0x07 is not a command of the SMMUv3 queue (CERROR_ILL)'
    >>> ram[0x1010] = bytes(Command.of("CMD_SYNC"))
    >>> regs.write32("GERRORN", 1)
    >>> [str(command) for command in regs.executed], hex(regs.read32("CMDQ_CONS"))
    (['TLBI_NSNH_ALL', 'CMD_SYNC CS=NONE'], '0x1000002')
    """

    def __init__(
        self,
        memory: Memory,
        features: Features,
        rules: Rules = "arm",
        answered: Callable[[Command], bool] = lambda atc_inv: True,
    ) -> None:
        if rules not in RULES:
            raise RegisterError(f"rules: {rules!r} is not valid: {' or '.join(map(repr, RULES))}")
        self.features = features
        self.executed: list[Command] = []
        self.fetched = 0
        self.interrupts: list[str] = []
        self.stopped_by = ""
        self._memory = memory
        self._answered = answered
        self._deviations = RULES[rules]
        self._illegal: dict[str, list[Illegal]] = {}
        for rule in ILLEGAL:
            if rule.deviation not in self._deviations:
                for name in rule.commands:
                    self._illegal.setdefault(name, []).append(rule)
        self.reset()

    def reset(self) -> None:
        """Back to the state after power-on; what the specification leaves unknown is as in QEMU.

        Source: QEMU smmuv3_init_regs: everything 0, CMDQ_BASE.LOG2SIZE at its maximum.
        """
        self._values = dict.fromkeys(("CR0", "IRQ_CTRL", "GERROR", "GERRORN", "CMDQ_PROD", "CMDQ_CONS"), 0)
        self._values["CMDQ_BASE"] = self.features.cmdqs
        self._atc_timeout = False

    def read32(self, register: str) -> int:
        """Read a 32-bit register; of CMDQ_BASE the lower half.

        Raises:
            RegisterError: No such register.
        """
        _check(register)
        f = self.features
        match register:
            case "IDR0" | "IDR1" | "IDR3" | "IDR5":
                return {"IDR0": f.idr0, "IDR1": f.idr1, "IDR3": f.idr3, "IDR5": f.idr5}[register]
            case "CR0ACK":
                return self._stored("CR0") & (_QEMU_CR0ACK if "reserved_bits" in self._deviations else _ALL_BITS)
            case "IRQ_CTRLACK":
                return self._stored("IRQ_CTRL")
            case "CMDQ_BASE+4":
                return self._stored("CMDQ_BASE") >> 32
        return self._stored(register) & _ALL_BITS

    def read64(self, register: str) -> int:
        """Read a 64-bit register; one of 32 bits reads 0 (`DEVIATIONS`, wide_prod).

        Raises:
            RegisterError: No such register.
        """
        _check(register)
        return self._stored(register) if register == "CMDQ_BASE" else 0

    def write32(self, register: str, value: int) -> None:
        """Write a 32-bit register; of CMDQ_BASE the lower half. A read-only register keeps its value.

        Raises:
            RegisterError: No such register, or a value that does not fit.
        """
        value = _check(register, value, 32)
        base = self._values["CMDQ_BASE"]
        match register:
            case "CMDQ_BASE":
                self._store("CMDQ_BASE", base & ~_ALL_BITS | value)
            case "CMDQ_BASE+4":
                self._store("CMDQ_BASE", base & _ALL_BITS | value << 32)
            case "IRQ_CTRL" | "CMDQ_CONS":
                self._store(register, value)
            case "CR0" | "GERRORN" | "CMDQ_PROD":
                self._store(register, value)
                self._consume()

    def write64(self, register: str, value: int) -> None:
        """Write a 64-bit register; one of 32 bits keeps its value (`DEVIATIONS`, wide_prod).

        Raises:
            RegisterError: No such register, or a value that does not fit.
        """
        value = _check(register, value, 64)
        if register == "CMDQ_BASE":
            self._store(register, value)

    @property
    def enabled(self) -> bool:
        """CR0.CMDQEN."""
        return bool(self._values["CR0"] & CR0_CMDQEN)

    @property
    def error_active(self) -> bool:
        """CMDQ_ERR differs between GERROR and GERRORN: nothing runs."""
        return bool((self._values["GERROR"] ^ self._values["GERRORN"]) & GERROR_CMDQ_ERR)

    @property
    def queue(self) -> Queue:
        """Pointer arithmetic for LOG2SIZE of CMDQ_BASE, at most IDR1.CMDQS."""
        return Queue(min(self._values["CMDQ_BASE"] & _BASE_LOG2SIZE, self.features.cmdqs))

    @property
    def base(self) -> int:
        """Address of entry 0."""
        base = self._values["CMDQ_BASE"]
        if "misaligned_base" in self._deviations:
            return base & _QEMU_BASE_ADDR
        return base & _BASE_ADDR & -(self.queue.size * _ENTRY.size)

    def _store(self, register: str, value: int) -> None:
        live = _LIVE.get(register)
        if not live or not self.enabled or live in self._deviations:
            self._values[register] = value

    def _stored(self, register: str) -> int:
        """What a read of the register gives: in the specification, reserved bits are 0."""
        reserved = "prod_high_bits" if register == "CMDQ_PROD" else "reserved_bits"
        value = self._values[register]
        return value if reserved in self._deviations else value & self._defined(register)

    def _defined(self, register: str) -> int:
        """Bits of a register that mean something (Arm IHI 0070 section 6.3); the others read 0."""
        f = self.features
        return {
            "CR0": _CR0_SMMUEN
            | _CR0_EVENTQEN
            | CR0_CMDQEN
            | f.pri * _CR0_PRIQEN
            | f.ats * _CR0_ATSCHK
            | f.vmw * _CR0_VMW,
            "IRQ_CTRL": IRQ_CTRL_GERROR_IRQEN | _IRQ_CTRL_EVENTQ | f.pri * _IRQ_CTRL_PRIQ,
            "GERROR": _GERROR_DEFINED,
            "GERRORN": _GERROR_DEFINED,
            "CMDQ_BASE": _BASE_RA | _BASE_ADDR | _BASE_LOG2SIZE,
            "CMDQ_PROD": self.queue.mask,
            "CMDQ_CONS": _CONS_ERR | self.queue.mask,
        }[register]

    def _consume(self) -> None:
        """Run what lies between CONS and PROD, up to an error (QEMU smmuv3_cmdq_consume)."""
        queue, base, prod = self.queue, self.base, self._values["CMDQ_PROD"]
        while self.enabled and not self.error_active and not queue.empty(self._values["CMDQ_CONS"], prod):
            cons = self._values["CMDQ_CONS"]
            addr = base + queue.index(cons) * _ENTRY.size
            try:
                self._execute(self._fetch(addr))
            except _Stop as stop:
                self.stopped_by = f"entry {queue.index(cons)} at {addr:#x}: {stop}"
                self._values["CMDQ_CONS"] = cons & ~_CONS_ERR | stop.cerror << _CONS_ERR_SHIFT
                self._raise(GERROR_CMDQ_ERR)
            else:
                self._values["CMDQ_CONS"] = cons & ~queue.mask | (cons + 1) & queue.mask

    def _fetch(self, addr: int) -> Command:
        """The command in the entry at an address, if the rule set takes it."""
        try:
            raw = self._memory.read(addr, _ENTRY.size)
        except LookupError:
            raise _Stop(CError.ABT, "nothing answers at this address (CERROR_ABT)") from None
        self.fetched += 1
        dw0, dw1 = _ENTRY.unpack(raw)
        try:
            command = Command(dw0 & ~SSEC, dw1)
        except IllegalCommand as unknown:
            raise _Stop(unknown.cerror, str(unknown)) from None
        for rule in self._illegal.get(command.name, ()):
            if rule.applies(dw0, command, self.features):
                raise _Stop(CError.ILL, f"{command.name}: {rule.reason} (CERROR_ILL)")
        return command

    def _execute(self, command: Command) -> None:
        """What a command does to queue, memory and interrupts; what it does to caches is not kept here."""
        if command.name == "ATC_INV":
            smmu_on = self._values["CR0"] & _CR0_SMMUEN
            if smmu_on and "unsupported_accepted" not in self._deviations and not self._answered(command):
                self._atc_timeout = True
        elif command.name == "CMD_SYNC":
            if self._atc_timeout:
                self._atc_timeout = False
                reason = "CMD_SYNC: a device did not answer an ATC_INV before it (CERROR_ATC_INV_SYNC)"
                raise _Stop(CError.ATC_INV_SYNC, reason)
            if command.fields["cs"] & _SIG_IRQ:
                self._signal(command.fields["msiaddr"], command.fields["msidata"])
        self.executed.append(command)

    def _signal(self, msiaddr: int, msidata: int) -> None:
        """Tell that a CMD_SYNC is complete: by the interrupt line, and by a word to memory if it names an address."""
        self.interrupts.append("cmd-sync")
        if self.features.msi and msiaddr:
            try:
                self._memory.write(msiaddr, msidata.to_bytes(4, "little"))
            except LookupError:
                self._raise(GERROR_MSI_CMDQ_ABT_ERR)

    def _raise(self, error: int) -> None:
        """Make an error active in GERROR, unless it is (QEMU smmuv3_trigger_irq)."""
        if (self._values["GERROR"] ^ self._values["GERRORN"]) & error:
            return
        self._values["GERROR"] ^= error
        if self._values["IRQ_CTRL"] & IRQ_CTRL_GERROR_IRQEN:
            self.interrupts.append("gerror")


def _check(register: str, value: int = 0, bits: int = 64) -> int:
    """The value as an int, if the register exists and the value fits."""
    if register not in REGISTERS:
        close = difflib.get_close_matches(str(register).upper(), REGISTERS, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise RegisterError(f"register {register!r}: unknown; {hint}valid: {', '.join(REGISTERS)}")
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 1 << bits:
        shown = hex(value) if isinstance(value, int) else repr(value)
        raise RegisterError(f"{register}: {shown} is not valid: an integer, 0 to {(1 << bits) - 1:#x}")
    return number
