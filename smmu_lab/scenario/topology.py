"""Where the devices are: which vSMMU of a guest each is behind, which physical SMMU, and in which domain.

Sources: K. Tian and J. Gunthorpe, 24 March 2023 (ZB23WJu2BEH0yC/y@nvidia.com): a VCMDQ belongs to one SMMU, so a guest
needs a vSMMU for each physical SMMU, and one for emulated devices. S. Kolothum, QEMU RFC v3 of 14 July 2025
(20250714155941.22176-1-shameerali.kolothum.thodi@huawei.com): one ``arm-smmuv3`` per PCIe root complex, emulated
devices refused behind ``accel=on``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

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
    one_of,
    only,
    setting,
    settings,
    unknown,
    whole,
)

MOST_SMMUS = 64
OWN = re.compile(r"(vcpu|smmu)\d+|vmm")
"""Names of a guest's parts that the lab itself gives."""

NAME = Kind(
    "a name of 1 to 40 letters, without dots and control characters",
    only(lambda v: type(v) is str and 0 < len(v) <= 40 and v.isprintable() and "." not in v),
)
STREAM = Kind(
    "a StreamID, an integer from 0 to 65535 (QEMU's vSMMU has 16 bits)",
    only(lambda v: v is None or (type(v) is int and 0 <= v < 1 << 16)),
)

RULES = {
    "emulated-behind-accel": "the commands of an accelerated vSMMU may be consumed outside of the VMM, which would not "
    "hear of what it must invalidate for an emulated device; valid: a vSMMU of its own with accel = false",
    "stream-id": "it translates nothing without a StreamID; valid: a vsid",
    "duplicate-stream-id": "a StreamID names one device of a vSMMU; valid: another vsid",
    "duplicate-name": "two things of a guest have one name, which may be the lab's own (vcpu0, smmu0, vmm); valid: "
    "another name",
    "no-such-smmu": "there is no such physical SMMU; valid: a number below topology.smmus",
    "ats": "only a passthrough device caches translations that the SMMU must invalidate; valid: ats = false",
    "one-smmu-per-vcmdq": "a VCMDQ belongs to one physical SMMU and reaches no other; valid: a vSMMU for each",
    "vmm-reads-all": "all commands of a vSMMU with accel = false come to the VMM; valid: an approach whose VMM decodes "
    "each command, or for emulated devices a vSMMU of their own, and accel = true for the others",
    "no-guest": "on bare metal nobody emulates a device; valid: vCPUs that drive domains of passthrough devices only",
    "one-viommu-per-domain": "Linux attaches a domain of virtio-iommu to one virtio-iommu device "
    "(viommu_attach_dev); valid: devices behind one of them",
    "one-smmu-per-error": "nobody has said what CONS and the error are where several SMMUs run a command and one of "
    "them fails; valid: unsupported other than 'error', or a vSMMU for each",
    "vintfs": "every vSMMU with VCMDQs takes a VINTF of its SMMU, and the host keeps one; valid: fewer guests, or more "
    "smmu.vintfs",
    "vcmdqs": "the VINTFs of an SMMU share its VCMDQs, each with as many, and the host keeps its part; valid: fewer, "
    "or more smmu.vcmdqs",
    "sids": "a VINTF has so many SID_MATCH registers; valid: fewer devices behind the vSMMU, or more smmu.sids",
}
"""Why a layout cannot be, or not under an approach, by the name of the rule."""


def breaks(where: str, edge: tuple[str, str], rule: str) -> str:
    """The line for an edge that a rule forbids."""
    return f"{where}: {edge[0]} -> {edge[1]} breaks the rule {rule!r}: {RULES[rule]}"


