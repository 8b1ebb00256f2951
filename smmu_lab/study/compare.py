"""The same operations under several approaches, paired, with intervals and one sentence of conclusion."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from html import escape
from operator import sub
from typing import TYPE_CHECKING, Any

import attrs

from smmu_lab.charts import breakdown, breakdown_sheet, still, summary
from smmu_lab.record import STAGES, Estimate, Run, batch_means
from smmu_lab.scenario import Approach, InvalidInput, Recorded, Scenario, approach
from smmu_lab.sheet import Sheet
from smmu_lab.sim import simulate
from smmu_lab.units import TIME, show_number, show_time

if TYPE_CHECKING:
    import pandas
    from rich.console import Console, ConsoleOptions, RenderResult

BASELINE = "qemu-today"
"""What the others are compared with when it takes part: what one can run today."""


def compare(
    scenario: Scenario,
    approaches: Iterable[Approach | str],
    progress: Callable[[str], None] = lambda name: None,
) -> Comparison:
    """Run the same operations under several approaches.

    Every random stream is named by guest, vCPU and purpose: all approaches meet the same operations with the same gaps
    between them, so that differences are taken operation by operation.

    Args:
        scenario: what the guests do, on what machine.
        approaches: rows of the catalogue, by key or as objects; the names must differ.
        progress: called with the name of each approach before it runs.

    Raises:
        InvalidInput: no approach, an unknown one, or two of the same name.
    """
    rows = [each if isinstance(each, Approach) else approach(each) for each in approaches]
    names = [row.name for row in rows]
    if not rows:
        raise InvalidInput(["approaches: none given: at least one row of the catalogue"])
    if twice := {name for name in names if names.count(name) > 1}:
        raise InvalidInput(f"approaches: {name!r} is there twice: give one a name with but(name=...)" for name in twice)
    runs = {}
    for row in rows:
        progress(row.name)
        runs[row.name] = simulate(scenario, row)
    return Comparison(scenario, runs)


@attrs.frozen(slots=False, eq=False, repr=False)
class Comparison:
    """Approaches side by side.

    Attributes:
        scenario: what all of them ran.
        runs: the record of each, by name, in the order asked for.
    """

    scenario: Scenario
    runs: Mapping[str, Run]

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The approaches by mean latency, fastest first; bare metal is a reference, and no choice beside others."""
        names = [name for name, run in self.runs.items() if not run.approach.on_metal] or list(self.runs)
        return tuple(sorted(names, key=lambda name: self.runs[name].latency.mean.value))

    @property
    def baseline(self) -> str:
        """What the others are compared with: `BASELINE`, or else the first choice asked for."""
        return BASELINE if BASELINE in self.runs else next(name for name in self.runs if name in self.choices)

    def difference(self, slow: str, fast: str) -> Estimate:
        """Mean time that `fast` saves per operation, ns: the mean of paired differences, with its interval."""
        return batch_means(list(map(sub, self.runs[slow].latency.values, self.runs[fast].latency.values)))

    @cached_property
    def saved(self) -> dict[str, Estimate]:
        """What each approach saves against the baseline, ns."""
        return {name: self.difference(self.baseline, name) for name in self.runs}

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
        run = self.runs[best]
        if not run.measured:
            return "Nothing was invalidated, so there is nothing to compare."
        mean = show_time(run.latency.mean.value)
        if len(self.choices) == 1:
            return f"{best} takes {mean} in the mean; there is nothing to choose from."
        names = group[0] if len(group) == 1 else f"{', '.join(group[:-1])} and {group[-1]}"
        same = all(self.difference(name, best) == Estimate(0.0, 0.0, 0.0) for name in group)
        if len(group) == len(self.choices):
            how = "operation by operation" if same else f"as far as {len(run.measured):,} paired operations can tell"
            return f"No difference: {names} take the same time, {how}: {mean} in the mean."
        said = f"{best} is fastest"
        if len(group) > 1:
            apart = "and take the same time" if same else f"and {len(run.measured):,} operations cannot tell them apart"
            said = f"{names} are fastest, {apart}"
        slow = base if base not in group else self.choices[len(group)]
        return f"{said}: {self._against(best, slow)}."

    def _against(self, fast: str, slow: str) -> str:
        ours, theirs = (self.runs[name].latency.mean.value for name in (fast, slow))
        saved = self.difference(slow, fast)
        factor = f", {theirs / ours:.3g} times as fast" if ours else ""
        operations = f"{len(self.runs[fast].measured):,} paired operations"
        if saved.low is None or saved.high is None:
            sure = f"{operations} are too few for an interval"
        else:
            sure = f"95 % interval of the time saved {show_time(saved.low)} .. {show_time(saved.high)}, {operations}"
        return (
            f"{show_time(ours)} in the mean against {show_time(theirs)} of {slow}{factor} ({sure}); "
            f"{self._rests_on(fast, slow)}"
        )

    def _rests_on(self, fast: str, slow: str) -> str:
        run, base = self.runs[fast], self.runs[slow]
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
        bases = "; ".join(f"{', '.join(names)} ({basis})" for basis, names in by_basis.items() if names)
        return f"it comes from {stages} and rests on the costs {bases} of profile {costs.profile}"

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What makes a figure of these runs less than it seems, one sentence each."""
        load, said = self.scenario.workload, []
        for name, run in self.runs.items():
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
            for name, run in self.runs.items()
            if run.measured
        ]
        caption = f"latency of one {self.noun}, 95 % intervals (?: too few operations to say)"
        return Sheet(("approach", "mean", "p50", "p99", "p99.9"), rows, left=("approach",), caption=caption)

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
            for name, run in self.runs.items()
        ]
        return Sheet(header, rows, left=("approach",), caption=f"events per {self.noun}")

    def time_sheet(self) -> Sheet:
        """Whose time it takes, what is saved in the mean, and how many operations a second that leaves."""
        header = ("approach", "guest CPU", "host CPU", "interrupts off", f"saved against {self.baseline}", "per second")
        rows = [
            (
                name,
                show_time(run.per_operation("cpu_guest")),
                show_time(run.per_operation("cpu_host") + run.per_operation("cpu_worker")),
                show_time(run.irq_off),
                "-" if name == self.baseline else _with_margin(self.saved[name]),
                f"{run.throughput:,.0f}",
            )
            for name, run in self.runs.items()
        ]
        return Sheet(header, rows, left=("approach",), caption=f"time per {self.noun}")

    @property
    def sheets(self) -> tuple[Sheet, ...]:
        """All tables, in the order of reading."""
        return self.latency_sheet(), self.events_sheet(), self.time_sheet(), breakdown_sheet(self.runs)

    @property
    def noun(self) -> str:
        """What is measured: an unmap, a flush or a doorbell."""
        return next(iter(self.runs.values())).noun

    @property
    def title(self) -> str:
        """What was run."""
        s = self.scenario
        guests = f"{s.guests} guests x " if s.guests > 1 else ""
        vcpus = f"{s.vcpus} vCPU{'s'[: s.vcpus > 1]}"
        ril = "" if s.smmu.ril or isinstance(s.workload, Recorded) else ", no range invalidation"
        workload = str(s.workload)
        return f"{workload[0].upper()}{workload[1:]}, {guests}{vcpus}, {s.costs.title}{ril}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.title, style="bold")
        yield from self.sheets
        yield Text("\n".join([self.verdict, *self.warnings]))

    def __repr__(self) -> str:
        sheets = [f"{sheet.caption}\n{sheet}" for sheet in self.sheets]
        return "\n\n".join([self.title, *sheets, self.verdict, *self.warnings])

    def _repr_html_(self) -> str:
        sheets = "".join(sheet._repr_html_() for sheet in self.sheets)
        chart = still(breakdown(self.runs), summary(self.runs))
        said = "".join(f"<p>{escape(line)}</p>" for line in (self.verdict, *self.warnings))
        return f"<p><b>{escape(self.title)}</b></p>{said}{chart}{sheets}"

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, and what it rests on, as plain data; times in ns."""
        costs = self.scenario.costs
        return {
            "scenario": self.scenario.to_dict(),
            "baseline": self.baseline,
            "verdict": self.verdict,
            "warnings": list(self.warnings),
            "runs": {
                name: run.to_dict() | {"saved": attrs.asdict(self.saved[name])} for name, run in self.runs.items()
            },
            "costs": {name: cost.values() for name, cost in costs.items()},
        }

    def to_json(self) -> str:
        """`to_dict` as one JSON document."""
        return json.dumps(self.to_dict(), indent=1)

    def to_pandas(self) -> pandas.DataFrame:
        """All operations of all approaches as one data frame with a column ``approach``; needs pandas."""
        import pandas

        return pandas.concat([run.to_pandas().assign(approach=name) for name, run in self.runs.items()])


