"""What no run can exceed, whatever the order of its events: asymptotic bounds, and the M/D/1 queue.

A resource that serves one at a time cannot be at work for longer than the run lasts. So the operations of a run, over
the least time that the busiest resource needs for them, bound the throughput (the utilization law; P. J. Denning and
J. P. Buzen, The Operational Analysis of Queueing Network Models, Computing Surveys 10(3), 1978). The vCPUs are a
resource too: N of them give the bound N / (Z + R) with the time Z between two operations and the least latency R.

The times come from the costs and from what the run counted, not from the simulator's clock. So gathering and
coalescing, which spare work, are in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.record import KINDS, Run
from smmu_lab.scenario import Approach, Batch, Costs, Operation, Recorded, Unmaps
from smmu_lab.study.served import Served, served, span

ENGINE = "command engine"
FEWEST_SOURCES, BUSIEST_SOURCE = 8, 0.1
"""VCPUs, and the share of its time that each may be busy, for their operations to come like a Poisson stream."""
ONE_BY_ONE = ("marshalled", "per-command")
"""Ways to hand commands over that take an ioctl for each."""
_UNMAP, _MAP, _SWITCH = (KINDS.index(kind) for kind in ("unmap", "map", "switch"))

Paths = Mapping[tuple[int, int], Sequence[str]]
"""Names of the queues of each vSMMU, by guest and instance."""


@attrs.frozen
class Bound:
    """What limits some runs of one approach, and how near they come.

    Attributes:
        throughput: measured operations per second.
        busy: least share of the time that the busiest resource of each kind was at work: see `least`.
        queueing: wait for the command engine per operation, ns: the one of an M/D/1 queue, and the simulated one; None
            where the operations are no such queue, or it would grow without end.
    """

    throughput: float
    busy: Mapping[str, float]
    queueing: tuple[float, float] | None = None

    @property
    def station(self) -> str:
        """The resource that limits most."""
        return max(self.busy, key=lambda name: self.busy[name])

    @property
    def reached(self) -> float:
        """Throughput over its bound."""
        return self.busy[self.station]

    @property
    def limit(self) -> float:
        """Operations per second that the station allows."""
        return self.throughput / self.reached if self.reached else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        md1, simulated = self.queueing or (None, None)
        return {
            "throughput": self.limit if self.reached else None,
            "station": self.station,
            "busy": dict(self.busy),
            "md1_wait": md1,
            "engine_wait": simulated,
        }


def bound(runs: Sequence[Run]) -> Bound:
    """The bound of replications under one approach."""
    duration = sum(run.duration for run in runs)
    operations = sum(len(run.measured) for run in runs)
    times = [stations(run) for run in runs]
    busy = {name: sum(each[name] for each in times) / max(1, duration) for name in times[0]}
    queueing = None
    if duration and all(map(is_md1, runs)):
        offered = runs[0].scenario.workload.rate * runs[0].scenario.vcpus * runs[0].scenario.guests
        waited = sum(run.total(run.ops["queue"], 0) for run in runs)
        wait = md1_wait(offered / 1e9, busy[ENGINE] * duration / operations)
        queueing = (wait, waited / operations) if wait < float("inf") else None
    return Bound(operations * 1e9 / duration if duration else 0.0, busy, queueing)


def md1_wait(rate: float, service: float) -> float:
    """Mean wait in an M/D/1 queue: Poisson arrivals, one server, constant service (Pollaczek and Khinchine).

    Args:
        rate: arrivals per unit of time.
        service: units of time.

    >>> md1_wait(0.5, 1)
    0.5
    """
    load = rate * service
    return load * service / (2 * (1 - load)) if load < 1 else float("inf")


def is_md1(run: Run) -> bool:
    """Poisson arrivals of equal lists at one engine that serves in order of arrival.

    That takes many sources that are seldom busy: else an operation waits for its own vCPU, and vCPUs gather.
    """
    load, row = run.scenario.workload, run.approach
    many = run.scenario.guests * run.scenario.vcpus >= FEWEST_SOURCES
    seldom = run.latency.mean.value <= load.gap * BUSIEST_SOURCE if run.measured else False
    one_list = max(run.ops["tlbi"], default=0) <= CMDQ_BATCH_ENTRIES
    return (
        many
        and seldom
        and one_list
        and isinstance(load, Unmaps)
        and bool(load.rate)
        and load.spread == "exponential"
        and not (load.lazy or load.ats_devices or load.cd_every)
        and not (run.scenario.topology or run.scenario.neighbour.guests)
        and row.executes_directly
        and (row.execution, row.arbitration) == ("serial", "fifo")
    )


def stations(run: Run) -> dict[str, float]:
    """The least time that the busiest resource of each kind was at work, ns."""
    return {station: max(times.values()) for station, times in least(run).items()}


def least(run: Run) -> dict[str, dict[str, float]]:
    """The least time that each resource was at work from the first start to the last end that are measured, ns.

    They are ordered by their kind, and then by their node in the graph. VCPUs have their mean, and so have CPUs that
    any worker may run on. Neighbours are at work for a little longer, which is taken off.
    """
    row, scenario, graph, queues = run.approach, run.scenario, run.graph, served(run)
    paths = _paths(run)
    outside = span(run) - run.duration
    made: dict[str, dict[str, float]] = {}

    def add(station: str, name: str, time: float) -> None:
        made.setdefault(station, {})[name] = max(0, time - outside)

    requests: dict[str, tuple[int, int]] = {}
    consumed: dict[str, int] = {}
    if row.front == "virtio-iommu":
        requests = _requests(run, paths, queues)
        consumed = {name: time for name, (_, time) in requests.items()}
    elif not callable(row.consumer):
        software = [name for name in queues if not _row(run, name).executes_directly]
        consumed = {name: _consumed(run, name, queues[name]) for name in software}
    mean = _vcpus(run, paths, requests)
    guests = range(scenario.guests - scenario.neighbour.guests)
    made["vCPUs"] = {f"guest{guest}.vcpu{vcpu}": mean for guest in guests for vcpu in range(scenario.vcpus)}
    for number in range(scenario.topology.smmus):
        add(ENGINE, f"smmu{number}", _engine(run, queues, number))
    owned = Counter(graph.nodes[name]["guest"] for name in queues)
    on: Counter[str] = Counter()
    for name, kind in graph.nodes(data="kind"):
        drained = [queue for queue in graph.predecessors(name) if queue in consumed]
        time = sum(map(consumed.__getitem__, drained))
        if kind == "vmm" and drained:
            add("VMM lock", name, time + _lock(run, name, {queue: queues[queue] for queue in drained}))
        elif kind == "worker" and drained:
            add("worker", name, time)
            cpus = [below for below, about in graph.adj[name].items() if about["kind"] == "runs"]
            on.update(dict.fromkeys(cpus, time / len(cpus)))
        elif name in requests:
            add("request lock", name, _request_lock(run, name, *requests[name]))
        elif name in consumed:
            alone = owned[graph.nodes[name]["guest"]] == 1
            add("PROD write", name, _prod_write(run, name, queues[name], consumed[name], alone))
    for cpu, time in on.items():
        add("worker CPUs", cpu, time)
    return made


def engines(run: Run, smmu: int) -> int:
    """Command engines of an SMMU: one; in parallel execution one for each of its hardware queues and for the host's."""
    if run.approach.execution == "serial":
        return 1
    queues = [about for about in run.graph.nodes.values() if "row" in about and smmu in about["smmus"]]
    return 1 + sum(about["row"].executes_directly for about in queues)


