"""smmu-lab: the lab from a shell. Tables for people; ``--json`` for programs, one document on stdout.

Exit status: 0 done, 2 bad input, with one line per problem on stderr: the field, the value and what is valid.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import attrs
import typer

from smmu_lab.scenario import (
    InvalidInput,
    Scenario,
    Trace,
    approaches,
    costs,
    read_assignment,
    read_trace,
    traces,
)
from smmu_lab.sheet import show

app = typer.Typer(
    help="Compare the ways in which a guest's SMMUv3 invalidations can reach the hardware.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
trace_app = typer.Typer(help="Recorded guests.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")

USAGE: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def main() -> None:
    """Entry point of ``smmu-lab``."""
    try:
        status = app(standalone_mode=False)
    except InvalidInput as error:
        status = _refuse(error.problems)
    except USAGE as error:
        status = _refuse([error.format_message()])
    except OSError as error:
        print(f"smmu-lab: cannot write: {error.strerror}", file=sys.stderr)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(problems: Iterable[str]) -> int:
    for problem in problems:
        print("smmu-lab:", " ".join(problem.split()), file=sys.stderr)
    return 2


def _print(shown: Any, data: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, indent=1))
    else:
        show(shown)


@app.command("approaches")
def list_approaches(as_json: Json = False) -> None:
    """The catalogue: each approach as a row of choices."""
    rows = approaches()
    _print(rows.sheet(), [row.values() for row in rows], as_json)


@app.command("costs")
def list_costs(
    profile: Annotated[str, typer.Argument(help="grace, n1 or a57.")] = "grace", as_json: Json = False
) -> None:
    """What each step costs: value, range, basis and source."""
    table = costs(profile)
    _print(table.sheet(), {name: cost.values() for name, cost in table.items()}, as_json)


@app.command()
def compare(
    names: Annotated[list[str] | None, typer.Argument(metavar="[APPROACH]...", help="Default: all.")] = None,
    scenario: Annotated[str | None, typer.Option(help="A scenario in TOML; what follows changes it.")] = None,
    trace: Annotated[str | None, typer.Option(help="Replay a recorded guest: a bundled name, or a file.")] = None,
    pages: Annotated[str | None, typer.Option(help="Pages per unmap.")] = None,
    ril: Annotated[bool | None, typer.Option("--ril/--no-ril", help="Range invalidation.")] = None,
    ats_devices: Annotated[str | None, typer.Option(help="Devices with ATS in the domain.")] = None,
    lazy: Annotated[bool | None, typer.Option("--lazy/--strict", help="Flush-queue mode.")] = None,
    think: Annotated[str | None, typer.Option(help="Time between two operations of a vCPU, e.g. 20us.")] = None,
    rate: Annotated[str | None, typer.Option(help="Operations per second and vCPU, instead of --think.")] = None,
    ops: Annotated[str | None, typer.Option(help="Operations per vCPU.")] = None,
    vcpus: Annotated[str | None, typer.Option(help="vCPUs per guest.")] = None,
    guests: Annotated[str | None, typer.Option(help="Virtual machines.")] = None,
    profile: Annotated[str | None, typer.Option("--costs", help="Cost profile: grace, n1 or a57.")] = None,
    seed: Annotated[str | None, typer.Option(help="Of all random streams.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="Replicate until each mean is known so well, e.g. 0.01 for ± 1 %.")
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any field, e.g. costs.exit_kernel=0.9us.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the same operations under several approaches, and say which wins, by how much, and why."""
    from smmu_lab.study import compare as run

    texts = {
        "workload.pages": pages,
        "workload.ats_devices": ats_devices,
        "workload.think": think,
        "workload.rate": rate,
        "workload.ops": ops,
        "vcpus": vcpus,
        "guests": guests,
        "costs": profile,
        "seed": seed,
    }
    given = [f"{path}={text}" for path, text in texts.items() if text is not None]
    changes = dict(map(read_assignment, [*given, *(assignments or [])]))
    changes |= {path: flag for path, flag in (("smmu.ril", ril), ("workload.lazy", lazy)) if flag is not None}
    base = Scenario() if scenario is None else Scenario.from_toml(scenario)
    if trace is not None:
        base = base.but(workload=read_trace(trace).workload())
    made = base.but(changes)
    chosen = names or [row.name for row in approaches() if not made.refuses(row)]
    for row in [] if names else approaches():
        for reason in made.refuses(row):
            print(f"left out: {reason}", file=sys.stderr)

    from rich.console import Console

    with Console(stderr=True).status("") as status:
        sure = read_assignment(f"precision={precision}")[1] if precision is not None else None
        result = run(made, chosen, lambda name: status.update(f"simulating {name}"), sure)
    _print(result, result.to_dict() if as_json else None, as_json)


