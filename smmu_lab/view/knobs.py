"""What the explorer's controls set: a table of the fields worth turning, named by their dotted paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from inspect import getdoc
from typing import Any

import attrs

from smmu_lab.scenario import (
    Cost,
    Costs,
    Host,
    InvalidInput,
    Recorded,
    Scenario,
    Smmu,
    Unmaps,
    approaches,
    costs,
    traces,
)
from smmu_lab.scenario.costs import PROFILES
from smmu_lab.scenario.fields import Settings, invalid, named
from smmu_lab.scenario.topology import PRESETS, read_topology
from smmu_lab.units import nanoseconds, show_size, show_time

PAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 511, 512, 1024)
"""Unmaps worth a look: powers of two, and both sides of the driver's 512-page rule."""
STEPS = 40
"""Places on the slider of a cost."""


def _number(value: int) -> str:
    return f"{value:,}"


def _times(*texts: str) -> tuple[int, ...]:
    return tuple(map(nanoseconds, texts))


@attrs.frozen
class Knob:
    """One control.

    Attributes:
        path: of the field.
        label: its name for people.
        choices: values worth a look; all there are, if the field has few.
        show: how a value reads.
        about: what it is.
        note: in small print beside it.
    """

    path: str
    label: str
    choices: tuple[Any, ...] = attrs.field(default=attrs.Factory(lambda self: options(self.path), takes_self=True))
    show: Callable[[Any], str] = lambda value: f"{value:,}" if type(value) is int else str(value)
    about: str = attrs.field(default=attrs.Factory(lambda self: told(self.path), takes_self=True))
    note: str = ""

    @property
    def kind(self) -> str:
        """The control that fits: ``flag``, a slider over ``steps``, or a ``choice``."""
        if set(self.choices) == {False, True}:
            return "flag"
        return "steps" if type(self.choices[0]) is int and len(self.choices) > 3 else "choice"

    def described(self, more: Collection[Any]) -> dict[str, Any]:
        """Plain data for the browser; `more` are values besides, which somebody has set."""
        values = [*self.choices, *(value for value in more if value not in self.choices)]
        if self.kind == "steps":
            values.sort()
        plain = {"path": self.path, "label": self.label, "kind": self.kind, "about": self.about, "note": self.note}
        return plain | {"choices": [[value, self.show(value)] for value in values]}


def options(path: str) -> tuple[Any, ...]:
    """All values of a field, where they are few.

    >>> options("workload.spread")
    ('exponential', 'constant')
    """
    place, _, name = path.rpartition(".")
    return next((field.metadata["kind"].options for field in PLACES[place].fields() if field.name == name), ())


def told(path: str) -> str:
    """What the documentation says of a field, in one line."""
    place, _, name = path.rpartition(".")
    cls: Any = PLACES[place]
    return about(cls).get(name, "")


