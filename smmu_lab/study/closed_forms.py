"""How often something happens for one unmap of one vCPU on idle queues, from the approach's columns alone.

Source: PATHS section 4.
"""

from __future__ import annotations

from smmu_lab.scenario import Approach, Scenario, Unmaps

Bounds = tuple[int, int | None]
"""At least, and at most; None is no bound: a poll loop."""


def closed_forms(scenario: Scenario, row: Approach) -> dict[str, Bounds]:
    """The counts of one unmap of as many TLBIs as pages."""
    load, smmu = scenario.workload, scenario.smmu
    assert isinstance(load, Unmaps)
    n, d = load.pages, load.ats_devices
    if row.front == "virtio-iommu":
        return _requests(load.maps, [n, d], row, smmu.host_queue_log2)
    unmap = [_doorbells(n), *([_doorbells(d)] if d else [])]
    doorbells, syncs = sum(map(len, unmap)), len(unmap)
    calls = _calls(unmap, row, smmu.host_queue_log2)
    ioctls = {"marshalled": n + d, "per-command": n + d, "array": doorbells, "array-at-sync": syncs, "queue": doorbells}
    polled = row.has_worker or row.executes_directly  # the end comes when it comes
    reads = (0, 0) if row.completion == "msi-word" else (syncs, None if polled else syncs)
    drains = (syncs if row.has_worker else doorbells, doorbells)
    vmm = doorbells if row.doorbell == "trap-to-vmm" else 0
    kernel = doorbells if row.doorbell in ("trap-to-kernel", "kernel-call") else 0
    none = (0, 0)
    return {
        "commands": (n + d + syncs,) * 2,
        "doorbells": (doorbells, doorbells),
        "cons_reads": reads,
        "exits_vmm": _sum((vmm, vmm), reads if row.completion == "vmm-cons" else none),
        "exits_kernel": _sum((kernel, kernel), reads if row.completion == "kernel-cons" else none),
        "ioctls": (ioctls.get(row.handoff, 0),) * 2,
        "host_syncs": calls,
        "drains": drains,
        "wakes": (0, doorbells) if row.doorbell == "trap-to-kernel" else none,
        "interrupts": none,
        "timeouts": none,
    }


def _requests(maps: int, batches: list[int], row: Approach, log2size: int) -> dict[str, Bounds]:
    """The counts of an unmap and its maps as requests of virtio-iommu."""
    requests = maps + 1
    calls = sum(_cut(batch, row, log2size) for batch in batches if batch)
    kicks = (0 if row.kicks == "unless-running" else requests, requests)
    none = (0, 0)
    worker = row.has_worker
    return {
        "commands": (requests, requests),
        "doorbells": (requests, requests),
        "cons_reads": none,
        "exits_vmm": none if worker else kicks,
        "exits_kernel": kicks if worker else none,
        "ioctls": none if worker else (requests, requests),
        "host_syncs": (calls, calls),
        "drains": (1 if worker else requests, requests),
        "wakes": (0, requests) if worker else none,
        "interrupts": (requests, requests) if row.completion == "used-ring-irq" else none,
        "timeouts": none,
    }


def _sum(*bounds: Bounds) -> Bounds:
    highs = [high for _, high in bounds]
    return sum(low for low, _ in bounds), None if None in highs else sum(high or 0 for high in highs)


def _doorbells(commands: int) -> list[int]:
    """The commands of each PROD write of one batch: 64 at a time (arm_smmu_cmdq_batch_add)."""
    return [min(64, commands - first) for first in range(0, commands, 64)]


def _cut(commands: int, row: Approach, log2size: int) -> int:
    """Issue calls of the host for so many commands that it gets at once."""
    most = (1 << log2size) - 1
    return -(-commands // min(row.host_group or most, most))


def _calls(unmap: list[list[int]], row: Approach, log2size: int) -> tuple[int, int]:
    """Host CMD_SYNCs for one unmap, given the commands of each of its PROD writes."""
    each = sum(_cut(ring, row, log2size) for batch in unmap for ring in batch)
    at_once = sum(_cut(sum(batch), row, log2size) for batch in unmap)
    total = sum(map(sum, unmap))
    if row.executes_directly:
        return 0, 0
    if row.handoff == "marshalled":
        devices = sum(unmap[1]) if len(unmap) > 1 else 0  # a TLBI goes on to all devices, and so does an ATC_INV
        return (total + (total - devices if devices else 0),) * 2
    if row.handoff == "per-command":
        return total, total
    return (at_once if row.has_worker or row.handoff == "array-at-sync" else each), (
        at_once if row.handoff == "array-at-sync" else each
    )
