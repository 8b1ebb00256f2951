"""What no run can exceed, whatever the order of its events: asymptotic bounds, and the M/D/1 queue.

A resource that serves one at a time cannot be at work for longer than the run lasts. So the operations of a run, over
the least time that the busiest resource needs for them, bound the throughput (the utilization law; P. J. Denning and
J. P. Buzen, The Operational Analysis of Queueing Network Models, Computing Surveys 10(3), 1978). The vCPUs are a
resource too: N of them give the bound N / (Z + R) with the time Z between two operations and the least latency R.

The times come from the costs and from what the run counted, not from the simulator's clock. So gathering and
coalescing, which spare work, are in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from smmu_lab.arch import CMDQ_BATCH_ENTRIES
from smmu_lab.record import KINDS, Counts, Run
from smmu_lab.scenario import Unmaps

ENGINE = "command engine"
FEWEST_SOURCES, BUSIEST_SOURCE = 8, 0.1
"""VCPUs, and the share of its time that each may be busy, for their operations to come like a Poisson stream."""
ONE_BY_ONE = ("marshalled", "per-command")
"""Ways to hand commands over that take an ioctl for each."""
_UNMAP, _MAP = KINDS.index("unmap"), KINDS.index("map")


@attrs.frozen
class Bound:
    """What limits some runs of one approach, and how near they come.

    Attributes:
        throughput: measured operations per second.
        busy: least share of the time that each serial resource was at work, of several alike the mean.
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
    least = [stations(run) for run in runs]
    busy = {name: sum(each[name] for each in least) / max(1, duration) for name in least[0]}
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
        and row.executes_directly
        and (row.execution, row.arbitration) == ("serial", "fifo")
    )


def stations(run: Run) -> dict[str, float]:
    """The least time that each resource was at work, ns; of several alike, the mean or the busiest one's."""
    row = run.approach
    made = {"vCPUs": _vcpus(run), ENGINE: _engine(run)}
    if row.executes_directly or callable(row.consumer):
        return made
    costs, guests = run.scenario.costs, range(len(run.guests))
    consumed = [_consumed(run, guest) for guest in guests]
    queues = len(run.queues) // len(guests)
    if row.consumer == "vmm":
        locked = [time + counts.exits_vmm * costs.vmm_lock for time, counts in zip(consumed, run.guests, strict=True)]
        made["VMM lock"] = max(locked)
    if row.has_worker:
        threads = queues - bool(row.fallback) if row.worker == "queue" else 1
        made["worker"] = sum(consumed) if row.worker == "host" else max(consumed) / threads
        made["worker CPUs"] = sum(consumed) / run.scenario.host.worker_cpus
    if row.front == "virtio-iommu":
        adding, kicking, answering = _request(run)
        held = adding + kicking + (answering if row.completion == "used-ring-poll" else 0)
        requests = [sum(map(len, _pages(run, guest))) for guest in guests]
        waited = row.completion == "used-ring-poll" or row.consumer == "vmm"
        made["request lock"] = max(n * held + time * waited for n, time in zip(requests, consumed, strict=True))
        return made
    ringing = {
        "trap-to-vmm": costs.exit_user,
        "trap-to-kernel": costs.exit_kernel + costs.sig,
        "kernel-call": costs.exit_kernel,
        "polled": costs.prod_shared,
    }[row.doorbell]
    within = [0] * len(guests) if row.has_worker else consumed  # a PROD write is over when its commands are consumed
    rung = [counts.doorbells * ringing + time for counts, time in zip(run.guests, within, strict=True)]
    made["PROD write"] = max(rung) / queues  # the driver writes PROD of a queue one CPU after the other
    return made


def _vcpus(run: Run) -> float:
    """Time between operations, as it was, and the least time of the measured operations.

    The latter is what company cannot spare an operation: it may find the worker awake, the signal already given,
    another's PROD write about to carry its commands, and its own read of CONS on the way when they are done.
    """
    ops = run.ops
    first: dict[tuple[int, int], int] = {}
    last: dict[tuple[int, int], int] = {}
    for guest, vcpu, start, latency in zip(ops["guest"], ops["vcpu"], ops["start"], run.latencies, strict=True):
        first.setdefault((guest, vcpu), start)
        last[guest, vcpu] = start + latency
    idle = sum(last.values()) - sum(first.values()) - sum(run.latencies)
    if run.approach.front == "virtio-iommu":
        least = sum(_consumed(run, guest) for guest in range(len(run.guests))) + len(ops) * sum(_request(run))
        return (idle + least) / max(1, len(first))
    return (idle + max(_least(run))) / max(1, len(first))


