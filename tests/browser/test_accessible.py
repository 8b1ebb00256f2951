"""Every view, in light and in dark: axe finds nothing serious or critical in it."""

import pytest

from tests.browser.views import START, VIEWS, wait_until_drawn

pytestmark = pytest.mark.browser


def test_no_view_has_a_serious_violation(lab, page, serious):
    lab.open(page, lab.write("accessible.ipynb", START, *(view.cell for view in VIEWS.values())))
    lab.run_all(page)
    found = {}
    for dark in (False, True):
        lab.dark(page, dark)
        for name in VIEWS:
            wait_until_drawn(page, name)
            found[name, dark] = serious(page, name)
    assert {where: lines for where, lines in found.items() if lines} == {}
    assert (page.outside, page.errors, page.complaints) == ([], [], [])


def test_this_would_see_one(page, serious):
    page.set_content("<main><p>an image</p></main><div id=view><img src='data:,'><button></button></div>")
    assert [line.split(" at ")[0] for line in serious(page, "#view")] == [
        "critical: button-name",
        "critical: image-alt",
    ]
