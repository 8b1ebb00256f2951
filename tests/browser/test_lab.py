"""What the project promises about JupyterLab itself: live widgets, no questions, nothing from outside."""

import json

import pytest

pytestmark = pytest.mark.browser

SLIDER = """
import ipywidgets
slider = ipywidgets.IntSlider(value=1, min=1, max=8)
seen = ipywidgets.HTML()
ipywidgets.dlink((slider, "value"), (seen, "value"), lambda n: f'<b data-seen="{n}">{n}</b>')
display(slider, seen)
"""


def test_a_slider_moves_python(lab, page):
    lab.open(page, lab.write("slider.ipynb", SLIDER))
    lab.run_all(page)
    page.wait_for_selector('b[data-seen="1"]')
    page.locator(".widget-slider .noUi-handle").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector('b[data-seen="4"]')
    assert page.outside == []
    assert page.errors == []


def test_no_question_covers_the_page(lab, page):
    lab.open(page, lab.write("quiet.ipynb"))
    lab.run_all(page)
    assert page.locator(".Toastify__toast, .jp-Dialog").count() == 0


def test_widgets_outlive_their_kernel(lab, page):
    """saveState: a notebook saved by hand keeps what its widgets showed."""
    lab.open(page, lab.write("state.ipynb", SLIDER))
    lab.run_all(page)
    page.wait_for_selector('b[data-seen="1"]')
    lab.save(page, "state.ipynb")
    saved = json.loads((lab.folder / "state.ipynb").read_text())
    assert saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
