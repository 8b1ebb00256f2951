"""Run a scenario under an approach."""

from __future__ import annotations

from operator import add

from smmu_lab.record import BATCHES, ISSUED, OPS, STOPS, Run, Table
from smmu_lab.scenario import Approach, InvalidInput, Recorded, Scenario, Unmaps, approach, wire
from smmu_lab.sim.clock import Clock
from smmu_lab.sim.guest import Guest, Machine
from smmu_lab.sim.host import HostQueue
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
        InvalidInput: there is no such approach, the scenario cannot run under it, or its neighbours never let the
            measured guests through.

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
    costs, smmu, graph = scenario.costs, scenario.smmu, wire(scenario, row)
    faulty = bool(scenario.fault) or row.unsupported == "error"
    engines = [
        RoundRobin(clock, costs) if row.arbitration == "round-robin" else Fifo(costs)
        for _ in range(scenario.topology.smmus)
    ]
    hosts = []
    for number, engine in enumerate(engines):
        sole = graph.nodes[f"smmu{number}.cmdq"]["alone"] and not faulty
        hosts.append(HostQueue(clock, number, engine, costs, smmu.host_queue_log2, smmu.errata, sole, faulty))
        if isinstance(engine, RoundRobin):
            engine.add(hosts[-1].feed)
    machine = Machine(graph, scenario, row, clock, engines, hosts, Table(OPS), Table(BATCHES), Table(STOPS), faulty)
    guests = [Guest(number, machine) for number in range(scenario.guests)]
    for guest in guests:
        load = scenario.load(guest.number)
        if isinstance(load, Recorded) and load.replay == "recorded":
            machine.begin(guest, Vcpu(scenario, guest, 0).replay(load.publications()))
            continue
        for v in range(scenario.vcpus):
            vcpu = Vcpu(scenario, guest, v)
            if row.front == "virtio-iommu":
                process = vcpu.requests()
            elif isinstance(load, Unmaps) and load.lazy:
                process = vcpu.lazy(load)
            else:
                process = vcpu.strict()
            machine.begin(guest, process)
    clock.env.run()
    run = Run(
        scenario=scenario,
        approach=row,
        ops=machine.ops,
        batches=machine.batches,
        stops=machine.stops,
        issued=_issued(guests),
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
        burnt = sum(min(cpus.number, cpus.threads) for cpus in machine.cpus.values()) * run.duration // len(guests)
        for guest in guests:
            guest.counts.cpu_worker = burnt
    return run


def _issued(guests: list[Guest]) -> Table:
    issued = Table(ISSUED)
    for guest in guests:
        tallies: dict[tuple[int, int], list[int]] = {}
        for queue, smmu, tally in guest.issued:  # an overlay has two ways to its SMMU
            tallies[queue, smmu] = list(map(add, tallies.get((queue, smmu), (0, 0, 0)), tally))
        for (queue, smmu), tally in tallies.items():
            if any(tally):
                issued.append((guest.number, queue, smmu, *tally))
    return issued