@settings
class Device(Settings):
    """A PCI device of a guest.

    Attributes:
        kind: ``passthrough`` (VFIO, behind a physical SMMU), ``emulated`` (the VMM is the device) or ``bridge``.
        name: unless given, ``dev`` and its number behind its vSMMU.
        smmu: number of the physical SMMU that a passthrough device is behind.
        vsid: the StreamID that the guest knows it by. The physical one follows from its place.
        ats: its ATC is in use: an unmap invalidates that as well.
        domain: name of the guest's domain that it is attached to; devices of one domain share an ASID and page tables.
    """

    kind: str = setting(one_of("passthrough", "emulated", "bridge"), default="passthrough")
    name: str | None = setting(Kind(NAME.valid, lambda v: v if v is None else NAME.read(v)), default=None)
    smmu: int = setting(whole(0, MOST_SMMUS - 1), default=0)
    vsid: int | None = setting(STREAM, default=None)
    ats: bool = setting(FLAG, default=False)
    domain: str = setting(NAME, default="d0")

    def conflicts(self) -> Iterator[str]:
        """Only a passthrough device is behind a physical SMMU."""
        if self.smmu and self.kind != "passthrough":
            yield invalid("smmu", self.smmu, "none: only a passthrough device is behind a physical SMMU")


@settings
class Vsmmu(Settings):
    """A virtual SMMU of a guest, with the PCIe root complex and the devices behind it.

    It spans the physical SMMUs of its passthrough devices.

    Attributes:
        name: unless given, ``vsmmu`` and its number in the guest.
        accel: whoever the approach says may consume its queue. Without, the VMM decodes every command, and hands over
            what is for passthrough devices. (In QEMU it is what makes stage 1 nested, too.)
        devices: what is behind its root complex.
    """

    name: str | None = setting(Kind(NAME.valid, lambda v: v if v is None else NAME.read(v)), default=None)
    accel: bool = setting(FLAG, default=True)
    devices: Sequence[Device] = setting(many("devices", Device, 4096), default=())

    @cached_property
    def smmus(self) -> tuple[int, ...]:
        """Numbers of the physical SMMUs that it spans, ascending; none if all of its devices are emulated."""
        return tuple(sorted({each.smmu for each in self.devices if each.kind == "passthrough"}))

    @property
    def emulates(self) -> tuple[int, ...]:
        """Numbers of its emulated devices."""
        return tuple(k for k, each in enumerate(self.devices) if each.kind == "emulated")


class Reach(NamedTuple):
    """What the invalidation of one domain by one vSMMU, or on bare metal by one SMMU, is about.

    Attributes:
        instance: number of the vSMMU in its guest; on bare metal of the SMMU.
        smmus: numbers of the physical SMMUs with passthrough devices of the domain, ascending.
        ats: how many of these devices have ATS, for each SMMU that the *instance* spans, in its order.
    """

    instance: int
    smmus: tuple[int, ...]
    ats: tuple[int, ...]