def _engine(run: Run, queues: Mapping[str, Served], smmu: int) -> float:
    """Time of an engine, or the mean of several, for all commands that it ran and its part of each CMD_SYNC."""
    costs = run.scenario.costs
    ran = [each.issued[smmu] for each in queues.values() if smmu in each.issued]
    return sum(_ran(costs, costs.sync_occ, *each) for each in ran) / engines(run, smmu)


def _ran(costs: Costs, per_sync: int, tlbi: int, atc: int, syncs: int) -> int:
    return tlbi * costs.t_tlbi + atc * costs.t_atc + syncs * per_sync


def _row(run: Run, queue: str) -> Approach:
    """What serves a queue."""
    row: Approach = run.graph.nodes[queue]["row"]
    return row


def _paths(run: Run) -> Paths:
    """The queues of each vSMMU: on bare metal of each SMMU."""
    made: dict[tuple[int, int], list[str]] = {}
    for name, about in run.graph.nodes.items():
        if "row" in about:
            made.setdefault((about["guest"], about["instance"]), []).append(name)
    return made


def _spans(run: Run, queue: str) -> int:
    """How many SMMUs a queue spans."""
    return len(run.graph.nodes[queue]["smmus"])


# -- the vCPUs ---------------------------------------------------------------------------------------------------------


