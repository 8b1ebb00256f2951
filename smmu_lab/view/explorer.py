"""The explorer: a few knobs of a scenario, and the picture that follows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import traitlets

from smmu_lab.charts import breakdown, breakdown_sheet, still, summary
from smmu_lab.record import Sample
from smmu_lab.scenario import Approach, InvalidInput, Scenario, Unmaps, approach, costs
from smmu_lab.scenario.costs import PROFILES
from smmu_lab.sheet import Sheet
from smmu_lab.study import Comparison, compare
from smmu_lab.units import show_number, show_size, show_time
from smmu_lab.view.live import Live, script, style

PAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 511, 512, 1024)
"""Unmaps worth a look: powers of two, and both sides of the driver's 512-page rule."""
VCPUS = 16
WIDTHS = (480, 1200)

BUDGET = 40_000
"""What one picture may take, µs on an ordinary laptop: a slider should feel immediate."""
PER_UNMAP, PER_COMMAND = 20, 3
"""What an unmap takes to simulate under one approach, and a command under all of them, µs."""
FEWEST = 8
"""Unmaps per vCPU, whatever they take."""
FLUSH = 512
"""Unmaps per vCPU in flush-queue mode, where they cost little: enough for two flushes."""


def affordable(scenario: Scenario, approaches: int) -> Scenario:
    """The scenario with as many unmaps as the budget allows, and never more than it asks for."""
    load = scenario.workload
    assert isinstance(load, Unmaps)
    commands = sum(sum(batch[:4]) + 1 for batch in load.batches(scenario.smmu.ril, scenario.reaches(0, 0)))
    vcpus = scenario.guests * scenario.vcpus
    unmaps = BUDGET // (PER_UNMAP * approaches + PER_COMMAND * commands) // vcpus
    return scenario.but({"workload.ops": min(load.ops, FLUSH if load.lazy else max(FEWEST, unmaps))})


def table(runs: Mapping[str, Sample]) -> Sheet:
    """The figures beside the bars; events are per unmap."""
    header = (
        "approach",
        "mean",
        "p99",
        "exits to VMM",
        "exits to kernel",
        "ioctls",
        "host SYNCs",
        "unmaps/s",
    )
    events = ("exits_vmm", "exits_kernel", "ioctls", "host_syncs")
    rows = [
        (
            name,
            _with_margin(run),
            show_time(run.latency.p99.value),
            *(show_number(run.per_operation(event)) for event in events),
            f"{run.throughput:,.0f}",
        )
        for name, run in runs.items()
    ]
    return Sheet(header, rows, left=("approach",))


def _with_margin(run: Sample) -> str:
    mean = run.latency.mean
    margin = f"± {mean.half_width / mean.value:.1%}" if mean.half_width is not None and mean.value else "± ?"
    return f"{show_time(mean.value)} {margin}"


def _unmaps(result: Comparison) -> int:
    return max(sample.measured for sample in result.samples.values())


class Explorer(Live):
    """Controls, bars and a table. The browser holds no model: it asks for a setting and shows the answer.

    Attributes:
        scenario: where the controls started.
        setting: dotted path to value: what the controls say. Set some of it from Python: they follow, and the rest is
            as in `scenario`.
        shown: the answer: the setting it belongs to, its picture as HTML, or an error in words.
        comparison: the result that is shown.
        width: of the picture, px, as the browser measured it.
    """

    _esm = script("explorer")
    _css = style("explorer")

    choices = traitlets.Dict().tag(sync=True)
    setting = traitlets.Dict().tag(sync=True)
    width = traitlets.Int(860).tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, scenario: Scenario | None, approaches: Iterable[Approach | str]) -> None:
        self.scenario = scenario = scenario or Scenario()
        load = scenario.workload
        if not isinstance(load, Unmaps):
            raise InvalidInput(["workload: a recorded guest unmaps what it unmapped: explore takes lab.unmaps(...)"])
        self.approaches = [approach(each) if isinstance(each, str) else each for each in approaches]
        profile = scenario.costs.profile
        titles = {name: costs(name).title for name in PROFILES}
        if scenario.costs != costs(profile):
            profile += "*"
            titles[profile] = f"{scenario.costs.title}, with costs of yours"
        sizes = {pages: show_size(pages * load.granule) for pages in sorted({*PAGES, load.pages})}
        self.comparison: Comparison | None = None
        self._start = {
            "workload.pages": load.pages,
            "smmu.ril": scenario.smmu.ril,
            "vcpus": scenario.vcpus,
            "costs": profile,
        }
        super().__init__(
            choices={
                "pages": [[pages, size] for pages, size in sizes.items()],
                "vcpus": max(VCPUS, scenario.vcpus),
                "costs": list(titles.items()),
            },
            setting=self._start,
        )

    @traitlets.validate("setting")
    def _complete(self, proposal: Any) -> dict[str, Any]:
        return self._start | proposal["value"]

    @traitlets.observe("setting")
    def _simulate(self, change: Any) -> None:
        try:
            self.comparison = compare(affordable(self._scenario(), len(self.approaches)), self.approaches)
            self._draw()
        except InvalidInput as error:
            self._say(error.problems)
        except Exception as error:  # a widget has no other place to say it
            self._say([f"This setting could not be simulated: {type(error).__name__}: {error}"])

    def _scenario(self) -> Scenario:
        changes = dict(self.setting)
        if str(changes.get("costs", "")).endswith("*"):
            del changes["costs"]  # the scenario's own
        return self.scenario.but(changes)

    def _say(self, problems: Iterable[str]) -> None:
        self.comparison = None
        self.shown = {"setting": self.setting, "html": "", "error": "\n".join(problems)}

    @traitlets.observe("width")
    def _draw(self, change: Any = None) -> None:
        if self.comparison:
            self.shown = {"setting": self.setting, "html": self._picture(self.comparison), "error": ""}

    def _picture(self, result: Comparison, lasting: bool = False) -> str:
        state = {path.rpartition(".")[2]: value for path, value in self.setting.items()}
        state["operations"] = _unmaps(result)
        chart = breakdown(result.samples, min(max(self.width, WIDTHS[0]), WIDTHS[1]), state)
        if lasting:
            chart = still(chart, summary(result.samples))
        return f"{chart}<p>{escape(self._basis(result))}</p>{table(result.samples)._repr_html_()}"

    def _basis(self, result: Comparison) -> str:
        reading = "± is a 95 % interval, events are per unmap"
        return f"{result.title}. Each bar rests on {_unmaps(result):,} simulated unmaps; {reading}."

    def lasting(self) -> tuple[str, str]:
        """The picture and its figures, or why there is none."""
        if not self.comparison:
            return "", self.shown["error"]
        words = [
            repr(breakdown_sheet(self.comparison.samples)),
            self._basis(self.comparison),
            repr(table(self.comparison.samples)),
        ]
        return self._picture(self.comparison, lasting=True), "\n\n".join(words)