@settings
class Layout(Settings):
    """What one guest sees.

    Attributes:
        vsmmus: its vSMMUs, in the order in which its driver goes through them.
        drives: names of the domains that its vCPUs work on: vCPU v on number v modulo their number; none is all.
    """

    vsmmus: Sequence[Vsmmu] = setting(many("vsmmus", Vsmmu, 256), default=(Vsmmu(devices=(Device(vsid=8),)),))
    drives: Sequence[str] = setting(
        Kind(
            "a list of names of domains, at most 1,024",
            lambda v: tuple(map(NAME.read, v)) if isinstance(v, list | tuple) and len(v) <= 1024 else NAME.read(0),
        ),
        default=(),
    )

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names of its domains, in the order of their first devices; the number of each is its ASID less one."""
        found = (each.domain for vsmmu in self.vsmmus for each in vsmmu.devices if each.kind != "bridge")
        return tuple(dict.fromkeys(found))

    @property
    def driven(self) -> tuple[str, ...]:
        """Names of the domains that its vCPUs work on, in turn."""
        return tuple(self.drives) or self.domains

    def named(self) -> Iterator[tuple[str, Vsmmu, tuple[str, ...]]]:
        """Each vSMMU with its name and those of its devices."""
        for number, vsmmu in enumerate(self.vsmmus):
            devices = tuple(each.name or f"dev{k}" for k, each in enumerate(vsmmu.devices))
            yield vsmmu.name or f"vsmmu{number}", vsmmu, devices

    def reaches(self, domain: str, on_metal: bool = False) -> tuple[Reach, ...]:
        """What an unmap of a domain invalidates, one after the other: instance by instance.

        Args:
            domain: its name.
            on_metal: there is no guest, and each SMMU is an instance of its own.
        """
        return self._reached[on_metal][domain]

    @cached_property
    def _reached(self) -> tuple[dict[str, tuple[Reach, ...]], dict[str, tuple[Reach, ...]]]:
        """The reaches of all domains, as a guest has them and on bare metal."""
        of_guest: dict[str, list[Reach]] = {domain: [] for domain in self.domains}
        on_metal: dict[str, Counter[int]] = {domain: Counter() for domain in self.domains}
        for number, vsmmu in enumerate(self.vsmmus):
            behind: dict[str, Counter[int]] = {}  # devices with ATS behind each SMMU, by domain
            for each in vsmmu.devices:
                if each.kind == "bridge":
                    continue
                ats = behind.setdefault(each.domain, Counter())
                if each.kind == "passthrough":
                    ats[each.smmu] += each.ats
                    on_metal[each.domain][each.smmu] += each.ats
            for domain, ats in behind.items():
                of_guest[domain].append(Reach(number, tuple(sorted(ats)), tuple(ats[k] for k in vsmmu.smmus)))
        return (
            {domain: tuple(found) for domain, found in of_guest.items()},
            {
                domain: tuple(Reach(smmu, (smmu,), (found[smmu],)) for smmu in sorted(found))
                for domain, found in on_metal.items()
            },
        )

    @property
    def emulated(self) -> tuple[str, ...]:
        """Names of driven domains with emulated devices."""
        found = {each.domain for vsmmu in self.vsmmus for each in vsmmu.devices if each.kind == "emulated"}
        return tuple(domain for domain in dict.fromkeys(self.driven) if domain in found)

    def problems(self, where: str, smmus: int) -> Iterator[str]:
        """The edges that some rule forbids, whatever the approach."""
        names: Counter[str] = Counter(self.domains)
        for number, (name, vsmmu, devices) in enumerate(self.named()):
            names[name] += 1
            stream: dict[int, str] = {}
            own: Counter[str] = Counter()
            for k, (device, each) in enumerate(zip(devices, vsmmu.devices, strict=True)):
                here, edge = f"{where}.vsmmus[{number}].devices[{k}]", (name, device)
                own[device] += 1
                if own[device] == 2:
                    yield breaks(here, edge, "duplicate-name")
                if each.kind == "emulated" and vsmmu.accel:
                    yield breaks(here, edge, "emulated-behind-accel")
                if each.smmu >= smmus:
                    yield breaks(here, (f"smmu{each.smmu}", device), "no-such-smmu")
                if each.kind != "passthrough" and each.ats:
                    yield breaks(here, edge, "ats")
                if each.vsid is None:
                    if each.kind != "bridge":
                        yield breaks(here, edge, "stream-id")
                elif each.vsid in stream:
                    yield breaks(
                        here, (f"{name} vsid {each.vsid:#x}", f"{stream[each.vsid]}, {device}"), "duplicate-stream-id"
                    )
                else:
                    stream[each.vsid] = device
        for name, number in names.items():
            if number > 1 or OWN.fullmatch(name):
                yield breaks(where, ("guest", name), "duplicate-name")
        for strange in self.drives:
            if strange not in self.domains:
                yield unknown(f"{where}.drives", strange, self.domains or ("no domain",))
        if not self.domains:
            yield f"{where}: no device translates: at least one passthrough or emulated device"

    def spans(self) -> tuple[str, ...]:
        """The domains that span several vSMMUs."""
        return tuple(name for name in self.domains if len(self.reaches(name)) > 1)


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
