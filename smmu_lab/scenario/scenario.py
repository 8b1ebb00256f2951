"""One scenario: everything about a run but the approach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Self

import tomli_w

from smmu_lab.scenario.approach import Approach
from smmu_lab.scenario.costs import COSTS, Costs, read_toml
from smmu_lab.scenario.fault import Fault
from smmu_lab.scenario.fields import (
    NATURAL,
    InvalidInput,
    Kind,
    Settings,
    invalid,
    named,
    nested,
    setting,
    settings,
    whole,
)
from smmu_lab.scenario.layout import Device, Layout, Reach, Vsmmu
from smmu_lab.scenario.machine import Host, Smmu
from smmu_lab.scenario.neighbour import Neighbour
from smmu_lab.scenario.placement import misplaced, unwired
from smmu_lab.scenario.topology import TOPOLOGY, Topology
from smmu_lab.scenario.workload import Batch, Operation, Recorded, Unmaps, on_each, unmap_batches

WORKLOADS: dict[str, type[Unmaps | Recorded]] = {"unmaps": Unmaps, "recorded": Recorded}


def _read_workload(value: Any) -> Unmaps | Recorded:
    if isinstance(value, Unmaps | Recorded):
        return value
    if not isinstance(value, Mapping):
        raise ValueError
    fields = dict(value)
    kind = fields.pop("kind", "unmaps")
    if type(kind) is not str or kind not in WORKLOADS:
        raise InvalidInput([invalid("workload.kind", kind, "one of " + ", ".join(WORKLOADS))])
    return WORKLOADS[kind](**named(fields, "workload"))


WORKLOAD = Kind("lab.unmaps(...), a trace's workload(), or a table with kind and fields", _read_workload)


@cache
def plain(ats_devices: int) -> Layout:
    """One vSMMU over one SMMU, and one domain."""
    devices = [Device(vsid=8 * k, ats=bool(ats_devices)) for k in range(1, max(1, ats_devices) + 1)]
    return Layout(vsmmus=[Vsmmu(devices=devices)])


@settings
class Scenario(Settings):
    """What is simulated, whichever approach serves it.

    Attributes:
        workload: what every vCPU of every guest does.
        smmu: the virtual and the physical SMMU.
        host: the machine below the guests.
        guests: virtual machines; all do the same, but for neighbours.
        vcpus: vCPUs of each guest. A recorded guest brings its own number.
        costs: what each step costs.
        fault: what goes wrong, if anything.
        topology: the physical SMMUs, and which devices the guests have behind which vSMMU: a `Topology`, or the name of
            a preset.
        neighbour: guests that are not measured.
        seed: of every random stream. Streams are named by guest, vCPU and purpose, and do not depend on the approach.

    Raises:
        InvalidInput: all problems at once, each with its dotted path and what is valid.

    >>> from smmu_lab.scenario.workload import Unmaps
    >>> s = Scenario(workload=Unmaps(pages=16), smmu=Smmu(ril=False), vcpus=4)
    >>> s.but({"workload.pages": 64}).workload.pages
    64
    >>> Scenario.from_dict(s.to_dict()) == s
    True
    """

    workload: Unmaps | Recorded = setting(WORKLOAD, default=Unmaps())
    smmu: Smmu = setting(nested(Smmu), default=Smmu())
    host: Host = setting(nested(Host), default=Host())
    guests: int = setting(whole(1, 1024), default=1)
    vcpus: int = setting(whole(1, 1024), default=1)
    costs: Costs = setting(COSTS, default="grace")
    fault: Fault = setting(nested(Fault), default=Fault())
    topology: Topology = setting(TOPOLOGY, default=Topology())
    neighbour: Neighbour = setting(nested(Neighbour), default=Neighbour())
    seed: int = setting(NATURAL, default=1)

    def __init__(self, /, **given: Any) -> None:
        workload = given.get("workload")
        if isinstance(workload, Recorded | Mapping):
            with suppress(ValueError):  # reported below, with everything else
                given["workload"] = workload = _read_workload(workload)
        if isinstance(workload, Recorded):
            given.setdefault("vcpus", workload.vcpus)
            given.setdefault("smmu", Smmu(ril=workload.ril))
        super().__init__(**given)

    def but(self, changes: Mapping[str, Any] | None = None, /, **more: Any) -> Self:
        """The same scenario with some fields changed; a recorded guest brings what it was recorded with.

        See `Settings.but`.
        """
        changed = {**(changes or {}), **more}
        if isinstance(workload := changed.get("workload"), Recorded):
            changed = {"vcpus": workload.vcpus, "smmu.ril": workload.ril} | changed
        return super().but(changed)

    def conflicts(self) -> Iterator[str]:
        """A recorded guest has the vCPUs, the SMMU and, for its recorded doorbells, the queue it was recorded with.

        A fault strikes an operation that there is.
        """
        load = self.workload
        if self.fault:
            yield from self._misses()
        yield from misplaced(self)
        if not isinstance(load, Recorded):
            return
        if self.vcpus != load.vcpus:
            yield invalid("vcpus", self.vcpus, f"{load.vcpus}, as in the {load}")
        if self.smmu.ril != load.ril:
            yield invalid("smmu.ril", self.smmu.ril, f"{load.ril}, as in the {load}")
        if load.replay == "recorded" and self.smmu.queue_log2 != (log2size := load.load().log2size):
            valid = f"{log2size}, to repeat the doorbells of the {load}"
            yield invalid("smmu.queue_log2", self.smmu.queue_log2, valid)

    def _misses(self) -> Iterator[str]:
        """Why the fault strikes nothing."""
        fault, load = self.fault, self.workload
        kind = f"fault.kind: {fault.kind!r} cannot be"
        if self.topology or self.neighbour.guests or load.stall:
            yield f"{kind} with a topology, neighbours or a stall: one vSMMU over one SMMU, and all guests alike"
        elif fault.guest >= self.guests or fault.vcpu >= self.vcpus:
            yield f"{kind}: no vCPU {fault.guest}.{fault.vcpu} in {self.guests} guests of {self.vcpus} vCPUs"
        elif isinstance(load, Unmaps) and load.lazy:
            yield f"{kind} with workload.lazy: most unmaps send no commands"
        elif isinstance(load, Recorded) and load.replay == "recorded":
            yield f"{kind} with workload.replay 'recorded': the doorbells are as they were"
        elif not fault.bad_entry and not 0 < load.ats_devices < 64:
            yield f"{kind} with workload.ats_devices {load.ats_devices}: it needs 1 to 63, all in one list"
        elif (struck := next(islice(self._unstruck(fault.guest, fault.vcpu), fault.op, None), None)) is None:
            yield invalid("fault.op", fault.op, "an operation of that vCPU; the first one is 0")
        elif not fault.bad_entry and not any(batch.atc for batch in struck.batches):
            yield f"{kind} in operation {fault.op}: it sends no ATC_INV"

    def is_neighbour(self, guest: int) -> bool:
        """A guest that is not measured."""
        return guest >= self.guests - self.neighbour.guests

    @property
    def loads(self) -> tuple[tuple[str, Unmaps | Recorded], ...]:
        """What guests do, each with its path."""
        both = ("workload", self.workload), ("neighbour.workload", self.neighbour.workload)
        return both if self.neighbour.guests else both[:1]

    def load(self, guest: int) -> Unmaps | Recorded:
        """What a guest does."""
        return self.neighbour.workload if self.is_neighbour(guest) else self.workload

    def layout(self, guest: int) -> Layout:
        """What a guest sees; without a topology one vSMMU, with the devices that its workload speaks of."""
        return self.topology.layout(guest) if self.topology else plain(self.load(guest).ats_devices)

    def reaches(self, guest: int, vcpu: int, on_metal: bool = False) -> tuple[Reach, ...]:
        """Which vSMMUs the domain that a vCPU works on is behind, in the order in which it invalidates them."""
        layout = self.layout(guest)
        driven = layout.driven
        return layout.reaches(driven[vcpu % len(driven)], on_metal)

    def batches(self, guest: int, vcpu: int, pages: int) -> tuple[Batch, ...]:
        """What the host itself sends when it unmaps so much for a vCPU: under virtio-iommu."""
        load, ril = self.load(guest), self.smmu.ril
        granule = load.granule if isinstance(load, Unmaps) else 4096
        on_metal = self.reaches(guest, vcpu, on_metal=True)
        return on_each(on_metal, lambda ats: unmap_batches(pages, granule, ril, ats), load.stall)

    def _unstruck(self, guest: int, vcpu: int, on_metal: bool = False) -> Iterable[Operation]:
        return self.load(guest).operations(vcpu, self.smmu.ril, self.reaches(guest, vcpu, on_metal))

    def operations(self, guest: int, vcpu: int, on_metal: bool = False) -> Iterable[Operation]:
        """All operations of one vCPU, the one that the fault strikes as it then is.

        Args:
            guest: whose.
            vcpu: number of the vCPU.
            on_metal: there is no guest, and each SMMU is an instance of its own.
        """
        operations = self._unstruck(guest, vcpu, on_metal)
        fault = self.fault
        if not fault or (guest, vcpu) != (fault.guest, fault.vcpu):
            return operations
        return (
            each._replace(batches=fault.strike(each.batches, self.costs)) if number == fault.op else each
            for number, each in enumerate(operations)
        )

    def refuses(self, row: Approach) -> tuple[str, ...]:
        """Why this scenario cannot run under an approach, one line each; nothing if it can."""
        load, problems = self.workload, []
        if self.smmu.errata == "force-sync" and row.nested:
            problems.append(
                f"smmu.errata: 'force-sync' cannot be under {row.name}: the host offers no nesting "
                "(arm_vsmmu_init wants ARM_SMMU_FEAT_NESTING and no ARM_SMMU_OPT_CMDQ_FORCE_SYNC, Linux 7.2)"
            )
        if row.front == "virtio-iommu":
            for path, each in self.loads:
                if isinstance(each, Unmaps) and each.lazy:
                    problems.append(f"{path}.lazy: True cannot be under {row.name}: its requests are not deferred here")
                if isinstance(each, Unmaps) and each.cd_every:
                    problems.append(f"{path}.cd_every: {each.cd_every} cannot be under {row.name}: it has no CFGI_CD")
            if isinstance(load, Recorded) and not load.is_strict:
                problems.append(f"workload.trace: the {load} cannot be under {row.name}: it does not show its unmaps")
            if isinstance(load, Recorded) and load.replay == "recorded":
                problems.append(f"workload.replay: 'recorded' cannot be under {row.name}: it has no command queue")
        problems += unwired(self, row)
        if self.fault.kind == "unknown-sid" and not row.nested:
            problems.append(f"fault.kind: 'unknown-sid' cannot be under {row.name}: it has no virtual StreamIDs")
        overlay = row.executes_directly and row.unsupported == "stop-and-fix"
        if self.fault and overlay and (isinstance(load, Recorded) or load.cd_every):
            problems.append(
                f"fault.kind: {self.fault.kind!r} cannot be under {row.name} beside commands that it refuses"
            )
        return tuple(problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal scenario."""
        kind = next(name for name, cls in WORKLOADS.items() if isinstance(self.workload, cls))
        return {
            "seed": self.seed,
            "guests": self.guests,
            "vcpus": self.vcpus,
            "workload": {"kind": kind} | self.workload.values(),
            "smmu": self.smmu.values(),
            "host": self.host.values(),
            "fault": self.fault.values(),
            "topology": self.topology.to_dict(),
            "neighbour": {"guests": self.neighbour.guests, "workload": self.neighbour.workload.values()},
            "costs": self.costs.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build a scenario from plain data.

        Raises:
            InvalidInput: all problems at once.
        """
        return cls(**named(data, cls.where))

    def to_toml(self) -> str:
        """The scenario as TOML, times in ns."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a scenario from a TOML file.

        Raises:
            InvalidInput: the file cannot be read or is no TOML, or all problems of its fields at once.
        """
        return cls.from_dict(read_toml(path))
