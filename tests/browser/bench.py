"""How fast the views are, in a real JupyterLab: ``python -m tests.browser.bench`` (``--json``: one JSON document).

A figure stands beside its target; where it is met, their ratio is at least 1. Exit status 1 only if something was not
drawn.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from playwright.sync_api import TimeoutError
from rich.console import Console
from rich.table import Table

from tests.browser.driving import browse, find_chromium, start_on_notebooks
from tests.browser.views import START, VIEWS, wait_until_drawn

EXPLORER = """
import smmu_lab as lab
s = lab.Scenario(workload=lab.unmaps(pages=8), smmu=lab.Smmu(ril=False))
lab.explore(s, ["qemu-today", "batched", "short-path", "vcmdq"])
"""
MICROSCOPE = """
import smmu_lab as lab
s = lab.Scenario(workload=lab.unmaps(pages=8, ops=1112), smmu=lab.Smmu(ril=False))
lab.microscope(lab.simulate(s, "batched"))
"""
PRESSES, LOADS, SECONDS = 70, 20, 6
WATCH = """([root, read]) => {
    const state = new Function("root", `return ${read}`);
    const node = document.querySelector(root);
    const asked = {}; // when a slider was last moved to a value
    window.painted = [];
    let shown = state(node), pressed = performance.now();
    addEventListener("keydown", () => { pressed = performance.now(); }, true);
    addEventListener("input", event => { asked[event.target.getAttribute("aria-valuetext")] = pressed; });
    new MutationObserver(() => {
        const now = state(node);
        if (now === shown) return;
        shown = now;
        const since = asked[now] ?? pressed;
        requestAnimationFrame(() => requestAnimationFrame(() => window.painted.push(performance.now() - since)));
    }).observe(node, { subtree: true, childList: true, attributes: true });
}"""
FRAMES = """seconds => new Promise(done => {
    const frames = [];
    const frame = now => {
        frames.push(now);
        if (now - frames[0] < 1000 * seconds) requestAnimationFrame(frame);
        else done(frames);
    };
    requestAnimationFrame(frame);
})"""


class Row(NamedTuple):
    """A figure; `target` is a bound from above, or with `least` from below."""

    what: str
    value: float
    unit: str
    target: float | None = None
    least: bool = False

    @property
    def ratio(self) -> float | None:
        """How far the target is met: 2 is twice as good."""
        if self.target is None or not self.value:
            return None
        return self.value / self.target if self.least else self.target / self.value


def times(what: str, measured: list[float], target: float | None = None, late: float | None = None) -> list[Row]:
    """Median, 95th percentile and maximum."""
    high = sorted(measured)[math.ceil(0.95 * len(measured)) - 1]
    return [
        Row(f"{what}, median of {len(measured)}", median(measured), "ms", target),
        Row(f"{what}, p95", high, "ms", late),
        Row(f"{what}, maximum", max(measured), "ms"),
    ]


@contextmanager
def opened(lab, page, name: str, *cells: str) -> Iterator[None]:
    """A notebook of these cells, run; its kernel ends with it."""
    lab.open(page, lab.write(f"{name}.ipynb", *cells))
    lab.run_all(page)
    yield
    page.goto("about:blank")
    lab.stop_kernels()


def explorer(lab, page) -> Iterator[Row]:
    """From a key on a slider to the changed picture; the kernel is warm."""
    with opened(lab, page, "explorer", EXPLORER):
        wait_until_drawn(page, ".explorer")
        page.get_by_label("vCPUs").focus()
        read = 'root.querySelector(".result svg")?.dataset.vcpus'
        page.evaluate(WATCH, [".explorer", read])

        def press(key: str) -> None:
            seen = page.evaluate("painted.length")
            page.keyboard.press(key)
            page.wait_for_function("seen => painted.length > seen", arg=seen)

        keys = ["ArrowRight"] * 7 + ["ArrowLeft"] * 7
        for key in keys:  # warm
            press(key)
        ways = {  # what is waited for before the next key
            "at rest": lambda: page.wait_for_selector('.explorer .result[data-level="full"]'),
            "during the full run": lambda: page.wait_for_timeout(400),
        }
        for way, pause in ways.items():
            pause()
            page.evaluate("painted.length = 0")
            for key in keys * (PRESSES // len(keys)):
                press(key)
                pause()
            yield from times(f"explorer, {way}: key to picture", page.evaluate("painted"), 100, 150)
        ways["at rest"]()
        page.evaluate("painted.length = 0")
        for key in keys * (PRESSES // len(keys)):
            page.keyboard.press(key)
            page.wait_for_timeout(30)
        page.wait_for_timeout(1000)
        yield from times("explorer, a key each 30 ms: key to picture", page.evaluate("painted"), 100, 150)


def microscope(lab, page) -> Iterator[Row]:
    """Frames during playback of 10,000 commands, and stepping back."""
    with opened(lab, page, "microscope", MICROSCOPE):
        wait_until_drawn(page, ".microscope")
        view = page.locator(".microscope")
        view.focus()
        for scale, keys in (("as it opens", []), ("zoomed out", ["-"] * 30)):
            for key in ["Home", *keys]:
                page.keyboard.press(key)
            page.get_by_label("Speed").select_option(str(int(1e6)))
            view.focus()
            page.keyboard.press("Space")
            page.wait_for_selector('.microscope[data-playing="true"]')
            frames = page.evaluate(FRAMES, SECONDS)
            played = view.get_attribute("data-playing")
            page.keyboard.press("Space")
            if played != "true":
                raise SystemExit("the playback ended too early")
            gaps = [b - a for a, b in pairwise(frames)]
            yield Row(f"microscope, {scale}: frames", 1000 * len(gaps) / sum(gaps), "per s", 30, least=True)
            yield Row(f"microscope, {scale}: longest gap", max(gaps), "ms")
        page.evaluate(WATCH, [".microscope", "root.dataset.event"])
        for _ in range(PRESSES):
            seen = page.evaluate("painted.length")
            page.keyboard.press("ArrowLeft")
            page.wait_for_function("seen => painted.length > seen", arg=seen)
        yield from times("microscope: step back", page.evaluate("painted"), 100, 150)


def wire(lab, page) -> Iterator[Row]:
    """What comes from the kernel until a view is drawn."""
    received = [0]
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: received.append(len(data))))
    for number, (name, view) in enumerate(VIEWS.items()):
        received.clear()
        with opened(lab, page, f"wire{number}", START, view.cell):
            wait_until_drawn(page, name)
            yield Row(f"{name[1:]}: from the kernel until it is drawn", sum(received) / 1024, "KiB")


def loads(lab, page) -> Iterator[Row]:
    """How many of so many fresh pages draw all views."""
    drawn = 0
    for load in range(LOADS):
        try:
            with opened(lab, page, f"load{load}", START, *(view.cell for view in VIEWS.values())):
                for name in VIEWS:
                    wait_until_drawn(page, name)
            drawn += 1
        except TimeoutError as error:
            print(f"load {load}: {error}", file=sys.stderr)
    yield Row("fresh pages that draw all views", drawn, f"of {LOADS}", LOADS, least=True)


def main() -> int:
    """Measure, print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    as_json = parser.parse_args().json
    rows = [Row("load of the machine before: processes for a CPU", os.getloadavg()[0] / (os.cpu_count() or 1), "")]
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, console.status("starting JupyterLab") as status:
        home = Path(folder)
        lab = start_on_notebooks(home)
        try:
            with browse(find_chromium(), home) as page:
                for measure in (explorer, microscope, wire, loads):
                    status.update(f"measuring: {measure.__name__}")
                    rows += measure(lab, page)
        finally:
            lab.stop()
    if as_json:
        print(json.dumps([{**row._asdict(), "ratio": row.ratio} for row in rows], indent=1))
    else:
        Console().print(shown(rows))
    return int(any(row.ratio != 1 for row in rows if row.unit == f"of {LOADS}"))


def shown(rows: list[Row]) -> Table:
    """The figures as a table."""
    table = Table("what", title="Views, in a real JupyterLab", caption="ratio: 1 or more where the target is met")
    for column in ("measured", "target", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        target = "" if row.target is None else f"{'≥' if row.least else '<'} {row.target:g} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, f"{row.value:,.1f} {row.unit}", target, ratio)
    return table


if __name__ == "__main__":
    sys.exit(main())
