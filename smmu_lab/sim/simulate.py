"""Run a scenario under an approach."""

from __future__ import annotations

from smmu_lab.record import BATCHES, OPS, STOPS, Run, Table
from smmu_lab.scenario import Approach, InvalidInput, Recorded, Scenario, Unmaps, approach
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.guest import Guest, Machine
from smmu_lab.sim.host import HostCpus, HostQueue
from smmu_lab.sim.smmu import Fifo, RoundRobin
from smmu_lab.sim.vcpu import Vcpu


def simulate(scenario: Scenario, by: Approach | str) -> Run:
    """Run a scenario under one approach, to the end of its last operation.

    Args:
        scenario: what the guests do, on what machine.
        by: an approach, or its key in the catalogue.

    Returns:
        The record of the run. The same scenario and approach give the same bits.

    Raises:
        InvalidInput: there is no such approach, or the scenario cannot run under it.

    >>> from smmu_lab.scenario import Scenario, Smmu, Unmaps
    >>> run = simulate(Scenario(workload=Unmaps(pages=128, ops=1), smmu=Smmu(ril=False)), "qemu-today")
    >>> run.counts.exits_vmm, run.counts.ioctls, run.counts.host_syncs
    (3, 128, 128)
    """
    row = approach(by) if isinstance(by, str) else by
    return observed(scenario, row, Clock())


def observed(scenario: Scenario, row: Approach, clock: Clock) -> Run:
    """`simulate` on a clock that somebody watches."""
    if problems := scenario.refuses(row):
        raise InvalidInput(problems)
    costs, smmu, workload = scenario.costs, scenario.smmu, scenario.workload
    engine = RoundRobin(clock, costs) if row.arbitration == "round-robin" else Fifo(costs)
    one_consumer = row.consumer == "vmm" or (not row.executes_directly and row.queues != "cmdq+vcmdq")
    faulty = bool(scenario.fault) or row.unsupported == "error"
    sole = scenario.guests == 1 and one_consumer and not faulty
    host = HostQueue(clock, engine, costs, smmu.host_queue_log2, smmu.errata, sole, faulty)
    if isinstance(engine, RoundRobin):
        engine.add(host.feed)
    cpus = HostCpus(clock, scenario.host.worker_cpus)
    machine = Machine(scenario, row, clock, engine, host, cpus, Table(OPS), Table(BATCHES), Table(STOPS), faulty)
    guests = [Guest(number, machine) for number in range(scenario.guests)]
    for guest in guests:
        if isinstance(workload, Recorded) and workload.replay == "recorded":
            clock.env.process(Vcpu(scenario, guest, 0).replay(workload.publications()))
            continue
        for v in range(scenario.vcpus):
            vcpu = Vcpu(scenario, guest, v)
            operations = scenario.operations(guest.number, v)
            if row.front == "virtio-iommu":
                process = vcpu.requests(operations)
            elif isinstance(workload, Unmaps) and workload.lazy:
                process = vcpu.lazy(operations, workload.ats_devices)
            else:
                process = vcpu.strict(operations)
            clock.env.process(process)
    clock.env.run()
    run = Run(
        scenario=scenario,
        approach=row,
        ops=machine.ops,
        batches=machine.batches,
        stops=machine.stops,
        guests=tuple(guest.counts for guest in guests),
        queues=tuple(
            (guest.number, number, queue.register(queue.prod), queue.register(queue.cons))
            for guest in guests
            for number, queue in enumerate(guest.queues)
        ),
        events=dict(clock.events),
    )
    for guest in guests:
        guest.counts.drains = sum(queue.drains for queue in guest.queues)
        guest.counts.doorbells = sum(queue.doorbells for queue in guest.queues)
        guest.counts.commands = sum(queue.prod - queue.origin for queue in guest.queues)
    if row.doorbell == "polled":
        burnt = min(scenario.host.worker_cpus, len(machine.threads)) * run.duration // len(guests)
        for guest in guests:
            guest.counts.cpu_worker = burnt
    return run
