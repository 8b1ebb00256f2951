"""CPU time of 20,000 commands under every approach: the engine beside the textbook model, interleaved in one process.

    python tests/bench/bench.py [--json] [--batch 8] [--repetitions 5]

16 vCPUs, strict unmaps without range invalidation: a batch is so many TLBIs and a CMD_SYNC. Ratios compare within one
run; a busy machine changes them by 15 % and more.
"""

import argparse
import gc
import json
import platform
import sys
import time
from statistics import median

import simpy

from smmu_lab.scenario import Scenario, Smmu, Unmaps, approaches
from smmu_lab.sheet import Sheet, show
from smmu_lab.sim import simulate
from smmu_lab.sim.textbook import textbook

COMMANDS = 20_000
VCPUS = 16


def timed(model, scenario, name):
    """CPU seconds of one run, and what it returned."""
    gc.collect()
    start = time.process_time()
    outcome = model(scenario, name)
    return time.process_time() - start, outcome


def measure(batch, repetitions):
    """One row per approach for batches of so many TLBIs and a CMD_SYNC."""
    ops = round(COMMANDS / (batch + 1) / VCPUS)
    scenario = Scenario(workload=Unmaps(pages=batch, ops=ops), smmu=Smmu(ril=False), vcpus=VCPUS)
    names = [row.name for row in approaches()]
    spent = {(name, model): [] for name in names for model in (simulate, textbook)}
    runs, books = {}, {}
    for _ in range(repetitions):
        for name in names:
            seconds, runs[name] = timed(simulate, scenario, name)
            spent[name, simulate].append(seconds)
            seconds, books[name] = timed(textbook, scenario, name)
            spent[name, textbook].append(seconds)
    for name in names:
        run = runs[name]
        commands = run.counts.commands
        engine_ms, book_ms = (1000 * median(spent[name, model]) for model in (simulate, textbook))
        yield {
            "batch": batch,
            "approach": name,
            "commands": commands,
            "engine_ms": round(engine_ms, 1),
            "textbook_ms": round(book_ms, 1),
            "ratio": round(book_ms / engine_ms, 1),
            "commands_per_s": round(1000 * commands / engine_ms),
            "events_per_call": round(sum(run.events.values()) / (VCPUS * ops * -(-batch // 64)), 2),
            "textbook_events_per_call": round(books[name].events / (VCPUS * ops * -(-batch // 64)), 1),
            "bytes_per_command": round((run.ops.bytes + run.batches.bytes) / commands, 1),
        }


def main():
    """Print the table, or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, action="append", help="TLBIs per batch; may be repeated (8, 1, 64)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    given = parser.parse_args()
    rows = [row for batch in given.batch or (8, 1, 64) for row in measure(batch, given.repetitions)]
    if given.json:
        versions = {"python": platform.python_version(), "simpy": simpy.__version__, "machine": platform.machine()}
        json.dump(versions | {"repetitions": given.repetitions, "rows": rows}, sys.stdout, indent=1)
        print()
        return
    header = tuple(column.replace("_per_", " / ").replace("_", " ") for column in rows[0])
    cells = [tuple(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) for row in rows]
    caption = f"CPU time of {COMMANDS:,} commands, {VCPUS} vCPUs, median of {given.repetitions}"
    show(Sheet(header, cells, left=("approach",), caption=caption))


if __name__ == "__main__":
    main()
