"""Fixtures of the browser tests: a JupyterLab on a copy of the notebooks, a Chromium cut off from the world.

    pytestmark = pytest.mark.browser

    def test_the_tour_runs(lab, page):
        lab.open(page, "00_tour.ipynb")     # the notebook stands, its kernel is idle
        lab.run_all(page)                   # every cell ran: the last one printed ALL-DONE
        page.wait_for_selector('svg[data-pages="4"]')
        assert page.outside == []           # nobody asked for an address outside this machine
        assert page.errors == []            # no uncaught exception in any script
        assert page.complaints == []        # nothing that the console calls an error
        lab.dark(page)                      # JupyterLab's dark theme, until the next lab.open
        assert serious(page, ".explorer") == []  # what axe finds there; `serious` is a fixture

`lab` lives as long as the session; `lab.folder` is its copy. `lab.write("probe.ipynb", "cell", "cell")` puts
a notebook of a test's own there and appends the ALL-DONE cell. `page` is an ordinary Playwright page in a
fresh profile; at its end it leaves `last.png` in the test's tmp_path. Wait for a state (a `data-*` attribute
of the view), never for a time. To sit and watch: `make lab`.
"""

import hypothesis
import pytest

from tests.browser import driving

# a busy machine is no failure
hypothesis.settings.register_profile("lab", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lab")


@pytest.fixture(scope="session")
def start_lab(tmp_path_factory):
    """start_lab(command, cwd) -> Lab: start a server that neither sees nor changes this account's Jupyter."""
    labs = []

    def start(command, cwd):
        labs.append(driving.start(command, cwd, tmp_path_factory.mktemp("jupyter")))
        return labs[-1]

    yield start
    for lab in labs:
        lab.stop()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the notebooks."""
    lab = driving.start_on_notebooks(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.stop()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that runs."""
    return driving.find_chromium()


@pytest.fixture
def page(chromium, tmp_path):
    """A Playwright page in a fresh profile."""
    with driving.browse(chromium, tmp_path) as page:
        yield page


@pytest.fixture(scope="session")
def serious():
    """serious(page, ".explorer") -> list[str]: what axe calls serious or critical there, one line each."""
    return driving.serious
