"""smmu-lab: the lab from a shell. Tables for people; ``--json`` for programs, one document on stdout.

Exit status: 0 done, 1 a check failed or an entry is illegal, 2 bad input, with one line per problem on stderr: the
field, the value and what is valid.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from smmu_lab.scenario.dump import Entry

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
        if sys.stdout is None:
            raise OSError(errno.EBADF, "stdout is closed")
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
def inject(
    kind: Annotated[str, typer.Argument(help="illegal-command, unknown-sid, atc-timeout or stalled-device.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[APPROACH]...", help="Default: all.")] = None,
    scenario: Annotated[str | None, typer.Option(help="A scenario in TOML; what follows changes it.")] = None,
    vcpu: Annotated[str | None, typer.Option(help="Whose operation, of guest fault.guest (0).")] = None,
    op: Annotated[str | None, typer.Option(help="Number of the operation on that vCPU, from 0.")] = None,
    after: Annotated[str | None, typer.Option(help="Commands of its list before the additional entry.")] = None,
    delay: Annotated[str | None, typer.Option(help="How late a stalled device answers, e.g. 200us.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any field, e.g. workload.ats_devices=1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Let one thing go wrong under several approaches: what the guest is told, what is lost, and who waits."""
    from rich.console import Console

    from smmu_lab.study import inject as run

    texts = {"fault.vcpu": vcpu, "fault.op": op, "fault.after": after, "fault.delay": delay}
    given = [f"{path}={text}" for path, text in texts.items() if text is not None]
    base = Scenario() if scenario is None else Scenario.from_toml(scenario)
    made = base.but({"fault.kind": kind} | dict(map(read_assignment, [*given, *(assignments or [])])))
    with Console(stderr=True).status("") as status:
        result = run(made, names, lambda name: status.update(f"simulating {name}"))
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
            metavar="[ENTRY]...",
            help="16 bytes in hexadecimal, as they lie in memory, or two numbers as in '0x0000000000000046 "
            "0x0000000000000000'; - or none: lines of stdin.",
        ),
    ] = None,
    trace: Annotated[str | None, typer.Option(help="All commands of a recorded guest; -: stdin.")] = None,
    dump: Annotated[
        str | None, typer.Option(metavar="FILE", help="Memory of a queue, 16 bytes an entry (gzip too); -: stdin.")
    ] = None,
    cons: Annotated[
        str | None, typer.Option(help="CMDQ_CONS, e.g. 0x1000003: start the dump there, go round to --prod.")
    ] = None,
    prod: Annotated[str | None, typer.Option(help="CMDQ_PROD: stop the dump before it.")] = None,
    log2size: Annotated[
        str | None, typer.Option(help="log2 of the queue's entries. Default: the queue is all of the dump.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Disassemble commands, one per line, as they arrive.

    An entry at which each SMMU stops on a Non-secure queue (CERROR_ILL), whatever its features, is a line ILLEGAL, and
    the status is 1 in the end: beyond PROD, a dump holds anything. A command that a trace has without its bytes is a
    line of its own, too. Where the input itself is broken, decoding ends with status 2.
    """
    from smmu_lab.arch import IllegalCommand
    from smmu_lab.scenario.dump import read_command

    status = 0
    for raw in _entries(entries, trace, dump, {"cons": cons, "prod": prod, "log2size": log2size}):
        data: dict[str, Any] = {"raw": raw.hex()}
        try:
            if raw.name:
                data = {"raw": None, "name": raw.name, "where": raw.where}
                text = f"no raw bytes: {raw.name}, {raw.where}"
            else:
                command = read_command(raw)
                data |= {"name": command.name, "fields": command.fields}
                text = str(command)
        except IllegalCommand as error:
            status = 1
            data |= {"illegal": str(error), "where": raw.where}
            text = f"ILLEGAL {raw.hex()}: {error}, {raw.where}"
        print(json.dumps(data) if as_json else text, flush=True)
    raise typer.Exit(status)


def _entries(
    entries: list[str] | None, trace: str | None, dump: str | None, queue: dict[str, str | None]
) -> Iterator[Entry]:
    from smmu_lab.scenario.dump import open_file, read_dump, read_hex, read_hex_lines, read_queue
    from smmu_lab.scenario.trace import read_entries

    if bool(entries) + (trace is not None) + (dump is not None) > 1:
        raise InvalidInput(["decode: one of ENTRY, --trace and --dump"])
    given = {name: _number(name, text) for name, text in queue.items() if text is not None}
    if given and not ({"cons", "prod"} <= given.keys() and dump is not None):
        raise InvalidInput([f"{', '.join(given)}: --cons and --prod go together, with a --dump"])
    if trace is not None:
        yield from read_entries(trace)
    elif dump is not None:
        with open_file(dump) as file:
            name = "stdin" if dump == "-" else dump
            yield from read_queue(file, name, **given) if given else read_dump(file, name)
    elif entries and entries != ["-"]:
        for number, text in enumerate(entries, 1):
            yield read_hex(text, f"entry {number}")
    else:
        with open_file("-") as file:
            yield from read_hex_lines(file)


def _number(name: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InvalidInput([f"{name}: {text!r} is not valid: an integer such as 19 or 0x1000003"]) from None


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