@app.command()
def bench(
    batch: Annotated[
        list[int] | None, typer.Option(min=1, max=511, help="TLBIs of an unmap; repeat it for more. Default: 1, 8, 64.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--approach", metavar="NAME", help="Repeat it for more. Default: all.")
    ] = None,
    commands: Annotated[int, typer.Option(min=1, help="Commands of one run.")] = 20_000,
    vcpus: Annotated[int, typer.Option(min=1, max=1024, help="VCPUs that share them.")] = 16,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
    textbook: Annotated[bool, typer.Option("--textbook/--no-textbook", help="Run the slow twin as well.")] = True,
    scaling: Annotated[
        bool, typer.Option("--scaling/--no-scaling", help="Up to a million commands, up to 256 vCPUs.")
    ] = True,
    as_json: Json = False,
) -> None:
    """How fast the lab is: the simulator beside its textbook twin and beside C. Status 1 if they disagree."""
    from rich.console import Console

    from smmu_lab.study.bench import BATCHES
    from smmu_lab.study.bench import bench as measure

    with Console(stderr=True).status("") as status:
        report = measure(
            batch or BATCHES,
            names or (),
            commands=commands,
            vcpus=vcpus,
            repetitions=repetitions,
            by_the_book=textbook,
            scaling=scaling,
            progress=status.update,
        )
    _print(report, report.to_dict(), as_json)
    if report.disagreements:
        raise typer.Exit(1)


@app.command()
def decode(
    entries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENTRY]...", help="16 bytes in hexadecimal, as they lie in memory; - or none: from stdin."
        ),
    ] = None,
    trace: Annotated[str | None, typer.Option(help="All commands of a recorded guest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Disassemble commands, one per line."""
    from smmu_lab.arch import IllegalCommand
    from smmu_lab.arch import decode as decode_entry

    for where, raw in _raw_commands(entries, trace):
        try:
            command = decode_entry(raw)
        except IllegalCommand as error:
            raise InvalidInput([f"{where}: {error}"]) from None
        if as_json:
            print(json.dumps({"raw": raw.hex(), "name": command.name, "fields": dict(command.fields)}))
        else:
            print(command)


def _raw_commands(entries: list[str] | None, trace: str | None) -> Iterator[tuple[str, bytes]]:
    if trace is not None:
        commands = read_trace(trace).commands
        for index in range(len(commands)):
            if raw := commands.raw16(index):
                yield f"command {index}", raw
        return
    from_stdin = not entries or entries == ["-"]
    for number, text in enumerate(sys.stdin if from_stdin else entries or (), 1):
        where = f"{'line' if from_stdin else 'entry'} {number}"
        digits = text.replace("0x", "").replace("_", "").strip()
        if from_stdin and not digits:
            continue
        try:
            raw = bytes.fromhex(digits)
        except ValueError:
            raw = b""
        if len(raw) != 16:
            raise InvalidInput([f"{where}: {text.strip()[:60]!r} is not valid: 32 hexadecimal digits"])
        yield where, raw


@trace_app.command("list")
def list_traces(as_json: Json = False) -> None:
    """The recorded guests that come with the lab."""
    bundled = traces()
    _print(bundled.sheet(), [attrs.asdict(each) for each in bundled.values()], as_json)


@trace_app.command("summary")
def summary(source: Annotated[str, typer.Argument(help="A bundled name, or a file.")], as_json: Json = False) -> None:
    """What a recorded guest asked of its queue."""
    trace: Trace = read_trace(source)
    data = trace.summary()
    _print(trace.sheet(), data, as_json)
