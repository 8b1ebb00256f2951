"""What people look at and touch: live views, and the machine as it stands.

Here belong the widgets, and what shows a scenario or a run in several ways at once. Not here: what keeps results
(`smmu_lab.study`), and the pictures themselves, which are pure functions of records (`smmu_lab.charts`); a widget only
chooses what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from smmu_lab.view.topology import show_topology

if TYPE_CHECKING:
    from smmu_lab.record import Run
    from smmu_lab.scenario import Approach, Scenario
    from smmu_lab.study import Comparison
    from smmu_lab.view.explorer import Explorer
    from smmu_lab.view.panels import Dashboard
    from smmu_lab.view.replay import Microscope

__all__ = ["dashboard", "explore", "microscope", "show_topology"]

DEFAULT = ("qemu-today", "batched", "native-queue", "short-path", "vcmdq", "bare-metal")
"""The approaches of the mail that exist today, and bare metal as the reference."""
FEWEST_COMMANDS, MOST_COMMANDS = 100, 50_000
"""Of a run that is replayed: enough to see something end, and what a browser and a saved notebook can bear."""


def explore(scenario: Scenario | None = None, approaches: Iterable[Approach | str] = DEFAULT) -> Explorer:
    """Turn a scenario and its approaches, and watch where the time goes.

    Show it as the last line of a cell. Approaches and each of their columns, workload, machine and costs follow the
    controls; what has no control stays as the scenario says. While a control moves, as many unmaps are simulated as
    about 35 ms of CPU time allow, and at least two per vCPU, which is said; when it rests, all of them.

    Args:
        scenario: where to start; by default one vCPU that unmaps 16 pages.
        approaches: rows of the catalogue, by key or as objects.

    Raises:
        InvalidInput: no approach, an unknown one, or two of the same name.
    """
    from smmu_lab.view.explorer import Explorer  # loads ipywidgets

    return Explorer(scenario, approaches)


def microscope(run: Run, commands: int = 10_000) -> Microscope:
    """Replay a run command by command: who works on what, and what is in the queue.

    Show it as the last line of a cell. Play, step and step back; jump to the next doorbell, CMD_SYNC or error; click a
    slot to follow its command. It needs no kernel once it is there.

    Args:
        run: of `simulate`.
        commands: about so many, from the start on, are replayed.

    Raises:
        InvalidInput: it is no run, or one that cannot be watched (see `smmu_lab.sim.watch.watch`).
    """
    from smmu_lab.record import Run
    from smmu_lab.scenario.fields import InvalidInput, invalid
    from smmu_lab.sim.watch import watch
    from smmu_lab.view.replay import Microscope  # loads ipywidgets

    if not isinstance(run, Run):
        raise InvalidInput([invalid("run", run, "a Run, as lab.simulate(scenario, approach) gives it")])
    if type(commands) is not int or not FEWEST_COMMANDS <= commands <= MOST_COMMANDS:
        valid = f"an integer from {FEWEST_COMMANDS} to {MOST_COMMANDS}"
        raise InvalidInput([invalid("commands", commands, valid)])
    return Microscope(watch(run, commands))


def dashboard(comparison: Comparison) -> Dashboard:
    """Look at a comparison from all sides, down to the costs it rests on.

    Show it as the last line of a cell. Approaches can be hidden and sorted, any of them taken as the reference; a stage
    of the breakdown shows the costs that it is made of, with range, basis and source.

    Args:
        comparison: what `lab.compare` returned.

    Raises:
        InvalidInput: something else.
    """
    from smmu_lab.view.panels import Dashboard  # loads ipywidgets

    return Dashboard(comparison)
