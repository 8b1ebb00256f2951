"""A guest: its queues, each with the doorbell, the consumer and the completion that the approach gives it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cached_property
from operator import sub
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.record import Counts, Table
from smmu_lab.scenario import Approach, Batch, InvalidInput, Scenario
from smmu_lab.scenario.approach import CONSUMER
from smmu_lab.scenario.fields import invalid
from smmu_lab.sim.clock import Clock, stream
from smmu_lab.sim.completion import MsiWord, Polled, TrappedToVmm
from smmu_lab.sim.consumer import Host, Lock, Vmm, kernel_worker
from smmu_lab.sim.doorbell import KernelCall, TrapToKernel, TrapToVmm
from smmu_lab.sim.doorbell import Polled as PolledDoorbell
from smmu_lab.sim.driver import SYNC_TIMEOUT
from smmu_lab.sim.handoff import Handoff, MapUnmap
from smmu_lab.sim.hardware import Direct, Overlay
from smmu_lab.sim.host import HostCpus, HostQueue
from smmu_lab.sim.kernel import Kernel
from smmu_lab.sim.queue import CommandQueue, Group
from smmu_lab.sim.recovery import Gerror
from smmu_lab.sim.smmu import Fifo, RoundRobin
from smmu_lab.sim.thread import Doorbell, Thread
from smmu_lab.sim.virtio import Kick, RequestQueue

if TYPE_CHECKING:
    from networkx import DiGraph

Completion = Polled | TrappedToVmm | MsiWord
Path = tuple[CommandQueue, Completion]

LOOKS = 1000
"""After so many operations of neighbours: does anybody starve? In a line no queue is drained so often meanwhile."""

ECMDQ_LOG2 = 8
"""ECMDQ_MAX_SZ_SHIFT: 256 entries (Zhen Lei, [PATCH v2 1/2], 9 August 2023)."""


@attrs.define(slots=False)
class Machine:
    """What all guests share under one approach.

    Attributes:
        graph: what it is built from: see `smmu_lab.scenario.wire`.
        engines: the command engine of each SMMU.
        hosts: the host's queue of each.
        faulty: something may go wrong.
        threads: kernel threads, by their names in the graph.
        cpus: the host CPUs that threads run on, by their names: those of one set wait for each other.
        paths: on bare metal the "guests" are CPUs of one host: the first one puts its queues here for the others.
        irqs: and here what its first CPU holds while its interrupts are off.
        measured: vCPUs of measured guests that are not through.
        bells: doorbells of measured guests to a worker: what waited there when somebody last looked, and all `drains`.
        rivals: queues of neighbours that have a worker.
        passed: operations of neighbours.
    """

    graph: DiGraph[str]
    scenario: Scenario
    row: Approach
    clock: Clock
    engines: Sequence[Fifo]
    hosts: Sequence[HostQueue]
    ops: Table
    batches: Table
    stops: Table
    faulty: bool
    threads: dict[str, Thread] = attrs.Factory(dict)
    cpus: dict[tuple[str, ...], HostCpus] = attrs.Factory(dict)
    paths: dict[int, list[Path]] = attrs.Factory(dict)
    irqs: Lock | None = None
    measured: int = 0
    bells: dict[Doorbell, tuple[Group | None, list[int]]] = attrs.Factory(dict)
    rivals: list[CommandQueue] = attrs.Factory(list)
    passed: int = 0

    @cached_property
    def queues(self) -> Mapping[int, Sequence[str]]:
        """The names of each guest's queues, in order."""
        made: dict[int, list[str]] = {}
        for name, guest in self.graph.nodes.data("guest"):
            if guest is not None:
                made.setdefault(guest, []).append(name)
        return made

    def thread(self, queue: str, row: Approach) -> Thread:
        """The thread that works for a queue."""
        graph, clock = self.graph, self.clock
        (worker,) = graph.successors(queue)
        if worker not in self.threads:
            about = graph.nodes[queue]
            rng = stream(self.scenario.seed, about["guest"], about["number"], "wake")
            names = tuple(each for each in graph.successors(worker) if graph.edges[worker, each]["kind"] == "runs")
            cpus = self.cpus.setdefault(names, HostCpus(clock, len(names)))
            cpus.threads += 1
            self.threads[worker] = Thread(clock, row, self.scenario.costs, cpus, rng)
        return self.threads[worker]

    def begin(self, guest: Guest, vcpu: Generator[Any, Any, None]) -> None:
        """A vCPU starts; one that is measured is counted until it is through."""
        process = self.clock.env.process(vcpu)
        if not self.scenario.is_neighbour(guest.number):
            self.measured += 1
            process.callbacks.append(self._through)

    def _through(self, process: Any) -> None:
        self.measured -= 1

    def goes_on(self) -> bool:
        """Whether a neighbour goes on: until all measured vCPUs are through.

        Raises:
            InvalidInput: they never will be. A worker that always finds more keeps its CPU, or its thread, for ever.
        """
        self.passed += 1
        if not self.passed % LOOKS and not self.faulty:
            drains = [queue.drains for queue in self.rivals]
            for bell, (before, then) in self.bells.items():
                first = bell.first
                if first is None or first is not before:
                    self.bells[bell] = first, drains
                elif self.clock.now - first.captured > SYNC_TIMEOUT and max(map(sub, drains, then), default=0) > LOOKS:
                    raise InvalidInput([self._starved(bell)])
        return bool(self.measured)

    def _starved(self, bell: Doorbell) -> str:
        guests, cpus = self.scenario.neighbour.guests, self.scenario.host.worker_cpus
        return (
            f"neighbour.guests: {guests} of them never let guest {bell.party >> 16} through under {self.row.name}: its "
            f"doorbell has waited for a worker for 1 s, longer than its driver would. A worker keeps its CPU, and with "
            f"weight 0 its turn, while it finds more (host.worker_cpus is {cpus}, weight {self.row.weight}): give it "
            f"more CPUs or a smaller weight, or let the neighbours think longer"
        )

    def hardware_queue(self, smmu: int) -> Fifo:
        """The engine that executes one more hardware queue of an SMMU."""
        return Fifo(self.scenario.costs) if self.row.execution == "parallel" else self.engines[smmu]


