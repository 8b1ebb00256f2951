"""Why a scenario's devices cannot be where its topology says: against its workloads, and under an approach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from smmu_lab.scenario.approach import Approach
from smmu_lab.scenario.fields import invalid
from smmu_lab.scenario.topology import breaks
from smmu_lab.scenario.workload import Recorded, Unmaps

if TYPE_CHECKING:
    from smmu_lab.scenario.scenario import Scenario


def misplaced(scenario: Scenario) -> Iterator[str]:
    """What the workloads and the topology say against each other."""
    topology, guests, neighbours = scenario.topology, scenario.guests, scenario.neighbour.guests
    layouts = topology.layouts
    if neighbours >= guests:
        yield invalid("neighbour.guests", neighbours, f"fewer than guests ({guests})")
    if neighbours and not (scenario.neighbour.workload.gap or scenario.costs.g_fix or scenario.costs.g_cmd):
        valid = "above 0 where an unmap takes no time (costs.g_fix, costs.g_cmd)"
        yield invalid("neighbour.workload.think", 0, valid)
    if isinstance(scenario.workload, Recorded) and any(len(layout.vsmmus) > 1 for layout in layouts):
        yield f"workload.kind: 'recorded' cannot be in topology {topology.name!r}: the guest had one vSMMU"
    spanning = any(len(vsmmu.smmus) > 1 for layout in layouts for vsmmu in layout.vsmmus)
    loads = {"workload": scenario.workload} | (
        {"neighbour.workload": scenario.neighbour.workload} if neighbours else {}
    )
    for where, load in loads.items():
        if not isinstance(load, Unmaps):
            continue
        if load.ats_devices and layouts:
            yield invalid(f"{where}.ats_devices", load.ats_devices, "0: the devices of the topology say which have ATS")
        if load.cd_every and spanning:
            yield (
                f"{where}.cd_every: {load.cd_every} cannot be where a vSMMU spans several SMMUs: its CFGI_CD has one "
                "StreamID, and is for one of them"
            )
        behind = [
            sum(reach.ats) for layout in layouts for domain in layout.driven for reach in layout.reaches(domain)
        ] or [load.ats_devices]
        if load.stall and not 0 < max(behind) < 64:
            yield f"{where}.stall: {load.stall} cannot be with {max(behind)} devices with ATS: it needs 1 to 63"


def unwired(scenario: Scenario, row: Approach) -> Iterator[str]:
    """The edges of the topology that a rule forbids under an approach: see `smmu_lab.scenario.topology.RULES`."""
    where = f"topology under {row.name}"
    for number in range(min(scenario.guests, max(1, len(scenario.topology.layouts)))):
        layout, guest = scenario.layout(number), f"guest{number}"
        names = [name for name, _, _ in layout.named()]
        for domain in layout.spans() if row.front == "virtio-iommu" else ():
            spanned = ", ".join(names[reach.instance] for reach in layout.reaches(domain))
            yield breaks(where, (f"{guest}.{domain}", spanned), "one-viommu-per-domain")
        for name, vsmmu, devices in layout.named():
            spanned = ", ".join(f"smmu{k}" for k in vsmmu.smmus)
            device = devices[next(iter(vsmmu.emulates), 0)] if devices else ""
            rules = {
                "no-guest": (device, vsmmu.emulates and row.on_metal),
                "vmm-reads-all": (
                    device,
                    vsmmu.smmus and not (vsmmu.accel or row.decodes_all or row.on_metal),
                ),
                "one-smmu-per-vcmdq": (spanned, row.has_vcmdqs and vsmmu.accel and len(vsmmu.smmus) > 1),
                "one-smmu-per-error": (spanned, row.unsupported == "error" and len(vsmmu.smmus) > 1),
            }
            for rule, (to, broken) in rules.items():
                if broken:
                    yield breaks(where, (f"{guest}.{name}", to), rule)
    if row.has_vcmdqs:
        yield from _too_many(scenario, row, where)


def _too_many(scenario: Scenario, row: Approach, where: str) -> Iterator[str]:
    """More VINTFs, VCMDQs or StreamIDs than an SMMU has: the first edge that is one too many, for each."""
    taken: Counter[int] = Counter()
    smmu, queues = scenario.smmu, max(1, row.vcmdqs)
    told: set[str] = set()
    for guest in range(scenario.guests):
        for name, vsmmu, _ in scenario.layout(guest).named():
            for k in vsmmu.smmus if vsmmu.accel else ():
                taken[k] += 1
                behind = sum(each.kind == "passthrough" and each.smmu == k for each in vsmmu.devices)
                for rule, needed, there in (
                    ("vintfs", taken[k] + 1, smmu.vintfs),
                    ("vcmdqs", (taken[k] + 1) * queues, smmu.vcmdqs),
                    ("sids", behind, smmu.sids),
                ):
                    if needed > there and rule not in told:
                        told.add(rule)
                        line = breaks(where, (f"guest{guest}.{name}", f"smmu{k}"), rule)
                        yield f"{line} ({needed} needed, {there} there)"