def _vcpus(run: Run, paths: Paths, requests: Mapping[str, tuple[int, int]]) -> float:
    """Time between operations, as it was, and the least time of the operations: the mean over the measured vCPUs.

    The latter is what company cannot spare an operation: it may find the worker awake, the signal already given,
    another's PROD write about to carry its commands, and its own read of CONS on the way when they are done.
    """
    scenario, ops = run.scenario, run.ops
    first: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], int] = {}
    unmaps: Counter[tuple[int, int]] = Counter()
    flushes: Counter[tuple[int, int]] = Counter()
    time = 0
    columns = (ops["guest"], ops["vcpu"], ops["kind"], ops["tlbi"], ops["start"], run.latencies)
    for guest, vcpu, kind, tlbi, start, latency in zip(*columns, strict=True):
        if not scenario.is_neighbour(guest):
            who = guest, vcpu
            first.setdefault(who, start)
            last[who] = start + latency
            time -= latency
            unmaps[who] += kind == _UNMAP
            flushes[who] += tlbi > 0 and kind != _SWITCH
    time += sum(last.values()) - sum(first.values())
    if requests:
        for ring, (number, consumed) in requests.items():
            if not scenario.is_neighbour(run.graph.nodes[ring]["guest"]):
                time += consumed + number * sum(_request(run, ring))
    else:
        time += sum(_operations(run, paths, *who, unmaps[who], flushes[who]) for who in first)
    return time / max(1, len(first))


def _operations(run: Run, paths: Paths, guest: int, vcpu: int, unmaps: int, flushes: int) -> int:
    """Least time of all operations of a vCPU, ns.

    Args:
        run: what it belongs to.
        paths: the queues of each vSMMU.
        guest: whose.
        vcpu: number of the vCPU.
        unmaps: how many.
        flushes: operations with a flush, where unmaps are lazy.
    """
    scenario, metal = run.scenario, run.approach.on_metal
    load = scenario.load(guest)
    if isinstance(load, Unmaps) and load.lazy:
        flush = load.flush(scenario.reaches(guest, vcpu, metal))
        return unmaps * scenario.costs.fq_add + flushes * sum(_batch(run, paths, guest, each) for each in flush.batches)
    if isinstance(load, Recorded) and load.replay == "recorded":
        return 0  # nobody waits for them
    known: dict[int, Operation] = {}
    number: Counter[int] = Counter()
    for operation in scenario.operations(guest, vcpu, metal):
        known[id(operation)] = operation
        number[id(operation)] += 1
    return sum(
        number[key] * sum(_batch(run, paths, guest, each) for each in operation.batches)
        for key, operation in known.items()
    )


