"""The enhanced command queues of SMMUv3.3 (ECMDQ): many queues of one SMMU, in control pages."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from smmu_lab.arch.consumer import BASE_LOG2SIZE, BASE_RA, GERROR_CMDQ_ERR, Consumer, Refused, RegisterError, integer
from smmu_lab.arch.registers import GERROR_CMDQP_ERR, CommandQueueRegisters

ECMDQ_REGISTERS: Mapping[str, int] = MappingProxyType({"BASE": 0x00, "BASE+4": 0x04, "PROD": 0x08, "CONS": 0x0C})
"""Offset of each register of an ECMDQ (Arm IHI 0070 section 3.5.6)."""

ECMDQ_PROD_EN = ECMDQ_CONS_ENACK = 1 << 31
ECMDQ_PROD_ERRACK = ECMDQ_CONS_ERR = 1 << 23

_PAGE = 0x10000
_POINTER = 0xFFFFF
_ERR_REASON = 7 << 24
_MAX_LOG2 = 8
_IDR6 = 0xFFFFFFFF


class Ecmdq(Consumer):
    """One enhanced command queue; `ControlPages` makes it.

    It takes every command that the SMMU's own queue takes, as it is: nothing is rewritten. EN and the acknowledgement
    of an error lie in PROD, so every doorbell must carry both: a write of PROD without EN switches the queue off. An
    error toggles CONS.ERR, puts the code into CONS.ERR_REASON (bits [26:24], as CONS.ERR of the physical queue), and
    activates GERROR.CMDQP_ERR. While CONS.ERR differs from PROD.ERRACK nothing runs; GERRORN has no say in it.

    `reset` of the SMMU clears its registers and forgets an ATC_INV that was not answered.

    Source: Arm IHI 0070 sections 3.5.6 and 6.3.107 to 6.3.109. ENACK follows EN at once here.
    """

    REGISTERS: ClassVar[Mapping[str, int]] = ECMDQ_REGISTERS
    _ADDR: ClassVar[int] = (1 << 56) - (1 << 5)

    def __init__(self, smmu: CommandQueueRegisters) -> None:
        super().__init__(smmu.memory, smmu.features, smmu.deviations, smmu.answers)
        self.interrupts = smmu.interrupts
        self._smmu = smmu
        self._values = {"BASE": 0, "PROD": 0, "CONS": 0}
        smmu._ecmdqs.append(self)

    @property
    def enabled(self) -> bool:
        """PROD.EN, and CONS.ENACK with it."""
        return bool(self._values["PROD"] & ECMDQ_PROD_EN)

    @property
    def error_active(self) -> bool:
        """CONS.ERR differs from PROD.ERRACK: nothing runs."""
        return bool((self._values["PROD"] ^ self._values["CONS"]) & ECMDQ_CONS_ERR)

    def _stored(self, register: str) -> int:
        flags = {"PROD": ECMDQ_PROD_EN | ECMDQ_PROD_ERRACK, "CONS": ECMDQ_CONS_ENACK | _ERR_REASON | ECMDQ_CONS_ERR}
        if register in flags:
            return self._values[register] & (flags[register] | self.queue.mask)
        return self._values[register]

    def _store(self, register: str, value: int) -> None:
        if register == "PROD":
            self._values["PROD"] = value & (ECMDQ_PROD_EN | ECMDQ_PROD_ERRACK | _POINTER)
            self._values["CONS"] = self._values["CONS"] & ~ECMDQ_CONS_ENACK | value & ECMDQ_PROD_EN
            self._consume()
        elif not self.enabled:
            base, cons = BASE_RA | self._ADDR | BASE_LOG2SIZE, _ERR_REASON | ECMDQ_CONS_ERR | _POINTER
            self._values[register] = value & (base if register == "BASE" else cons)

    def _report(self, error: int) -> None:
        if error == GERROR_CMDQ_ERR:
            self._values["CONS"] ^= ECMDQ_CONS_ERR
            error = GERROR_CMDQP_ERR
        self._smmu.activate(error)


class ControlPages:
    """The command queue control pages of an SMMU: 2^LOG2NUMP pages of 64 KiB, each with 2^LOG2NUMQ queues.

    Source: Arm IHI 0070 sections 3.5.6, 6.2.5 and 6.3 (SMMU_IDR6). The queues share the SMMU's memory, its rules and
    its GERROR; whether it consumes from several at once is left open, here each runs in its own doorbell.

    Args:
        smmu: The SMMU; IDR1.ECMDQ (bit 31) says that it has control pages.
        idr6: LOG2NUMP in bits [27:24] and LOG2NUMQ in bits [19:16], each at most 8; the other bits are ignored.

    Attributes:
        smmu: As given.
        queues: Every queue, page by page.

    Raises:
        ValueError: An SMMU without ECMDQ, or an IDR6 that none has.

    >>> from smmu_lab.arch import Command, Features
    >>> class Ram(dict):
    ...     read = lambda self, addr, n: self[addr]
    >>> ram = Ram({0x1000: bytes(Command.of("CFGI_STE", sid=8)), 0x1010: bytes([7] + [0] * 15)})
    >>> features = Features.from_idr(idr0=0x0d44101b, idr1=0x82730010, idr3=0x1414, idr5=0x74)
    >>> smmu = CommandQueueRegisters(ram, features)
    >>> queue = ControlPages(smmu, idr6=1 << 24 | 3 << 16).queues[9]
    >>> queue.write64("BASE", 0x1000 | 8)
    >>> queue.write32("PROD", ECMDQ_PROD_EN | 2)
    >>> [str(command) for command in queue.executed], hex(queue.read32("CONS")), hex(smmu.read32("GERROR"))
    (['CFGI_STE sid=0x8'], '0x81800001', '0x200')
    >>> ram[0x1010] = bytes(Command.of("CMD_SYNC"))
    >>> queue.write32("PROD", ECMDQ_PROD_EN | ECMDQ_PROD_ERRACK | 2)
    >>> queue.error_active, queue.read32("CONS") & 0xfffff
    (False, 2)
    """

    def __init__(self, smmu: CommandQueueRegisters, idr6: int) -> None:
        if not smmu.features.idr1 >> 31:
            raise ValueError("smmu: ECMDQ (bit 31) of IDR1 is 0, the SMMU has no control page (valid: 1)")
        self.smmu = smmu
        idr6 = integer("idr6", idr6, 0, _IDR6, "#x")
        log2nump, self._log2numq = idr6 >> 24 & 0xF, idr6 >> 16 & 0xF
        for name, value in (("LOG2NUMP (bits 27:24)", log2nump), ("LOG2NUMQ (bits 19:16)", self._log2numq)):
            if value > _MAX_LOG2:
                raise ValueError(f"idr6: {name} of {value} is not valid: 0 to {_MAX_LOG2}")
        self.queues = tuple(Ecmdq(smmu) for _ in range(1 << log2nump + self._log2numq))

    def at(self, offset: int) -> tuple[Ecmdq, str]:
        """The queue and the register at an offset from the first control page; queues are evenly spaced in a page.

        Raises:
            RegisterError: Nothing is there.

        >>> from smmu_lab.arch import Features
        >>> features = Features.from_idr(idr0=0, idr1=0x80000000, idr3=0, idr5=0)
        >>> pages = ControlPages(CommandQueueRegisters({}, features), idr6=1 << 24 | 7 << 16)
        >>> queue, register = pages.at(0x10208)
        >>> queue is pages.queues[129], register
        (True, 'PROD')
        """
        stride = _PAGE >> self._log2numq
        index, within = divmod(integer("offset", offset, 0, len(self.queues) * stride - 1, "#x"), stride)
        names = {at: name for name, at in ECMDQ_REGISTERS.items()}
        if within not in names:
            valid = ", ".join(f"{name} {at:#x}" for name, at in ECMDQ_REGISTERS.items())
            last = len(self.queues) - 1
            raise RegisterError(f"offset {offset:#x}: no register; valid: {stride:#x} * (0 to {last}) + {valid}")
        return self.queues[index], names[within]

    def per_cpu(self, cpus: int) -> tuple[Ecmdq, ...]:
        """The queue of each possible CPU, in the order of the pages.

        Source: arm_smmu_ecmdq_layout in Zhen Lei's [PATCH v2 1/2] of 9 August 2023
        (20230809131303.1355-2-thunder.leizhen@huaweicloud.com), which takes one for each CPU or none at all.

        Raises:
            Refused: ENOSPC, fewer queues than CPUs: the driver then does with the physical queue.
            ValueError: Not a number of CPUs.
        """
        if integer("cpus", cpus, 1) > len(self.queues):
            raise Refused("ENOSPC", f"cpus: {cpus} CPUs need as many queues (valid: at most {len(self.queues)})")
        return self.queues[:cpus]
