"""What a run asked of the machine, node by node and edge by edge, and which of its parts limits the throughput."""

from __future__ import annotations

from collections import Counter

from smmu_lab.charts.gather import Load
from smmu_lab.record import Run
from smmu_lab.scenario import Recorded
from smmu_lab.study.bounds import engines, least
from smmu_lab.study.served import sent, served, span

__all__ = ["Load", "bottleneck", "loads"]

_PASSED = ("vcpu", "domain", "vsmmu", "vmm", "kernel", "worker", "vintf", "cmdq", "smmu")
_WAYS = ("drives", "invalidates", "consumes", "fixes", "issues", "feeds")


def loads(run: Run) -> dict[str | tuple[str, str], Load]:
    """What the record says of each node and each edge (from, to) of ``run.graph``; what it does not say is left out.

    All figures are of the whole run, neighbours included, and shares are of the time from its first start to its last
    end. Commands are TLBIs, CFGI_CDs and ATC_INVs; in the queues of a recorded guest also what its VMM must deal with.
    Where a TLBI goes to several SMMUs, or an ATC_INV fans out, it counts on each edge that it takes. Under virtio-iommu
    requests are counted up to the VMM or the worker. At work are

    * a vCPU in its operations, its waiting included,
    * a VMM while its big lock is held,
    * a worker, or the kernel in an exit, from taking commands up to storing CONS, its waiting for the host's CMD_SYNC
      included (looking for more is no work); a host CPU while such a worker is on it, of several that any worker may
      run on the mean,
    * an SMMU while its command engine runs a command or its part of a CMD_SYNC; with engines that run in parallel
      their mean.

    Entries wait in a queue from the first PROD write that their drain covers, until CONS is stored: riders of a later
    one are counted a little too long.
    """
    return _Loads(run).made


def bottleneck(run: Run) -> tuple[str, ...]:
    """The nodes of the resource that limits the throughput most: of the station that `bound` names, the busiest.

    They are all measured vCPUs if it is the vCPUs, and all CPUs that any worker may run on if it is these.
    """
    times = max(least(run).values(), key=lambda each: max(each.values()))
    busiest = max(times.values())
    return tuple(name for name, time in times.items() if time == busiest)


