"""The properties for as long as told: ``python -m tests.fuzz.long --minutes 10 --seed 1``.

Rounds of Hypothesis, each with a seed of its own: the same seeds give the same examples. Exit status 1 at the first
failure, with the smallest example that fails. With ``--atheris`` one property is run by libFuzzer instead, which looks
for new branches (``pip install atheris``).
"""

import argparse
import functools
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

try:
    import coverage
except ImportError:
    coverage = None

FUZZED = (
    *("arch/commands.py", "arch/layout.py", "arch/queue.py", "arch/rules.py", "arch/consumer.py", "arch/registers.py"),
    *("scenario/dump.py", "scenario/trace.py", "scenario/recorded.py"),
)
SETTINGS = settings(
    max_examples=200,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.target, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def rounds(first, minutes):
    """Run every property, then all again with the next seed; how often each ran, and whether all held."""
    from tests.fuzz.properties import PROPERTIES

    ran = dict.fromkeys(PROPERTIES, 0)

    def counted(check):
        @functools.wraps(check)
        def count(*args, **kwargs):
            ran[check.__name__] += 1
            return check(*args, **kwargs)

        return count

    end, number = time.monotonic() + 60 * minutes, first
    while True:
        for check, strategies in PROPERTIES.values():
            try:
                seed(number)(SETTINGS(given(**strategies)(counted(check))))()
            except Exception:
                traceback.print_exc()
                print(f"FAILED: {check.__name__}, seed {number}")
                return ran, False
        if time.monotonic() > end:
            print(f"seeds {first} to {number}")
            return ran, True
        number += 1


def branches(measured):
    """Branches reached and branches that there are, by file."""
    with tempfile.NamedTemporaryFile() as report:
        measured.json_report(outfile=report.name)
        files = json.loads(Path(report.name).read_text())["files"]
    for name, each in files.items():
        missing = ", ".join(f"{a}->{'exit' if b < 0 else b}" for a, b in each["missing_branches"])
        yield name, each["summary"]["covered_branches"], each["summary"]["num_branches"], missing


def with_atheris(name, first, minutes):
    """Run one property under libFuzzer; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["smmu_lab"]):
        from tests.fuzz.properties import PROPERTIES
    check, strategies = PROPERTIES[name]
    one = SETTINGS(given(**strategies)(check)).hypothesis.fuzz_one_input
    atheris.Setup([sys.argv[0], f"-seed={first}", f"-max_total_time={int(60 * minutes)}"], one)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--atheris", metavar="PROPERTY")
    options = parser.parse_args()
    if options.atheris:
        return with_atheris(options.atheris, options.seed, options.minutes)
    measured = coverage and coverage.Coverage(
        branch=True, data_file=None, include=[f"*/smmu_lab/{name}" for name in FUZZED]
    )
    if measured:
        measured.start()
    ran, held = rounds(options.seed, options.minutes)
    for name, times in ran.items():
        print(f"{times:9,} {name}")
    print(f"{sum(ran.values()):9,} executions")
    if measured:
        measured.stop()
        reached = list(branches(measured))
        for name, taken, possible, missing in reached:
            print(f"{taken:4} of {possible:4} branches {name}{missing and f', not {missing}'}")
        print(f"{sum(row[1] for row in reached):4} of {sum(row[2] for row in reached):4} branches")
    else:
        print("branches are counted if coverage is installed")
    return not held


if __name__ == "__main__":
    sys.exit(main())