def costs_of(stage: str, row: Approach) -> tuple[str, ...]:
    """The costs that a stage is made of under an approach."""
    worker = row.consumer == "kernel-worker"
    read = {
        "vmm-cons": "exit_user",
        "kernel-cons": "exit_kernel",
        "shared-cons": "cons_shared",
        "device-cons": "mmio_r",
    }
    ring = {
        "trap-to-vmm": ("exit_user",),
        "trap-to-kernel": ("exit_kernel", "sig"),
        "direct": ("mmio_w",),
    }
    software = not row.executes_directly
    return {
        "build": ("g_fix", "g_cmd"),
        "gather": ("g_cmd",),
        "lock": ("exit_user", "vmm_cmd", "ioctl", "t_sync") if row.consumer == "vmm" else (),
        "doorbell": ring[row.doorbell],
        "wake": ("wake",) if worker else (),
        "consume": ("capture", "copy") if worker else ("vmm_cmd",) if software and row.handoff != "queue" else (),
        "handoff": ("conv",) if worker else ("ioctl", "conv", "copy") if software else (),
        "queue": ("hsubmit",) if software else ("t_tlbi", "sync_occ"),
        "execute": ("t_sync", "t_tlbi"),
        "complete": (read[row.completion], "relax"),
    }.get(stage, ())


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