def _least(run: Run) -> tuple[int, int]:
    """Least time of the measured operations, twice, ns.

    The lists of an operation may overlap: all are written, then the last is consumed; or the first is written, then all
    are consumed.
    """
    ops, row, costs, load = run.ops, run.approach, run.scenario.costs, run.scenario.workload
    rows = run.measured
    own = len(rows) * costs.fq_add if isinstance(load, Unmaps) and load.lazy else 0
    batches = [commands for name in ("tlbi", "atc") for k in rows if (commands := ops[name][k])]
    syncs, all_of_it = len(batches), sum(batches)
    first = sum(min(commands, CMDQ_BATCH_ENTRIES) for commands in batches)
    last = sum((commands - 1) % CMDQ_BATCH_ENTRIES + 1 for commands in batches)
    leaving = {"trap-to-vmm": costs.exit_user, "polled": costs.prod_shared + costs.poll, "direct": costs.mmio_w}
    own += syncs * (costs.g_fix + leaving.get(row.doorbell, costs.exit_kernel))

    def consume(commands: int) -> int:
        if callable(row.consumer):
            return 0
        if row.executes_directly:
            return commands * _command(run) + syncs * costs.t_sync
        calls = commands if row.handoff in ONE_BY_ONE else syncs
        return _service(run, commands + syncs, commands, calls, calls, commands, syncs)

    return own + (all_of_it + syncs) * costs.g_cmd + consume(last), own + first * costs.g_cmd + consume(all_of_it)


def _service(run: Run, entries: int, commands: int, ioctls: int, lists: int, issued: int, drains: int) -> int:
    """Time of a consumer in software for so many entries, so many of them commands, in so many drains, ns.

    Args:
        run: what it belongs to.
        entries: taken from the guest's queue.
        commands: those of them that are handed over.
        ioctls: that hand them over.
        lists: of the host, each with a CMD_SYNC that is waited for.
        issued: commands in these lists.
        drains: times that the consumer looks at PROD.
    """
    costs, row = run.scenario.costs, run.approach
    host = lists * (costs.hsubmit + costs.t_sync) + issued * _command(run)
    if row.consumer != "vmm":
        capture = costs.capture * drains if row.has_worker else 0
        return capture + entries * (2 * costs.copy + costs.conv) + host
    host += ioctls * costs.ioctl
    if row.handoff == "queue":
        return entries * (2 * costs.copy + costs.conv) + host
    return entries * costs.vmm_cmd + commands * (costs.copy + costs.conv) + host


def _consumed(run: Run, guest: int) -> int:
    """Time of a guest's consumer for all that it did, ns."""
    costs, row, counts, table = run.scenario.costs, run.approach, run.guests[guest], run.batches
    own = len(run.queues) // len(run.guests) - bool(row.fallback)
    drains = [
        (queue, entries)
        for who, queue, entries in zip(table["guest"], table["queue"], table["commands"], strict=True)
        if who == guest
    ]
    if any(queue >= own for queue, _ in drains):
        counts = Counts()  # what the fallback caused is counted with the rest, so nothing is sure
    issued = counts.host_commands - counts.host_syncs
    if row.front == "virtio-iommu":
        maps, unmaps = _pages(run, guest)
        host = counts.host_syncs * (costs.hsubmit + costs.t_sync) + issued * _command(run)
        taking = costs.vq_take + (costs.ioctl if row.consumer == "vmm" else 0)
        mapping = len(maps) * (taking + costs.host_map) + sum(maps) * costs.pin
        return mapping + len(unmaps) * (taking + costs.host_unmap) + sum(unmaps) * costs.unpin + host
    handed = counts.ioctls if row.handoff in ONE_BY_ONE else issued
    entries = [entries for queue, entries in drains if queue < own]
    return _service(run, sum(entries), handed, counts.ioctls, counts.host_syncs, issued, len(entries))


def _pages(run: Run, guest: int) -> tuple[list[int], list[int]]:
    """Pages of a guest's MAP and of its UNMAP requests."""
    rows = list(zip(run.ops["guest"], run.ops["kind"], run.ops["pages"], strict=True))
    maps, unmaps = ([pages for who, kind, pages in rows if (who, kind) == (guest, each)] for each in (_MAP, _UNMAP))
    return maps, unmaps


def _request(run: Run) -> tuple[int, int, int]:
    """Least time of a request besides its service: to add it, to kick, and to see the answer, ns."""
    costs, row = run.scenario.costs, run.approach
    kick = costs.exit_user if row.consumer == "vmm" else 0  # a worker may run already, or see it before the exit
    return costs.vq_add, kick, costs.cons_shared if row.completion == "used-ring-poll" else costs.lpi


def _command(run: Run) -> int:
    """Least time of the engine for a command, ns."""
    costs = run.scenario.costs
    return min(costs.t_tlbi, costs.t_atc) if run.scenario.workload.ats_devices or any(run.ops["atc"]) else costs.t_tlbi


def _engine(run: Run) -> float:
    """Time of the engine, or of one of several, for all commands that reach the SMMU and its part of each CMD_SYNC."""
    costs, row, counts, ops = run.scenario.costs, run.approach, run.counts, run.ops
    if not row.executes_directly:
        return (counts.host_commands - counts.host_syncs) * _command(run) + counts.host_syncs * costs.sync_occ
    own = row.vcmdqs or len(run.queues)
    syncs = sum(syncs for syncs, queue in zip(run.batches["syncs"], run.batches["queue"], strict=True) if queue < own)
    time = sum(ops["tlbi"]) * costs.t_tlbi + sum(ops["atc"]) * costs.t_atc
    time += (syncs + counts.host_syncs) * costs.sync_occ
    return time / (len(run.queues) + 1 if row.execution == "parallel" else 1)  # one of them for the host's own queue
