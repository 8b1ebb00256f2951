"""What a guest suffers from another one: beside its equal, beside a flood, beside one whose device answers late.

And what an approach promises about it: a promise follows from the row's columns, is tested here, and may be broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import sub
from statistics import fmean
from typing import Any

import attrs

from smmu_lab.record import KINDS, Distribution, Estimate, Run, noun_of, quantile, sectioned, settling
from smmu_lab.scenario import (
    Approach,
    InvalidInput,
    Neighbour,
    Scenario,
    Unmaps,
    approach,
    approaches,
    read_approaches,
)
from smmu_lab.scenario.fields import DURATION, invalid
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.study.fairness import by_guest, jain, rates
from smmu_lab.study.figures import ratio, read_replications, show_margin, show_ratio, too_few, unsure
from smmu_lab.study.promises import STANDING, Evidence, Op, Outcome, Promise, promises
from smmu_lab.study.shown import Shown
from smmu_lab.units import show_number, show_time

FLOOD = Unmaps(pages=511, think=0)
"""Large ranges without thinking: 2 MiB less a page, the most that Linux invalidates page by page."""
COMPANY = {
    "alone": "alone",
    "equal": "beside an equal guest",
    "flood": "beside a flood",
    "ats": "beside one with ATS",
    "stalled": "its device stalled",
}
"""Whom the quiet guest has beside it. The last two differ in the stall only."""
VARIANTS = (
    approach("vcmdq").but(arbitration="round-robin", name="vcmdq, round-robin"),
    approach("vcmdq").but(execution="parallel", name="vcmdq, parallel"),
)
"""What-ifs that are shown beside the catalogue."""

_SHORT = {"holds": "yes", "broken": "no"}


@attrs.frozen(slots=False, eq=False)
class Case:
    """The quiet guest under one approach; times in ns.

    Attributes:
        approach: what serves all guests.
        latency: by company, the quiet guest's, after the warm-up: the same operations everywhere.
        fairness: Jain's index over the rates that guests have beside each other, each over its rate alone: beside an
            equal guest, and beside a flood.
        outcomes: what the approach promises, and what its tests say.
        standing: share of the time for which the neighbour's device is stalled.
        unsure: what makes these figures less than they seem, one sentence each.
    """

    approach: Approach
    latency: Mapping[str, Distribution]
    fairness: Mapping[str, Estimate]
    outcomes: tuple[tuple[Promise, Outcome], ...]
    standing: float
    unsure: tuple[str, ...]

    @property
    def stands(self) -> bool:
        """The device is stalled for long enough to be felt, or it is felt."""
        return self.standing >= STANDING or (self.harm().low or 0.0) > 0

    @property
    def kept(self) -> bool | None:
        """All promises hold, or one is broken; None where nothing is promised, or not all can be decided."""
        answers = {outcome.answer for _, outcome in self.outcomes}
        return False if "broken" in answers else True if answers == {"holds"} else None

    def slowdown(self, company: str, q: float | None = None) -> Estimate:
        """The mean, or a quantile, in company over the one alone."""
        names = company, "alone"
        here, alone = (self._figures(name, q) for name in names)
        if q is None:
            return ratio(here, alone)
        pooled, most = (self.latency[name].quantile(q).value for name in names)
        times = ratio(here, alone, (pooled, most))
        return times if self._bounded(q) else Estimate(times.value)

    def harm(self, q: float | None = None) -> Estimate:
        """What the neighbour's stall adds to the mean, or to a quantile: the same neighbour's without is taken off."""
        later = list(map(sub, self._figures("stalled", q), self._figures("ats", q)))
        if q is None:
            return sectioned(fmean(later), later)
        pooled = self.latency["stalled"].quantile(q).value - self.latency["ats"].quantile(q).value
        return sectioned(pooled, later) if self._bounded(q) else Estimate(pooled)

    def _figures(self, company: str, q: float | None) -> list[float]:
        values = self.latency[company].replications
        return [fmean(each) if q is None else quantile(sorted(each), q).value for each in values]

    def _bounded(self, q: float) -> bool:
        """Each replication has that quantile."""
        return all(len(each) * min(q, 1 - q) >= 1 for each in self.latency["alone"].replications)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "latency": {name: each.to_dict() for name, each in self.latency.items()},
            "slowdown": {
                name: {"mean": attrs.asdict(self.slowdown(name)), "p99": attrs.asdict(self.slowdown(name, 0.99))}
                for name in COMPANY
            },
            "stall": {"mean": attrs.asdict(self.harm()), "p99": attrs.asdict(self.harm(0.99))},
            "fairness": {name: attrs.asdict(each) for name, each in self.fairness.items()},
            "promises": [
                {"name": promise.name, "promise": promise.statement, "test": promise.test} | attrs.asdict(outcome)
                for promise, outcome in self.outcomes
            ],
        }


@attrs.frozen(slots=False, eq=False, repr=False)
class Neighbours(Shown):
    """A quiet guest beside others, under several approaches.

    Attributes:
        scenario: what the quiet guest does.
        flood: what every vCPU of the flood does.
        stall: how late the neighbour's device answers, ns.
        replications: runs of each, with seeds from the scenario's on; the same everywhere.
        noun: what is measured.
        cases: what came of it, by approach.
    """

    scenario: Scenario
    flood: Unmaps
    stall: int
    replications: int
    noun: str
    cases: Mapping[str, Case]

    def __getitem__(self, name: str) -> Case:
        return self.cases[name]

    @property
    def verdict(self) -> str:
        """Which promises hold, and what others do to the quiet guest."""
        found = [(name, *each) for name, case in self.cases.items() for each in case.outcomes]
        answers = [outcome.answer for *_, outcome in found]
        said = []
        if broken := [f"{name} ({promise.name})" for name, promise, outcome in found if outcome.answer == "broken"]:
            said.append(f"broken: {', '.join(broken)}")
        if found:
            tested = [answer for answer in answers if answer in ("holds", "broken")]
            untold = len(found) - len(tested)
            if tested:
                said.append(f"{tested.count('holds')} of {len(tested)} promises hold")
            if untold:
                said.append(f"{untold} could not be tested, or not told")
        if harm := {name: case.harm().value for name, case in self.cases.items() if not case.outcomes and case.stands}:
            cost = _between(harm, show_time)
            said.append(f"where nothing is promised, another guest's stalled device costs {cost} in the mean")
        felt = _between({name: case.slowdown("flood", 0.99).value for name, case in self.cases.items()}, show_number)
        said.append(f"beside a flood the quiet guest's p99 is multiplied by {felt}")
        sentence = "; ".join(said)
        return f"{sentence[0].upper()}{sentence[1:]}."

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes a figure less than it seems, one sentence each."""
        said = [f"{name}: {line}" for name, case in self.cases.items() for line in case.unsure]
        fewest = min(len(each) for case in self.cases.values() for each in case.latency["alone"].replications)
        return (*said, *too_few(self.replications, fewest))

    @property
    def title(self) -> str:
        """What was run."""
        made = self.scenario
        load = str(made.workload)
        vcpus = f"{made.vcpus} vCPU{'s'[: made.vcpus > 1]}"
        ril = "" if made.smmu.ril else ", no range invalidation"
        return f"{load[0].upper()}{load[1:]}, {vcpus} and as many beside them, {made.costs.title}{ril}"

    def latency_sheet(self, figure: str) -> Sheet:
        """The quiet guest's ``mean`` or ``p99`` in all company."""
        rows = [
            (name, *(show_margin(getattr(case.latency[who], figure)) for who in COMPANY))
            for name, case in self.cases.items()
        ]
        what = "mean latency" if figure == "mean" else "latency that one in a hundred exceeds (p99)"
        caption = (
            f"{what} of one {self.noun} of the quiet guest; the flood: {self.flood}"
            f"{f', {show_time(self.flood.gap)} apart' if self.flood.gap else ' without thinking'}; the stall: every "
            f"ATC_INV of one device answered {show_time(self.stall)} later; {self.replications} replications"
        )
        return Sheet(("approach", *COMPANY.values()), rows, left=("approach",), caption=caption)

    def slowdown_sheet(self) -> Sheet:
        """How many times as long, how much longer by the stall, and how fair."""
        head = ("approach", "equal: mean", "p99", "flood: mean", "p99 ", "stall: mean", "p99  ")
        rows = [
            (
                name,
                *(show_ratio(case.slowdown(who, q)) for who in ("equal", "flood") for q in (None, 0.99)),
                *(show_margin(case.harm(q), "+") for q in (None, 0.99)),
                *(f"{each.value:.3f}" for each in case.fairness.values()),
            )
            for name, case in self.cases.items()
        ]
        caption = (
            "times as long as alone, beside an equal guest and beside a flood; what the stall adds: beside the same "
            "guest without it less; fair: Jain's index of both guests' rates, each over its rate alone"
        )
        return Sheet((*head, "fair: equal", "fair: flood"), rows, left=("approach",), caption=caption)

    def promises_sheet(self) -> Sheet:
        """What each approach promises, and whether that holds; where nothing is promised, what the stall does."""
        head = ("approach", "promise", "holds", "measured")
        rows = []
        for name, case in self.cases.items():
            told = [(promise.name, _SHORT.get(out.answer, out.answer), out.measured) for promise, out in case.outcomes]
            harm = f"{show_margin(case.harm(), '+')} by the stall"
            if not case.stands:
                harm += f"; the device is stalled for {case.standing:.1%} of the time only"
            rows += [(name, *each) for each in told or [("-", "-", harm)]]
        return Sheet(head, rows, left=head, caption="what is promised about other guests, and whether that holds")

    def tests_sheet(self) -> Sheet:
        """What the promises say, and how they are tested."""
        head = ("promise", "what is promised", "how it is tested")
        known = dict.fromkeys(promise for case in self.cases.values() for promise, _ in case.outcomes)
        return Sheet(head, [(each.name, each.statement, each.test) for each in known], left=head)

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        made = self.latency_sheet("mean"), self.latency_sheet("p99"), self.slowdown_sheet(), self.promises_sheet()
        return (*made, self.tests_sheet()) if any(case.outcomes for case in self.cases.values()) else made

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        return {
            "scenario": self.scenario.to_dict(),
            "flood": self.flood.values(),
            "stall": self.stall,
            "replications": self.replications,
            "approaches": {name: case.to_dict() for name, case in self.cases.items()},
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }


