"""The recorded guests that come with the package: what they are, without reading them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import attrs

from smmu_lab.sheet import Sheet

FOLDER = Path(__file__).parents[1] / "data" / "traces"


@attrs.frozen
class BundledTrace:
    """What a recorded guest is.

    Attributes:
        device: emulated device behind the SMMU.
        workload: what ran in the guest.
        mode: ``strict`` (invalidation at every unmap) or ``lazy`` (flush queue).
        ril: the SMMU offered range invalidation.
        kernel: Linux of the guest.
        doorbells: doorbells between the marks of the workload.
        commands: commands between these marks.
    """

    name: str
    device: str
    workload: str
    vcpus: int
    mode: str
    ril: bool
    kernel: str
    doorbells: int
    commands: int

    def __str__(self) -> str:
        ril = "" if self.ril else ", no range invalidation"
        return f"{self.workload} on {self.device}, {self.vcpus} vCPUs, {self.mode}{ril}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of this trace in the table, as text."""
        ril = "yes" if self.ril else "no"
        vcpus, commands = str(self.vcpus), f"{self.commands:,}"
        return self.name, self.device, self.workload, vcpus, self.mode, ril, self.kernel, commands


@attrs.frozen(repr=False)
class BundledTraces(Mapping[str, BundledTrace]):
    """The bundled recorded guests by name; prints as a table."""

    table: Mapping[str, BundledTrace]

    def __getitem__(self, name: str) -> BundledTrace:
        return self.table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def sheet(self) -> Sheet:
        """One row per trace."""
        head = "name", "device", "workload", "vCPUs", "mode", "RIL", "Linux", "commands"
        return Sheet(head, [each.cells for each in self.values()], left=head[:3] + head[4:7])

    def __repr__(self) -> str:
        return repr(self.sheet())

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()


@cache
def traces() -> BundledTraces:
    """The bundled recorded guests.

    >>> print(traces()["nvme_dd_r4k_j4_strict_61"])
    4 x dd, read 4 KiB on NVMe, 4 vCPUs, strict
    """
    rows = tomllib.loads((FOLDER / "index.toml").read_text())["trace"]
    return BundledTraces({row["name"]: BundledTrace(**row) for row in rows})
