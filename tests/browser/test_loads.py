"""Every view is drawn on every load."""

import pytest

from tests.browser.views import START, VIEWS, wait_until_drawn

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("load", range(3))
def test_a_fresh_page_draws_every_view(lab, page, load):
    lab.open(page, lab.write(f"load{load}.ipynb", START, *(view.cell for view in VIEWS.values())))
    lab.run_all(page)
    for name in VIEWS:
        wait_until_drawn(page, name)
    assert (page.outside, page.errors, page.complaints) == ([], [], [])
