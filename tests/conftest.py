"""Fixtures of the browser tests: a JupyterLab on a copy of the notebooks, a Chromium cut off from the world.

    pytestmark = pytest.mark.browser

    def test_the_tour_runs(lab, page):
        lab.open(page, "00_tour.ipynb")     # the notebook stands, its kernel is idle
        lab.run_all(page)                   # every cell ran: the last one printed ALL-DONE
        page.wait_for_selector('svg[data-pages="4"]')
        assert page.outside == []           # nobody asked for an address outside this machine
        assert page.errors == []            # no uncaught exception in any script

`lab` lives as long as the session; `lab.folder` is its copy. `lab.write("probe.ipynb", "cell", "cell")` puts
a notebook of a test's own there and appends the ALL-DONE cell. `page` is an ordinary Playwright page in a
fresh profile; at its end it leaves `last.png` in the test's tmp_path. Wait for a state (a `data-*` attribute
of the view), never for a time. To sit and watch: `make lab`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import hypothesis
import pytest
from playwright.sync_api import TimeoutError

# a busy machine is no failure
hypothesis.settings.register_profile("lab", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lab")

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM_FLAGS = [
    "--no-sandbox",  # root in a container has no user namespaces
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    # "offline" does not rest on good manners: no name but these two resolves
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]


class Lab:
    """A running JupyterLab server, and the steps a reader takes in it."""

    def __init__(self, process: subprocess.Popen, runtime: Path, log: Path) -> None:
        self.process = process
        server = self._announced(runtime, log)
        self.address, self.token, self.folder = server["url"], server["token"], Path(server["root_dir"])

    def _announced(self, runtime: Path, log: Path, seconds: int = 120) -> dict:
        """What the server writes about itself, once it answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            for card in runtime.glob("jpserver-*.json"):
                try:
                    server = json.loads(card.read_text())
                    urllib.request.urlopen(f"{server['url']}api", timeout=5)
                    return server
                except (OSError, ValueError):  # half written, or not listening yet
                    pass
            time.sleep(0.1)
        self.stop()
        pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")

    def get(self, path: str, method: str = "GET") -> bytes:
        """Ask the server for a path, as its owner."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.address + path, headers=headers, method=method)
        return urllib.request.urlopen(request, timeout=30).read()

    def stop(self) -> int:
        """End the server and its kernels; its exit status."""
        if self.process.poll() is None:
            try:
                self.get("api/shutdown", "POST")
            except (AttributeError, OSError):  # it never came up, or no longer listens
                self.process.terminate()
        return self.process.wait(30)

    def write(self, name: str, *cells: str) -> str:
        """Put a notebook with these code cells, and the one that prints ALL-DONE, into the copy."""
        import nbformat.v4

        made = [nbformat.v4.new_code_cell(source) for source in (*cells, 'print("ALL-DONE")')]
        python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        (self.folder / name).write_text(nbformat.v4.writes(nbformat.v4.new_notebook(cells=made, metadata=python)))
        return name

    def open(self, page, name: str) -> None:
        """Open a notebook in an empty workspace; its kernel is idle and its first cell has the focus."""
        page.goto(f"{self.address}lab/tree/{name}?token={self.token}&reset")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
        page.locator(".jp-Notebook .jp-Cell").first.click()

    def run_all(self, page, seconds: int = 120) -> None:
        """Run every cell through the menu, as a reader does, until the last one has printed ALL-DONE."""
        begun = page.locator(".jp-InputPrompt:visible").filter(has_text=re.compile(r"\[[*\d]+\]"))
        for _ in range(6):  # now and then JupyterLab takes the click, and runs nothing
            page.click('.lm-MenuBar-itemLabel:text-is("Run")')
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            with suppress(TimeoutError):
                begun.first.wait_for(timeout=10_000)
                break
        page.wait_for_selector('.jp-OutputArea-output pre:has-text("ALL-DONE")', timeout=seconds * 1000)


@pytest.fixture(scope="session")
def start_lab(tmp_path_factory):
    """start_lab(command, cwd) -> Lab: start a server that neither sees nor changes this account's Jupyter."""
    labs = []

    def start(command: list[str], cwd: Path) -> Lab:
        home = tmp_path_factory.mktemp("jupyter")
        private = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTER_DATA_DIR": "data",
            "IPYTHONDIR": "ipython",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        }
        env = {**os.environ, **{name: str(home / folder) for name, folder in private.items()}}
        env.pop("MAKEFLAGS", None)  # these tests may themselves run under make
        log = home / "server.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        labs.append(Lab(process, home / "runtime", log))
        return labs[-1]

    yield start
    for lab in labs:
        lab.stop()


@pytest.fixture(scope="session")
def lab(start_lab, tmp_path_factory) -> Lab:
    """A JupyterLab on a copy of the notebooks (it autosaves), with the settings that the project ships."""
    served = tmp_path_factory.mktemp("lab")
    folder = Path(shutil.copytree(ROOT / "notebooks", served / "notebooks"))
    settings = served / "settings"
    settings.mkdir()
    shutil.copy(ROOT / "binder" / "overrides.json", settings)
    options = [f"--ServerApp.root_dir={folder}", f"--LabApp.app_settings_dir={settings}", "--allow-root"]
    return start_lab([sys.executable, "-m", "jupyterlab", "-y", "--no-browser", *options], folder)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that runs; without one the test fails, and says how to get one."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = subprocess.run(
        [ROOT / ".ci" / "browser"], env={**os.environ, "PATH": beside}, capture_output=True, text=True
    )
    if found.returncode:
        pytest.fail(found.stderr)
    return found.stdout.strip()


@pytest.fixture
def page(chromium, tmp_path):
    """A Playwright page; what went wrong is in lists that a test holds to be empty.

    `page.outside`: requests to other machines, `page.errors`: uncaught exceptions, `page.complaints`: what the console
    calls an error.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=chromium,
            headless=True,
            args=CHROMIUM_FLAGS,
            viewport={"width": 1200, "height": 900},
        )
        page = browser.new_page()
        page.outside, page.errors, page.complaints = [], [], []

        def note(request) -> None:
            local = ("http://127.0.0.1:", "http://localhost:", "data:", "blob:")
            if not request.url.startswith(local):
                page.outside.append(request.url)

        page.on("request", note)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.complaints.append(said.text))
        yield page
        page.screenshot(path=tmp_path / "last.png")
        browser.close()
