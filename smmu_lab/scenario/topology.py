"""Where the devices are: which vSMMU of a guest each is behind, which physical SMMU, and in which domain.

Sources: K. Tian and J. Gunthorpe, 24 March 2023 (ZB23WJu2BEH0yC/y@nvidia.com): a VCMDQ belongs to one SMMU, so a guest
needs a vSMMU for each physical SMMU, and one for emulated devices. S. Kolothum, QEMU RFC v3 of 14 July 2025
(20250714155941.22176-1-shameerali.kolothum.thodi@huawei.com): one ``arm-smmuv3`` per PCIe root complex, emulated
devices refused behind ``accel=on``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import tomli_w

from smmu_lab.scenario.costs import read_toml
from smmu_lab.scenario.fields import (
    FLAG,
    InvalidInput,
    Kind,
    Settings,
    invalid,
    many,
    named,
    setting,
    settings,
    unknown,
    whole,
)
from smmu_lab.scenario.layout import MOST_SMMUS, NAME, Device, Layout, Vsmmu


@settings
class Topology(Settings):
    """The physical SMMUs, and what the guests see of them.

    Without layouts it is the plain case: one SMMU, one vSMMU for each guest, and the devices that the workload speaks
    of. See `Topology.preset` for others. All physical SMMUs are alike: see `Smmu`.

    Attributes:
        name: for people.
        smmus: number of physical SMMUs.
        layouts: what guests see: guest g has number g modulo their number.

    Raises:
        InvalidInput: all problems at once; an edge that a rule forbids is named with the rule.

    >>> Topology(layouts=[{"vsmmus": [{"devices": [{"kind": "emulated", "name": "net0", "vsid": 8}]}]}])
    Traceback (most recent call last):
    smmu_lab.scenario.fields.InvalidInput: topology.layouts[0].vsmmus[0].devices[0]: vsmmu0 -> net0 breaks the rule ...
    """

    where: ClassVar[str] = "topology"
    name: str = setting(NAME, default="plain")
    smmus: int = setting(whole(1, MOST_SMMUS), default=1)
    layouts: Sequence[Layout] = setting(many("topology.layouts", Layout, 1024), default=())

    def __bool__(self) -> bool:
        return bool(self.layouts)

    def conflicts(self) -> Iterator[str]:
        """Every device is where it can be."""
        if not self.layouts and self.smmus != 1:
            yield invalid(
                "topology.smmus", self.smmus, "1 without layouts that say which devices are behind the others"
            )
        for number, layout in enumerate(self.layouts):
            yield from layout.problems(f"topology.layouts[{number}]", self.smmus)

    def layout(self, guest: int) -> Layout:
        """What a guest sees."""
        return self.layouts[guest % len(self.layouts)]

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        smmus: int | None = None,
        devices: int = 1,
        ats: bool = False,
        shared: bool = False,
        drives: Sequence[str] = (),
    ) -> Self:
        """A layout of the thread of March 2023.

        Args:
            name: ``one-smmu``; ``broadcast`` (one vSMMU over all physical SMMUs); ``per-smmu`` (a vSMMU for each, plus
                one for emulated devices); ``mixed`` (one vSMMU over all SMMUs and an emulated device: what one would
                build who has heard nothing of the thread); ``grace-8-smmu`` (``per-smmu`` with eight).
            smmus: how many physical SMMUs, where the name leaves it open; 2 unless given.
            devices: passthrough devices behind each SMMU.
            ats: they have ATS.
            shared: all passthrough devices are in one domain, ``d0``; else those behind each SMMU in one of their own,
                ``d0``, ``d1``, ... The emulated device is in ``emulated``.
            drives: as in `Layout`; by default the domains of passthrough devices.

        Raises:
            InvalidInput: there is no such preset, or a number is not valid.

        >>> [len(layout.vsmmus) for layout in Topology.preset("grace-8-smmu").layouts]
        [9]
        """
        fixed = {"one-smmu": 1, "grace-8-smmu": 8}
        if type(name) is not str or name not in PRESETS:
            raise InvalidInput([unknown(f"topology.preset {name!r}", str(name), PRESETS)])
        count = fixed.get(name, 2) if smmus is None else smmus
        problems = []
        if type(count) is not int or not 1 <= count <= MOST_SMMUS:
            problems.append(invalid("topology.smmus", count, f"an integer from 1 to {MOST_SMMUS}"))
        elif name in fixed and count != fixed[name]:
            problems.append(invalid("topology.smmus", count, f"{fixed[name]}, as the preset {name!r} has"))
        if type(devices) is not int or not 1 <= devices <= 64:
            problems.append(invalid("topology.devices", devices, "an integer from 1 to 64"))
        for flag, value in (("ats", ats), ("shared", shared)):
            if type(value) is not bool:
                problems.append(invalid(f"topology.{flag}", value, FLAG.valid))
        if not isinstance(drives, list | tuple):
            problems.append(invalid("topology.drives", drives, "a list of names of domains"))
        if problems:
            raise InvalidInput(problems)
        real = [
            [
                Device(
                    smmu=smmu,
                    vsid=512 * (smmu + 1) + 8 * k,
                    ats=ats,
                    domain="d0" if shared else f"d{smmu}",
                    name=f"vf{smmu}-{k}" if devices > 1 else f"vf{smmu}",
                )
                for k in range(devices)
            ]
            for smmu in range(count)
        ]
        emulated = Device(kind="emulated", name="virtio0", vsid=8, domain="emulated")
        everywhere = [each for some in real for each in some]
        vsmmus = {
            "one-smmu": lambda: [Vsmmu(devices=everywhere)],
            "broadcast": lambda: [Vsmmu(devices=everywhere)],
            "mixed": lambda: [Vsmmu(accel=False, devices=[*everywhere, emulated])],
        }.get(name, lambda: [*(Vsmmu(devices=some) for some in real), Vsmmu(accel=False, devices=[emulated])])()
        passthrough = dict.fromkeys(each.domain for each in everywhere)
        return cls(name=name, smmus=count, layouts=[Layout(vsmmus=vsmmus, drives=drives or list(passthrough))])

    @classmethod
    def from_toml(cls, path: str | Path) -> Topology:
        """Read a topology from a TOML file: its fields, or a ``preset`` with what `preset` takes.

        They may stand in a table ``topology``, as in a scenario's file.

        Raises:
            InvalidInput: the file cannot be read or is no TOML, or all problems of its fields at once.
        """
        data = read_toml(path)
        return read_topology(data["topology"] if [*data] == ["topology"] else data)

    def to_toml(self) -> str:
        """The topology as TOML."""
        return tomli_w.dumps(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data that a topology can be built from again; what was not given is left out."""

        def plain(value: Any) -> Any:
            if isinstance(value, Settings):
                return {name: plain(each) for name, each in value.values().items() if each is not None}
            return [plain(each) for each in value] if isinstance(value, tuple) else value

        return dict(plain(self))


