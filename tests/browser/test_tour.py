"""The tour, as a newcomer meets it: every cell, in a real JupyterLab."""

import pytest

pytestmark = pytest.mark.browser


def test_the_tour_runs_and_its_explorer_follows_the_keyboard(lab, page):
    lab.open(page, "00_tour.ipynb")
    lab.run_all(page)
    explorer = page.locator(".explorer")
    explorer.locator('svg[data-pages="16"]').wait_for()
    explorer.get_by_label("Pages per unmap").press("ArrowRight")
    explorer.locator('svg[data-pages="32"]').wait_for()
    assert "vcmdq is fastest" in page.content()
    assert page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
    assert page.outside == []
    assert page.errors == []
