"""What one guest sees: its vSMMUs and the devices behind them, and the rules that say where a device can be."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from smmu_lab.scenario.fields import (
    FLAG,
    Kind,
    Settings,
    invalid,
    many,
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
GIVEN_NAME = Kind(NAME.valid, lambda v: v if v is None else NAME.read(v))
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
    name: str | None = setting(GIVEN_NAME, default=None)
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

    name: str | None = setting(GIVEN_NAME, default=None)
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
