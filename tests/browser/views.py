"""Every view of the lab: the cell that shows it, and how it is seen to be drawn."""

from typing import NamedTuple

START = """
import smmu_lab as lab
s = lab.Scenario(workload=lab.unmaps(pages=8, ops=40), smmu=lab.Smmu(ril=False), vcpus=2)
names = ["qemu-today", "batched", "short-path", "vcmdq"]
"""


class View(NamedTuple):
    """A view.

    Attributes:
        cell: shows it.
        drawn: what is there once it is drawn.
    """

    cell: str
    drawn: str


VIEWS = {
    ".explorer": View("lab.explore(s, names)", '.result[data-level="full"] svg g[data-approach="vcmdq"] rect'),
    ".microscope": View("lab.microscope(lab.simulate(s, 'short-path'))", "canvas"),
    ".dashboard": View("lab.dashboard(lab.compare(s, names))", 'svg g[data-approach="vcmdq"] rect'),
    ".topology": View("lab.show_topology(lab.simulate(s, 'vcmdq'))", "svg [data-cell]"),
}
BLANK = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(data.buffer);
    return pixels.every(pixel => pixel === pixels[0]);
}"""


def wait_until_drawn(page, view: str) -> None:
    """Wait until a view shows what it is there for, and no canvas of it is blank."""
    page.locator(view).evaluate("view => view.scrollIntoView()")
    page.locator(view).locator(VIEWS[view].drawn).first.wait_for()
    script = f"view => [...document.querySelectorAll(view + ' canvas')].every(canvas => !({BLANK})(canvas))"
    page.wait_for_function(script, arg=view)
