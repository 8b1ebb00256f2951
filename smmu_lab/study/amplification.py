"""What one guest command becomes on k physical SMMUs: under one vSMMU over all of them, and under one for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby, product
from statistics import fmean, linear_regression
from typing import Any, ClassVar

import attrs

from smmu_lab.charts import curve, still
from smmu_lab.record import Distribution, Estimate, Run, sectioned, settling
from smmu_lab.scenario import Approach, Scenario, approach
from smmu_lab.scenario.fields import FLAG, whole
from smmu_lab.scenario.layout import MOST_SMMUS
from smmu_lab.scenario.topology import Topology
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.study.figures import read_replications, too_few, unsure
from smmu_lab.study.layouts import lay, ran_for, read_each, refusals
from smmu_lab.study.shown import Shown
from smmu_lab.units import show_number, show_time

STRAIGHT = 0.03
"""A line is called linear when no mean is further from it than this part of its rise; flat, of its height."""

NAMES = {"broadcast": "broadcast", "per-smmu": "per instance"}
"""The layouts that are compared, and what they are called here."""

SMMUS = whole(1, MOST_SMMUS)


@attrs.frozen
class Point:
    """What an unmap costs on so many SMMUs; times in ns, without the warm-up.

    Attributes:
        mean: latency in the mean, over all replications.
        p99: latency that one in a hundred exceeds.
        means: mean latency of each replication.
        guest: commands that the guest publishes, CMD_SYNCs included.
        issued: commands that each SMMU runs for them, CMD_SYNCs included, by its number.
        operations: how many each replication has.
        unsure: what makes these figures less than they seem.
    """

    mean: Estimate
    p99: Estimate
    means: tuple[float, ...]
    guest: float
    issued: tuple[float, ...]
    operations: int
    unsure: tuple[str, ...] = ()

    @property
    def host(self) -> float:
        """Commands that all SMMUs run."""
        return sum(self.issued)


@attrs.frozen
class Fit:
    """The straight line through mean latencies against the number of SMMUs; times in ns.

    Attributes:
        slope: latency for each SMMU more: least squares in each replication, with an interval over replications.
        r2: the part of the means' variance that the line explains; None where they do not vary.
        off: how far the mean that is furthest from the line is from it.
        rise: the line's, from the first number of SMMUs to the last.
        shape: ``flat``, ``linear`` or ``not linear``: see `STRAIGHT`; of two points ``open``.
    """

    slope: Estimate
    r2: float | None
    off: float
    rise: float
    shape: str


def fit(smmus: Sequence[int], means: Sequence[Sequence[float]]) -> Fit:
    """Lay a line through mean latencies, and look whether it is one.

    Args:
        smmus: how many SMMUs, ascending, at least two numbers.
        means: for each of them the mean latency of each replication, ns.

    >>> fit([1, 2, 3], [[5.0], [7.0], [9.0]])
    Fit(slope=Estimate(value=2.0, low=None, high=None), r2=1.0, off=0.0, rise=4.0, shape='linear')
    >>> fit([1, 2, 3], [[1.0], [4.0], [9.0]]).shape
    'not linear'
    """
    first = means[0]
    slopes = [linear_regression(smmus, [here[k] - first[k] for here in means]).slope for k in range(len(first))]
    slope = sectioned(fmean(slopes), slopes)
    grown = [fmean(here) - fmean(first) for here in means]  # equal means are then exactly level
    line = linear_regression(smmus, grown)
    apart = [y - line.intercept - line.slope * x for x, y in zip(smmus, grown, strict=True)]
    varied = sum((y - fmean(grown)) ** 2 for y in grown)
    off, rise = round(max(map(abs, apart)), 6), slope.value * (smmus[-1] - smmus[0])  # less is rounding
    low, high = (slope.value if end is None else end for end in (slope.low, slope.high))
    level = STRAIGHT * fmean(map(fmean, means))
    level_or_so = low <= 0 <= high and off <= level
    if level_or_so and max(abs(low), abs(high)) * (smmus[-1] - smmus[0]) <= level:
        shape = "flat"
    elif len(smmus) < 3 or level_or_so:
        shape = "open"
    else:
        shape = "linear" if off <= STRAIGHT * abs(rise) else "not linear"
    return Fit(slope, 1 - sum(each**2 for each in apart) / varied if varied else None, off, rise, shape)


@attrs.frozen
class Line:
    """One layout over growing numbers of SMMUs.

    Attributes:
        preset: ``broadcast`` (one vSMMU over all SMMUs), or ``per-smmu`` (one for each).
        shared: the domain that the guest works on has a device behind every SMMU; else behind the first one only.
        ats: the devices have ATS.
        points: what was measured, by the number of SMMUs.
        rules: what forbids it, by the number of SMMUs: names of rules, or of settings.
    """

    preset: str
    shared: bool
    ats: bool
    points: dict[int, Point]
    rules: dict[int, tuple[str, ...]]

    @property
    def name(self) -> str:
        """The layout, and whether the domain is shared."""
        return NAMES[self.preset] + ", shared" * self.shared

    @property
    def fit(self) -> Fit | None:
        """The straight line through its points; None if there are fewer than two."""
        if len(self.points) < 2:
            return None
        return fit(list(self.points), [point.means for point in self.points.values()])

    @property
    def refusal(self) -> str:
        """What forbids it, in words; empty if nothing does."""
        if not self.rules:
            return ""
        numbers = list(self.rules)
        names = dict.fromkeys(name for names in self.rules.values() for name in names)
        some = f"{numbers[0]} .. {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        return f"refused on {some} SMMUs: {', '.join(names)}"

    @property
    def growth(self) -> str:
        """How latency grows, in words."""
        fitted = self.fit
        if fitted is None:
            return self.refusal or "a single point"
        verb = "grows" if fitted.slope.value >= 0 else "falls"
        off = f" (up to {show_time(fitted.off)} off the line)"
        how = {"linear": f"{verb} linearly", "not linear": f"{verb}, but not linearly{off}", "open": verb}
        said = f"{how.get(fitted.shape, fitted.shape)}, {'+' * (fitted.slope.value >= 0)}{fitted.slope} per SMMU"
        return f"{said} ({self.refusal})" if self.rules else said

    def to_dict(self) -> dict[str, Any]:
        """As plain data; times in ns."""
        fitted = self.fit
        return {
            "layout": self.preset,
            "shared": self.shared,
            "ats": self.ats,
            "growth": self.growth,
            "fit": fitted and attrs.asdict(fitted),
            "points": {number: attrs.asdict(point) for number, point in self.points.items()},
            "rules": {number: list(names) for number, names in self.rules.items()},
        }


@attrs.frozen(repr=False)
class Amplification(Shown):
    """Layouts side by side, over growing numbers of SMMUs.

    Attributes:
        scenario: what the guests do.
        approach: what serves them.
        smmus: the numbers of SMMUs, ascending.
        replications: how often each point was run, with seeds from the scenario's on.
        warmup: operations left out at the beginning of each run: as many as any needs.
        noun: what is measured: an unmap, with the maps before it where the approach sends them.
        lines: one for each layout.
    """

    unfolded: ClassVar[int] = 1
    scenario: Scenario
    approach: Approach
    smmus: tuple[int, ...]
    replications: int
    warmup: int
    noun: str
    lines: tuple[Line, ...]

    def line(self, preset: str, shared: bool = False, ats: bool = False) -> Line:
        """One of the lines."""
        return next(each for each in self.lines if (each.preset, each.shared, each.ats) == (preset, shared, ats))

    @property
    def _by_ats(self) -> dict[str, list[Line]]:
        """The lines without ATS, and those with it."""
        return {
            f"with{'' if ats else 'out'} ATS": [line for line in self.lines if line.ats == ats]
            for ats in dict.fromkeys(line.ats for line in self.lines)
        }

    @property
    def title(self) -> str:
        """What was run."""
        made = self.scenario
        vcpus = f"{made.vcpus} vCPU{'s'[: made.vcpus > 1]}"
        times = f"{self.replications} replication{'s'[: self.replications > 1]}"
        return f"{self.approach.name}: {made.workload}, {vcpus}, {made.costs.title}; {times}"

    @property
    def verdict(self) -> str:
        """How latency grows with the number of SMMUs, layout by layout."""
        said = []
        for how, lines in self._by_ats.items():
            grown: dict[str, list[str]] = {}
            for line in lines:
                grown.setdefault(line.growth, []).append(line.name)
            words = "; ".join(f"{' and '.join(names)}: {growth}" for growth, names in grown.items())
            slopes = [line.fit.slope.value for line in lines if line.shared and line.fit]
            if len(slopes) == 2 and min(slopes) > 0:
                factor = show_number(slopes[1] / slopes[0])
                words += f"; shared, per instance it grows {factor} times as fast as broadcasting"
            said.append(f"{self.approach.name} {how}: {words}.")
        return " ".join(said)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes a figure less than it seems, one sentence each."""
        places: dict[str, list[str]] = defaultdict(list)
        for line in self.lines:
            for number, point in line.points.items():
                for why in point.unsure:
                    places[why].append(f"{line.name}{', ATS' * line.ats} on {number}")
        said = [f"{', '.join(where)}: {why}" for why, where in places.items()]
        operations = [point.operations for line in self.lines for point in line.points.values()]
        return (*said, *(too_few(self.replications, min(operations)) if operations else ()))

    # -- showing -----------------------------------------------------------------------------------------------------

    def growth_sheet(self) -> Sheet:
        """How latency grows, and how straight that is: one row per layout."""
        ends = self.smmus[0], self.smmus[-1]
        head = ("ATS", "layout", *(f"on {k}" for k in ends), "per SMMU more", "R²", "off the line", "growth")
        rows = []
        for line in self.lines:
            fitted = line.fit
            figures = ("-", "-", "-")
            if fitted:
                r2 = "-" if fitted.r2 is None else f"{fitted.r2:.4f}"
                figures = str(fitted.slope), r2, show_time(fitted.off)
            means = [show_time(line.points[k].mean.value) if k in line.points else "-" for k in ends]
            growth = ", ".join(filter(None, (fitted.shape if fitted else "", line.refusal)))
            rows.append(("yes" if line.ats else "no", line.name, *means, *figures, growth))
        caption = (
            f"mean latency of one {self.noun} on {ends[0]} and {ends[1]} SMMUs; the straight line through all means, "
            "and how far off the furthest one is (95 % intervals over replications). Linear: within "
            f"{STRAIGHT:.0%} of the rise; flat: of the height"
        )
        return Sheet(head, rows, left=("ATS", "layout", "growth"), caption=caption)

    def latency_sheet(self, ats: str, figure: str) -> Sheet:
        """A figure of latency, one row per number of SMMUs and one column per layout."""
        what = "mean" if figure == "mean" else "99th percentile"
        return self._sheet(ats, f"latency of one {self.noun} {ats}, {what}", lambda point: str(getattr(point, figure)))

    def commands_sheet(self, ats: str) -> Sheet:
        """Commands that the guest publishes for each, and that SMMUs run for it."""
        caption = f"commands per {self.noun} {ats}, with CMD_SYNCs: the guest's -> all SMMUs' (each one's, in order)"
        return self._sheet(ats, caption, _written)

    def _sheet(self, ats: str, caption: str, write: Callable[[Point], str]) -> Sheet:
        lines = self._by_ats[ats]

        def cell(line: Line, number: int) -> str:
            return write(line.points[number]) if number in line.points else ", ".join(line.rules[number])

        rows = [(str(number), *(cell(line, number) for line in lines)) for number in self.smmus]
        return Sheet(("SMMUs", *(line.name for line in lines)), rows, caption=caption)

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        of_each = [
            (self.latency_sheet(ats, "mean"), self.latency_sheet(ats, "p99"), self.commands_sheet(ats))
            for ats in self._by_ats
        ]
        return (self.growth_sheet(), *chain.from_iterable(of_each))

    def chart(self, ats: bool = False, what: str = "latency", shared: bool | None = None) -> str:
        """A picture of the layouts that run on every number of SMMUs.

        Args:
            ats: with ATS.
            what: ``latency`` in the mean, or ``commands`` that all SMMUs run for it.
            shared: only the lines of a domain that is shared, or only the others; all by default.

        Returns:
            An ``<svg>``; empty where no layout runs on all of them.
        """
        lines = [line for line in self.lines if line.ats == ats and shared in (None, line.shared) and not line.rules]
        if not lines:
            return ""
        title = f"Latency of one {self.noun}" if what == "latency" else f"SMMUs' commands per {self.noun}"
        series = {
            line.name: tuple(point.mean if what == "latency" else point.host for point in line.points.values())
            for line in lines
        }
        alike = [" = ".join(name for name in series if series[name] == each) for each in dict.fromkeys(series.values())]
        one_line = ", ".join(names for names in alike if "=" in names)
        title += f", with{'' if ats else 'out'} ATS" + (f" ({one_line})" if one_line else "")
        show = show_time if what == "latency" else show_number
        return curve(title, "physical SMMUs", self.smmus, series, show, "{:.0f}".format)

    def pictures(self) -> tuple[str, ...]:
        """Latency and commands, without ATS and with it."""
        return tuple(
            still(chart, "; ".join(f"{line.name}: {line.growth}" for line in lines))
            for lines in self._by_ats.values()
            for what in ("latency", "commands")
            if (chart := self.chart(lines[0].ats, what))
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        return {
            "scenario": self.scenario.to_dict(),
            "approach": self.approach.name,
            "smmus": list(self.smmus),
            "replications": self.replications,
            "warmup": self.warmup,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "lines": [line.to_dict() for line in self.lines],
        }


def _written(point: Point) -> str:
    """The guest's commands and the SMMUs': ``2 -> 8 (4 + 2 x 2)``: four on the first, two on each of two others."""
    numbers = [show_number(each) for each in point.issued]
    each = " + ".join(
        f"{number} x {what}" if number > 1 else what for what, same in groupby(numbers) for number in [len(list(same))]
    )
    return f"{show_number(point.guest)} -> {show_number(point.host)} ({each})"


@attrs.frozen
class _Ran:
    """What is kept of the replications of one point: all that there is to know before the warm-up is known."""

    series: Sequence[Sequence[int]]
    guest: float
    issued: tuple[float, ...]
    warmup: int
    unsure: tuple[str, ...]
    noun: str

    @classmethod
    def of(cls, runs: Sequence[Run]) -> _Ran:
        published = fmean(run.per_operation("commands") for run in runs)
        issued = map(fmean, zip(*map(ran_for, runs), strict=True))
        return cls(
            [run.series for run in runs], published, tuple(issued), settling(runs).length, unsure(runs), runs[0].noun
        )

    def point(self, warmup: int) -> Point:
        latency = Distribution(*(each[warmup:] for each in self.series))
        return Point(
            mean=latency.mean,
            p99=latency.p99,
            means=tuple(map(fmean, latency.replications)),
            guest=self.guest,
            issued=self.issued,
            operations=len(latency.replications[0]),
            unsure=self.unsure,
        )


def amplification(
    scenario: Scenario,
    by: Approach | str = "qemu-today",
    smmus: Iterable[int] = range(1, 17),
    ats: Iterable[bool] = (False, True),
    *,
    replications: int = 5,
    progress: Callable[[str], None] = lambda name: None,
) -> Amplification:
    """Run a scenario on more and more SMMUs: with one vSMMU over all of them, and with one for each.

    All vCPUs work on one domain, ``d0``. Its device is behind the first SMMU; or it is shared by devices behind all of
    them. The other layouts of `Topology.preset` are not varied.

    Args:
        scenario: what the guests do; its own topology is not used.
        by: what serves them: a row of the catalogue, by key or as an object.
        smmus: how many SMMUs.
        ats: whether the devices have ATS: both, or one of them.
        replications: seeds, from the scenario's on; fewer than 5 give no intervals.
        progress: called with what runs next.

    Raises:
        InvalidInput: no such approach, a number that is not valid, or a scenario that has no room for a topology.

    >>> from smmu_lab.scenario import Unmaps
    >>> result = amplification(Scenario(workload=Unmaps(ops=20)), "batched", [1, 2, 4], [False])
    >>> [result.line(preset).fit.shape for preset in ("broadcast", "per-smmu")]
    ['linear', 'flat']
    """
    row = by if isinstance(by, Approach) else approach(by)
    numbers, choices = sorted(set(read_each("smmus", smmus, SMMUS))), sorted(set(read_each("ats", ats, FLAG)))
    times = read_replications(replications)
    scenario.but(topology=Topology.preset("per-smmu", smmus=1, ats=choices[-1]))  # has it room for one at all?
    done: list[tuple[Line, dict[int, _Ran]]] = []
    for has_ats, shared, preset in product(choices, (False, True), NAMES):
        line, ran = Line(preset, shared, has_ats, {}, {}), {}
        for number in numbers:
            topology = Topology.preset(preset, smmus=number, ats=has_ats, shared=shared, drives=("d0",))
            laid, why = lay(scenario, topology, row)
            if laid is None:
                line.rules[number] = tuple(dict.fromkeys(each.name for each in refusals(why)))
                continue
            runs = []
            for seed in range(scenario.seed, scenario.seed + times):
                progress(f"{line.name}{', ATS' * has_ats} on {number} SMMU{'s'[: number > 1]}, seed {seed}")
                runs.append(simulate(laid.but(seed=seed), row))
            ran[number] = _Ran.of(runs)
        done.append((line, ran))
    every = [each for _, ran in done for each in ran.values()]
    warmup = max((each.warmup for each in every), default=0)
    for line, ran in done:
        line.points.update({number: each.point(warmup) for number, each in ran.items()})
    return Amplification(
        scenario=scenario,
        approach=row,
        smmus=tuple(numbers),
        replications=times,
        warmup=warmup,
        noun=every[0].noun if every else "unmap",
        lines=tuple(line for line, _ in done),
    )