class _Loads:
    def __init__(self, run: Run) -> None:
        self.run, self.graph, self.span = run, run.graph, max(1, span(run))
        self.kind = dict(self.graph.nodes(data="kind"))
        self.served = served(run)
        passed: list[str | tuple[str, str]] = [name for name, kind in self.kind.items() if kind in _PASSED]
        passed += [(one, other) for one, other, kind in self.graph.edges(data="kind") if kind in _WAYS]
        self.made = dict.fromkeys(passed, Load(0))
        self.each: Counter[str] = Counter()  # ATC_INVs for each device of a domain
        self.unknown: set[str | tuple[str, str]] = set()
        self._guests()
        self._queues()
        self._consumers()
        self._smmus()
        self._devices()
        for what in self.unknown:
            del self.made[what]

    def _add(self, what: str | tuple[str, str], commands: int) -> None:
        load = self.made[what]
        self.made[what] = load._replace(commands=load.commands + commands)

    def _work(self, name: str, time: float) -> None:
        self.made[name] = self.made.get(name, Load(0))._replace(busy=time / self.span)

    def _below(self, name: str, kind: str) -> list[str]:
        return [below for _, below, by in self.graph.out_edges(name, data="kind") if by == kind]

    def _guests(self) -> None:
        """The vCPUs, their domains, and how each domain's commands spread over its vSMMUs, or over the SMMUs.

        Each gets the same TLBIs, and the ATC_INVs for the devices behind it.
        """
        run, row = self.run, self.run.approach
        at_work: Counter[tuple[int, int]] = Counter()
        for guest, vcpu, latency in zip(run.ops["guest"], run.ops["vcpu"], run.latencies, strict=True):
            at_work[guest, vcpu] += latency
        for name, kind in self.kind.items():
            if kind == "vcpu":
                self._work(name, 0)
        for (guest, vcpu), (operations, tlbi, atc) in sent(run).items():
            name = f"guest{guest}.vcpu{vcpu}"
            (domain,) = self._below(name, "drives")
            commands = operations if row.front == "virtio-iommu" else tlbi + atc
            self._work(name, at_work[guest, vcpu])
            for what in (name, (name, domain), domain):
                self._add(what, commands)
            reaches = run.scenario.reaches(guest, vcpu, row.on_metal)
            devices = sum(sum(reach.ats) for reach in reaches)
            self.each[domain] += atc // devices if devices else 0
            for reach in reaches:
                share = tlbi // len(reaches) + (atc * sum(reach.ats) // devices if devices else 0)
                below = self._reached(domain, reach.instance, vcpu)
                self._add((domain, below), share if len(reaches) > 1 else commands)

    def _reached(self, domain: str, instance: int, vcpu: int) -> str:
        """The vSMMU that a domain is behind; on bare metal a queue of the SMMU."""
        for name in self._below(domain, "invalidates"):
            about = self.graph.nodes[name]
            if about["kind"] == "queue":
                if about["instance"] == instance and name.endswith(f".ecmdq{vcpu}"):
                    return name
            elif about["number"] == instance:
                return name
        raise AssertionError(domain)

    def _queues(self) -> None:
        """What came out of each queue: to its consumer, and from there to the SMMUs."""
        for name, each in self.served.items():
            requests = self.graph.nodes[name]["row"].front == "virtio-iommu"
            commands = each.entries if requests else each.commands
            self.made[name] = Load(commands, None, each.held / self.span)
            for above in self.graph.predecessors(name):
                if self.kind[above] == "vsmmu":
                    self._add(above, commands)
            consumers = self._below(name, "consumes")
            for consumer in consumers:
                self._add((name, consumer), commands)
                self._add(consumer, commands)
            for smmu, (tlbi, atc, _) in each.issued.items():
                self._issued(consumers[0] if consumers else name, smmu, tlbi + atc)

    def _issued(self, by: str, number: int, commands: int) -> None:
        """By a consumer in software through the host's queue, or by the hardware."""
        smmu = f"smmu{number}"
        queue = f"{smmu}.cmdq"
        self._add(smmu, commands)
        if (by, queue) in self.made:
            self._add((by, queue), commands)
            self._add(queue, commands)
            by = queue
        self._add((by, smmu), commands)

    def _consumers(self) -> None:
        costs = self.run.scenario.costs
        on: Counter[str] = Counter()
        for name, kind in self.kind.items():
            drained = [self.served[queue] for queue in self.graph.predecessors(name) if queue in self.served]
            time = sum(each.time for each in drained)
            if kind == "vmm":
                if drained:
                    self._work(name, time + self.run.guests[_guest(name)].exits_vmm * costs.vmm_lock)
                self._fixes(name)
            elif kind in ("worker", "kernel"):
                self._work(name, time)
                cpus = self._below(name, "runs")
                on.update(dict.fromkeys(cpus, time / max(1, len(cpus))))
        for cpu in self.kind:
            if self.kind[cpu] == "host-cpu":
                self._work(cpu, on[cpu])

    def _fixes(self, vmm: str) -> None:
        """What stopped the hardware went through the VMM and the host's queue; of one VCMDQ it is known how much."""
        vintfs = [up for up, _, by in self.graph.in_edges(vmm, data="kind") if by == "fixes"]
        counts = self.run.guests[_guest(vmm)]
        fixed, through = counts.fixes, counts.host_commands - counts.host_syncs
        if not vintfs or not fixed:
            return
        self._add(vmm, fixed)
        for vintf in vintfs:
            (smmu,) = self._below(vintf, "feeds")
            queue = f"{smmu}.cmdq"
            passed: dict[str | tuple[str, str], int] = {(vintf, vmm): fixed, (vintf, smmu): -through, queue: through}
            for what, commands in (passed | {(vmm, queue): through, (queue, smmu): through}).items():
                if len(vintfs) == 1:
                    self._add(what, commands)
                else:
                    self.unknown.add(what)

    def _smmus(self) -> None:
        run = self.run
        costs = run.scenario.costs
        for number in range(run.scenario.topology.smmus):
            ran = [each.issued[number] for each in self.served.values() if number in each.issued]
            time = sum(tlbi * costs.t_tlbi + atc * costs.t_atc + syncs * costs.sync_occ for tlbi, atc, syncs in ran)
            self._work(f"smmu{number}", time / engines(run, number))

    def _devices(self) -> None:
        """An ATC_INV is for one device; those of a domain get equally many."""
        run, nodes = self.run, self.graph.nodes
        fans_out = run.approach.handoff in ("marshalled", "map-unmap")
        for smmu, kind in self.kind.items():
            devices = self._below(smmu, "translates") if kind == "smmu" else []
            for device in devices:
                if isinstance(run.scenario.load(_guest(device)), Recorded):
                    continue
                commands = self.each[nodes[device]["domain"]] if nodes[device]["ats"] else 0
                if fans_out and nodes[device]["ats"]:
                    alike = [other for other in devices if nodes[other]["ats"] and _guest(other) == _guest(device)]
                    if len({nodes[other]["domain"] for other in alike}) > 1:
                        continue
                    commands = self._executed(_guest(device), int(smmu.removeprefix("smmu"))) // len(alike)
                self.made[device] = self.made[smmu, device] = Load(commands)

    def _executed(self, guest: int, smmu: int) -> int:
        """ATC_INVs that an SMMU ran for a guest."""
        mine = [each for name, each in self.served.items() if self.graph.nodes[name]["guest"] == guest]
        return sum(each.issued[smmu][1] for each in mine if smmu in each.issued)


def _guest(name: str) -> int:
    """Number of the guest that a node belongs to."""
    return int(name.partition(".")[0].removeprefix("guest"))
