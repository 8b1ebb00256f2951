"""A scenario on the command line: the options of every command that runs one as it pleases."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from smmu_lab.cli.app import Assignments, File, changes, place
from smmu_lab.scenario import Scenario, approach, read_trace


def asked(
    scenario: File = None,
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
    topology: Annotated[str | None, typer.Option(help="Where the devices are: a preset, or a TOML file.")] = None,
    profile: Annotated[str | None, typer.Option("--costs", help="Cost profile: grace, n1 or a57.")] = None,
    seed: Annotated[str | None, typer.Option(help="Of all random streams.")] = None,
    assignments: Assignments = None,
) -> Scenario:
    """The scenario that these options say."""
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
    changed = ({"topology": place(topology)} if topology is not None else {}) | changes(texts, assignments)
    changed |= {path: flag for path, flag in (("smmu.ril", ril), ("workload.lazy", lazy)) if flag is not None}
    base = Scenario() if scenario is None else Scenario.from_toml(scenario)
    if trace is not None:
        base = base.but(workload=read_trace(trace).workload())
    return base.but(changed)


def of_a_scenario(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `asked`; the scenario that they say is its first argument."""
    options = inspect.signature(asked, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def run(**given: Any) -> None:
        made = asked(**{name: given.pop(name) for name in options})
        command(made, **given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature([*options.values(), *own])  # type: ignore[attr-defined]
    return run


def possible(made: Scenario, names: Iterable[str]) -> list[str]:
    """Those of some approaches that a scenario can run under; of the others stderr says why not."""
    refused = {name: made.refuses(approach(name)) for name in names}
    for reasons in refused.values():
        for reason in reasons:
            print(f"left out: {reason}", file=sys.stderr)
    return [name for name, reasons in refused.items() if not reasons]