def neighbours(
    scenario: Scenario,
    approaches: Iterable[Approach | str] | None = None,
    *,
    flood: Unmaps | Mapping[str, Any] | None = None,
    stall: int | str = "100us",
    replications: int = 5,
    progress: Callable[[str], None] = lambda what: None,
) -> Neighbours:
    """Put a guest beside others: an equal one, a flood, and one whose device answers late.

    The neighbour has as many vCPUs, and goes on until the quiet guest is through. On bare metal guests are CPUs of one
    host. All runs have the same seeds: the quiet guest does the same in all company, and differences are paired.

    Args:
        scenario: what the quiet guest does, and its machine: one guest.
        approaches: rows of the catalogue, by key or as objects; by default all that can run, and `VARIANTS`.
        flood: what every vCPU of the flood does; by default `FLOOD`.
        stall: how much later one device of the neighbour answers every ATC_INV: a duration.
        replications: runs of each, with the seeds that follow the scenario's own.
        progress: called with what runs next.

    Raises:
        InvalidInput: all problems at once: a scenario that is not of one guest, or cannot run under an approach that
            was asked for; no approach, or one name twice; no stall.

    >>> quiet = Scenario(workload=Unmaps(ops=100))
    >>> result = neighbours(quiet, ["batched", "vcmdq"])
    >>> [(name, case.kept) for name, case in result.cases.items()]
    [('batched', None), ('vcmdq', True)]
    """
    replications = read_replications(replications)
    load, late = _read(scenario, stall)
    flooding = FLOOD.but(granule=load.granule) if flood is None else _read_flood(flood)
    made = _company(scenario, load, flooding, late)
    rows = read_approaches(_default() if approaches is None else approaches)
    refused = {row.name: [line for each in made.values() for line in each.refuses(row)] for row in rows}
    allowed = [row for row in rows if not refused[row.name]]
    if not allowed or (approaches is not None and len(allowed) < len(rows)):
        raise InvalidInput(dict.fromkeys(line for lines in refused.values() for line in lines))
    cases, nouns = {}, []
    for row in allowed:
        runs = {}
        for name, each in made.items():
            progress(f"{row.name}, {COMPANY.get(name, name)}")
            runs[name] = [simulate(each.but(seed=scenario.seed + k), row) for k in range(replications)]
        nouns.append(runs["alone"][0])
        cases[row.name] = _case(row, runs, late)
    return Neighbours(scenario, flooding, late, replications, noun_of(nouns), cases)


