"""What the explorer draws of a comparison, and what it says below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smmu_lab.charts import breakdown, distribution
from smmu_lab.record import Sample
from smmu_lab.scenario import Recorded, Scenario
from smmu_lab.sheet import Sheet
from smmu_lab.study import Comparison
from smmu_lab.units import show_number, show_time
from smmu_lab.view.explorer_budget import asked

WIDTHS = (480, 1200)
VIEWS = ("waterfall", "distribution", "counts")


def drawn(view: str, result: Comparison, width: int, data: Mapping[str, Any]) -> str:
    """HTML of one view."""
    if view == "counts":
        return table(result.samples)._repr_html_()
    chart = breakdown if view == "waterfall" else distribution
    return chart(result.samples, min(max(width, WIDTHS[0]), WIDTHS[1]), data)


def state(result: Comparison, whole: Scenario, costs: str) -> dict[str, Any]:
    """What a picture shows, for programs."""
    now = result.scenario
    return {
        "pages": now.workload.trace if isinstance(now.workload, Recorded) else now.workload.pages,
        "ril": now.smmu.ril,
        "vcpus": now.vcpus,
        "costs": costs,
        "operations": asked(now),
        "level": level(result, whole),
    }


def level(result: Comparison, whole: Scenario) -> str:
    """Whether a result is a ``preview`` of what is asked for, or the ``full`` run."""
    return "full" if asked(result.scenario) == asked(whole) else "preview"


def basis(result: Comparison, whole: Scenario) -> str:
    """What the figures rest on, in words."""
    some, everything = asked(result.scenario), asked(whole)
    noun = "operations" if isinstance(whole.workload, Recorded) else "unmaps"
    dropped = f", the first {result.warmup:,} dropped as warm-up" if result.warmup else ""
    if level(result, whole) == "full":
        reading = f"± is a 95 % interval, events are per {result.noun}"
        return f"{result.title}. Full run: each bar rests on {some:,} simulated {noun}{dropped}; {reading}."
    part = f"Preview: {some:,} of {everything:,} {noun} under each approach; intervals are of these {some:,}{dropped}"
    return f"{result.title}. {part}."


def table(runs: Mapping[str, Sample]) -> Sheet:
    """The figures beside the bars; events are per operation."""
    noun = next(iter(runs.values())).noun
    header = ("approach", "mean", "p99", "exits to VMM", "exits to kernel", "ioctls", "host SYNCs", f"{noun}s/s")
    events = ("exits_vmm", "exits_kernel", "ioctls", "host_syncs")
    rows = [
        (
            name,
            _with_margin(run),
            show_time(run.latency.p99.value) if run.measured else "-",
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
