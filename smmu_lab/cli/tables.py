"""What the lab knows: approaches, costs, recorded guests."""

from __future__ import annotations

from typing import Annotated

import attrs
import typer

from smmu_lab.cli.app import Json, answer, app
from smmu_lab.scenario import Trace, approaches, costs, read_trace, traces

trace_app = typer.Typer(help="Recorded guests.", no_args_is_help=True)
app.add_typer(trace_app, name="trace")


@app.command("approaches")
def list_approaches(as_json: Json = False) -> None:
    """The catalogue: each approach as a row of choices."""
    rows = approaches()
    answer(rows.sheet(), lambda: [row.values() for row in rows], as_json)


@app.command("costs")
def list_costs(
    profile: Annotated[str, typer.Argument(help="grace, n1 or a57.")] = "grace", as_json: Json = False
) -> None:
    """What each step costs: value, range, basis and source."""
    table = costs(profile)
    answer(table.sheet(), lambda: {name: cost.values() for name, cost in table.items()}, as_json)


@trace_app.command("list")
def list_traces(as_json: Json = False) -> None:
    """The recorded guests that come with the lab."""
    bundled = traces()
    answer(bundled.sheet(), lambda: [attrs.asdict(each) for each in bundled.values()], as_json)


@trace_app.command("summary")
def summary(source: Annotated[str, typer.Argument(help="A bundled name, or a file.")], as_json: Json = False) -> None:
    """What a recorded guest asked of its queue."""
    trace: Trace = read_trace(source)
    answer(trace.sheet(), trace.summary, as_json)
