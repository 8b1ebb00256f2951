"""The registers of an SMMUv3 command queue, and the consumer behind them: no clock, no threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from smmu_lab.arch.commands import Command
from smmu_lab.arch.consumer import BASE_LOG2SIZE, BASE_RA, CONS_ERR, GERROR_CMDQ_ERR, Consumer, Memory, RegisterError
from smmu_lab.arch.rules import RULES, Features, Rules

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
IRQ_CTRL_GERROR_IRQEN = 1 << 0
GERROR_CMDQP_ERR = 1 << 9

_CR0_SMMUEN, _CR0_PRIQEN, _CR0_EVENTQEN, _CR0_ATSCHK, _CR0_VMW = 1 << 0, 1 << 1, 1 << 2, 1 << 4, 7 << 6
_IRQ_CTRL_PRIQ, _IRQ_CTRL_EVENTQ = 1 << 1, 1 << 2
_GERROR_DEFINED = 0x1FD

_QEMU_CR0ACK = 0x3DF
"""Bits of CR0 that QEMU acknowledges (~SMMU_CR0_RESERVED)."""
_QEMU_BASE_ADDR = (1 << 52) - (1 << 6)
"""Bits of CMDQ_BASE that QEMU takes as the address (SMMU_BASE_ADDR_MASK)."""

_LIVE = {"CMDQ_BASE": "base_write_live", "CMDQ_CONS": "cons_write_live"}
"""Registers that are read-only while the queue is enabled, and the deviation that takes writes all the same."""

_RUNS = {"CR0", "GERRORN", "CMDQ_PROD"}
"""Registers that make commands runnable."""

_ALL_BITS = 0xFFFFFFFF


class CommandQueueRegisters(Consumer):
    """The command queue of one SMMU as a program sees it: registers, and commands that run when one is written.

    Commands run inside the write of CMDQ_PROD, CR0 or GERRORN that makes them runnable, all of them, in order, as
    in QEMU's `smmuv3_cmdq_consume`; hardware may take its time, but ends in the same state. At a bad command the
    queue stops: CONS stays at it, CONS.ERR holds the code, GERROR.CMDQ_ERR toggles. Nothing runs until GERRORN
    agrees again; then the entry at CONS is fetched anew (Arm IHI 0070 section 7.1, Linux 7.2
    __arm_smmu_cmdq_skip_err). With CR0.SMMUEN an ATC_INV goes to its device; one that is not answered stops the next
    CMD_SYNC (section 3.9.1.4), but not its repetition: Linux counts on that, the specification is silent.

    Args:
        memory: Where the queue lies; a fetch that it does not answer in full is CERROR_ABT.
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

    REGISTERS: ClassVar[Mapping[str, int]] = REGISTERS
    _PREFIX: ClassVar[str] = "CMDQ_"
    _ADDR: ClassVar[int] = (1 << 56) - (1 << 5)

    def __init__(
        self,
        memory: Memory,
        features: Features,
        rules: Rules = "arm",
        answered: Callable[[Command], bool] = lambda atc_inv: True,
    ) -> None:
        if rules not in RULES:
            raise RegisterError(f"rules: {rules!r} is not valid: {' or '.join(map(repr, RULES))}")
        super().__init__(memory, features, RULES[rules], self.answers)
        self._device_answers = answered
        self._ecmdqs: list[Consumer] = []
        self.reset()

    def reset(self) -> None:
        """Back to the state after power-on, ECMDQs included; what the specification leaves unknown is as in QEMU.

        Source: QEMU smmuv3_init_regs: everything 0, CMDQ_BASE.LOG2SIZE at its maximum.
        """
        self._values = dict.fromkeys(("CR0", "IRQ_CTRL", "GERROR", "GERRORN", "CMDQ_PROD", "CMDQ_CONS"), 0)
        self._values["CMDQ_BASE"] = self.features.cmdqs
        self._atc_timeout = False
        for queue in self._ecmdqs:
            queue._values = dict.fromkeys(queue._values, 0)
            queue._atc_timeout = False

    @property
    def enabled(self) -> bool:
        """CR0.CMDQEN."""
        return bool(self._values["CR0"] & CR0_CMDQEN)

    @property
    def error_active(self) -> bool:
        """CMDQ_ERR differs between GERROR and GERRORN: nothing runs."""
        return bool((self._values["GERROR"] ^ self._values["GERRORN"]) & GERROR_CMDQ_ERR)

    @property
    def base(self) -> int:
        """Address of entry 0."""
        return self._values["CMDQ_BASE"] & _QEMU_BASE_ADDR if "misaligned_base" in self.deviations else super().base

    def answers(self, atc_inv: Command) -> bool:
        """Whether no time-out comes of an ATC_INV: the device answers, or is not asked (CR0.SMMUEN = 0, or QEMU)."""
        asked = self._values["CR0"] & _CR0_SMMUEN and "unsupported_accepted" not in self.deviations
        return not asked or self._device_answers(atc_inv)

    def activate(self, error: int) -> None:
        """Make an error active in GERROR, unless it is (QEMU smmuv3_trigger_irq)."""
        if (self._values["GERROR"] ^ self._values["GERRORN"]) & error:
            return
        self._values["GERROR"] ^= error
        if self._values["IRQ_CTRL"] & IRQ_CTRL_GERROR_IRQEN:
            self.interrupts.append("gerror")

    def _report(self, error: int) -> None:
        self.activate(error)

    def _store(self, register: str, value: int) -> None:
        live = _LIVE.get(register)
        if live and self.enabled and live not in self.deviations:
            return
        if register in self._values and register != "GERROR":
            self._values[register] = value
        if register in _RUNS:
            self._consume()

    def _stored(self, register: str) -> int:
        """What a read of the register gives: in the specification, reserved bits are 0."""
        f = self.features
        match register:
            case "IDR0" | "IDR1" | "IDR3" | "IDR5":
                return {"IDR0": f.idr0, "IDR1": f.idr1, "IDR3": f.idr3, "IDR5": f.idr5}[register]
            case "CR0ACK":
                return self._stored("CR0") & (_QEMU_CR0ACK if "reserved_bits" in self.deviations else _ALL_BITS)
            case "IRQ_CTRLACK":
                return self._stored("IRQ_CTRL")
        reserved = "prod_high_bits" if register == "CMDQ_PROD" else "reserved_bits"
        value = self._values[register]
        return value if reserved in self.deviations else value & self._defined(register)

    def _defined(self, register: str) -> int:
        """Bits of a register that mean something (Arm IHI 0070 section 6.3); the others read 0."""
        f = self.features
        gerror = _GERROR_DEFINED | (f.idr1 >> 31) * GERROR_CMDQP_ERR
        return {
            "CR0": _CR0_SMMUEN
            | _CR0_EVENTQEN
            | CR0_CMDQEN
            | f.pri * _CR0_PRIQEN
            | f.ats * _CR0_ATSCHK
            | f.vmw * _CR0_VMW,
            "IRQ_CTRL": IRQ_CTRL_GERROR_IRQEN | _IRQ_CTRL_EVENTQ | f.pri * _IRQ_CTRL_PRIQ,
            "GERROR": gerror,
            "GERRORN": gerror,
            "CMDQ_BASE": BASE_RA | self._ADDR | BASE_LOG2SIZE,
            "CMDQ_PROD": self.queue.mask,
            "CMDQ_CONS": CONS_ERR | self.queue.mask,
        }[register]
