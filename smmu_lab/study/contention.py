"""Who gets how much, and how much later, where queues, workers and CPUs are shared: the product of some settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain, product
from math import prod
from statistics import fmean
from typing import Any

import attrs

from smmu_lab.charts import curve, still
from smmu_lab.record import Estimate, Run, Sample, noun_of, sectioned, settling
from smmu_lab.scenario import Approach, Costs, InvalidInput, Scenario, read_approaches
from smmu_lab.scenario.fields import DURATION, Kind, Settings, invalid
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.study.bounds import bound
from smmu_lab.study.fairness import by_guest, jain, rates
from smmu_lab.study.figures import ratio, read_replications, show_margin, show_ratio, too_few, unsure
from smmu_lab.study.shown import Shown
from smmu_lab.units import show_number, show_time

MOST_RUNS = 4096
"""Runs of one `contention`: points times approaches times replications."""
MOST_LINES = 6
"""Approaches in the picture: as many as have a shape of their own."""


@attrs.frozen
class Figures:
    """What was measured at a point; times in ns, of the measured guests and after the warm-up.

    Attributes:
        mean: latency.
        p99: latency that one in a hundred exceeds.
        throughput: measured operations per second of simulated time.
        fairness: Jain's index over the measured guests' throughputs.
        fairness_vcpus: the same over their vCPUs'.
        slowdown: mean latency over that at the approach's first point, of the vCPUs that are in both.
        station: what limits the throughput: see `smmu_lab.study.bounds`.
        reached: the throughput over what that station allows.
        operations: how many the latency is of, in a replication.
        unsure: what makes these figures less than they seem, one sentence each.
    """

    mean: Estimate
    p99: Estimate
    throughput: Estimate
    fairness: Estimate
    fairness_vcpus: Estimate
    slowdown: Estimate
    station: str
    reached: float
    operations: int
    unsure: tuple[str, ...]


@attrs.frozen
class Point:
    """One approach at one combination of settings.

    Attributes:
        approach: its name, as it was given.
        at: dotted path to value.
        figures: what was measured; None where it cannot run.
        refused: why it cannot, one line each.
    """

    approach: str
    at: Mapping[str, Any]
    figures: Figures | None = None
    refused: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The combination in words."""
        return ", ".join(f"{path} = {_written(value)}" for path, value in self.at.items())

    @property
    def place(self) -> str:
        """The approach and the combination in words."""
        return f"{self.approach} at {self.where}" if self.at else self.approach

    def to_dict(self) -> dict[str, Any]:
        """As plain data; times in ns."""
        at = {path: value if isinstance(value, str | int) else _written(value) for path, value in self.at.items()}
        told: dict[str, Any] = {"approach": self.approach, "at": at}
        return told | (attrs.asdict(self.figures) if self.figures else {"refused": list(self.refused)})