@cache
def about(cls: Any) -> Mapping[str, str]:
    """What the docstring of settings says of each, in one line."""
    _, _, attributes = (getdoc(cls) or "").partition("Attributes:\n")
    lines = re.findall(r"^    (\w+): (.+(?:\n        .+)*)", attributes, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", words).replace("`", "") for name, words in lines}


PLACES: Mapping[str, type[Settings]] = {"": Scenario, "workload": Unmaps, "smmu": Smmu, "host": Host}

THINK = _times("0", "1us", "2us", "5us", "10us", "20us", "50us", "100us", "1ms")
WORKLOAD = (
    Knob(
        "workload.trace",
        "Guest",
        ("", *traces()),
        lambda name: name or "synthetic: unmaps",
        about="; ".join(f"{name}: {trace}" for name, trace in traces().items()),
    ),
    Knob("guests", "Guests", (1, 2, 3, 4, 6, 8, 16)),
    Knob(
        "workload.ops",
        "Unmaps per vCPU",
        (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000),
        lambda ops: f"{ops:,}" if ops else "all",
    ),
    Knob(
        "workload.rate",
        "Open loop",
        (0, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000),
        lambda rate: f"{rate:,} unmaps/s" if rate else "no",
    ),
    Knob("workload.maps", "Maps before each unmap", (0, 1, 2, 4, 8)),
    Knob("workload.cd_every", "CFGI_CD", (0, 1, 10, 100, 1000), lambda n: f"every {n:,} unmaps" if n else "never"),
    Knob("workload.ats_devices", "Devices with ATS", (0, 1, 2, 4, 8, 16)),
    Knob("workload.stall", "A device late by", _times("0", "1us", "10us", "100us", "1ms"), show_time),
    Knob("workload.granule", "Page size", show=show_size),
    Knob("workload.spread", "Think times are"),
    Knob("seed", "Seed", tuple(range(1, 21))),
    Knob("workload.lazy", "Flush queue (lazy)"),
)
MACHINE = (
    Knob(
        "topology.preset",
        "Topology",
        ("", *PRESETS),
        lambda name: name or "as the scenario says",
        about="; ".join(f"{name}: {words}" for name, words in PRESETS.items()),
    ),
    Knob("topology.smmus", "Physical SMMUs", (1, 2, 3, 4, 6, 8, 12, 16), about="how many the machine has"),
    Knob("topology.devices", "Devices behind each", (1, 2, 4, 8), about="passthrough devices behind each SMMU"),
    Knob("host.worker_cpus", "CPUs for kernel workers", (1, 2, 3, 4, 6, 8, 16)),
    Knob("host.placement", "Kernel workers run on"),
    Knob("smmu.errata", "Errata of the SMMU"),
    Knob("smmu.queue_log2", "Guest queue, log2", tuple(range(7, 20))),
    Knob("smmu.host_queue_log2", "Host queue, log2", tuple(range(7, 20))),
    Knob("smmu.vintfs", "VINTFs of an SMMU", (2, 3, 4, 8, 16, 32, 64)),
    Knob("smmu.vcmdqs", "VCMDQs of an SMMU", (2, 4, 8, 16, 32, 64, 128)),
    Knob("smmu.sids", "StreamIDs of a VINTF", (1, 2, 4, 8, 16, 32)),
    Knob("topology.ats", "Devices have ATS", (False, True), about="the passthrough devices have ATS"),
    Knob("topology.shared", "Devices in one domain", (False, True), about="all passthrough devices share a domain"),
)
COLUMNS: Mapping[str, tuple[Any, ...]] = {
    "vcmdqs": (0, 1, 2, 4, 8, 16, 32, 64, 128),
    "busy_poll": _times("0", "1us", "5us", "20us", "50us", "100us"),
    "weight": (0, 16, 64, 256, 1024),
    "host_group": (0, 1, 16, 63, 255),
    "fallback": ("", *(row.name for row in approaches() if row.queues == "cmdq" and not row.executes_directly)),
}
"""Values worth a look of those columns of an approach that take more than a few."""


def knobs(base: Scenario, now: Scenario) -> dict[str, tuple[Knob, ...]]:
    """Every control by group; those without a name are always in sight.

    Args:
        base: where the explorer started.
        now: what is on screen: cost profile and page size decide on what some controls offer.
    """
    granule = now.workload.granule if isinstance(now.workload, Unmaps) else 4096
    titles = profiles(base.costs)
    everyday = (
        Knob("workload.pages", "Pages per unmap", PAGES, lambda pages: f"{pages:,} ({show_size(pages * granule)})"),
        Knob("vcpus", "vCPUs", (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)),
        Knob("workload.think", "Think time", THINK, show_time),
        Knob(
            "costs",
            "Cost profile",
            tuple(titles),
            about="; ".join(f"{name}: {title}" for name, title in titles.items()),
        ),
        Knob("smmu.ril", "Range invalidation (RIL)"),
    )
    profile = base.costs if now.costs.profile == base.costs.profile else costs(now.costs.profile)
    table = tuple(
        Knob(
            f"costs.{name}",
            name,
            grid(cost),
            show_time,
            f"{cost.meaning}. {cost.basis}: {cost.source}",
            f"{cost.basis}, {show_time(cost.low)} .. {show_time(cost.high)}",
        )
        for name, cost in profile.items()
    )
    return {"": everyday, "Workload": WORKLOAD, "Machine": MACHINE, "Costs": table}


def profiles(own: Costs) -> dict[str, str]:
    """The profiles to choose from, each with its title; costs that are no profile's are one more, with a ``*``."""
    titles = {name: costs(name).title for name in PROFILES}
    return titles if own == costs(own.profile) else titles | {f"{own.profile}*": f"{own.title}, with costs of yours"}


def grid(cost: Cost) -> tuple[int, ...]:
    """Places on the slider of a cost, from its low to its high: even steps, or over a wide range even ratios.

    >>> places = grid(costs("grace")["exit_kernel"])
    >>> places[0], 380 in places, places[-1]
    (290, True, 470)
    """
    low, high = max(1, cost.low), max(1, cost.high)
    wide = high > 5 * low
    even = (low * (high / low) ** (k / STEPS) if wide else low + (high - low) * k / STEPS for k in range(1, STEPS))
    between = {round(int(each), 3 - len(str(int(each)))) for each in even}
    return tuple(sorted({cost.low, cost.value, cost.high, *(each for each in between if cost.low < each < cost.high)}))


_OF_UNMAPS = {f"workload.{field.name}" for field in Unmaps.fields()} - {
    f"workload.{field.name}" for field in Recorded.fields()
}
_AS_RECORDED = {"vcpus", "smmu.ril"}
_FIXED_SIZE = ("one-smmu", "grace-8-smmu")


def trace_of(base: Scenario, setting: Mapping[str, Any]) -> str:
    """The recorded guest that is asked for, if any."""
    own = base.workload.trace if isinstance(base.workload, Recorded) else ""
    return str(setting.get("workload.trace", own))


def preset_of(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the topology that is asked for; empty if it is the scenario's own."""
    table = _topology(setting)
    if table.get("preset") in _FIXED_SIZE:
        table.pop("smmus", None)
    return table if table.get("preset", "") != "" else {}


def _topology(setting: Mapping[str, Any]) -> dict[str, Any]:
    return {path.removeprefix("topology."): value for path, value in setting.items() if path.startswith("topology.")}


def _strange(base: Scenario, setting: Mapping[str, Any]) -> list[str]:
    """What is wrong with that which the scenario does not read, or must not: a browser names no file."""
    problems = [
        invalid(path, value, "name its fields by dotted paths")
        for path, value in setting.items()
        if isinstance(value, Mapping | Recorded)
    ]
    valid = ("", *traces(), *filter(None, [trace_of(base, {})]))
    if setting.get("workload.trace", "") not in valid:
        problems.append(invalid("workload.trace", setting["workload.trace"], f"one of {', '.join(traces())}, or none"))
    try:
        read_topology({**_topology(setting), "preset": "per-smmu"})
    except InvalidInput as error:
        problems += error.problems
    return problems


def applied(base: Scenario, setting: Mapping[str, Any]) -> Scenario:
    """The scenario of a setting: that of the start, with every path changed that the setting names.

    What a recorded guest brings with it is not changed.

    Raises:
        InvalidInput: all problems at once.
    """
    named(setting, "")
    changes = {path: value for path, value in setting.items() if not path.startswith("topology.")}
    changes.pop("approaches", None)
    changes.pop("workload.trace", None)
    if problems := _strange(base, setting):
        raise InvalidInput(problems)
    mine = f"{base.costs.profile}*"
    if changes.get("costs") == mine and mine in profiles(base.costs):
        del changes["costs"]  # the scenario's own
    trace, own = trace_of(base, setting), trace_of(base, {})
    if trace:
        changes = {path: value for path, value in changes.items() if path not in _OF_UNMAPS | _AS_RECORDED}
    if trace != own:
        changes["workload"] = Recorded(trace=trace) if trace else Unmaps()
    if preset := preset_of(setting):
        changes["topology"] = preset
    return base.but(changes)


def values(base: Scenario, now: Scenario, setting: Mapping[str, Any]) -> dict[str, Any]:
    """What every control stands at; those that say nothing now keep what was set."""
    found: dict[str, Any] = {
        "workload.trace": trace_of(base, setting),
        "topology.preset": "",
        "topology.devices": 1,
        "topology.ats": False,
        "topology.shared": False,
        **{path: value for path, value in setting.items() if path != "approaches"},
        "topology.smmus": now.topology.smmus,
        **{f"costs.{name}": cost.value for name, cost in now.costs.items()},
        **{
            field.name: getattr(now, field.name)
            for field in Scenario.fields()
            if field.name in ("vcpus", "guests", "seed")
        },
    }
    for part in (now.workload, now.smmu, now.host):
        found |= {part.path(name): value for name, value in part.values().items()}
    profile = base.costs if now.costs.profile == base.costs.profile else costs(now.costs.profile)
    own = profile != costs(profile.profile) and setting.get("costs") != profile.profile
    return found | {"costs": f"{now.costs.profile}*" if own else now.costs.profile}


def fixed(base: Scenario, now: Scenario, setting: Mapping[str, Any]) -> dict[str, str]:
    """The controls that have nothing to say now, each with the reason."""
    why: dict[str, str] = {}
    if trace_of(base, setting):
        why |= dict.fromkeys(_OF_UNMAPS, "a recorded guest does what it did")
        why |= dict.fromkeys(_AS_RECORDED, "as it was recorded")
    if now.workload.rate:
        why["workload.think"] = "the rate of unmaps takes its place"
    if not any(any(reach.ats) for reach in now.reaches(0, 0)):
        why["workload.stall"] = "no device has ATS"
    if now.topology:
        why["workload.ats_devices"] = "the topology says which devices have ATS"
    preset = preset_of(setting).get("preset")
    if not preset:
        parts = ("smmus", "devices", "ats", "shared")
        why |= dict.fromkeys((f"topology.{part}" for part in parts), "choose a topology first")
    elif preset in _FIXED_SIZE:
        why["topology.smmus"] = f"{preset} has {now.topology.smmus}"
    return why
