"""What all commands share: the app, common options, and how an answer is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from smmu_lab.scenario import Scenario, Topology, read_assignment
from smmu_lab.sheet import show

app = typer.Typer(
    help="Compare the ways in which a guest's SMMUv3 invalidations can reach the hardware.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
File = Annotated[str | None, typer.Option("--scenario", help="A scenario in TOML; what follows changes it.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[APPROACH]...", help="Default: all.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Any field, e.g. costs.exit_kernel=0.9us.")
]


def answer(shown: Any, data: Callable[[], Any], as_json: bool) -> None:
    """Print a result, for people or for programs."""
    if as_json:
        print(json.dumps(data(), indent=1))
    else:
        show(shown)


def scenario_of(file: str | None, texts: Mapping[str, str | None], assignments: list[str] | None) -> Scenario:
    """The scenario of a file, or the default one, with what options by dotted path and ``--set`` change."""
    base = Scenario() if file is None else Scenario.from_toml(file)
    return base.but(changes(texts, assignments))


def changes(texts: Mapping[str, str | None], assignments: list[str] | None) -> dict[str, Any]:
    """What options by dotted path and ``--set`` change."""
    given = [f"{path}={text}" for path, text in texts.items() if text is not None]
    return dict(map(read_assignment, [*given, *(assignments or [])]))


def place(text: str) -> Topology | str:
    """A topology from a file, or the name of a preset."""
    return Topology.from_toml(text) if text.endswith(".toml") or Path(text).is_file() else text


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being simulated."""
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda what: status.update(f"simulating {what}")
