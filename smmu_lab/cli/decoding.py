"""Entries of a queue, as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smmu_lab.cli.app import app
from smmu_lab.scenario import InvalidInput

if TYPE_CHECKING:
    from smmu_lab.scenario.dump import Entry


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
