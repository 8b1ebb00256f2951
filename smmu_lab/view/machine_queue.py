"""What a queue of a guest holds at the end of a run, as its driver reads it; who rings, who consumes, who is told."""

from __future__ import annotations

from collections.abc import Mapping

from smmu_lab.arch.ecmdq import ECMDQ_CONS_ENACK, ECMDQ_PROD_EN, ECMDQ_REGISTERS
from smmu_lab.arch.queue import Queue
from smmu_lab.arch.registers import REGISTERS
from smmu_lab.arch.vcmdq import VCMDQ_REGISTERS, VCMDQ_STRIDE
from smmu_lab.scenario import Approach, Scenario
from smmu_lab.sheet import Sheet
from smmu_lab.sim.guest import ECMDQ_LOG2

DOORBELLS = {
    "trap-to-vmm": "the write exits to the VMM, which consumes before the vCPU runs on",
    "trap-to-kernel": "the write exits to the kernel, which signals a worker; the vCPU runs on",
    "kernel-call": "the write exits to the kernel, which consumes in this exit",
    "direct": "the write reaches the hardware, without an exit",
    "polled": "PROD is on a shared page that a worker watches: no exit",
}
KICKS = {
    "always": "a light exit, and a signal to the worker",
    "unless-running": "a light exit, and a signal to the worker; none while that runs",
}
COMPLETIONS = {
    "vmm-cons": "each read of CONS exits to the VMM",
    "kernel-cons": "each read of CONS exits to the kernel",
    "shared-cons": "CONS is on a shared page: no exit",
    "device-cons": "each read of CONS is one of the device: no exit",
    "msi-word": "the CMD_SYNC writes a word to memory",
    "used-ring-poll": "the driver looks at the used ring",
    "used-ring-irq": "an interrupt tells of the used ring",
}


def titled(name: str) -> str:
    """What a queue is called in manuals.

    >>> titled("guest0.vsmmu0.vcmdq1"), titled("guest0.vsmmu0.cmdq")
    ('VCMDQ 1', 'CMDQ')
    """
    own = name.rpartition(".")[2]
    return {"requests": "virtqueue", "cmdq": "CMDQ"}.get(own) or f"{own[:5].upper()} {own[5:]}"


def layout(name: str, scenario: Scenario, row: Approach) -> Queue:
    """How many entries a queue has, and where their pointers wrap."""
    if titled(name).startswith("ECMDQ"):
        return Queue(ECMDQ_LOG2)
    return Queue(scenario.smmu.host_queue_log2 if row.on_metal else scenario.smmu.queue_log2)


def size(log2size: int) -> str:
    """Entries of a queue, in words.

    >>> size(16)
    '16: 65,536 entries'
    """
    return f"{log2size}: {1 << log2size:,} entries"


def registers(name: str, queue: Queue, prod: int, cons: int) -> Sheet:
    """PROD and CONS with their offsets: of a VCMDQ in its VINTF, of an ECMDQ in its control page, else in page 0."""
    own = titled(name)
    if own == "virtqueue":
        rows = [(field, str(queue.index(at))) for field, at in (("avail.idx", prod), ("used.idx", cons))]
        return Sheet(("of the ring", "next slot"), rows, left=("of the ring",), caption="the ring at the end")
    offsets: Mapping[str, int]
    prefix, offsets, step, flag = "", ECMDQ_REGISTERS, 0, ""
    if own.startswith("ECMDQ"):
        prod, cons, flag = prod | ECMDQ_PROD_EN, cons | ECMDQ_CONS_ENACK, ", enabled"
    elif own.startswith("VCMDQ"):
        offsets, step = VCMDQ_REGISTERS, VCMDQ_STRIDE * int(own.split()[1])
    else:
        prefix, offsets = "CMDQ_", REGISTERS
    found = []
    for key, value in (("PROD", prod), ("CONS", cons)):
        offset = offsets[prefix + key] + step
        found.append((prefix + key, f"{offset:#x}", f"{value:#x}", f"{queue.index(value):,}", str(queue.wrap(value))))
    head = ("register", "offset", "value", "index", "wrap")
    return Sheet(head, found, left=("register",), caption=f"registers of the {own} at the end{flag}")
