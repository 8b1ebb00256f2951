"""What the parts of a guest are and hold: one function for each kind of node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import attrs

from smmu_lab.charts.gather import users
from smmu_lab.charts.occupancy import occupancy
from smmu_lab.sheet import Sheet
from smmu_lab.units import show_number, show_time
from smmu_lab.view.machine_facts import Details, Facts, guest_of, listed, many, stream, table
from smmu_lab.view.machine_queue import COMPLETIONS, DOORBELLS, KICKS, layout, registers, size

_TIMES = ("cpu_guest", "cpu_host", "cpu_worker")


def guest(facts: Facts, name: str) -> Details:
    """Its size, and what it caused."""
    number = facts.about(name)["number"]
    vcpus, vsmmus = facts.after(name, "vcpu"), facts.after(name, "vsmmu")
    rows = [("vCPUs", f"{len(vcpus):,}"), ("workload", str(facts.scenario.load(number)))]
    if vsmmus:
        rows.append(("vSMMUs", listed(vsmmus)))
    if facts.about(name)["neighbour"]:
        rows.append(("neighbour", "its operations are not measured"))
    if not facts.run:
        return Details(rows)
    counts = [
        (count.replace("_", " "), show_time(value) if count in _TIMES else f"{value:,}")
        for count, value in attrs.asdict(facts.run.guests[number]).items()
        if value and count != "exposure"
    ]
    return Details(rows, [table(counts, ("what", "count"), "what it caused in the whole run")])


def vcpu(facts: Facts, name: str) -> Details:
    """What it does, how long that took, and where its commands go."""
    here = number, _ = guest_of(name), facts.about(name)["number"]
    (domain,) = facts.after(name, "domain")
    rows = [("works on", domain), ("queues", listed(_queues(facts, name, domain)))]
    if not facts.run:
        return Details(rows)
    _, tlbi, atc = facts.sent.get(here, (0, 0, 0))
    took, counts = facts.took.get(here, [0]), facts.run.guests[number]
    rows += [
        (
            "operations",
            listed(f"{kind}: {count:,}" for kind, count in facts.did.get(here, {}).items()),
        ),
        ("mean latency", show_time(sum(took) / len(took))),
        ("longest", show_time(max(took))),
        ("sent", f"{many(tlbi, 'TLBI or CFGI_CD', 'TLBIs and CFGI_CDs')}, {many(atc, 'ATC_INV')}"),
        *facts.busy(name, "in its operations"),
    ]
    if not facts.row.on_metal:
        exits = f"{counts.exits_vmm:,} to the VMM, {counts.exits_kernel:,} to the kernel"
        rows.append((f"exits of guest{number}, all vCPUs", exits))
    return Details(rows)


def domain(facts: Facts, name: str) -> Details:
    """Who works on it, and what it reaches."""
    return Details(
        [
            ("ASID", str(facts.about(name)["asid"])),
            ("vCPUs that work on it", listed(facts.before(name, "vcpu"))),
            ("invalidated through", listed(facts.after(name, "vsmmu", "queue", "cmdq"))),
            ("devices", listed(device for device, own in facts.graph.nodes(data="domain") if own == name)),
            *facts.commands(name),
        ]
    )


def vsmmu(facts: Facts, name: str) -> Details:
    """Its devices with their StreamIDs, and its queues."""
    (bus,) = facts.after(name, "root-complex")
    queues = facts.after(name, "queue")
    smmus = [f"smmu{number}" for number in facts.about(queues[0])["smmus"]]
    accel = "yes: its queue is served as the approach says"
    rows = [
        ("accel", accel if facts.about(name)["accel"] else "no: the VMM decodes every command"),
        ("spans", listed(smmus) if smmus else "no physical SMMU"),
        ("queues", listed(queues)),
        ("domains", listed(facts.before(name, "domain"))),
        *facts.commands(name),
    ]
    return Details(rows, [_devices(facts, facts.after(bus, "device"))])


def device(facts: Facts, name: str) -> Details:
    """Where it is, and what it is called there."""
    about = facts.about(name)
    buses = [bus.removesuffix(".pcie") for bus in facts.before(name, "root-complex")]
    rows = [("behind", listed([*buses, *facts.before(name, "smmu")])), ("StreamID", stream(about))]
    if "domain" in about:
        rows.append(("domain", f"{about['domain']}, ASID {facts.about(about['domain'])['asid']}"))
    rows.append(("ATS", "in use: an unmap sends ATC_INVs" if about["ats"] else "not in use"))
    if name in facts.loads:
        rows.append(("ATC_INVs for it", f"{facts.loads[name].commands:,}"))
    return Details(rows)


def queue(facts: Facts, name: str) -> Details:
    """Its registers, who rings and who consumes, what was drained, and how full it was when."""
    about, graph = facts.about(name), facts.graph
    row, here, ring = about["row"], (about["guest"], about["number"]), about["row"].front == "virtio-iommu"
    place = layout(name, facts.scenario, facts.row)
    if about["kind"] == "queue":
        using = sorted(users(graph, name), key=lambda each: facts.about(each)["number"])
    else:
        using = [each for above in facts.before(name, "domain") for each in facts.before(above, "vcpu")]
    consumers = facts.after(name, "vmm", "kernel", "worker", "vintf", "smmu")
    rows = [
        ("LOG2SIZE", size(place.log2size)),
        ("used by", listed(using)),
        ("kick", KICKS[row.kicks]) if ring and row.has_worker else ("doorbell", DOORBELLS[row.doorbell]),
        ("consumed by", listed(consumers)),
        ("completion", COMPLETIONS[row.completion]),
    ]
    if not facts.run:
        return Details(rows)
    drains, each = facts.drains.get(here, []), facts.served[name]
    if ring:
        rows.append(("requests answered", f"{each.entries:,}"))
    else:
        rows.append(("entries consumed", f"{each.entries:,}, {many(each.syncs, 'CMD_SYNC')} among them"))
    rows.append(("drains", f"{each.drains:,}"))
    if drains:
        largest = max(entries for _, _, entries in drains)
        mean = show_number(facts.passed(name) / each.drains)
        rows.append((f"mean {'requests' if ring else 'commands'} per drain", mean))
        rows.append(("largest drain", many(largest, "entry", "entries")))
    if stops := Counter(zip(facts.run.stops["guest"], facts.run.stops["queue"], strict=True))[here]:
        rows.append(("errors told", f"{stops:,}"))
    ran = [(f"smmu{smmu}", *(f"{count:,}" for count in counts)) for smmu, counts in sorted(each.issued.items())]
    sheets = [registers(name, place, *facts.pointers[here])]
    if ran:
        sheets.append(table(ran, ("by", "TLBI", "ATC_INV", "CMD_SYNC"), "what SMMUs ran for it"))
    return Details(rows, sheets, occupancy(drains, *facts.span, place.size))


def _queues(facts: Facts, vcpu: str, domain: str) -> list[str]:
    """The queues that a vCPU's commands can be in."""
    found = []
    for below in facts.after(domain, "vsmmu", "queue", "cmdq"):
        if facts.about(below)["kind"] == "cmdq":
            found.append(below)
        found += [each for each in [*facts.after(below, "queue"), below] if vcpu in users(facts.graph, each)]
    return found


def _devices(facts: Facts, devices: Sequence[str]) -> Sheet:
    rows = []
    for each in devices:
        about = facts.about(each)
        own = each.rpartition(".")[2], about["what"], stream(about), "in use" * about["ats"]
        rows.append((*own, about.get("domain", "").rpartition(".")[2]))
    return table(rows, ("device", "kind", "StreamID", "ATS", "domain"), "devices", 5)
