"""Run a scenario under an approach."""

from __future__ import annotations

from smmu_lab.record import BATCHES, OPS, Run, Table
from smmu_lab.scenario import Approach, Recorded, Scenario, Unmaps, approach
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.guest import Guest, Path
from smmu_lab.sim.host import HostCpus, HostQueue
from smmu_lab.sim.smmu import Engine
from smmu_lab.sim.vcpu import Vcpu


def simulate(scenario: Scenario, by: Approach | str) -> Run:
    """Run a scenario under one approach, to the end of its last operation.

    Args:
        scenario: what the guests do, on what machine.
        by: an approach, or its key in the catalogue.

    Returns:
        The record of the run. The same scenario and approach give the same bits.

    Raises:
        InvalidInput: there is no such approach.

    >>> from smmu_lab.scenario import Scenario, Smmu, Unmaps
    >>> run = simulate(Scenario(workload=Unmaps(pages=128, ops=1), smmu=Smmu(ril=False)), "qemu-today")
    >>> run.counts.exits_vmm, run.counts.ioctls, run.counts.host_syncs
    (3, 128, 128)
    """
    row = approach(by) if isinstance(by, str) else by
    clock = Clock()
    engine = Engine(scenario.costs)
    sole = scenario.guests == 1 and not row.executes_directly
    host = HostQueue(clock, engine, scenario.costs, scenario.smmu.host_queue_log2, sole)
    cpus = HostCpus(clock, scenario.host.worker_cpus)
    ops, batches = Table(OPS), Table(BATCHES)
    shared: list[Path] = []
    guests = [Guest(g, scenario, row, clock, host, cpus, ops, batches, shared) for g in range(scenario.guests)]
    workload = scenario.workload
    for guest in guests:
        if isinstance(workload, Recorded) and workload.replay == "recorded":
            clock.env.process(Vcpu(scenario, guest, 0).replay(workload.publications()))
            continue
        for v in range(scenario.vcpus):
            vcpu = Vcpu(scenario, guest, v)
            operations = workload.operations(v, scenario.smmu.ril)
            lazy = isinstance(workload, Unmaps) and workload.lazy
            clock.env.process(vcpu.lazy(operations, workload.ats_devices) if lazy else vcpu.strict(operations))
    clock.env.run()
    for guest in guests:
        guest.counts.doorbells = sum(queue.doorbells for queue in guest.queues)
        guest.counts.commands = sum(queue.prod - queue.origin for queue in guest.queues)
    queues = [
        (guest.number, number, queue.register(queue.prod), queue.register(queue.cons))
        for guest in guests
        for number, queue in enumerate(guest.queues)
    ]
    return Run(
        scenario=scenario,
        approach=row,
        ops=ops,
        batches=batches,
        guests=tuple(guest.counts for guest in guests),
        queues=tuple(queues),
        events=dict(clock.events),
    )
