"""Approaches as the browser has them: the columns to change, names with their inks, and what is no approach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any

from smmu_lab.charts.palette import identities
from smmu_lab.scenario import Approach
from smmu_lab.scenario.fields import invalid
from smmu_lab.units import show_time
from smmu_lab.view.knobs import COLUMNS, about


def misshapen(entries: Any) -> list[str]:
    """What is wrong with a list of chosen approaches, whatever they are."""
    if not isinstance(entries, list):
        return [invalid("approaches", entries, "a list of approaches")]
    return [
        invalid(f"approaches[{k}]", each, "a table of row, a name, and changes, a table or None")
        for k, each in enumerate(entries)
        if not isinstance(each, Mapping)
        or not isinstance(each.get("row"), str)
        or not isinstance(each["changes"], Mapping | NoneType)
    ]


def inked(names: list[str]) -> list[list[str]]:
    """Each name with the ink and the shape that pictures give it."""
    inks = identities(names)
    return [[name, *inks[name]] for name in names]


def columns(rows: Iterable[Approach]) -> list[dict[str, Any]]:
    """The columns of an approach that can be changed: name, what it is, and the choices with their labels."""
    made = []
    for field in Approach.fields():
        if field.name in ("name", "title"):
            continue
        found = dict.fromkeys(field.metadata["kind"].options or COLUMNS[field.name])
        found |= dict.fromkeys(plain(getattr(row, field.name)) for row in rows)
        show = show_time if field.name == "busy_poll" else str
        made.append(
            {
                "name": field.name,
                "about": about(Approach).get(field.name, ""),
                "choices": [[value, show(value) or "none"] for value in found],
            }
        )
    return made


def plain(value: Any) -> Any:
    """A choice of an approach as the browser has it."""
    return getattr(value, "__name__", type(value).__name__) if callable(value) else value
