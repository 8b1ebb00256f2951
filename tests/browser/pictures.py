"""Make the pictures of docs/img: every view in a real JupyterLab, light and dark, on a screen that is 1280 px wide.

    python -m tests.browser.pictures

They are for readers, and to be looked at before they are committed.
"""

import tempfile
from pathlib import Path

from tests.browser import driving
from tests.browser.views import VIEWS, wait_until_drawn

OUT = driving.ROOT / "docs" / "img"
START = """
import smmu_lab as lab
s = lab.Scenario(workload=lab.unmaps(pages=8, ops=300), smmu=lab.Smmu(ril=False), vcpus=4)
names = ["qemu-today", "batched", "native-queue", "short-path", "vcmdq", "bare-metal"]
"""
CELLS = {name: view.cell for name, view in VIEWS.items()} | {
    ".topology": "lab.show_topology(lab.simulate(s.but({'topology': 'per-smmu', 'guests': 2}), 'vcmdq'))",
}


def move(page, view: str) -> None:
    """Bring a view to where there is something to see."""
    if view == ".microscope":
        page.locator(view).focus()
        for key in "ddddddddf":
            page.keyboard.press(key)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
    if view == ".topology":
        page.locator(view).get_by_role("button", name="vcmdq0").first.click()


def main() -> None:
    """Make them all."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        lab = driving.start_on_notebooks(Path(home))
        try:
            with driving.browse(driving.find_chromium(), Path(home)) as page:
                page.set_viewport_size({"width": 1280, "height": 960})
                for view, cell in CELLS.items():
                    name = view.removeprefix(".")
                    lab.open(page, lab.write(f"{name}.ipynb", START, cell))
                    page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
                    lab.run_all(page)
                    wait_until_drawn(page, view)
                    move(page, view)
                    for theme in ("", "-dark"):
                        lab.dark(page, bool(theme))
                        wait_until_drawn(page, view)
                        page.locator(view).screenshot(path=OUT / f"{name}{theme}.png")
        finally:
            lab.stop()


if __name__ == "__main__":
    main()
