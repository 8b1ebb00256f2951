"""What is found out by simulating."""

from __future__ import annotations

from typing import Annotated

import typer

from smmu_lab.cli.app import Assignments, File, Json, Names, answer, app, changes, progress
from smmu_lab.cli.scenarios import of_a_scenario, possible
from smmu_lab.scenario import Scenario, approaches, read_assignment


@app.command()
@of_a_scenario
def compare(
    made: Scenario,
    names: Names = None,
    precision: Annotated[
        str | None, typer.Option(help="Replicate until each mean is known so well, e.g. 0.01 for ± 1 %.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the same operations under several approaches, and say which wins, by how much, and why."""
    from smmu_lab.study import compare as run

    chosen = names or possible(made, [row.name for row in approaches()])
    sure = read_assignment(f"precision={precision}")[1] if precision is not None else None
    with progress() as say:
        result = run(made, chosen, say, sure)
    answer(result, result.to_dict, as_json)


@app.command()
def inject(
    kind: Annotated[str, typer.Argument(help="illegal-command, unknown-sid, atc-timeout or stalled-device.")],
    names: Names = None,
    scenario: File = None,
    vcpu: Annotated[str | None, typer.Option(help="Whose operation, of guest fault.guest (0).")] = None,
    op: Annotated[str | None, typer.Option(help="Number of the operation on that vCPU, from 0.")] = None,
    after: Annotated[str | None, typer.Option(help="Commands of its list before the additional entry.")] = None,
    delay: Annotated[str | None, typer.Option(help="How late a stalled device answers, e.g. 200us.")] = None,
    assignments: Assignments = None,
    as_json: Json = False,
) -> None:
    """Let one thing go wrong under several approaches: what the guest is told, what is lost, and who waits."""
    from smmu_lab.study import inject as run

    texts = {"fault.vcpu": vcpu, "fault.op": op, "fault.after": after, "fault.delay": delay}
    base = Scenario() if scenario is None else Scenario.from_toml(scenario)
    made = base.but({"fault.kind": kind} | changes(texts, assignments))
    with progress() as say:
        result = run(made, names, say)
    answer(result, result.to_dict, as_json)


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
        bool, typer.Option("--scaling/--no-scaling", help="Up to a million commands, 512 vCPUs, eight SMMUs.")
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
    answer(report, report.to_dict, as_json)
    if report.disagreements:
        raise typer.Exit(1)
