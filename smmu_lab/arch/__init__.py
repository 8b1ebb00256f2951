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
from smmu_lab.arch.layout import ATC_INV_SIZE_ALL, CFGI_RANGE_ALL, FIELDS, OPCODES, Field
from smmu_lab.arch.queue import CMDQ_BATCH_ENTRIES, Queue
from smmu_lab.arch.ranges import atc_commands, atc_cover, unmap_commands
from smmu_lab.arch.registers import REGISTERS, CommandQueueRegisters, Memory, RegisterError
from smmu_lab.arch.rules import DEVIATIONS, ILLEGAL, RULES, Deviation, Features, Illegal, Rules

__all__ = [
    "ATC_INV_SIZE_ALL",
    "CFGI_RANGE_ALL",
    "CMDQ_BATCH_ENTRIES",
    "DEVIATIONS",
    "FIELDS",
    "HOST_ACCEPTS",
    "ILLEGAL",
    "OPCODES",
    "REGISTERS",
    "RULES",
    "VCMDQ_ACCEPTS",
    "CError",
    "Command",
    "CommandQueueRegisters",
    "Deviation",
    "Features",
    "Field",
    "Illegal",
    "IllegalCommand",
    "Memory",
    "Queue",
    "RegisterError",
    "RejectedCommand",
    "Rules",
    "UnknownStream",
    "atc_commands",
    "atc_cover",
    "decode",
    "rewrite",
    "unmap_commands",
]
