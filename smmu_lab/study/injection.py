"""What one fault does under each approach: what the guest sees of it, how long that lasts, and who else waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.arch import CError
from smmu_lab.record import KINDS, Run
from smmu_lab.scenario import Approach, Fault, InvalidInput, Scenario, approach, approaches
from smmu_lab.scenario.fault import FAULTS
from smmu_lab.scenario.fields import invalid
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.units import show_time

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


@attrs.frozen
class Effect:
    """What the fault does under one approach; times in ns.

    Attributes:
        seen: what the guest is told: CERROR codes, or nothing.
        stood: how long the queue stood, from the entry in error to the write of GERRORN.
        own: how much longer the struck operation takes than without the fault.
        vcpus: how much longer the longest operation of another vCPU of its guest takes than without: the most.
        guests: the same for the other guests, by number, where it takes longer at all.
        lost: commands that the guest takes for done, and that were never executed.
        timeouts: waits for a CMD_SYNC that a driver gave up after 1 s, the guest's or the host's.
        run: the record with the fault.
    """

    seen: str
    stood: int
    own: int
    vcpus: int
    guests: Mapping[int, int]
    lost: int
    timeouts: int
    run: Run

    @property
    def most(self) -> int:
        """The most that the longest operation of another guest takes longer."""
        return max(self.guests.values(), default=0)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return attrs.asdict(self, filter=lambda field, value: field.name != "run")


@attrs.frozen(repr=False)
class Injection:
    """The same fault under several approaches."""

    scenario: Scenario
    effects: Mapping[str, Effect]

    def __getitem__(self, name: str) -> Effect:
        return self.effects[name]

    @property
    def title(self) -> str:
        """What went wrong, in one line."""
        made = self.scenario
        return f"{made.fault} ({made.guests} guest{'s'[: made.guests > 1]} of {made.vcpus} vCPU{'s'[: made.vcpus > 1]})"

    def sheet(self) -> Sheet:
        """One row per approach."""
        left = ("approach", "the guest is told")
        head = (*left, "queue stands", "struck operation", "longest of its other vCPUs", "longest of other guests")
        rows = [
            (
                name,
                each.seen,
                _more(each.stood),
                _more(each.own, "+"),
                _more(each.vcpus, "+"),
                f"{len(each.guests)}: {_more(each.most, '+')}" if each.guests else "-",
                *(str(number) if number else "-" for number in (each.lost, each.timeouts)),
            )
            for name, each in self.effects.items()
        ]
        return Sheet((*head, "commands lost", "gave up"), rows, left=left, caption=self.title)

    def __repr__(self) -> str:
        return f"{self.title}\n\n{self.sheet()}"

    def _repr_html_(self) -> str:
        return self.sheet()._repr_html_()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.sheet()

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        effects = {name: each.to_dict() for name, each in self.effects.items()}
        return {"scenario": self.scenario.to_dict(), "effects": effects}


def _more(ns: int, sign: str = "") -> str:
    return sign + show_time(ns) if ns else "-"


def inject(
    scenario: Scenario,
    names: Iterable[Approach | str] | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Injection:
    """Run a scenario with its fault and without it, under several approaches.

    How long others wait is told by the longest operation of each vCPU: with the fault, less without. Time that is lost
    once is not counted again in the operations behind it. A microsecond more or less is no waiting: after a fault,
    lists meet others than before.

    Args:
        scenario: what the guests do, and what goes wrong: its `fault`.
        names: rows of the catalogue, by key or as objects; by default all under which there can be such a fault.
        progress: called with what runs next.

    Raises:
        InvalidInput: the scenario has no fault, or cannot run under one of the approaches.

    >>> from smmu_lab.scenario import Unmaps
    >>> broken = Scenario(workload=Unmaps(ops=20), vcpus=2, fault=Fault(kind="illegal-command", vcpu=1, op=5))
    >>> [(name, each.seen) for name, each in inject(broken, ["native-queue", "vcmdq"]).effects.items()]
    [('native-queue', 'nothing'), ('vcmdq', 'CERROR_ILL')]
    """
    if not scenario.fault:
        raise InvalidInput([invalid("fault.kind", scenario.fault.kind, f"one of {', '.join(FAULTS)}")])
    if names is None:
        names = [row for row in approaches() if not scenario.refuses(row)]
    rows = [each if isinstance(each, Approach) else approach(each) for each in names]
    if problems := [problem for row in rows for problem in scenario.refuses(row)]:
        raise InvalidInput(problems)
    effects = {}
    for row in rows:
        progress(row.name)
        effects[row.name] = _effect(simulate(scenario, row), simulate(scenario.but(fault=Fault()), row))
    return Injection(scenario, effects)


def _effect(run: Run, sound: Run) -> Effect:
    fault = run.scenario.fault
    before, after = _longest(sound), _longest(run)
    longer = {who: max(0, after[who] - before[who]) for who in after}
    struck = fault.guest, fault.vcpu
    guests: dict[int, int] = defaultdict(int)
    for (guest, _), more in longer.items():
        if guest != fault.guest and more:
            guests[guest] = max(guests[guest], more)
    counts, stops = run.counts, list(run.stops.rows())
    return Effect(
        seen=_seen(run),
        stood=max((each["resumed"] - each["stopped"] for each in stops), default=0),
        own=max(0, _struck(run) - _struck(attrs.evolve(sound, scenario=run.scenario))),
        vcpus=max((more for who, more in longer.items() if who[0] == fault.guest and who != struck), default=0),
        guests=dict(guests),
        lost=counts.lost,
        timeouts=counts.timeouts,
        run=run,
    )


def _struck(run: Run) -> int:
    """Latency of the operation that the fault strikes, ns: of a request of virtio-iommu, with its maps."""
    fault, ops = run.scenario.fault, run.ops
    number, latency = 0, 0
    for guest, vcpu, kind, ns in zip(ops["guest"], ops["vcpu"], ops["kind"], run.latencies, strict=True):
        if (guest, vcpu) != (fault.guest, fault.vcpu):
            continue
        latency += ns
        if KINDS[kind] == "map":
            continue
        if number == fault.op:
            return latency
        number, latency = number + 1, 0
    return 0


def _seen(run: Run) -> str:
    """What the guest is told of."""
    if run.approach.front == "virtio-iommu" and run.scenario.fault.bad_entry:
        return "the request's status"
    codes = dict.fromkeys(f"CERROR_{CError(code).name}" for code in run.stops["cerror"])
    return ", ".join(codes) or "nothing"


def _longest(run: Run) -> dict[tuple[int, int], int]:
    """The longest operation of each vCPU, but for the struck one's additional request, ns."""
    longest: dict[tuple[int, int], int] = defaultdict(int)
    ops = run.ops
    for guest, vcpu, kind, pages, latency in zip(
        ops["guest"], ops["vcpu"], ops["kind"], ops["pages"], run.latencies, strict=True
    ):
        if pages or KINDS[kind] != "map":
            longest[guest, vcpu] = max(longest[guest, vcpu], latency)
    return longest
