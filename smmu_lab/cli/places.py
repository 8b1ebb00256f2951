"""Where the devices are, what that costs, and who suffers for whom."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from smmu_lab.cli.app import Assignments, File, Json, Names, answer, app, place, progress, scenario_of
from smmu_lab.scenario import InvalidInput, read_assignment

By = Annotated[str, typer.Option(help="The approach that serves it.")]


@app.command()
def topology(
    where: Annotated[
        str | None, typer.Argument(metavar="[TOPOLOGY]", help="A preset, or a TOML file. Default: the scenario's.")
    ] = None,
    by: By = "qemu-today",
    simulated: Annotated[bool, typer.Option("--run", help="Simulate it: loads, and what limits.")] = False,
    scenario: File = None,
    guests: Annotated[str | None, typer.Option(help="Virtual machines.")] = None,
    vcpus: Annotated[str | None, typer.Option(help="vCPUs per guest.")] = None,
    assignments: Assignments = None,
    graphml: Annotated[str | None, typer.Option(metavar="FILE", help="Write the graph as GraphML.")] = None,
    dot: Annotated[bool, typer.Option("--dot", help="Print the graph in the language of Graphviz.")] = False,
    as_json: Json = False,
) -> None:
    """The machine as a graph: who sends commands to whom, under an approach."""
    from smmu_lab.sim import simulate
    from smmu_lab.view import show_topology

    made = scenario_of(scenario, {"guests": guests, "vcpus": vcpus}, assignments)
    if where is not None:
        made = made.but(topology=place(where))
    shown = show_topology(simulate(made, by) if simulated else made, None if simulated else by)
    if graphml is not None:
        shown.to_graphml(graphml)
        print(f"written: {graphml}", file=sys.stderr)
    if dot:
        print(shown.to_dot())
    elif as_json or graphml is None:
        answer(shown, shown.to_dict, as_json)


@app.command()
def layouts(
    names: Names = None,
    preset: Annotated[
        list[str] | None, typer.Option("--topology", metavar="PRESET", help="Repeat it for more. Default: all presets.")
    ] = None,
    scenario: File = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Every layout under every approach: what it costs, or the rule that forbids it."""
    from smmu_lab.scenario.topology import PRESETS
    from smmu_lab.study import layouts as run

    made = scenario_of(scenario, {}, assignments)
    with progress() as say:
        result = run(made, [place(each) for each in preset or PRESETS], names, say)
    answer(result, result.to_dict, as_json)


@app.command()
def amplification(
    by: Annotated[str, typer.Argument(metavar="[APPROACH]", help="What serves the guest.")] = "qemu-today",
    smmus: Annotated[str, typer.Option(help="How many SMMUs, e.g. 1,2,4 or 1-16.")] = "1-16",
    ats: Annotated[
        bool | None, typer.Option("--ats/--no-ats", help="Only with, or without ATS. Default: both.")
    ] = None,
    scenario: File = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """One vSMMU over more and more SMMUs, beside one for each: host commands and latency of an unmap."""
    from smmu_lab.study import amplification as run

    made = scenario_of(scenario, {}, assignments)
    with progress() as say:
        result = run(made, by, _numbers(smmus), (False, True) if ats is None else (ats,), progress=say)
    answer(result, result.to_dict, as_json)


@app.command()
def neighbours(
    names: Names = None,
    stall: Annotated[str, typer.Option(help="How late the neighbour's device answers.")] = "100us",
    scenario: File = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """A quiet guest alone, beside a flood, and beside a stalled ATC: is it kept from harm?"""
    from smmu_lab.study import neighbours as run

    made = scenario_of(scenario, {}, assignments)
    with progress() as say:
        result = run(made, names, stall=read_assignment(f"stall={stall}")[1], progress=say)
    answer(result, result.to_dict, as_json)


@app.command()
def contention(
    names: Annotated[list[str], typer.Argument(metavar="APPROACH...")],
    over: Annotated[
        list[str] | None, typer.Option(metavar="PATH=VALUE,...", help="e.g. guests=1,2,4; repeat it for more.")
    ] = None,
    scenario: File = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """More and more guests, vCPUs or workers on one machine: throughput, fairness, and what limits."""
    from smmu_lab.study import contention as run

    made = scenario_of(scenario, {}, assignments)
    wanted: dict[str, list[Any]] = {}
    for each in over or ["guests=1,2,4,8,16"]:
        path, equals, values = each.partition("=")
        wanted[path] = (
            wanted.get(path, []) + [read_assignment(f"{path}={value}")[1] for value in values.split(",")]
            if equals
            else []
        )
    with progress() as say:
        result = run(made, names, wanted, progress=say)
    answer(result, result.to_dict, as_json)


def _numbers(text: str) -> list[int]:
    """Read ``1,2,4`` or ``1-16``."""
    try:
        made = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            made += list(range(int(first), min(int(last), 1000) + 1)) if dash else [int(first)]
    except ValueError:
        raise InvalidInput([f"smmus: {text!r} is not valid: numbers such as 1,2,4 or 1-16"]) from None
    if not made:
        raise InvalidInput([f"smmus: {text!r} is not valid: numbers such as 1,2,4 or 1-16"])
    return made
