"""What people look at: charts and live views.

Here belongs what turns a record into a picture, and the widgets that show it. Not here: anything that simulates by
itself or keeps results (`smmu_lab.study`), and figures that a table can say (`smmu_lab.record`). Charts are pure
functions of records and need no widget library; a widget only chooses what is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from smmu_lab.view.charts import breakdown, breakdown_text

if TYPE_CHECKING:
    from smmu_lab.scenario import Approach, Scenario
    from smmu_lab.view.explorer import Explorer

__all__ = ["breakdown", "breakdown_text", "explore"]

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