def _default() -> Iterator[Approach]:
    for row in approaches():
        yield row
        if row.name == "vcmdq":
            yield from VARIANTS


def _read(scenario: Scenario, stall: Any) -> tuple[Unmaps, int]:
    """The quiet guest's load, and how late the device answers, ns."""
    load, problems = scenario.workload, []
    if scenario.guests != 1 or scenario.neighbour.guests:
        problems.append(invalid("guests", scenario.guests, "1: the quiet one; its neighbour is added"))
    if not isinstance(load, Unmaps):
        problems.append("workload.kind: 'recorded' cannot be: the neighbour does the same, and goes on and on")
    if load.stall:
        problems.append(invalid("workload.stall", load.stall, "0: it is the neighbour's device that is stalled"))
    if scenario.fault:
        problems.append(invalid("fault.kind", scenario.fault.kind, "none"))
    late = 0
    with suppress(ValueError):
        late = DURATION.read(stall)
    if not late:
        problems.append(invalid("stall", stall, f"above 0, {DURATION.valid}"))
    if problems or not isinstance(load, Unmaps):
        raise InvalidInput(problems)
    return load, late


def _read_flood(flood: Any) -> Unmaps:
    try:
        return Neighbour(workload=flood).workload
    except InvalidInput as error:
        raise InvalidInput(line.replace("neighbour.workload", "flood", 1) for line in error.problems) from None


