"""Guests beside those that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from smmu_lab.scenario.fields import InvalidInput, Kind, Settings, named, setting, settings, whole
from smmu_lab.scenario.workload import Unmaps


def _read_neighbour(value: Any) -> Unmaps:
    if isinstance(value, Unmaps):
        return value
    if not isinstance(value, Mapping):
        raise ValueError
    try:
        return Unmaps(**named(value, "neighbour.workload"))
    except InvalidInput as error:
        raise InvalidInput(line.replace("workload.", "neighbour.workload.", 1) for line in error.problems) from None


@settings
class Neighbour(Settings):
    """Guests beside those that are measured.

    Attributes:
        guests: how many: the last ones of the scenario's. They go on until the others are through.
        workload: what every vCPU of theirs does.
    """

    where: ClassVar[str] = "neighbour"
    guests: int = setting(whole(0, 1023), default=0)
    workload: Unmaps = setting(Kind("a lab.unmaps(...) or a table of its fields", _read_neighbour), default=Unmaps())