@attrs.frozen(slots=False, eq=False, repr=False)
class Contention(Shown):
    """Approaches at every combination of some settings.

    Attributes:
        scenario: what is the same everywhere.
        over: the settings that vary: dotted path to values.
        points: approach by approach, the product in the order of `over`.
        replications: runs of each point, with seeds from the scenario's on; the same everywhere.
        noun: what is measured.
    """

    scenario: Scenario
    over: Mapping[str, tuple[Any, ...]]
    points: tuple[Point, ...]
    replications: int
    noun: str

    def __getitem__(self, name: str) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.approach == name)

    @cached_property
    def _ran(self) -> list[tuple[Point, Figures]]:
        return [(point, point.figures) for point in self.points if point.figures]

    @property
    def verdict(self) -> str:
        """Whom sharing slows most, and who gets least of it."""
        worst, theirs = max(self._ran, key=lambda each: each[1].slowdown.value)
        unfair, most = min(self._ran, key=lambda each: each[1].fairness.value)
        said = f"Nothing is slower than at its first point ({worst.where})"
        if (theirs.slowdown.low or theirs.slowdown.value) > 1:
            said = (
                f"{worst.approach} is slowed most: {show_ratio(theirs.slowdown)} times its first point's mean at "
                f"{worst.where}, limited by the {theirs.station}"
            )
        fair = f"Jain's index of the guests' throughputs is at least {most.fairness.value:.3f}"
        return f"{said}; {fair} ({unfair.where} under {unfair.approach})."

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What makes a figure less than it seems, one sentence each."""
        places: dict[str, list[str]] = defaultdict(list)
        for point, figures in self._ran:
            for line in figures.unsure:
                places[line].append(point.place)
        said = [f"{_first_of(where)}: {line}" for line, where in places.items()]
        return (*said, *too_few(self.replications, min(figures.operations for _, figures in self._ran)))

    @property
    def title(self) -> str:
        """What was run."""
        load = str(self.scenario.workload)
        return f"{load[0].upper()}{load[1:]}, {self.scenario.costs.title}; over {', '.join(self.over) or 'nothing'}"

    def sheet(self) -> Sheet:
        """One row per point."""
        head = ("approach", *self.over, "mean", "p99", "per second", "fair to guests", "fair to vCPUs")
        caption = (
            f"latency of one {self.noun}, {self.replications} replications, 95 % intervals; fair: Jain's index of the "
            "throughputs, 1 is equal (random gaps alone make it a little less); slower: mean over the approach's first "
            "point that runs, of the vCPUs in both; reached: of what the busiest station allows, neighbours' too"
        )
        rows = []
        for point in self.points:
            told: tuple[str, ...] = ("refused", *["-"] * 7)
            if each := point.figures:
                told = (
                    show_margin(each.mean),
                    show_margin(each.p99),
                    f"{each.throughput.value:,.0f}",
                    f"{each.fairness.value:.3f}",
                    f"{each.fairness_vcpus.value:.3f}",
                    show_ratio(each.slowdown),
                    each.station,
                    f"{each.reached:.0%}",
                )
            rows.append((point.approach, *map(_written, point.at.values()), *told))
        left = ("approach", "limited by")
        return Sheet((*head, "slower", "limited by", "reached"), rows, left=left, caption=caption)

    def refused_sheet(self) -> Sheet:
        """Why some points cannot run."""
        alike: dict[tuple[str, str], list[str]] = defaultdict(list)
        for point in self.points:
            if point.refused:
                alike[point.approach, "; ".join(point.refused)].append(point.where)
        rows = [(name, _first_of(where), reason) for (name, reason), where in alike.items()]
        head = ("approach", "refused at", "because")
        return Sheet(head, rows, left=head)

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        return (self.sheet(), self.refused_sheet()) if len(self._ran) < len(self.points) else (self.sheet(),)

    def chart(self) -> str:
        """Mean latency against the one numeric setting that varies, an ``<svg>``; empty if there is no such setting.

        The first six approaches that run at every point are drawn.
        """
        varied = [path for path, values in self.over.items() if len(values) > 1]
        kind = _kind(self.scenario, varied[0]) if len(varied) == 1 else None
        if kind is None:
            return ""
        (path,) = varied
        try:
            x = [kind.read(value) for value in self.over[path]]
        except ValueError:
            return ""
        order = sorted(range(len(x)), key=x.__getitem__) if all(type(each) is int for each in x) else []
        means: dict[str, list[Estimate]] = {}
        for name in dict.fromkeys(point.approach for point in self.points):
            here = [point.figures for point in self[name]]
            if order and all(here) and len(means) < MOST_LINES:
                means[name] = [each.mean for k in order if (each := here[k])]
        if not means:
            return ""
        show_x = show_time if kind is DURATION else show_number
        return curve(f"Mean latency of one {self.noun}", path, sorted(x), means, show_x=show_x)

    def pictures(self) -> tuple[str, ...]:
        """The curve, if there is one."""
        return (still(chart, self.verdict),) if (chart := self.chart()) else ()

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        return {
            "scenario": self.scenario.to_dict(),
            "replications": self.replications,
            "points": [point.to_dict() for point in self.points],
            "verdict": self.verdict,
            "warnings": list(self.warnings),
        }


def contention(
    scenario: Scenario,
    approaches: Iterable[Approach | str],
    over: Mapping[str, Iterable[Any]],
    *,
    replications: int = 5,
    progress: Callable[[str], None] = lambda what: None,
) -> Contention:
    """Run every combination of some settings, under several approaches.

    All runs have the same seeds, so that slowdowns are taken between the same operations.

    Args:
        scenario: what is the same everywhere.
        approaches: rows of the catalogue, by key or as objects; the names must differ.
        over: dotted path to values, e.g. ``{"guests": [1, 2, 4], "host.worker_cpus": [1, 2]}``; ``approach.`` leads to
            the columns of the row. What a rule refuses is kept, with the reason.
        replications: runs of each point.
        progress: called with what runs next.

    Raises:
        InvalidInput: no approach, an unknown one, two of the same name, no values, no such setting, more than 4,096
            runs, or nothing that can run.

    >>> from smmu_lab.scenario import Unmaps
    >>> small = Scenario(workload=Unmaps(ops=20, think=0))
    >>> result = contention(small, ["vcmdq"], {"guests": [1, 16]}, replications=1)
    >>> [(point.where, point.figures.station) for point in result.points]
    [('guests = 1', 'vCPUs'), ('guests = 16', 'command engine')]
    """
    rows, replications = read_approaches(approaches), read_replications(replications)
    settings = _read_over(over)
    wanted = len(rows) * prod(map(len, settings.values())) * replications
    if wanted > MOST_RUNS:
        raise InvalidInput(
            [
                f"over: {wanted:,} runs ({len(rows)} approaches x {' x '.join(str(len(v)) for v in settings.values())} "
                f"points x {replications} replications): at most {MOST_RUNS:,}"
            ]
        )
    points: list[Point] = []
    firsts: list[Run] = []
    for row in rows:
        first: list[Run] = []
        for values in product(*settings.values()):
            at = dict(zip(settings, values, strict=True))
            made = _at(scenario, row, at)
            if isinstance(made, InvalidInput):
                points.append(Point(row.name, at, refused=tuple(made.problems)))
                continue
            there, changed = made
            point = Point(row.name, at)
            progress(point.place)
            runs = [simulate(there.but(seed=scenario.seed + k), changed) for k in range(replications)]
            first = first or runs
            points.append(attrs.evolve(point, figures=_figures(runs, first)))
        firsts += first[:1]
    if not firsts:
        raise InvalidInput(dict.fromkeys(line for point in points for line in point.refused))
    return Contention(scenario, settings, tuple(points), replications, noun_of(firsts))


def _read_over(over: Mapping[str, Iterable[Any]]) -> dict[str, tuple[Any, ...]]:
    if not isinstance(over, Mapping):
        raise InvalidInput([invalid("over", over, 'a mapping of paths to values, e.g. {"guests": [1, 2, 4]}')])
    problems, settings = [], {}
    for path, values in over.items():
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable) or not (read := tuple(values)):
            problems.append(invalid(f"over[{path!r}]", values, "a list of at least one value"))
        elif path == "seed":
            problems.append("over['seed']: seeds follow the scenario's own, one for each replication: use replications")
        else:
            settings[path] = read
    if problems:
        raise InvalidInput(problems)
    return settings


def _at(scenario: Scenario, row: Approach, at: Mapping[str, Any]) -> tuple[Scenario, Approach] | InvalidInput:
    """The scenario and the row at a point, or what refuses it."""
    columns = {path.removeprefix("approach."): value for path, value in at.items() if path.startswith("approach.")}
    try:
        made = scenario.but({path: value for path, value in at.items() if not path.startswith("approach.")})
        changed = row.but(columns) if columns else row
    except InvalidInput as error:
        return error
    problems = made.refuses(changed)
    return InvalidInput(problems) if problems else (made, changed)


def _figures(runs: Sequence[Run], first: Sequence[Run]) -> Figures:
    sample = Sample(tuple(runs), settling(runs).length)
    neighbour = runs[0].scenario.is_neighbour
    measured = [{who: rate for who, rate in rates(run).items() if not neighbour(who[0])} for run in runs]
    guests = [jain(by_guest(each).values()) for each in measured]
    vcpus = [jain(each.values()) for each in measured]
    limit = bound(runs)
    return Figures(
        mean=sample.latency.mean,
        p99=sample.latency.p99,
        throughput=sectioned(sample.throughput, [run.throughput for run in runs]),
        fairness=sectioned(fmean(guests), guests),
        fairness_vcpus=sectioned(fmean(vcpus), vcpus),
        slowdown=_slowdown(runs, first),
        station=limit.station,
        reached=limit.reached,
        operations=min(map(len, sample.latency.replications)),
        unsure=unsure(runs),
    )


def _slowdown(runs: Sequence[Run], first: Sequence[Run]) -> Estimate:
    """Mean latency over another point's, of the vCPUs and the operations that are in both."""
    means = []
    for here, there in zip(map(_latencies, runs), map(_latencies, first), strict=True):
        early = max(settling(runs).length // len(here), settling(first).length // len(there))
        both = [list(zip(here[who], there[who], strict=False)) for who in here if who in there]
        kept = list(chain.from_iterable(pairs[min(early, len(pairs) // 2) :] for pairs in both))
        means.append((fmean(ours for ours, _ in kept), fmean(theirs for _, theirs in kept)))
    return ratio([ours for ours, _ in means], [theirs for _, theirs in means])


def _latencies(run: Run) -> dict[tuple[int, int], list[int]]:
    """Latencies of the measured operations of each (guest, vCPU), ns."""
    ops = run.ops
    made: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row, latency in zip(run.measured, run.series, strict=True):
        made[ops["guest"][row], ops["vcpu"][row]].append(latency)
    return made


def _kind(scenario: Scenario, path: str) -> Kind | None:
    """What a setting may be; None where there is no such setting."""
    *owners, name = path.split(".")
    if owners == [Approach.where]:
        fields = Approach.fields()
    else:
        owner: Any = scenario
        for each in owners:
            owner = getattr(owner, each, None)
        if isinstance(owner, Costs):
            return DURATION
        fields = owner.fields() if isinstance(owner, Settings) else ()
    return next((field.metadata["kind"] for field in fields if field.name == name), None)


def _first_of(places: Sequence[str]) -> str:
    return places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")


def _written(value: Any) -> str:
    return str(getattr(value, "name", value))