PRESETS = {
    "one-smmu": "one SMMU, one vSMMU",
    "broadcast": "one vSMMU over all physical SMMUs: every TLBI goes to each",
    "per-smmu": "a vSMMU for each physical SMMU, plus one for emulated devices",
    "mixed": "one vSMMU over all physical SMMUs and for emulated devices, too",
    "grace-8-smmu": "eight SMMUs, a vSMMU for each, plus one for emulated devices",
}
"""The presets, each in a few words."""

_PRESET = ("preset", "smmus", "devices", "ats", "shared", "drives")


def read_topology(value: Any) -> Topology:
    """Read what a scenario may hold as topology: a `Topology`, a preset's name, or a table."""
    if isinstance(value, Topology):
        return value
    if type(value) is str:
        return Topology.preset(value)
    if not isinstance(value, Mapping):
        raise ValueError
    fields = dict(named(value, "topology"))
    if "preset" not in fields:
        return Topology(**fields)
    if strange := [name for name in fields if name not in _PRESET]:
        raise InvalidInput(unknown(f"topology.{name}", name, _PRESET) for name in strange)
    return Topology.preset(fields.pop("preset"), **fields)


TOPOLOGY = Kind(
    f"a Topology, the name of a preset ({', '.join(PRESETS)}), or a table of a preset or of its fields", read_topology
)
