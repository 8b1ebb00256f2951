"""What every approach must keep: rows of the catalogue, variants of them, and consumers of your own.

A consumer of your own is a generator function; `smmu_lab.sim.consumer.kernel_worker` is one::

    def mine(queue, doorbell, host):
        while True:
            t = yield from doorbell.wait()
            ...


    check_approach(approach("short-path").but(consumer=mine))
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.scenario import Approach, InvalidInput, Recorded, Scenario, Smmu, Unmaps, approach
from smmu_lab.scenario.costs import PROFILES
from smmu_lab.sheet import Sheet
from smmu_lab.study.evidence import NEVER, Breach, Ended, Endless, Evidence, Moment, NotWhole, observe, queue_name
from smmu_lab.study.invariants import INVARIANTS, Invariant
from smmu_lab.study.trials import TRIALS, Trial

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

HOLDS, FAILS, REPORTED, DOES_NOT_APPLY = "holds", "fails", "reported", "does not apply"
"""Verdicts. What is reported is surprising, true, and no fault."""

THROUGH = "no-exception", "No run ends with an exception, and none goes on without end."
WHOLE = "whole-times", "Every time is a whole number of nanoseconds (I-36)."
MOST_LINES = 40
"""Of a timeline."""


@attrs.frozen
class Finding:
    """What one invariant says about an approach.

    Attributes:
        name: of the invariant.
        statement: what must hold.
        verdict: ``holds``, ``fails``, ``reported`` or ``does not apply``.
        said: what was found, a line each.
        scenario: the smallest one found in which it fails.
        timeline: what happened there to the lists in question.
    """

    name: str
    statement: str
    verdict: str
    said: tuple[str, ...] = ()
    scenario: Scenario | None = None
    timeline: tuple[Moment, ...] = ()

    def sheet(self) -> Sheet:
        """The timeline."""
        rows = [("never" if time >= NEVER else f"{time:,}", who, what) for time, who, what in self.timeline]
        return Sheet(("ns", "who", "what"), rows, left=("who", "what"))

    def to_dict(self) -> dict[str, Any]:
        """As plain data; times in ns, None for never."""
        return {
            "name": self.name,
            "statement": self.statement,
            "verdict": self.verdict,
            "said": list(self.said),
            "scenario": self.scenario and self.scenario.to_dict(),
            "timeline": [[None if time >= NEVER else time, who, what] for time, who, what in self.timeline],
        }


@attrs.frozen(repr=False)
class Conformance:
    """Every invariant's finding about one approach; true when none fails."""

    approach: Approach
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """No invariant fails."""
        return not self.failures

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings of the invariants that fail."""
        return tuple(finding for finding in self.findings if finding.verdict == FAILS)

    def __getitem__(self, name: str) -> Finding:
        return next(finding for finding in self.findings if finding.name == name)

    @property
    def title(self) -> str:
        """The result in one line."""
        failed = len(self.failures)
        said = f"{failed} of {len(self.findings)} invariants fail" if failed else "every invariant holds"
        return f"{self.approach.name}: {said}"

    def sheet(self) -> Sheet:
        """One row per invariant."""
        rows = [(each.name, each.verdict, each.statement) for each in self.findings]
        return Sheet(("invariant", "verdict", "what must hold"), rows, left=("invariant", "verdict", "what must hold"))

    def _details(self) -> Iterator[tuple[str, Sheet | None]]:
        """What was found where more than a verdict is to be said."""
        for each in self.findings:
            if each.said:
                where = [f"Scenario: {described(each.scenario)}"] if each.scenario else []
                said = "\n".join([f"{each.name} ({each.verdict}):", *each.said, *where])
                yield said, each.sheet() if each.timeline else None

    def __repr__(self) -> str:
        details = [f"{said}\n{sheet}" if sheet else said for said, sheet in self._details()]
        return "\n\n".join([self.title, str(self.sheet()), *details])

    def _repr_html_(self) -> str:
        details = "".join(
            f"<p>{escape(said).replace(chr(10), '<br>')}</p>{sheet._repr_html_() if sheet else ''}"
            for said, sheet in self._details()
        )
        return f"<p><b>{escape(self.title)}</b></p>{self.sheet()._repr_html_()}{details}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.title, style="bold")
        yield self.sheet()
        for said, sheet in self._details():
            yield Text(said)
            if sheet:
                yield sheet

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data."""
        return {
            "approach": self.approach.name,
            "passed": self.passed,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check_approach(row: Approach | str, seed: int = 1) -> Conformance:
    """Check an approach against everything that a faithful path from a guest's queue to the hardware keeps.

    It is run in a dozen small scenarios, some drawn from the seed, and what it leaves behind is compared with what
    follows from its columns and the costs alone. Besides, real commands of hostile guests are sent its way. A consumer
    of your own may do whatever it likes: an exception, a time that is no whole number, or a loop without end is a
    finding like any other. It issues by `host.execute`, so real commands fare as under the kernel's worker.

    Args:
        row: a row of the catalogue, by key or as an object, or a variant of one.
        seed: of the random scenarios, and of every stream in all of them.

    Raises:
        InvalidInput: there is no such row.

    >>> check_approach("vcmdq").passed
    True
    """
    row = approach(row) if isinstance(row, str) else row
    cases: list[Evidence] = []
    ended: dict[str, Finding] = {}
    for scenario in scenarios(seed):
        if scenario.refuses(row):
            continue
        case = observe(scenario, row)
        if case.error is None:
            if not case.record.counts.errors:  # a queue that stops at an error is another matter: see `inject`
                cases.append(case)
            continue
        name, statement = WHOLE if isinstance(case.error, NotWhole) else THROUGH
        ended.setdefault(name, Finding(name, statement, FAILS, (_error(case),), scenario, _last(case)))
        if isinstance(case.error, Endless):
            break
    through = [case for case in cases if not case.missing]
    findings = [ended.get(name, Finding(name, statement, HOLDS)) for name, statement in (THROUGH, WHOLE)]
    findings += [_by_invariant(each, row, cases if each.unfinished else through) for each in INVARIANTS]
    findings += [_by_trial(each, row, seed, sound=not ended and through == cases) for each in TRIALS]
    return Conformance(row, tuple(findings))


def _by_invariant(invariant: Invariant, row: Approach, cases: list[Evidence]) -> Finding:
    """The finding of an invariant, with the smallest scenario in which it fails."""
    name, statement = invariant.name, invariant.statement
    if not cases or (excuse := invariant.excuse(row)):
        return Finding(name, statement, DOES_NOT_APPLY, (excuse,) if cases else ())
    for case in cases:
        if breach := next(iter(invariant.breaches(case)), None):
            return _finding(name, statement, [_smallest(invariant, case.scenario, row, breach)])
    return Finding(name, statement, HOLDS)


def _by_trial(trial: Trial, row: Approach, seed: int, sound: bool) -> Finding:
    """The finding of a trial; it is not worth its time when runs do not come to their end."""
    if not sound or (excuse := trial.excuse(row)):
        return Finding(trial.name, trial.statement, DOES_NOT_APPLY, (excuse,) if sound else ())
    try:
        return _finding(trial.name, trial.statement, list(trial.breaches(row, seed)))
    except Ended as ended:
        case = ended.case
        said = _error(case) if case.error else "not every operation ends"
        return Finding(trial.name, trial.statement, FAILS, (said,), case.scenario, _last(case))


def _finding(name: str, statement: str, breaches: list[Breach]) -> Finding:
    """One finding of all breaches; the first that is a fault is the example."""
    faults = [breach for breach in breaches if not breach.reported]
    if not faults:
        return Finding(name, statement, REPORTED if breaches else HOLDS, tuple(breach.said for breach in breaches))
    worst = faults[0]
    moments = sorted(dict.fromkeys(moment for listed in worst.lists for moment in listed.life()), key=_time)
    return Finding(name, statement, FAILS, (worst.said,), worst.scenario, tuple(moments[:MOST_LINES]))


def _time(moment: Moment) -> int:
    return moment.time


def _error(case: Evidence) -> str:
    """What a run ended with, and where."""
    error = case.error
    assert error is not None
    frames = traceback.extract_tb((error.__cause__ or error).__traceback__)  # simpy raises a copy
    said = " ".join(f"{type(error).__name__}: {error}".split())
    where = f" (in {frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return (said if len(said) <= 200 else said[:197] + "...") + where


def _last(case: Evidence) -> tuple[Moment, ...]:
    """The last moments of a run that does not come to its end."""
    told = [Moment(time, queue_name(queue), "PROD is written") for queue, time, _ in case.steps("published")]
    told += [Moment(time, queue_name(queue), f"CONS is {cons}") for queue, time, cons in case.steps("stored")]
    return tuple(sorted(told, key=_time)[-8:])


# -- scenarios ---------------------------------------------------------------------------------------------------------


def scenarios(seed: int) -> Iterator[Scenario]:
    """What an approach is run in, from small to large."""
    alone = Unmaps(ops=2, think=1_000_000, spread="constant")
    idle = Scenario(workload=alone, smmu=Smmu(ril=False), seed=seed)
    for pages in (1, 8, 64, 65, 130):
        for devices in (0, 2):
            yield idle.but({"workload.pages": pages, "workload.ats_devices": devices})
    load = Unmaps(pages=8, ats_devices=2, think=1_000, ops=3)
    busy = Scenario(workload=load, smmu=Smmu(ril=False), vcpus=3, guests=2, seed=seed)
    full = {"workload.pages": 70, "workload.ats_devices": 1, "smmu.queue_log2": 7, "smmu.host_queue_log2": 7}
    late_answers = {"costs.t_tlbi": 30, "costs.atc_rtt": 3_000}
    yield busy
    yield busy.but({"workload.cd_every": 2})
    yield busy.but({"workload.rate": 50_000})
    yield busy.but({"workload.lazy": True, "workload.ops": 260, "guests": 1})
    yield busy.but(full | {"guests": 1})
    yield busy.but(full | late_answers | {"vcpus": 2})
    yield busy.but({"workload.pages": 65, "workload.ats_devices": 1, "costs.atc_rtt": 20_000, "vcpus": 4, "guests": 1})
    yield Scenario(workload=Recorded(trace="nvme_dd_r1m_j1_strict_61", section="all", think=5_000, ops=12), seed=seed)
    drawn = random.Random(f"conformance/{seed}")
    for _ in range(2):
        yield busy.but(
            {
                "workload.pages": drawn.choice((1, 3, 16, 64, 100)),
                "workload.ats_devices": drawn.choice((0, 1, 3)),
                "workload.think": drawn.choice((0, 5_000, 20_000)),
                "workload.ops": 2,
                "smmu.ril": drawn.random() < 0.3,
                "host.worker_cpus": drawn.choice((1, 2)),
                "vcpus": drawn.choice((1, 2, 4)),
                "guests": drawn.choice((1, 2, 3)),
                "costs": drawn.choice(PROFILES),
            }
        )


_SMALLER = {
    "guests": (1,),
    "vcpus": (1, 2),
    "workload.ops": (1, 2),
    "workload.pages": (1, 2, 8),
    "workload.ats_devices": (0, 1),
    "workload.cd_every": (0,),
}
"""What is tried to make a counter-example smaller."""


def _smallest(invariant: Invariant, scenario: Scenario, row: Approach, breach: Breach) -> Breach:
    """The breach in the smallest scenario that has one, changing one thing after another."""
    for path, values in _SMALLER.items():
        for value in values:
            if value < paths(scenario).get(path, 0):
                try:
                    smaller = scenario.but({path: value})
                except InvalidInput:  # a recorded guest is as it is
                    break
                if found := _again(invariant, smaller, row):
                    scenario, breach = smaller, found
                    break
    return breach._replace(scenario=scenario)


def _again(invariant: Invariant, scenario: Scenario, row: Approach) -> Breach | None:
    case = observe(scenario, row)
    if case.error is not None or (case.missing and not invariant.unfinished):
        return None
    return next(iter(invariant.breaches(case)), None)


def paths(scenario: Scenario) -> dict[str, Any]:
    """Every setting of a scenario by its dotted path."""
    return {
        f"{name}.{inner}" if inner else name: value
        for name, outer in scenario.to_dict().items()
        for inner, value in (outer.items() if isinstance(outer, dict) else [("", outer)])
    }


def described(scenario: Scenario) -> str:
    """What makes a scenario differ from the default one."""
    default, costs = paths(Scenario()), scenario.costs
    changed = {path: value for path, value in paths(scenario).items() if default.get(path) != value}
    said = [f"{path}={value}" for path, value in changed.items() if path.removeprefix("costs.") not in costs]
    given = {name: cost.value for name, cost in costs.items() if f"costs.{name}" in changed}
    said += [f"costs.{name}={value}" for name, value in given.items() if value]
    return ", ".join(said) + (", all other costs 0" if 0 in given.values() else "")