def _company(scenario: Scenario, load: Unmaps, flood: Unmaps, late: int) -> dict[str, Scenario]:
    """The scenario of each company, and of each neighbour alone."""
    topology, turned = scenario.topology, scenario
    ats = load.ats_devices
    if topology:
        first, *others = topology.layouts
        turned = scenario.but(topology=topology.but(layouts=[*others, first]))
    else:
        ats = max(1, ats)

    def beside(neighbour: Unmaps) -> Scenario:
        return scenario.but({"guests": 2, "neighbour.guests": 1, "neighbour.workload": neighbour})

    with_ats = beside(load.but(ats_devices=ats))
    vcpus = range(scenario.vcpus)
    if not any(sum(reach.ats) for v in vcpus for reach in with_ats.reaches(1, v)):
        raise InvalidInput(["topology: the neighbour's vCPUs work on no device with ATS, so nothing could be stalled"])
    ours, theirs = ({k for v in vcpus for reach in with_ats.reaches(who, v) for k in reach.smmus} for who in (0, 1))
    if not ours & theirs:
        raise InvalidInput(["topology: the two guests work behind no common SMMU, so neither could disturb the other"])
    return {
        "alone": scenario,
        "equal": beside(load),
        "flood": beside(flood),
        "ats": with_ats,
        "stalled": with_ats.but({"neighbour.workload.stall": late}),
        "the equal guest alone": turned,
        "the flood alone": turned.but(workload=flood.but(ops=load.ops)),
    }


