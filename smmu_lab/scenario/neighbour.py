"""Guests beside those that are measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from smmu_lab.scenario.fields import InvalidInput, Kind, Settings, moved, named, setting, settings, whole
from smmu_lab.scenario.workload import Unmaps


def _read_load(value: Any) -> Unmaps:
    if isinstance(value, Unmaps):
        return value
    if not isinstance(value, Mapping):
        raise ValueError
    try:
        return Unmaps(**named(value, "neighbour.workload"))
    except InvalidInput as error:
        raise InvalidInput(moved(error.problems, Unmaps.where, "neighbour.workload")) from None


@settings
class Neighbour(Settings):
    """Guests beside those that are measured.

    Attributes:
        guests: how many: the last ones of the scenario's. They go on until the others are through: beside operations
            that take long, a neighbour that does not think has very many.
        workload: what every vCPU of theirs does, but for `ops`, which does not count.
    """

    where: ClassVar[str] = "neighbour"
    guests: int = setting(whole(0, 1023), default=0)
    workload: Unmaps = setting(Kind("a lab.unmaps(...) or a table of its fields", _read_load), default=Unmaps())
