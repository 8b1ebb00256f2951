"""Why a scenario's devices cannot be where its topology says: against its workloads, and under an approach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from smmu_lab.scenario.approach import Approach, approach
from smmu_lab.scenario.fields import invalid
from smmu_lab.scenario.layout import Layout, breaks
from smmu_lab.scenario.workload import Recorded, Unmaps
from smmu_lab.units import show_time

if TYPE_CHECKING:
    from smmu_lab.scenario.scenario import Scenario


def misplaced(scenario: Scenario) -> Iterator[str]:
    """What the workloads and the topology say against each other."""
    topology, guests, neighbours, costs = scenario.topology, scenario.guests, scenario.neighbour.guests, scenario.costs
    if neighbours >= guests:
        yield invalid("neighbour.guests", neighbours, f"fewer than guests ({guests})")
        return
    if neighbours and not (scenario.neighbour.workload.gap or ((costs.g_fix or costs.g_cmd) and costs.vq_add)):
        valid = "above 0 where an unmap may take no time (costs.g_fix, costs.g_cmd, costs.vq_add)"
        yield invalid("neighbour.workload.think", 0, valid)
    theirs = range(guests - neighbours), range(guests - neighbours, guests)
    for (where, load), who in zip(scenario.loads, theirs, strict=False):
        if isinstance(load, Unmaps) and load.ats_devices and topology:
            yield invalid(f"{where}.ats_devices", load.ats_devices, "0: the devices of the topology say which have ATS")
            continue
        layouts = _layouts(scenario, who)
        reached = [
            reach
            for layout in layouts
            for domain in layout.driven
            for on_metal in (False, True)
            for reach in layout.reaches(domain, on_metal)
        ]
        if isinstance(load, Recorded):
            if any(len(layout.vsmmus) > 1 for layout in layouts):
                yield f"{where}.kind: 'recorded' cannot be in topology {topology.name!r}: the guest had one vSMMU"
            continue
        if load.cd_every and any(len(reach.ats) > 1 for reach in reached):
            yield (
                f"{where}.cd_every: {load.cd_every} cannot be where a vSMMU spans several SMMUs: its CFGI_CD has one "
                "StreamID, and is for one of them"
            )
        ats = max([sum(reach.ats) for reach in reached], default=0)
        if load.stall and not 0 < ats < 64:
            yield f"{where}.stall: {show_time(load.stall)} cannot be with {ats} devices with ATS: it needs 1 to 63"


def _layouts(scenario: Scenario, guests: Iterable[int]) -> list[Layout]:
    """What some guests see, each layout once."""
    number = max(1, len(scenario.topology.layouts))
    return [scenario.layout(guest) for guest in {guest % number: guest for guest in guests}.values()]


def unwired(scenario: Scenario, row: Approach) -> Iterator[str]:
    """The edges of the topology that a rule forbids under an approach: see `smmu_lab.scenario.layout.RULES`."""
    where = f"topology under {row.name}"
    decodes_all = row.decodes_all and (not row.fallback or approach(row.fallback).decodes_all)
    for number in range(min(scenario.guests, max(1, len(scenario.topology.layouts)))):
        layout, guest = scenario.layout(number), f"guest{number}"
        names = [name for name, _, _ in layout.named()]
        for domain in layout.spans() if row.front == "virtio-iommu" else ():
            spanned = ", ".join(names[reach.instance] for reach in layout.reaches(domain))
            yield breaks(where, (f"{guest}.{domain}", spanned), "one-viommu-per-domain")
        for domain in layout.emulated if row.on_metal else ():
            drivers = [v for v in range(scenario.vcpus) if layout.driven[v % len(layout.driven)] == domain]
            if drivers:
                yield breaks(where, (f"{guest}.vcpu{drivers[0]}", f"{guest}.{domain}"), "no-guest")
        for name, vsmmu, devices in layout.named():
            spanned = ", ".join(f"smmu{k}" for k in vsmmu.smmus)
            spans = len(vsmmu.smmus) > 1 and not row.on_metal
            device = devices[next(iter(vsmmu.emulates), 0)] if devices else ""
            rules = {
                "vmm-reads-all": (device, vsmmu.smmus and not (vsmmu.accel or decodes_all or row.on_metal)),
                "one-smmu-per-vcmdq": (spanned, row.has_vcmdqs and vsmmu.accel and spans),
                "one-smmu-per-error": (spanned, row.unsupported == "error" and spans),
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