def _case(row: Approach, runs: Mapping[str, Sequence[Run]], late: int) -> Case:
    dropped = max(settling(runs[name]).length for name in COMPANY)
    scenario = runs["alone"][0].scenario
    seen = Evidence(
        scenario=scenario,
        row=row,
        ops={name: list(map(_quiet, runs[name])) for name in COMPANY},
        stall=late,
        standing=fmean(map(_standing, runs["stalled"])),
        backlog=_backlog(runs["flood"]),
        instances=max(Counter(k for vsmmu in scenario.layout(0).vsmmus for k in vsmmu.smmus).values(), default=1),
        others=sum(sum(guest == 1 for guest in run.ops["guest"]) for name in COMPANY for run in runs[name]),
    )
    return Case(
        row,
        {name: Distribution(*(run.series[dropped:] for run in runs[name])) for name in COMPANY},
        {
            "equal": _fairness(runs["equal"], runs["alone"], runs["the equal guest alone"]),
            "flood": _fairness(runs["flood"], runs["alone"], runs["the flood alone"]),
        },
        tuple((promise, promise.check(seen)) for promise in promises(row, scenario)),
        seen.standing,
        tuple(dict.fromkeys([*(line for name in COMPANY for line in unsure(runs[name])), *_outside(row, scenario)])),
    )


def _backlog(runs: Sequence[Run]) -> int:
    """What one unmap of each of the neighbour's vCPUs keeps an engine busy for, ns; all its lists are out at once."""
    scenario = runs[0].scenario
    pages = scenario.neighbour.workload.pages
    batches = [scenario.batches(1, v, pages) for v in range(scenario.vcpus)]
    return sum([max([batch.tlbi for batch in each], default=0) for each in batches]) * scenario.costs.t_tlbi


def _fairness(beside: Sequence[Run], quiet: Sequence[Run], neighbour: Sequence[Run]) -> Estimate:
    """Jain's index over what both guests keep of the rates that they have alone."""
    each = []
    for here, *alone in zip(beside, quiet, neighbour, strict=True):
        kept = zip(by_guest(rates(here)).values(), (by_guest(rates(run))[0] for run in alone), strict=True)
        each.append(jain(rate / (before or 1) for rate, before in kept))
    return sectioned(fmean(each), each)


def _standing(run: Run) -> float:
    """Share of the time for which the neighbour's device is stalled, by its busiest vCPU."""
    ops = run.ops
    late = Counter(
        vcpu for guest, vcpu, atc in zip(ops["guest"], ops["vcpu"], ops["atc"], strict=True) if guest and atc
    )
    return max(late.values(), default=0) * run.scenario.neighbour.workload.stall / max(1, run.duration)


def _quiet(run: Run) -> list[Op]:
    """Operations of the quiet guest, vCPU by vCPU."""
    ops = run.ops
    table = zip(
        *(ops[name] for name in ("guest", "vcpu", "start", "kind", "tlbi", "atc", "queue", "execute")),
        run.latencies,
        strict=True,
    )
    return sorted(
        Op(vcpu, start, KINDS[kind], latency, queue + execute, tlbi + atc)
        for guest, vcpu, start, kind, tlbi, atc, queue, execute, latency in table
        if not guest
    )


def _outside(row: Approach, scenario: Scenario) -> Iterator[str]:
    """What no promise of an approach is about."""
    load = scenario.workload
    if isinstance(load, Unmaps) and load.cd_every and row.has_vcmdqs:
        yield (
            "a CFGI_CD, which no VCMDQ takes, goes through the VMM and the host's CMDQ: its time counts with the "
            "unmap's, and no promise is about it."
        )


def _between(figures: Mapping[str, float], show: Callable[[float], str]) -> str:
    """The range of some approaches' figures, in words."""
    least, most = (pick(figures, key=figures.__getitem__) for pick in (min, max))
    if least == most:
        return f"{show(figures[most])} ({most})"
    return f"{show(figures[least])} ({least}) to {show(figures[most])} ({most})"