def _batch(run: Run, paths: Paths, guest: int, batch: Batch) -> int:
    """Least time of one batch, ns.

    Its lists may overlap: all are written, then the last is consumed; or the first is written, then all are consumed.
    """
    costs = run.scenario.costs
    queues = paths[0 if run.approach.on_metal and run.approach.queues == "cmdq" else guest, batch.instance]
    queue = queues[0 if batch.vcmdq else -1]
    row, spans = _row(run, queue), _spans(run, queue)
    leaving = {"trap-to-vmm": costs.exit_user, "polled": costs.prod_shared + costs.poll, "direct": costs.mmio_w}
    own = costs.g_fix + leaving.get(row.doorbell, costs.exit_kernel)

    def consume(tlbi: int, atc: int, others: int, behind: int) -> int:
        """The consumer's time for so many commands and the CMD_SYNC; `behind`: SMMUs that the ATC_INVs are for."""
        if callable(row.consumer):
            return 0
        if row.executes_directly:
            return _ran(costs, costs.t_sync, tlbi, atc, 1)
        entries = tlbi + atc + others + 1
        if not spans:
            tlbi = atc = 0
        lists = tlbi * spans + atc if row.handoff in ONE_BY_ONE else spans if tlbi else min(atc, behind)
        if row.handoff == "queue":
            lists = spans
        return _service(costs, row, spans, entries, 1, lists, (tlbi * spans, atc, lists))

    commands = batch.tlbi + batch.atc + batch.ste + batch.other
    others = batch.ste + batch.other
    last = (commands - 1) % CMDQ_BATCH_ENTRIES + 1 if commands else 0
    last_others = min(last, others)
    last_atc = min(last - last_others, batch.atc)
    all_written = (commands + 1) * costs.g_cmd + consume(last - last_others - last_atc, last_atc, last_others, 1)
    behind = sum(map(bool, batch.at)) if batch.at else 1
    first_written = min(commands, CMDQ_BATCH_ENTRIES) * costs.g_cmd + consume(batch.tlbi, batch.atc, others, behind)
    return own + max(all_written, first_written)


# -- consumers in software ---------------------------------------------------------------------------------------------


def _service(
    costs: Costs, row: Approach, spans: int, entries: int, drains: int, ioctls: int, ran: tuple[int, int, int]
) -> int:
    """Time of a consumer in software, ns.

    Args:
        costs: of the scenario.
        row: who it is.
        spans: SMMUs of the queue.
        entries: taken from the queue.
        drains: times that it looked at PROD.
        ioctls: that hand commands over.
        ran: TLBIs, ATC_INVs and CMD_SYNCs of the host's lists, which are waited for one by one.
    """
    handed = ran[0] + ran[1]
    host = _ran(costs, costs.hsubmit + costs.t_sync, *ran)
    from_kernel = entries * (2 * costs.copy + costs.conv)
    if row.consumer != "vmm":
        return drains * costs.capture * row.has_worker + from_kernel + host
    host += ioctls * costs.ioctl
    if row.handoff == "queue":
        return spans * from_kernel + host
    copied = ioctls if row.handoff in ONE_BY_ONE else handed
    return entries * costs.vmm_cmd + handed * costs.conv + copied * costs.copy + host


def _lock(run: Run, vmm: str, queues: Mapping[str, Served]) -> int:
    """Time that a VMM held its lock besides that for its queues: to take it, and in ioctls that were not sure, ns."""
    counts, costs = run.guests[run.graph.nodes[next(iter(queues))]["guest"]], run.scenario.costs
    fixes = any(about["kind"] == "fixes" for about in run.graph.pred[vmm].values())  # by ioctls without the lock
    if fixes or run.approach.front == "virtio-iommu":
        return counts.exits_vmm * costs.vmm_lock
    more = counts.ioctls - sum(_ioctls(run, name, each) for name, each in queues.items())
    return counts.exits_vmm * costs.vmm_lock + more * costs.ioctl


