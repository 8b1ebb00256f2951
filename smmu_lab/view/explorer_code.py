"""What is on screen, as Python and as TOML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from keyword import iskeyword
from pprint import pformat
from typing import Any

import attrs

from smmu_lab.scenario import Approach, Recorded, Scenario, Unmaps, approaches
from smmu_lab.scenario.fields import Settings


def python(scenario: Scenario, rows: Iterable[Approach], preset: Mapping[str, Any]) -> str:
    """A program that makes the same scenario and the same approaches, and compares them.

    Args:
        scenario: what all of them run.
        rows: the approaches.
        preset: the table that the topology was made from, if it was.
    """
    given = changed(scenario)
    if preset:
        given["topology"] = dict(preset)
    arguments = "".join(f"    {name}={_written(value)},\n" for name, value in given.items())
    rows = tuple(rows)
    lines = "".join(f"    {_row(row)},\n" for row in rows)
    own = dict.fromkeys(_plain(row.consumer) for row in rows if callable(row.consumer))
    remarks = "".join(f"# {name}: your own function, define it above\n" for name in own)
    return (
        f"import smmu_lab as lab\n\n{remarks}"
        f"scenario = lab.Scenario({f'{chr(10)}{arguments}' if arguments else ''})\n"
        f"approaches = [\n{lines}]\n"
        "lab.compare(scenario, approaches)\n"
    )


def toml(scenario: Scenario, rows: Iterable[Approach]) -> str:
    """The scenario's file; it has no place for approaches, which stand on top as a remark."""
    named = ", ".join(_row(row) for row in rows)
    return f"# approaches: {named}\n{scenario.to_toml()}"


def changed(settings: Settings) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    return {
        field.name: settings.values()[field.name]
        for field in settings.fields()
        if field.default is attrs.NOTHING or settings.values()[field.name] != field.metadata["kind"].read(field.default)
    }


def origin(row: Approach) -> tuple[Approach, dict[str, Any]]:
    """The row of the catalogue that an approach was made from, and what is changed in it."""
    catalogue = {each.name: each for each in approaches()}
    base = catalogue.get(row.name.rstrip("*"), catalogue["qemu-today"])
    return base, {name: value for name, value in row.values().items() if value != getattr(base, name)}


def _row(row: Approach) -> str:
    base, changes = origin(row)
    if not changes:
        return repr(row.name)
    changes.pop("name", None)
    if row.name != f"{base.name}*":  # which `but` gives
        changes = {"name": row.name, **changes}
    arguments = ", ".join(f"{name}={_plain(value)}" for name, value in changes.items())
    return f"lab.approach({base.name!r}).but({arguments})"


def _plain(value: Any) -> str:
    if not callable(value):
        return repr(value)
    name = str(getattr(value, "__name__", ""))
    return name if name.isidentifier() and not iskeyword(name) else "consumer"


def _written(value: Any) -> str:
    """One argument of a scenario."""
    if isinstance(value, Unmaps):
        return f"lab.unmaps({_arguments(changed(value))})"
    if isinstance(value, Recorded):
        fields = changed(value)
        return f"lab.read_trace({fields.pop('trace')!r}).workload({_arguments(fields)})"
    if isinstance(value, Settings) and type(value).__name__ in ("Smmu", "Host", "Fault"):
        return f"lab.{type(value).__name__}({_arguments(changed(value))})"
    if isinstance(value, dict) and "preset" in value:
        table = dict(value)
        return f"lab.Topology.preset({', '.join([repr(table.pop('preset')), *_pairs(table)])})"
    if hasattr(value, "profile"):
        fields = value.to_dict()
        base = f"lab.costs({fields.pop('base')!r})"
        return f"{base}.but({_arguments(fields)})" if fields else base
    return pformat(_nested(value), width=112, sort_dicts=False).replace("\n", "\n    ")


def _nested(value: Any) -> Any:
    """Settings as the tables that a scenario reads, too."""
    if isinstance(value, Settings):
        return {name: _nested(each) for name, each in changed(value).items() if each is not None}
    return [_nested(each) for each in value] if isinstance(value, list | tuple) else value


def _arguments(fields: Mapping[str, Any]) -> str:
    return ", ".join(_pairs(fields))


def _pairs(fields: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value!r}" for name, value in fields.items()]
