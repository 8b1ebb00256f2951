"""The consumer of a command queue, and the access to the registers before it: no clock, no threads."""

from __future__ import annotations

import difflib
import functools
import operator
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Protocol

from smmu_lab.arch.commands import CError, Command, IllegalCommand
from smmu_lab.arch.queue import Queue
from smmu_lab.arch.rules import ILLEGAL, SSEC, Features, Illegal


class Memory(Protocol):
    """The memory in which the queue lies, by byte address."""

    def read(self, addr: int, n: int, /) -> bytes:
        """The `n` bytes at `addr`, fewer if memory ends there; raises LookupError if nothing answers."""

    def write(self, addr: int, data: bytes, /) -> None:
        """Put `data` at `addr`; raises as `read`."""


class RegisterError(ValueError):
    """An access that no program can make: no such register, or a value that does not fit."""


def integer(name: str, value: int, least: int, most: int | None = None, form: str = "d") -> int:
    """The value as an int.

    Raises:
        RegisterError: Not an integer from `least` to `most`, as which True and False do not pass.

    >>> integer("vmid", 0x10000, 0, 0xffff, "#x")
    Traceback (most recent call last):
        ...
    smmu_lab.arch.consumer.RegisterError: vmid: 0x10000 is not valid: an integer, 0 to 0xffff
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        shown = repr(value) if number is None else format(number, form)
        valid = "or more" if most is None else f"to {most:{form}}"
        raise RegisterError(f"{name}: {shown} is not valid: an integer, {least} {valid}")
    return number


class Refused(Exception):
    """A call that the kernel refuses; `errno` is the name of what it returns."""

    def __init__(self, errno: str, reason: str) -> None:
        super().__init__(f"{errno}: {reason}")
        self.errno = errno


class Stop(Exception):
    """The queue stops at the entry at CONS."""

    def __init__(self, cerror: CError, reason: str) -> None:
        super().__init__(reason)
        self.cerror = cerror


GERROR_CMDQ_ERR = 1 << 0
GERROR_MSI_CMDQ_ABT_ERR = 1 << 4

BASE_RA, BASE_LOG2SIZE = 1 << 62, 0x1F
CONS_ERR_SHIFT, CONS_ERR = 24, 0x7F << 24

_ALL_BITS = 0xFFFFFFFF
_SIG_IRQ = 1
_ENTRY = struct.Struct("<QQ")


class Consumer(ABC):
    """A command queue: registers, and commands that run when a register is written.

    The consumer fetches the entry at CONS, checks it, runs it and moves CONS. At a bad entry it stops: CONS stays
    there, with the code in bits 24 and up, and nothing runs until the error is acknowledged; then the entry is fetched
    anew (Arm IHI 0070 section 7.1). What the forms of the queue differ in is left to them: the registers, when the
    queue runs, the commands that it takes, and how it reports an error.

    Args:
        memory: Where the queue lies. A fetch that raises LookupError is CERROR_ABT, and so is one that gives fewer
            than 16 bytes: where memory ends inside an entry, the bus has no entry to give either.
        features: What the SMMU implements.
        deviations: Names in `DEVIATIONS` of what is not done as the specification asks.
        answered: Whether the device answers an ATC_INV in time; one that does not stops the next CMD_SYNC, but not
            its repetition (section 3.9.1.4; Linux counts on the latter, the specification is silent).

    Attributes:
        memory, features, deviations: As given.
        executed: Commands that ran, in order.
        fetched: Number of entries read from memory, those that turned out illegal included.
        interrupts: Wired interrupts raised, in order: "cmd-sync", "gerror", or "cmdqv" of a VCMDQ.
        stopped_by: What the last error was, in words; empty before the first.
    """

    REGISTERS: ClassVar[Mapping[str, int]]
    """Offset of each register by name; one of 64 bits has its upper half as a register of its own, name + "+4"."""

    _PREFIX: ClassVar[str] = ""
    _ADDR: ClassVar[int]

    def __init__(
        self,
        memory: Memory,
        features: Features,
        deviations: frozenset[str] = frozenset(),
        answered: Callable[[Command], bool] = lambda atc_inv: True,
    ) -> None:
        self.memory = memory
        self.features = features
        self.executed: list[Command] = []
        self.fetched = 0
        self.interrupts: list[str] = []
        self.stopped_by = ""
        self.deviations = deviations
        self._illegal = _illegal(deviations)
        self._answered = answered
        self._atc_timeout = False
        self._values: dict[str, int] = {}

    @property
    @abstractmethod
    def enabled(self) -> bool:
        """The queue is switched on."""

    @property
    @abstractmethod
    def error_active(self) -> bool:
        """An error is not acknowledged: nothing runs."""

    @abstractmethod
    def _stored(self, register: str) -> int:
        """What a read of the whole register gives."""

    @abstractmethod
    def _store(self, register: str, value: int) -> None:
        """Take a write of the whole register, with all that follows from it."""

    @abstractmethod
    def _report(self, error: int) -> None:
        """Make GERROR_CMDQ_ERR or GERROR_MSI_CMDQ_ABT_ERR, as it is called in the physical queue, active."""

    def _accept(self, command: Command) -> Command:
        """The command as it reaches the SMMU; raises Stop if this form of the queue does not take it."""
        return command

    @property
    def queue(self) -> Queue:
        """Pointer arithmetic for BASE.LOG2SIZE, at most IDR1.CMDQS."""
        return Queue(min(self._values[f"{self._PREFIX}BASE"] & BASE_LOG2SIZE, self.features.cmdqs))

    @property
    def base(self) -> int:
        """Address of entry 0: BASE.ADDR, aligned to the queue, at least to 32 bytes (Arm IHI 0070 section 6.3.26)."""
        return self._values[f"{self._PREFIX}BASE"] & self._ADDR & -(self.queue.size * _ENTRY.size)

    def read32(self, register: str) -> int:
        """Read a 32-bit register; of one of 64 bits the lower half.

        Raises:
            RegisterError: No such register.
        """
        self._check(register)
        name = register.removesuffix("+4")
        return self._stored(name) >> 32 * (name != register) & _ALL_BITS

    def read64(self, register: str) -> int:
        """Read a 64-bit register; one of 32 bits reads 0 (`DEVIATIONS`, wide_prod).

        Raises:
            RegisterError: No such register.
        """
        self._check(register)
        return self._stored(register) if self._wide(register) else 0

    def write32(self, register: str, value: int) -> None:
        """Write a 32-bit register; of one of 64 bits the lower half. A read-only register keeps its value.

        Raises:
            RegisterError: No such register, or a value that does not fit.
        """
        value = self._check(register, value, 32)
        name = register.removesuffix("+4")
        if self._wide(name):
            shift = 32 * (name != register)
            value = self._values[name] & ~(_ALL_BITS << shift) | value << shift
        self._store(name, value)

    def write64(self, register: str, value: int) -> None:
        """Write a 64-bit register; one of 32 bits keeps its value (`DEVIATIONS`, wide_prod).

        Raises:
            RegisterError: No such register, or a value that does not fit.
        """
        value = self._check(register, value, 64)
        if self._wide(register):
            self._store(register, value)

    def _wide(self, register: str) -> bool:
        return f"{register}+4" in self.REGISTERS

    def _check(self, register: str, value: int = 0, bits: int = 64) -> int:
        """The value as an int, if the register exists and the value fits."""
        if register not in self.REGISTERS:
            close = difflib.get_close_matches(str(register).upper(), self.REGISTERS, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise RegisterError(f"register {register!r}: unknown; {hint}valid: {', '.join(self.REGISTERS)}")
        return integer(register, value, 0, (1 << bits) - 1, "#x")

    def _consume(self) -> None:
        """Run what lies between CONS and PROD, up to an error (QEMU smmuv3_cmdq_consume)."""
        queue, base = self.queue, self.base
        cons_register, prod = f"{self._PREFIX}CONS", self._values[f"{self._PREFIX}PROD"]
        while self.enabled and not self.error_active and not queue.empty(self._values[cons_register], prod):
            cons = self._values[cons_register]
            addr = base + queue.index(cons) * _ENTRY.size
            try:
                self._execute(self._accept(self._fetch(addr)))
            except Stop as stop:
                self.stopped_by = f"entry {queue.index(cons)} at {addr:#x}: {stop}"
                self._values[cons_register] = cons & ~CONS_ERR | stop.cerror << CONS_ERR_SHIFT
                self._report(GERROR_CMDQ_ERR)
            else:
                self._values[cons_register] = cons & ~queue.mask | (cons + 1) & queue.mask

    def _fetch(self, addr: int) -> Command:
        """The command in the entry at an address, if it is legal."""
        try:
            raw = self.memory.read(addr, _ENTRY.size)
        except LookupError:
            raise Stop(CError.ABT, "nothing answers at this address (CERROR_ABT)") from None
        if len(raw) != _ENTRY.size:
            raise Stop(CError.ABT, f"memory gives {len(raw)} bytes, an entry has 16 (CERROR_ABT)")
        self.fetched += 1
        dw0, dw1 = _ENTRY.unpack(raw)
        try:
            command = Command(dw0 & ~SSEC, dw1)
        except IllegalCommand as unknown:
            raise Stop(unknown.cerror, str(unknown)) from None
        for rule in self._illegal.get(command.name, ()):
            if rule.applies(dw0, command, self.features):
                raise Stop(CError.ILL, f"{command.name}: {rule.reason} (CERROR_ILL)")
        return command

    def _execute(self, command: Command) -> None:
        """What a command does to queue, memory and interrupts; what it does to caches is not kept here."""
        if command.name == "ATC_INV":
            self._atc_timeout |= not self._answered(command)
        elif command.name == "CMD_SYNC":
            if self._atc_timeout:
                self._atc_timeout = False
                reason = "CMD_SYNC: a device did not answer an ATC_INV before it (CERROR_ATC_INV_SYNC)"
                raise Stop(CError.ATC_INV_SYNC, reason)
            if command.fields["cs"] & _SIG_IRQ:
                self._signal(command.fields["msiaddr"], command.fields["msidata"])
        self.executed.append(command)

    def _signal(self, msiaddr: int, msidata: int) -> None:
        """Tell that a CMD_SYNC is complete: by the interrupt line, and by a word to memory if it names an address."""
        self.interrupts.append("cmd-sync")
        if self.features.msi and msiaddr:
            try:
                self.memory.write(msiaddr, msidata.to_bytes(4, "little"))
            except LookupError:
                self._report(GERROR_MSI_CMDQ_ABT_ERR)


@functools.cache
def _illegal(deviations: frozenset[str]) -> Mapping[str, list[Illegal]]:
    """The rules of `ILLEGAL` that are checked, by name of the command."""
    by_name: dict[str, list[Illegal]] = {}
    for rule in ILLEGAL:
        if rule.deviation not in deviations:
            for name in rule.commands:
                by_name.setdefault(name, []).append(rule)
    return by_name
