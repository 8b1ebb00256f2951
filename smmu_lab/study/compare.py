"""The same operations under several approaches, paired, with intervals and one sentence of conclusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from operator import sub
from statistics import fmean
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.charts import breakdown, breakdown_sheet, still, summary
from smmu_lab.record import STAGES, Estimate, Run, Sample, Warmup, batch_means, noun_of, sectioned, settling
from smmu_lab.scenario import Approach, InvalidInput, Recorded, Scenario, read_approaches
from smmu_lab.scenario.fields import Kind, invalid, only
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.study.bounds import ENGINE, Bound, bound
from smmu_lab.study.shown import Shown
from smmu_lab.units import TIME, show_number, show_time

if TYPE_CHECKING:
    import pandas

BASELINE = "qemu-today"
"""What the others are compared with when it takes part: what one can run today."""

FEWEST, MOST = 5, 64
"""Replications for a precision."""

PRECISION = Kind("a number above 0 and below 1, e.g. 0.01", only(lambda v: type(v) is float and 0 < v < 1))


def compare(
    scenario: Scenario,
    approaches: Iterable[Approach | str],
    progress: Callable[[str], None] = lambda name: None,
    precision: float | None = None,
) -> Comparison:
    """Run the same operations under several approaches.

    Every random stream is named by guest, vCPU and purpose: all approaches meet the same operations with the same gaps
    between them (common random numbers), so that differences are taken operation by operation.

    Args:
        scenario: what the guests do, on what machine.
        approaches: rows of the catalogue, by key or as objects; the names must differ.
        progress: called with what runs next.
        precision: if given, the scenario is replicated with the seeds that follow its own, at least 5 and at most 64
            times, until the 95 % interval of every mean latency is at most so much of it to each side (A. M. Law,
            Simulation Modeling and Analysis, 2015, 9.4.1).

    Raises:
        InvalidInput: no approach, an unknown one, two of the same name, or a precision that is none.
    """
    if precision is not None:
        try:
            PRECISION.read(precision)
        except ValueError:
            raise InvalidInput([invalid("precision", precision, PRECISION.valid)]) from None
    rows = read_approaches(approaches)
    replications: list[Mapping[str, Run]] = []
    while True:
        number = len(replications)
        seeded = scenario.but(seed=scenario.seed + number)
        runs = {}
        for row in rows:
            progress(f"{row.name}, replication {number + 1}" if precision else row.name)
            runs[row.name] = simulate(seeded, row)
        replications.append(runs)
        result = Comparison(scenario, tuple(replications), precision)
        if precision is None or number + 1 == MOST or (number + 1 >= FEWEST and not result.imprecise):
            return result


@attrs.frozen(slots=False, eq=False, repr=False)
class Comparison(Shown):
    """Approaches side by side.

    Attributes:
        scenario: what all of them ran.
        replications: the record of each, by name, in the order asked for; once for each seed, from the scenario's on.
        precision: half-width of the mean's interval, over the mean, that was asked for.
    """

    scenario: Scenario
    replications: tuple[Mapping[str, Run], ...]
    precision: float | None = None

    @cached_property
    def warmups(self) -> dict[str, Warmup]:
        """The beginning that each approach would leave out, as its first replications say together."""
        first = self.replications[:FEWEST]
        return {name: settling([runs[name] for runs in first]) for name in first[0]}

    @property
    def warmup(self) -> int:
        """Operations left out at the beginning of every run: as many as any approach needs, for they are paired."""
        return max(each.length for each in self.warmups.values())

    @cached_property
    def samples(self) -> dict[str, Sample]:
        """What the replications of each approach say together: the figures that are shown."""
        return {
            name: Sample(tuple(runs[name] for runs in self.replications), self.warmup) for name in self.replications[0]
        }

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The record of each, of the first replication; their figures leave out the same operations."""
        return {name: attrs.evolve(run, dropped=self.warmup) for name, run in self.replications[0].items()}

    @cached_property
    def bounds(self) -> dict[str, Bound]:
        """What limits the throughput of each, and how near it comes."""
        return {name: bound(sample.runs) for name, sample in self.samples.items()}

    @property
    def imprecise(self) -> tuple[str, ...]:
        """The approaches whose mean is not as sure as was asked for."""
        means = {name: sample.latency.mean for name, sample in self.samples.items()}
        return tuple(
            name
            for name, mean in means.items()
            if self.precision and (mean.half_width or 0.0) > self.precision * mean.value
        )

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The approaches by mean latency, fastest first; bare metal is a reference, and no choice beside others."""
        names = [name for name, sample in self.samples.items() if not sample.approach.on_metal] or list(self.samples)
        return tuple(sorted(names, key=lambda name: self.samples[name].latency.mean.value))

    @property
    def baseline(self) -> str:
        """What the others are compared with: `BASELINE`, or else the first choice asked for."""
        return BASELINE if BASELINE in self.samples else next(name for name in self.samples if name in self.choices)

    def difference(self, slow: str, fast: str) -> Estimate:
        """Mean time that `fast` saves per operation, ns: the mean of paired differences, with its interval.

        Pairs are operations of one run, or means of replications of the same seed.
        """
        pairs = zip(self.samples[slow].latency.replications, self.samples[fast].latency.replications, strict=True)
        saved = [list(map(sub, theirs, ours)) for theirs, ours in pairs]
        if len(saved) == 1 or not saved[0]:
            return batch_means(saved[0])
        means = list(map(fmean, saved))
        return sectioned(fmean(means), means)

    @cached_property
    def saved(self) -> dict[str, Estimate]:
        """What each approach saves against the baseline, ns."""
        return {name: self.difference(self.baseline, name) for name in self.samples}

    @cached_property
    def fastest(self) -> tuple[str, ...]:
        """The approach with the lowest mean latency, and those whose paired difference to it may be none.

        Where operations are too few for an interval, only equal means are taken for equal.
        """
        best, *others = self.choices
        behind = {name: self.difference(name, best) for name in others}
        return best, *(name for name, time in behind.items() if (time.value if time.low is None else time.low) <= 0)

    @cached_property
    def verdict(self) -> str:
        """One sentence: by how much, how sure, and what it rests on."""
        best, base, group = self.choices[0], self.baseline, self.fastest
        latency = self.samples[best].latency
        if not latency.values:
            return "Nothing was invalidated, so there is nothing to compare."
        mean = show_time(latency.mean.value)
        if len(self.choices) == 1:
            return f"{best} takes {mean} in the mean; there is nothing to choose from."
        names = group[0] if len(group) == 1 else f"{', '.join(group[:-1])} and {group[-1]}"
        same = all(self.difference(name, best) == Estimate(0.0, 0.0, 0.0) for name in group)
        if len(group) == len(self.choices):
            how = "operation by operation" if same else f"as far as {self._pairs} can tell"
            return f"No difference: {names} take the same time, {how}: {mean} in the mean."
        said = f"{best} is fastest"
        if len(group) > 1:
            apart = "and take the same time" if same else f"and {self._pairs} cannot tell them apart"
            said = f"{names} are fastest, {apart}"
        slow = base if base not in group else self.choices[len(group)]
        return f"{said}: {self._against(best, slow)}."

    def _against(self, fast: str, slow: str) -> str:
        ours, theirs = (self.samples[name].latency.mean.value for name in (fast, slow))
        saved = self.difference(slow, fast)
        factor = f", {theirs / ours:.3g} times as fast" if ours else ""
        if saved.low is None or saved.high is None:
            sure = f"{self._pairs} are too few for an interval"
        else:
            sure = f"95 % interval of the time saved {show_time(saved.low)} .. {show_time(saved.high)}, {self._pairs}"
        return (
            f"{show_time(ours)} in the mean against {show_time(theirs)} of {slow}{factor} ({sure}); "
            f"{self._rests_on(fast, slow)}"
        )

    @property
    def _pairs(self) -> str:
        number, each = len(self.replications), len(next(iter(self.samples.values())).latency.replications[0])
        return f"{each:,} paired operations" if number == 1 else f"{number} paired replications of {each:,} operations"

    def _rests_on(self, fast: str, slow: str) -> str:
        run, base = self.samples[fast], self.samples[slow]
        apart = {stage: base.breakdown[stage] - run.breakdown[stage] for stage in STAGES}
        largest = [stage for stage in sorted(STAGES, key=lambda stage: -abs(apart[stage])) if apart[stage]][:2]
        stages = " and ".join(
            f"{stage} ({show_time(abs(apart[stage]))} {'less' if apart[stage] > 0 else 'more'})" for stage in largest
        )
        named = {cost for stage in largest for row in (run, base) for cost in costs_of(stage, row.approach)}
        costs = self.scenario.costs
        by_basis = {
            basis: [cost for cost in costs if cost in named and costs[cost].basis == basis]
            for basis in ("measured", "given", "inferred")
        }
        bases = "; ".join(
            f"{', '.join(names)} ({'all ' if len(names) > 1 else ''}{basis})"
            for basis, names in by_basis.items()
            if names
        )
        return f"it comes from {stages} and rests on the costs {bases} of profile {costs.profile}"

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What makes a figure of these runs less than it seems, one sentence each."""
        load, said = self.scenario.workload, []
        for name, run in self.samples.items():
            if run.counts.timeouts:
                said.append(
                    f"{name}: {run.counts.timeouts:,} waits were longer than the driver's timeout of 1 s; "
                    "a real driver goes on, and uses memory that the device may still reach."
                )
            if load.rate and run.latency.mean.value > load.gap / 2:
                said.append(
                    f"{name}: one vCPU is asked for {load.rate:,} operations per second, and could do "
                    f"{1e9 / run.latency.mean.value:,.0f}; the latency leaves out how long they waited for it."
                )
            if not self.warmups[name].settled:
                said.append(
                    f"{name}: latency has not settled in half of the run: more operations are needed to tell its "
                    "mean in the long run."
                )
        for name in self.imprecise:
            mean = self.samples[name].latency.mean
            said.append(
                f"{name}: after {len(self.replications)} replications the mean is known to "
                f"± {(mean.half_width or 0.0) / mean.value:.2%}, not to the ± {self.precision:.2%} asked for."
            )
        return tuple(said)

    # -- showing -----------------------------------------------------------------------------------------------------

    def latency_sheet(self) -> Sheet:
        """Latency of each approach, each figure with its interval."""
        rows = [
            (
                name,
                _with_margin(run.latency.mean),
                *map(_with_interval, (run.latency.p50, run.latency.p99, run.latency.p999)),
            )
            for name, run in self.samples.items()
            if run.latency.values
        ]
        maps = " (under nesting a map sends nothing)" if self.noun.startswith("map") else ""
        caption = f"latency of one {self.noun}{maps}, 95 % intervals (?: too few operations to say); {self.basis}"
        return Sheet(("approach", "mean", "p50", "p99", "p99.9"), rows, left=("approach",), caption=caption)

    @property
    def basis(self) -> str:
        """What the figures rest on: how many operations, how often, and what is left out as warm-up."""
        number, each = len(self.replications), len(next(iter(self.replications[0].values())).measured)
        times = f"{number} replications of {each:,} operations" if number > 1 else f"{each:,} operations"
        if not self.warmup:
            return f"{times}, none dropped as warm-up"
        return f"{times}, the first {self.warmup:,}{' of each' if number > 1 else ''} dropped as warm-up"

    def events_sheet(self) -> Sheet:
        """What each approach needs, per measured operation."""
        columns = {
            "exits to VMM": "exits_vmm",
            "exits to kernel": "exits_kernel",
            "ioctls": "ioctls",
            "host SYNCs": "host_syncs",
            "wakes": "wakes",
            "CONS reads": "cons_reads",
        }
        header = ("approach", *columns, "commands per doorbell")
        rows = [
            (
                name,
                *(show_number(run.per_operation(count)) for count in columns.values()),
                show_number(run.counts.commands / max(1, run.counts.doorbells)),
            )
            for name, run in self.samples.items()
        ]
        return Sheet(header, rows, left=("approach",), caption=f"events per {self.noun}")

    def time_sheet(self) -> Sheet:
        """Whose time it takes, what is saved in the mean, and how many operations a second that leaves."""
        header: tuple[str, ...]
        header = ("approach", "guest CPU", "host CPU", "interrupts off", f"saved against {self.baseline}", "per second")
        rows: list[tuple[str, ...]] = [
            (
                name,
                show_time(run.per_operation("cpu_guest")),
                show_time(run.per_operation("cpu_host") + run.per_operation("cpu_worker")),
                show_time(run.irq_off),
                "-" if name == self.baseline else _with_margin(self.saved[name]),
                f"{run.throughput:,.0f}",
            )
            for name, run in self.samples.items()
        ]
        caption = f"time per {self.noun}"
        if any(run.exposed for run in self.samples.values()):
            header = (*header, "exposed pages")
            rows = [(*row, show_number(self.samples[row[0]].exposed)) for row in rows]
            caption += "; exposed pages: unmapped, and at an instant still reachable by a device, in the mean"
        return Sheet(header, rows, left=("approach",), caption=caption)

    def bounds_sheet(self) -> Sheet:
        """The throughput of each beside what its busiest resource allows, and what queueing theory says."""
        header: tuple[str, ...]
        header = ("approach", "per second", "at most", "limited by", "reached", f"{ENGINE} busy")
        rows: list[tuple[str, ...]] = [
            (
                name,
                f"{each.throughput:,.0f}",
                f"{each.limit:,.0f}",
                each.station,
                f"{each.reached:.0%}",
                f"{each.busy[ENGINE]:.0%}",
            )
            for name, each in self.bounds.items()
            if each.reached
        ]
        caption = "throughput and its bounds: no resource can be at work for longer than the run lasts"
        if any(each.queueing for each in self.bounds.values()):
            header = (*header, "wait for it", "M/D/1")
            waits = {name: each.queueing[::-1] if each.queueing else () for name, each in self.bounds.items()}
            rows = [(*row, *(map(show_time, waits[row[0]]) if waits[row[0]] else "--")) for row in rows]
        return Sheet(header, rows, left=("approach", "limited by"), caption=caption)

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        return (
            self.latency_sheet(),
            self.events_sheet(),
            self.time_sheet(),
            self.bounds_sheet(),
            breakdown_sheet(self.samples),
        )

    @property
    def noun(self) -> str:
        """What is measured: an unmap, with the maps before it where any approach sends them; a flush or a doorbell."""
        return noun_of(self.samples.values())

    @property
    def title(self) -> str:
        """What was run."""
        s = self.scenario
        measured, others = s.guests - s.neighbour.guests, s.neighbour.guests
        guests = f"{measured} guest{'s'[: measured > 1]} x " if s.guests > 1 else ""
        vcpus = f"{s.vcpus} vCPU{'s'[: s.vcpus > 1]}"
        ril = "" if s.smmu.ril or isinstance(s.workload, Recorded) else ", no range invalidation"
        workload = str(s.workload)
        place = f", topology {s.topology.name}" if s.topology else ""
        beside = f", beside {others} with {s.neighbour.workload}" if others else ""
        return f"{workload[0].upper()}{workload[1:]}, {guests}{vcpus}{beside}{place}, {s.costs.title}{ril}"

    def pictures(self) -> tuple[str]:
        """Where the time of each goes."""
        return (still(breakdown(self.samples), summary(self.samples)),)

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, and what it rests on, as plain data; times in ns."""
        costs = self.scenario.costs
        return {
            "scenario": self.scenario.to_dict(),
            "baseline": self.baseline,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "runs": {
                name: sample.to_dict() | {"saved": attrs.asdict(self.saved[name]), "bound": self.bounds[name].to_dict()}
                for name, sample in self.samples.items()
            },
            "costs": {name: cost.values() for name, cost in costs.items()},
        }

    def to_pandas(self) -> pandas.DataFrame:
        """All operations of all approaches as one data frame with columns ``approach`` and ``seed``; needs pandas."""
        import pandas

        return pandas.concat(
            [
                run.to_pandas().assign(approach=name, seed=run.scenario.seed)
                for runs in self.replications
                for name, run in runs.items()
            ]
        )


def costs_of(stage: str, row: Approach) -> tuple[str, ...]:
    """The costs that a stage is made of under an approach."""
    seen = {
        "vmm-cons": ("exit_user", "relax"),
        "kernel-cons": ("exit_kernel", "relax"),
        "shared-cons": ("cons_shared", "relax"),
        "device-cons": ("mmio_r", "relax"),
        "msi-word": ("cons_shared",),
        "used-ring-poll": ("cons_shared",),
        "used-ring-irq": ("lpi",),
    }
    ring = {
        "trap-to-vmm": ("exit_user",),
        "trap-to-kernel": ("exit_kernel", "sig"),
        "kernel-call": ("exit_kernel",),
        "direct": ("mmio_w",),
        "polled": ("prod_shared", "poll"),
    }
    woken = () if row.doorbell == "polled" else ("wake", "poll") if row.busy_poll else ("wake",)
    hardware = row.executes_directly
    common = {
        "doorbell": ring[row.doorbell],
        "wake": woken if row.has_worker else (),
        "queue": ("t_tlbi", "sync_occ") if hardware else ("hsubmit",),
        "execute": ("t_sync", "t_tlbi"),
        "complete": seen[row.completion],
    }
    if row.front == "virtio-iommu":
        served = ("host_map", "pin", "host_unmap", "unpin", *(["ioctl"] if row.consumer == "vmm" else []))
        requests = {
            "build": ("vq_add",),
            "lock": (*ring[row.doorbell], "vq_take", *served, "t_sync"),  # of the ring, held by others
            "consume": ("vq_take",),
            "handoff": served,
        }
        return (common | requests).get(stage, ())
    copied = ("capture", "copy") if row.has_worker else ("copy",)
    read = () if row.handoff == "queue" else ("vmm_cmd",)
    commands = {
        "build": ("g_fix", "g_cmd"),
        "gather": ("g_cmd",),
        "lock": ("exit_user", "vmm_cmd", "ioctl", "t_sync") if row.consumer == "vmm" else (),
        "consume": copied if row.in_kernel else () if hardware else read,
        "handoff": ("conv",) if row.in_kernel else () if hardware else ("ioctl", "conv", "copy"),
    }
    return (common | commands).get(stage, ())


def _with_margin(estimate: Estimate) -> str:
    half = estimate.half_width
    if half is None:
        return show_time(estimate.value)
    value, unit = show_time(estimate.value).split(" ")
    margin = half / TIME[unit]
    digits = 0 if margin >= 10 else 1 if margin >= 1 else 2
    return f"{value} ± {margin:.{digits}f} {unit}"


def _with_interval(estimate: Estimate) -> str:
    value, unit = show_time(estimate.value).split(" ")
    if estimate.value == estimate.low == estimate.high:
        return f"{value} {unit}"
    low, high = ("?" if end is None else show_number(end / TIME[unit]) for end in (estimate.low, estimate.high))
    return f"{value} ({low} .. {high}) {unit}"
