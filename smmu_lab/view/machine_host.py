"""What the parts of the host are and hold: one function for each kind of node."""

from __future__ import annotations

from smmu_lab.charts.gather import users
from smmu_lab.view.machine_facts import MOST, Details, Facts, guest_of, listed, many, stream, table
from smmu_lab.view.machine_guest import queue
from smmu_lab.view.machine_queue import size


def cmdq(facts: Facts, name: str) -> Details:
    """Who fills it; on bare metal it is a queue of the CPUs."""
    if "row" in facts.about(name):
        return queue(facts, name)
    known = [
        (by, f"{facts.loads[by, name].commands:,}" if (by, name) in facts.loads else "")
        for by in facts.before(name, "vmm", "kernel", "worker")
    ]
    rows = [
        ("LOG2SIZE", size(facts.scenario.smmu.host_queue_log2)),
        ("guests", listed(sorted(users(facts.graph, name), key=guest_of))),
        ("errata of its SMMU", facts.scenario.smmu.errata),
        *facts.commands(name),
    ]
    return Details(rows, [table(known, ("filled by", "commands"), "who fills it")] if known else [])


def consumer(facts: Facts, name: str) -> Details:
    """A VMM, a worker, or the kernel in an exit: what it drains, and how busy that keeps it."""
    kind, queues = facts.about(name)["kind"], facts.before(name, "queue")
    rows = [("drains", many(len(queues), "queue"))]
    if vintfs := facts.before(name, "vintf"):
        rows.append(("steps in for", listed(vintfs)))
    rows.append(("issues to", listed(facts.after(name, "cmdq"))))
    if cpus := facts.after(name, "host-cpu"):
        rows.append(("host CPUs", f"any of {len(cpus)}" if len(cpus) > 1 else cpus[0]))
    if facts.run:
        guests = sorted({guest_of(each) for each in queues} or {guest_of(name)})
        counts = [facts.run.guests[number] for number in guests]
        whose = f"guest{guests[0]}" if len(guests) == 1 else f"{len(guests):,} guests"
        rows += facts.busy(name, "lock held" if kind == "vmm" else "at work")
        if kind == "worker":
            rows.append((f"wakes, all workers of {whose}", f"{sum(each.wakes for each in counts):,}"))
        else:
            exits = sum(each.exits_vmm if kind == "vmm" else each.exits_kernel for each in counts)
            rows.append((f"exits of {whose}", f"{exits:,}"))
        if kind == "vmm":
            rows.append(("ioctls", f"{sum(each.ioctls for each in counts):,}"))
        if fixes := sum(each.fixes for each in counts):
            rows.append((f"stopped entries of {whose}", f"{fixes:,}"))
    return Details(rows, facts.queues(queues))


def host_cpu(facts: Facts, name: str) -> Details:
    """Who may run on it."""
    workers = facts.before(name, "worker")
    return Details(
        [
            ("workers that may run here", listed(workers)),
            ("placement", facts.scenario.host.placement),
            *facts.busy(name, "with a worker on it"),
        ]
    )


def vintf(facts: Facts, name: str) -> Details:
    """What it puts into the commands of its VCMDQs."""
    vsmmu = name.rpartition(".")[0]
    (smmu,) = facts.after(name, "smmu")
    rows = [
        ("of", vsmmu),
        ("on", smmu),
        ("VMID", facts.vmid(smmu, guest_of(name))),
        ("StreamIDs", _streams(facts, vsmmu, MOST)),
        *facts.commands(name),
    ]
    return Details(rows, facts.queues(facts.before(name, "queue")))


def smmu(facts: Facts, name: str) -> Details:
    """What it can do, and what it ran for whom."""
    settings, number, devices = facts.scenario.smmu, facts.about(name)["number"], facts.after(name, "device")
    ats = sum(facts.about(each)["ats"] for each in devices)
    rows = [
        *facts.busy(name, "command engine"),
        ("guests", listed(sorted(users(facts.graph, name), key=guest_of))),
        ("devices behind it", f"{len(devices):,}; ATS in use by {ats:,}"),
        ("IDR3.RIL", "1: one TLBI for a range" if settings.ril else "0: a TLBI for each page"),
        ("errata", settings.errata),
        ("LOG2SIZE of the host's CMDQ", size(settings.host_queue_log2)),
    ]
    sheets = []
    if vintfs := facts.before(name, "vintf"):
        vcmdqs = sum(len(facts.before(each, "queue")) for each in vintfs)
        rows.append(("VINTFs", f"{len(vintfs):,} of {settings.vintfs:,}, besides the host's"))
        rows.append(("VCMDQs", f"{vcmdqs:,} of {settings.vcmdqs:,}, besides the host's"))
        held = [
            (each, _streams(facts, each.rpartition(".")[0], 4), facts.vmid(name, guest_of(each))) for each in vintfs
        ]
        sheets.append(table(held, ("VINTF", "StreamIDs", "VMID"), "VINTFs", 2))
    if facts.run:
        ran: dict[int, list[int]] = {}
        columns = map(facts.run.issued.__getitem__, ("guest", "smmu", "tlbi", "atc", "syncs"))
        for guest, where, *counts in zip(*columns, strict=True):
            if where == number:
                ran[guest] = [a + b for a, b in zip(ran.get(guest, [0, 0, 0]), counts, strict=True)]
        total = [sum(column) for column in zip(*ran.values(), strict=True)] or [0, 0, 0]
        rows.append(("ran", "{:,} TLBIs and CFGI_CDs, {:,} ATC_INVs, {:,} CMD_SYNCs".format(*total)))
        told = [
            (f"guest{guest}", facts.vmid(name, guest) * facts.row.nested, *(f"{count:,}" for count in counts))
            for guest, counts in sorted(ran.items())
        ]
        if told:
            sheets.append(table(told, ("for", "VMID", "TLBI", "ATC_INV", "CMD_SYNC"), "what it ran for whom"))
    return Details(rows, sheets)


def _streams(facts: Facts, vsmmu: str, most: int) -> str:
    """Virtual and physical StreamIDs of the devices behind a vSMMU."""
    return listed((stream(facts.about(each)) for each in facts.after(f"{vsmmu}.pcie", "device")), most)
