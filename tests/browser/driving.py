"""A JupyterLab that sees nothing of this account, a Chromium cut off from the world, and what a reader does in them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(__file__).with_name("axe.min.js")  # 4.14.1
THEME = "lab/api/settings/@jupyterlab/apputils-extension:themes"
RAN = """() => {
    const some = (selector, words) => [...document.querySelectorAll(selector)].some(n => n.textContent.includes(words));
    if (some(".jp-OutputArea-output pre", "ALL-DONE")) return "done";
    const busy = !document.querySelector('.jp-Notebook-ExecutionIndicator[data-status="idle"]');
    window.atRest = busy || some(".jp-InputPrompt", "*") ? 0 : window.atRest + 1;
    return window.atRest > 20 && "at rest";
}"""
"""Whether the cells have run, or nothing has run for 5 s; asked four times a second."""
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
        raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")

    def get(self, path: str, method: str = "GET", data: bytes | None = None) -> bytes:
        """Ask the server for a path, as its owner."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.address + path, data, headers, method=method)
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
        """Open a notebook in an empty workspace and a light theme; its kernel is idle, its first cell has the focus."""
        self.get(THEME, "PUT", b'{"raw": "{}"}')
        page.goto(f"{self.address}lab/tree/{name}?token={self.token}&reset")
        page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', timeout=120_000)
        page.locator(".jp-Notebook .jp-Cell").first.click()

    def save(self, page, name: str) -> None:
        """Save the open notebook, as a reader does, and wait until it is on the disk."""
        with page.expect_response(lambda reply: reply.request.method == "PUT" and name in reply.url):
            page.keyboard.press("Control+s")

    def stop_kernels(self) -> None:
        """Stop every kernel, as the panel of running kernels does."""
        for session in json.loads(self.get("api/sessions")):
            self.get(f"api/sessions/{session['id']}", "DELETE")

    def strip_state(self, name: str) -> None:
        """Take the state of its widgets out of a saved notebook: from then on it is changed by hand, and untrusted."""
        path = self.folder / name
        saved = json.loads(path.read_text())
        saved["metadata"].pop("widgets", None)  # whoever saves beside a stopped kernel may have lost it
        path.write_text(json.dumps(saved))
        path.with_suffix(".py").unlink(missing_ok=True)  # the paired script, now older

    def dark(self, page, yes: bool = True) -> None:
        """Switch JupyterLab to its dark theme, as its menu does, or back."""
        theme, paper = ("JupyterLab Dark", "#111") if yes else ("JupyterLab Light", "white")
        page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function(
            """([theme, paper]) => document.body.dataset.jpThemeName === theme &&
                getComputedStyle(document.body).getPropertyValue("--jp-layout-color0").trim() === paper""",
            arg=[theme, paper],
        )
        page.wait_for_selector("#jupyterlab-splash", state="detached")

    def run_all(self, page, seconds: int = 120) -> None:
        """Run every cell through the menu, as a reader does, until the last one has printed ALL-DONE."""
        for _ in range(6):  # now and then JupyterLab takes the click and runs nothing, or the first cell only
            page.evaluate("window.atRest = 0")
            page.click('.lm-MenuBar-itemLabel:text-is("Run")')
            page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
            if page.wait_for_function(RAN, polling=250, timeout=seconds * 1000).json_value() == "done":
                return
        raise AssertionError("the notebook did not come to its last cell")


def private(home: Path) -> dict[str, str]:
    """An environment in which Jupyter neither sees nor changes what this account has."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTER_DATA_DIR": "data",
        "IPYTHONDIR": "ipython",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    env = {**os.environ, **{name: str(home / folder) for name, folder in folders.items()}}
    env.pop("MAKEFLAGS", None)  # these tests may themselves run under make
    with socket.socket() as free:  # two servers that start at once would both find the default port free
        free.bind(("127.0.0.1", 0))
        env["JUPYTER_PORT"] = str(free.getsockname()[1])
    return env


def start(command: list[str], cwd: Path, home: Path) -> Lab:
    """Start a server; what is its own is below `home`."""
    log = home / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=private(home), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
    return Lab(process, home / "runtime", log)


def start_on_notebooks(home: Path) -> Lab:
    """A JupyterLab on a copy of the notebooks (it autosaves), with the settings that the project ships."""
    folder = Path(shutil.copytree(ROOT / "notebooks", home / "notebooks"))
    settings = home / "shipped"
    settings.mkdir()
    shutil.copy(ROOT / "binder" / "overrides.json", settings)
    options = [f"--ServerApp.root_dir={folder}", f"--LabApp.app_settings_dir={settings}", "--allow-root"]
    options.append("--LabApp.expose_app_in_browser=True")  # for `dark`
    return start([sys.executable, "-m", "jupyterlab", "-y", "--no-browser", *options], folder, home)


def find_chromium() -> str:
    """The path of a Chromium that runs; without one the error says how to get one."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = subprocess.run(
        [ROOT / ".ci" / "browser"], env={**os.environ, "PATH": beside}, capture_output=True, text=True
    )
    if found.returncode:
        raise RuntimeError(found.stderr)
    return found.stdout.strip()


@contextmanager
def browse(chromium: str, folder: Path) -> Iterator:
    """A Playwright page in a fresh profile; what went wrong is in lists that a test holds to be empty.

    `page.outside`: requests to other machines, `page.errors`: uncaught exceptions, `page.complaints`: what the console
    calls an error.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            str(folder / "profile"),
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
        page.screenshot(path=folder / "last.png")
        browser.close()


def serious(page, selector: str) -> list[str]:
    """What axe calls serious or critical in a part of a page, one line each."""
    page.evaluate(AXE.read_text())
    violations = page.evaluate("async selector => (await axe.run(selector)).violations", selector)
    return [
        f"{each['impact']}: {each['id']} at {' '.join(map(str, place['target']))}: {each['help']}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for place in each["nodes"]
    ]
