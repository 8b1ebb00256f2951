"""The dashboard of a comparison: its verdict, five panels below, and what each stage's time is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import traitlets

from smmu_lab.charts import (
    breakdown,
    breakdown_sheet,
    differences,
    differences_sheet,
    distribution,
    distribution_sheet,
    events,
    events_sheet,
    percentiles,
    percentiles_sheet,
    still,
    summary,
)
from smmu_lab.charts.breakdown import ROW
from smmu_lab.charts.events import ROW as EVENTS_ROW
from smmu_lab.charts.palette import identities
from smmu_lab.charts.percentiles import ROW as PERCENTILES_ROW
from smmu_lab.record import STAGES, Sample
from smmu_lab.scenario import Cost, InvalidInput
from smmu_lab.sheet import Sheet
from smmu_lab.study import Comparison
from smmu_lab.study.provenance import alone, made_of
from smmu_lab.units import show_time
from smmu_lab.view.live import Live, script, style

WIDTHS = (480, 1200)

PANELS = {
    "breakdown": "Where the time goes",
    "distribution": "Distribution",
    "percentiles": "Percentiles",
    "differences": "Time saved",
    "events": "Events and CPU",
}
"""Panels and their titles, in the order of reading."""


class Dashboard(Live):
    """Panels of one comparison. Everything can be asked of it without a kernel; with one, scales follow what is shown.

    Attributes:
        comparison: what is shown.
        facts: what the browser knows for good: names, sentences, costs, and what each stage is made of.
        setting: ``{"hidden": [names]}``: what is not drawn. Set it from Python: the checkboxes follow.
        shown: the answer: the setting it belongs to, and each panel as HTML; ``distribution`` and ``percentiles`` by
            scale, ``differences`` by reference.
        width: of a panel, px, as the browser measured it.
    """

    _esm = script("dashboard")
    _css = style("dashboard")

    facts = traitlets.Dict().tag(sync=True)
    setting = traitlets.Dict().tag(sync=True)
    width = traitlets.Int(860).tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)

    def __init__(self, comparison: Comparison) -> None:
        if not isinstance(comparison, Comparison):
            raise InvalidInput(
                [f"comparison: {type(comparison).__name__!r} is not valid: a result of lab.compare(...)"]
            )
        self.comparison = comparison
        names = list(comparison.samples)
        self._saved = {base: {name: comparison.difference(base, name) for name in names} for base in names}
        super().__init__(facts=_facts(comparison), setting={"hidden": []})

    @traitlets.validate("setting")
    def _names(self, proposal: Any) -> dict[str, Any]:
        hidden = proposal["value"].get("hidden", [])
        if not isinstance(hidden, list | tuple) or not all(isinstance(name, str) for name in hidden):
            raise InvalidInput([f"setting.hidden: {hidden!r} is not valid: a list of names of approaches"])
        return {"hidden": list(hidden)}

    @traitlets.observe("setting", "width")
    def _draw(self, change: Any = None) -> None:
        hidden = self.setting.get("hidden", ())
        hidden = [name for name in self.comparison.samples if name in hidden]
        self.shown = {"setting": self.setting, "panels": self._panels(hidden)}

    def _panels(self, hidden: list[str]) -> dict[str, Any]:
        samples, noun = self.comparison.samples, self.comparison.noun
        width = min(max(self.width, WIDTHS[0]), WIDTHS[1])
        drawn = {name: sample for name, sample in samples.items() if name not in hidden}
        if not drawn:
            return dict.fromkeys(PANELS, "")
        row = {"row": PERCENTILES_ROW}  # how far apart the rows stand, for the browser that sorts them
        by_scale: dict[str, Callable[..., str]] = {"distribution": distribution, "percentiles": percentiles}
        return {
            "breakdown": breakdown(drawn, width, {"row": ROW}) + _folded(breakdown_sheet(drawn)),
            **{
                panel: {
                    scale: chart(samples, width, row if chart is percentiles else {}, log=scale == "log", hidden=hidden)
                    + _folded(sheet(drawn))
                    for scale in ("log", "linear")
                }
                for (panel, chart), sheet in zip(by_scale.items(), (distribution_sheet, percentiles_sheet), strict=True)
            },
            "differences": {
                base: differences(saved, base, noun, width, row, hidden=hidden)
                + _folded(differences_sheet({name: saved[name] for name in drawn}, base, noun))
                for base, saved in self._saved.items()
            },
            "events": events(samples, width, {"row": EVENTS_ROW}, hidden=hidden) + _folded(events_sheet(drawn)),
        }

    def lasting(self) -> tuple[str, str]:
        """The verdict, and all panels with their figures."""
        result, samples = self.comparison, self.comparison.samples
        base, noun = result.baseline, result.noun
        said = "".join(f"<p>{escape(line)}</p>" for line in (result.verdict, *result.warnings))
        charts = {
            summary(samples): breakdown(samples),
            "Distribution: the share that took longer": distribution(samples),
            "Percentiles with 95 % intervals": percentiles(samples),
            f"Time saved against {base}": differences(self._saved[base], base, noun),
            "Events and CPU time": events(samples),
        }
        sheets = [
            breakdown_sheet(samples),
            distribution_sheet(samples),
            percentiles_sheet(samples),
            differences_sheet(self._saved[base], base, noun),
            events_sheet(samples),
        ]
        drawn = "".join(f"<p>{still(chart, words)}</p>" for words, chart in charts.items())
        words = [result.title, result.verdict, *result.warnings, *(f"{sheet.caption}\n{sheet}" for sheet in sheets)]
        tables = "".join(sheet._repr_html_() for sheet in sheets)
        figures = f"<details><summary>All figures</summary>{tables}</details>"
        return f"<p><b>{escape(result.title)}</b></p>{said}{drawn}{figures}", "\n\n".join(words)


def _folded(sheet: Sheet) -> str:
    return f"<details><summary>Figures</summary><div class='figures'>{sheet._repr_html_()}</div></details>"


def _facts(result: Comparison) -> dict[str, Any]:
    """What does not change: texts are texts here, and no markup."""
    inks = identities(result.samples)
    lone = alone(result.scenario)
    return {
        "title": result.title,
        "verdict": result.verdict,
        "warnings": result.warnings,
        "basis": f"{result.basis}, all per {result.noun}",
        "reference": result.baseline,
        "approaches": [
            {
                "name": name,
                "title": sample.approach.title,
                "ink": inks[name][0],
                "marker": inks[name][1],
                "mean": sample.latency.mean.value,
                "p99": sample.latency.p99.value if sample.latency.values else 0,
            }
            for name, sample in result.samples.items()
        ],
        "panels": PANELS,
        "stages": STAGES,
        "costs": {name: _cost(cost) for name, cost in result.scenario.costs.items()},
        "made": {name: _made(sample) for name, sample in result.samples.items()},
        "alone": f"Shares are of {lone.workload} by one vCPU alone, profile {lone.costs.profile}.",
    }


def _cost(cost: Cost) -> dict[str, str]:
    return {
        "value": show_time(cost.value),
        "range": f"{show_time(cost.low)} .. {show_time(cost.high)}",
        "basis": cost.basis,
        "meaning": cost.meaning,
        "source": cost.source,
    }


def _made(sample: Sample) -> Mapping[str, Any]:
    """By stage: its mean in words, its own costs with their shares, and the costs of whoever is ahead."""
    mean = sum(sample.breakdown.values())
    return {
        stage: {
            "mean": f"{show_time(sample.breakdown[stage])}, {sample.breakdown[stage] / mean:.0%} of the mean",
            "own": [[cost, None if share is None else f"{share:.0%}"] for cost, share in made.own.items()],
            "ahead": made.ahead,
        }
        for stage, made in made_of(sample).items()
    }