def _ioctls(run: Run, queue: str, each: Served) -> int:
    """The least number of ioctls for what a VMM handed over; those of all its queues are counted."""
    row = _row(run, queue)
    if row.consumer != "vmm":
        return 0
    if row.handoff == "marshalled":  # a TLBI has a list, and one more if it fans out; an ATC_INV has one
        return sum(max(tlbi, syncs - tlbi) for tlbi, _, syncs in each.issued.values())
    return {"per-command": each.handed, "queue": each.drains * _spans(run, queue)}.get(row.handoff, min(1, each.handed))


def _consumed(run: Run, queue: str, each: Served) -> int:
    """Time of a queue's consumer for all that it did, ns."""
    ran = [sum(column) for column in zip((0, 0, 0), *each.issued.values(), strict=True)]
    total = (ran[0], ran[1], ran[2])
    ioctls = _ioctls(run, queue, each)
    return _service(run.scenario.costs, _row(run, queue), _spans(run, queue), each.entries, each.drains, ioctls, total)


def _prod_write(run: Run, queue: str, each: Served, consumed: int, alone: bool) -> float:
    """Time of the PROD writes of a queue, ns: the driver makes them one after the other.

    Where the writer's exit consumes the commands, it is over when they are. How many there were is known if the queue
    is alone in its guest.
    """
    costs, row = run.scenario.costs, _row(run, queue)
    counts = run.guests[run.graph.nodes[queue]["guest"]]
    ringing = {
        "trap-to-vmm": costs.exit_user,
        "trap-to-kernel": costs.exit_kernel + costs.sig,
        "kernel-call": costs.exit_kernel,
        "polled": costs.prod_shared,
    }[row.doorbell]
    writes = counts.doorbells if alone else each.drains  # a drain may cover several
    return writes * ringing + (0 if row.has_worker else consumed)


# -- rings of requests -------------------------------------------------------------------------------------------------


def _requests(run: Run, paths: Paths, queues: Mapping[str, Served]) -> dict[str, tuple[int, int]]:
    """The requests of each ring: how many, and the time of their consumer, ns."""
    scenario, costs, ops = run.scenario, run.scenario.costs, run.ops
    number: Counter[str] = Counter()
    time: Counter[str] = Counter()
    asked = Counter(zip(ops["guest"], ops["vcpu"], ops["kind"], ops["pages"], strict=True))
    for (guest, vcpu, kind, pages), times in asked.items():
        (reach,) = scenario.reaches(guest, vcpu)
        ring = paths[guest, reach.instance][0]
        taken = costs.vq_take
        if reach.smmus and pages:  # else it is no business of the host
            taken += costs.ioctl if _row(run, ring).consumer == "vmm" else 0
            taken += costs.host_map + pages * costs.pin if kind == _MAP else costs.host_unmap + pages * costs.unpin
        number[ring] += times
        time[ring] += times * taken
    for ring, each in queues.items():
        time[ring] += sum(_ran(costs, costs.hsubmit + costs.t_sync, *ran) for ran in each.issued.values())
    return {ring: (number[ring], time[ring]) for ring in queues}


def _request(run: Run, ring: str) -> tuple[int, int, int]:
    """Least time of a request besides its service: to add it, to kick, and to see the answer, ns."""
    costs, row = run.scenario.costs, _row(run, ring)
    kick = costs.exit_user if row.consumer == "vmm" else 0  # a worker may run already, or see it before the exit
    return costs.vq_add, kick, costs.cons_shared if row.completion == "used-ring-poll" else costs.lpi


def _request_lock(run: Run, ring: str, number: int, consumed: int) -> int:
    """Time that a ring's lock was held: until the answer is seen, or the kick is over."""
    row = _row(run, ring)
    adding, kicking, answering = _request(run, ring)
    polls = row.completion == "used-ring-poll"
    return number * (adding + kicking + answering * polls) + consumed * (polls or row.consumer == "vmm")
