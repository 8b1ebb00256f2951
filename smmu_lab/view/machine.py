"""What each part of a machine is and holds: pure functions of the graph and a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from smmu_lab.charts import Load
from smmu_lab.charts.gather import Cell
from smmu_lab.units import show_number, show_time
from smmu_lab.view import machine_guest as guest
from smmu_lab.view import machine_host as host
from smmu_lab.view.machine_facts import Details, Facts, guest_of, many, table
from smmu_lab.view.machine_queue import titled

PARTS: Mapping[str, tuple[str, Callable[[Facts, str], Details]]] = {
    "guest": ("guest", guest.guest),
    "vcpu": ("vCPU", guest.vcpu),
    "domain": ("domain", guest.domain),
    "vsmmu": ("vSMMU", guest.vsmmu),
    "queue": ("queue", guest.queue),
    "device": ("device", guest.device),
    "vmm": ("VMM", host.consumer),
    "kernel": ("kernel in the vCPU's exit", host.consumer),
    "worker": ("kernel worker", host.consumer),
    "host-cpu": ("host CPU", host.host_cpu),
    "vintf": ("VINTF", host.vintf),
    "cmdq": ("CMDQ of the host", host.cmdq),
    "smmu": ("physical SMMU", host.smmu),
}
"""By the kind of a node: what it is called, and who tells of it."""

COLUMNS = ("what", "commands", "at work", "waiting", "mean latency", "PROD", "CONS", "vsid", "sid")
"""What a table of several that are alike can say of each."""


def details(facts: Facts, cell: Cell) -> Details:
    """What a reader is told of one part, or of several that are alike."""
    if len(cell.names) == 1:
        return PARTS[cell.kind][1](facts, cell.names[0])
    known = [facts.loads[name] for name in cell.names if name in facts.loads]
    shares = [each.busy for each in known if each.busy is not None]
    rows = [("how many", f"{len(cell.names):,}")]
    if known and cell.kind != "host-cpu":
        rows.append(("commands, all together", f"{sum(each.commands for each in known):,}"))
    if shares:
        rows.append(("at work, on average", f"{sum(shares) / len(shares):.1%}"))
    return Details(rows, [table([_figures(facts, name) for name in cell.names], COLUMNS, "each of them")])


def named(facts: Facts, cell: Cell) -> str:
    """What a cell is, in words."""
    if len(cell.names) == 1 and cell.kind == "queue":
        return titled(cell.names[0])
    if len(cell.names) == 1 and cell.kind == "device":
        return str(cell.about["what"]) + " device" * (cell.about["what"] != "bridge")
    noun = "CPU of the host" if cell.kind == "vcpu" and facts.row.on_metal else PARTS[cell.kind][0]
    return noun if len(cell.names) == 1 else f"each a {noun}"


def label(facts: Facts, cell: Cell, load: Load | None, limits: bool) -> str:
    """Name, kind and load in a line, for those who do not see the box.

    Args:
        facts: the machine.
        cell: what the box shows.
        load: what a run asked of it.
        limits: it limits the throughput.
    """
    words = [cell.full, named(facts, cell)]
    if load and cell.kind != "host-cpu":
        words.append(many(load.commands, "request" if cell.own == "requests" else "command"))
    if load and load.busy is not None:
        words.append(f"{load.busy:.0%} at work")
    if load and load.waiting is not None:
        words.append(f"{show_number(load.waiting)} waiting")
    return ", ".join([*words, *["limits the throughput"] * limits])


def _figures(facts: Facts, name: str) -> tuple[str, ...]:
    about, load = facts.about(name), facts.loads.get(name)
    pointers = facts.pointers.get((about["guest"], about["number"])) if about["kind"] == "queue" else None
    took = facts.took.get((guest_of(name), about["number"])) if about["kind"] == "vcpu" else None
    commands = load.commands if load and about["kind"] != "host-cpu" else None
    if about["kind"] == "guest" and facts.run:
        commands = facts.run.guests[about["number"]].commands
    return (
        name,
        "" if commands is None else f"{commands:,}",
        "" if load is None or load.busy is None else f"{load.busy:.1%}",
        "" if load is None or load.waiting is None else show_number(load.waiting),
        show_time(sum(took) / len(took)) if took else "",
        *(f"{value:#x}" for value in pointers or ()),
        *[""] * (0 if pointers else 2),
        *(f"{about[key]:#x}" if key in about else "" for key in ("vsid", "sid")),
    )
