"""What it costs to simulate a big machine: 64 guests of 8 vCPUs on eight SMMUs, beside the same guests on one SMMU.

Two loads: with 1 ms between unmaps nothing is busy for long, and the same happens on both machines. With 20 us all 512
vCPUs wait for something. Then one SMMU's consumers take up many lists at once, which is less to simulate, while eight
have a queue and a worker each to be woken: what differs is the machine, not the simulator's cost of an event.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from operator import truediv
from statistics import median
from typing import Any

from smmu_lab.scenario import Scenario, Smmu, Topology, Unmaps
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.units import show_number

GUESTS, VCPUS, PAGES = 64, 8, 8
COMMANDS = 1_000_000
PRESETS = ("one-smmu", "grace-8-smmu")
"""Beside each other: the first one is what the others are compared with."""
ROWS = ("qemu-today", "batched", "short-path")
THINKS = ("1ms", "20us")

_PROGRAM = "from smmu_lab.study.machines import measure; import json; print(json.dumps(measure(*{!r})))"


def machine(preset: str, think: str, commands: int) -> Scenario:
    """The guests on a machine, and about so many commands in all; eight TLBIs and a CMD_SYNC an unmap."""
    ops = max(1, round(commands / ((PAGES + 1) * GUESTS * VCPUS)))
    return Scenario(
        topology=Topology.preset(preset),
        guests=GUESTS,
        vcpus=VCPUS,
        workload=Unmaps(pages=PAGES, ops=ops).but(think=think),
        smmu=Smmu(ril=False),
    )


def measure(preset: str, row: str, think: str, commands: int) -> dict[str, float]:
    """Simulate in this process.

    Returns:
        CPU time in s, commands, events, size of the record in bytes, and the largest resident set of the process in
        KiB, as Linux gives it.
    """
    scenario = machine(preset, think, commands)
    start = time.process_time()
    run = simulate(scenario, row)
    spent = time.process_time() - start
    record = sum(table.bytes for table in (run.ops, run.batches, run.issued))
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "cpu_s": spent,
        "commands": run.counts.commands,
        "events": sum(run.events.values()),
        "record_bytes": record,
        "resident_kib": resident,
    }


def machines(
    rows: Sequence[str] = ROWS,
    commands: int = COMMANDS,
    repetitions: int = 2,
    progress: Callable[[str], None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Measure every approach on every machine, each run in a process of its own, and a tenth of it as well.

    Args:
        rows: keys of approaches.
        commands: of one run, about.
        repetitions: of each, with each of `THINKS` between unmaps; machines alternate.
        progress: called with what comes next.

    Returns:
        For each approach, load and machine the median figures, with ``ratio``, its cost of a command over that of the
        first machine, pair by pair: median, smallest and largest; ``growth_bytes``: what one command more adds to the
        resident set.
    """
    figures: dict[tuple[str, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for number in range(1, repetitions + 1):
        for row, think, preset in product(rows, THINKS, PRESETS):
            progress(f"round {number} of {repetitions}: {row} on {preset}, {think} between unmaps")
            small, full = (_apart(preset, row, think, size) for size in (commands // 10, commands))
            figures.setdefault((row, think, preset), []).append((small, full))
    made = []
    for (row, think, preset), pairs in figures.items():
        cost = [_cost(full) for _, full in pairs]
        ratios = sorted(map(truediv, cost, [_cost(full) for _, full in figures[row, think, PRESETS[0]]]))
        small, full = pairs[0]
        more = full["commands"] - small["commands"]
        made.append(
            {
                "approach": row,
                "think": think,
                "machine": preset,
                "guests": GUESTS,
                "vcpus": VCPUS,
                "commands": full["commands"],
                "us_per_command": median(cost),
                "commands_per_s": 1e6 / median(cost),
                "events_per_command": full["events"] / full["commands"],
                "ratio": {"min": ratios[0], "median": median(ratios), "max": ratios[-1]},
                "resident_mib": full["resident_kib"] / 1024,
                "growth_bytes": (full["resident_kib"] - small["resident_kib"]) * 1024 / more if more else 0.0,
                "record_bytes": full["record_bytes"] / full["commands"],
            }
        )
    return made


def machines_sheet(measured: Sequence[dict[str, Any]]) -> Sheet:
    """The figures as a table."""
    head = (
        *("approach", "between unmaps", "machine", "commands", "commands / s", "cost / one SMMU"),
        *("events / command", "MiB", "B more / command"),
    )
    cells = [
        (
            each["approach"],
            each["think"],
            each["machine"],
            f"{each['commands']:,}",
            show_number(each["commands_per_s"]),
            "{median:.2f} ({min:.2f} .. {max:.2f})".format(**each["ratio"]),
            show_number(each["events_per_command"]),
            f"{each['resident_mib']:.0f}",
            show_number(each["growth_bytes"]),
        )
        for each in measured
    ]
    caption = f"{GUESTS} guests of {VCPUS} vCPUs on one SMMU and on eight, CPU time and largest resident set"
    return Sheet(head, cells, left=head[:3], caption=caption)


def _cost(figure: dict[str, Any]) -> float:
    return 1e6 * float(figure["cpu_s"]) / float(figure["commands"])


def _apart(preset: str, row: str, think: str, commands: int) -> dict[str, Any]:
    program = [sys.executable, "-c", _PROGRAM.format((preset, row, think, commands))]
    found: dict[str, Any] = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout)
    return found
