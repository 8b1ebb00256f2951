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
    from smmu_lab.scenario import Approach, Scenario
    from smmu_lab.view.explorer import Explorer

__all__ = ["explore", "show_topology"]

DEFAULT = ("qemu-today", "batched", "native-queue", "short-path", "vcmdq", "bare-metal")
"""The approaches of the mail that exist today, and bare metal as the reference."""


def explore(scenario: Scenario | None = None, approaches: Iterable[Approach | str] = DEFAULT) -> Explorer:
    """Turn the knobs of a scenario and watch where the time of one unmap goes.

    Show it as the last line of a cell. Pages per unmap, range invalidation, vCPUs and cost profile follow the controls;
    everything else stays as the scenario says.

    Args:
        scenario: where to start; its workload must be `lab.unmaps(...)`. By default one vCPU that unmaps 16 pages.
        approaches: rows of the catalogue, by key or as objects.

    Raises:
        InvalidInput: an unknown approach, or a recorded guest, whose sizes are what they are.
    """
    from smmu_lab.view.explorer import Explorer  # loads ipywidgets

    return Explorer(scenario, approaches)
