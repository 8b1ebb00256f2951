"""What the SMMUv3 programming interface says: commands, the ranges they cover, and queue arithmetic.

Here belongs what a specification, a header or a driver fixes and what has no time: bits, opcodes, limits,
decompositions, pointer rules, registers. Not here: what takes time or a decision (`smmu_lab.sim`), what a user
describes (`smmu_lab.scenario`), how something looks (`smmu_lab.view`). Only the standard library and attrs.
"""

from smmu_lab.arch.commands import (
    HOST_ACCEPTS,
    VCMDQ_ACCEPTS,
    CError,
    Command,
    IllegalCommand,
    RejectedCommand,
    UnknownStream,
    decode,
    rewrite,
)
from smmu_lab.arch.consumer import Consumer, Memory, Refused, RegisterError
from smmu_lab.arch.ecmdq import ECMDQ_REGISTERS, ControlPages, Ecmdq
from smmu_lab.arch.layout import ATC_INV_SIZE_ALL, CFGI_RANGE_ALL, FIELDS, OPCODES, Field
from smmu_lab.arch.queue import CMDQ_BATCH_ENTRIES, Queue
from smmu_lab.arch.ranges import atc_commands, atc_cover, unmap_commands
from smmu_lab.arch.registers import REGISTERS, CommandQueueRegisters
from smmu_lab.arch.rules import DEVIATIONS, ILLEGAL, RULES, Deviation, Features, Illegal, Rules
from smmu_lab.arch.vcmdq import VCMDQ_REGISTERS, Cmdqv, Lvcmdq, Vintf
from smmu_lab.arch.veventq import LOST_EVENTS, VEvent, VEventQueue
from smmu_lab.arch.vsmmu import Outcome, Vsmmu, vmm, worker

__all__ = [
    "ATC_INV_SIZE_ALL",
    "CFGI_RANGE_ALL",
    "CMDQ_BATCH_ENTRIES",
    "DEVIATIONS",
    "ECMDQ_REGISTERS",
    "FIELDS",
    "HOST_ACCEPTS",
    "ILLEGAL",
    "LOST_EVENTS",
    "OPCODES",
    "REGISTERS",
    "RULES",
    "VCMDQ_ACCEPTS",
    "VCMDQ_REGISTERS",
    "CError",
    "Cmdqv",
    "Command",
    "CommandQueueRegisters",
    "Consumer",
    "ControlPages",
    "Deviation",
    "Ecmdq",
    "Features",
    "Field",
    "Illegal",
    "IllegalCommand",
    "Lvcmdq",
    "Memory",
    "Outcome",
    "Queue",
    "Refused",
    "RegisterError",
    "RejectedCommand",
    "Rules",
    "UnknownStream",
    "VEvent",
    "VEventQueue",
    "Vintf",
    "Vsmmu",
    "atc_commands",
    "atc_cover",
    "decode",
    "rewrite",
    "unmap_commands",
    "vmm",
    "worker",
]