class Guest:
    """One virtual machine under one approach.

    Attributes:
        queues: its command queues, vSMMU by vSMMU; of each the hardware's first, then the one that traps.
        issued: of each, with the SMMUs that its commands go to, what they ran of it.
        paths: of each vSMMU, or on bare metal of each SMMU.
        counts: what it caused.
        irqs: held while interrupts are off on the vCPU that is told of errors: its first one.
    """

    def __init__(self, number: int, machine: Machine) -> None:
        self.number = number
        self.machine = machine
        self.counts = Counts()
        self.lock = Lock(machine.clock)
        self.queues: list[CommandQueue] = []
        self.issued: list[tuple[int, int, list[int]]] = []
        row = machine.row
        self.irqs = (row.on_metal and machine.irqs) or Lock(machine.clock)
        machine.irqs = self.irqs
        names = machine.queues.get(number, ())
        self.paths: dict[int, list[Path]] = {} if names else machine.paths
        self.trapped: dict[int, Path] = {}
        for name in names:
            about = machine.graph.nodes[name]
            path = self._path(name, about["row"], about["smmus"], alone=len(names) == 1)
            instance = self.paths.setdefault(about["instance"], [])
            if row.unsupported == "guest-routes" and about["row"] is not row:
                self.trapped[about["instance"]] = path
                if instance:
                    continue
            instance.append(path)
        if not machine.paths:
            machine.paths = self.paths

    def route(self, batch: Batch, vcpu: int) -> Path:
        """The queue for a list: cpu % queues, or the trapped one for what a VCMDQ does not accept.

        Source: tegra241_cmdqv_get_cmdq, Linux 7.2 tegra241-cmdqv.c.
        """
        if not batch.vcmdq and batch.instance in self.trapped:
            return self.trapped[batch.instance]
        paths = self.paths[batch.instance]
        return paths[vcpu % len(paths)]

    def _path(self, node: str, row: Approach, smmus: Sequence[int], alone: bool) -> Path:
        machine, counts = self.machine, self.counts
        scenario, clock = machine.scenario, machine.clock
        costs = scenario.costs
        number = len(self.queues)
        name = self.number, number
        party = (self.number << 16) + number

        gerror = Gerror(clock, scenario, row, counts, self.irqs, machine.stops, machine.faulty)
        kernel = Kernel([machine.hosts[smmu] for smmu in smmus], row, costs, counts, party, gerror)
        self.issued += [(number, smmu, tally) for smmu, tally in zip(smmus, kernel.issued, strict=True)]
        requests = MapUnmap(kernel, row, costs) if row.front == "virtio-iommu" else None
        doorbell: Any
        bell = None
        if row.consumer == "vmm":
            handoff = requests or Handoff(kernel, row, costs)
            doorbell = TrapToVmm(self.lock, Vmm(kernel, handoff), costs, counts)
        elif row.consumer == "hardware":
            (smmu,) = smmus
            engine = machine.hardware_queue(smmu)
            doorbell = (
                Direct(engine, costs, gerror)
                if row.unsupported != "stop-and-fix"
                else Overlay(clock, engine, kernel, costs)
            )
            self.issued.append((number, smmu, doorbell.issued))
            if isinstance(engine, RoundRobin):
                engine.add(doorbell.feed)
        elif row.consumer == "kernel-caller":
            doorbell = KernelCall(Host(clock, kernel, row, costs, requests), costs, counts)
        else:
            thread = machine.thread(node, row)
            bell = Doorbell(clock, thread, counts, party, row.weight)
            if requests is not None:
                doorbell = Kick(bell, costs, counts, row)
            elif row.doorbell == "polled":
                doorbell = PolledDoorbell(bell, costs)
            else:
                doorbell = TrapToKernel(bell, costs, counts)
        completion = self._completion(row)
        log2size = scenario.smmu.host_queue_log2 if row.on_metal else scenario.smmu.queue_log2
        if row.queues == "ecmdq":
            log2size = ECMDQ_LOG2
        queue: CommandQueue
        if requests is not None:
            alone = alone and row.consumer == "vmm" and kernel.alone
            queue = RequestQueue(clock, log2size, costs, counts, row, doorbell.ring, name, machine.batches, alone)
        else:
            by_msi = row.completion == "msi-word"
            advance: Callable[[int], None] = getattr(doorbell, "advance", lambda t: None)
            ring, read = doorbell.ring, completion.read
            queue = CommandQueue(
                clock, log2size, costs.relax, ring, read, completion.noticed, name, advance, by_msi, machine.batches
            )
        doorbell.queue = gerror.queue = queue
        queue.gerror = gerror
        self.queues.append(queue)
        if bell is not None:
            if scenario.is_neighbour(self.number):
                machine.rivals.append(queue)
            else:
                machine.bells[bell] = None, []
            worker = row.consumer if callable(row.consumer) else kernel_worker
            steps = worker(queue, bell, Host(clock, kernel, row, costs, requests, bell))
            if not hasattr(steps, "throw"):
                raise InvalidInput([invalid("approach.consumer", row.consumer, CONSUMER.valid)])
            clock.env.process(steps)
        return queue, completion

    def _completion(self, row: Approach) -> Completion:
        clock, counts, costs = self.machine.clock, self.counts, self.machine.scenario.costs
        how = row.completion
        if how == "msi-word":
            how = {"vmm": "vmm-cons", "hardware": "device-cons"}.get(str(row.consumer), "kernel-cons")
        gives_up = self.machine.faulty
        register: Polled | TrappedToVmm
        if how == "vmm-cons":
            register = TrappedToVmm(clock, self.lock, costs, counts, row.consumer == "vmm", gives_up)
        elif how == "kernel-cons":
            register = Polled(clock, costs, counts, costs.exit_kernel, costs.exit_kernel, True, gives_up)
        else:
            read = costs.mmio_r if how == "device-cons" else costs.cons_shared
            register = Polled(clock, costs, counts, read, read // 2, False, gives_up)
        return MsiWord(clock, costs, counts, register, gives_up) if row.completion == "msi-word" else register
