"""The Makefile's promises: it lists itself, a second set-up is quick, what is missing is said in one line.

Set-up and browser search run in a sandbox whose PATH holds a few basic tools and stand-ins for the rest
(python3, apt-get, id, chromium, playwright): each stand-in writes what it was asked to do into `calls`.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASICS = ["bash", "sh", "env", "make", "awk", "cp", "dirname", "mkdir", "rm", "touch"]

PYTHON = """#!/bin/bash
case "$*" in
  *version_info*) [ -z "$OLD" ] && echo python3 ;;
  --version) echo Python 3.9.2 ;;
  *ensurepip*) [ -z "$NO_ENSUREPIP" ] || [ -e installed ] ;;
  "-m venv .venv") echo "$*" >> calls; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"pip install"*) echo "pip install" >> calls; [ -z "$PIP_FAILS" ] ;;
esac
"""
APT = """#!/bin/bash
echo "apt-get $*" >> calls
touch installed
"""
CHROMIUM = """#!/bin/bash
[ -e installed ] || [ -z "$NO_CHROMIUM" ]
"""


class Sandbox:
    """A copy of the set-up's files, and a machine of which only the named parts exist."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "repo", folder / "bin"
        self.bin.mkdir()
        for tree in ("binder", ".ci"):
            shutil.copytree(ROOT / tree, self.folder / tree)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        for name in BASICS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.put("python3", PYTHON)
        self.put("apt-get", APT)
        self.put("chromium", CHROMIUM)
        self.put("playwright", "#!/bin/bash\n")
        self.user(0)

    def put(self, name: str, program: str) -> None:
        (self.bin / name).write_text(program)
        (self.bin / name).chmod(0o755)

    def user(self, number: int) -> None:
        self.put("id", f"#!/bin/bash\necho {number}\n")

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess:
        env = {"PATH": str(self.bin), **env}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)

    def calls(self) -> list[str]:
        """What the stand-ins did since this was last asked."""
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"


@pytest.fixture
def sandbox(tmp_path) -> Sandbox:
    return Sandbox(tmp_path)


def test_plain_make_lists_the_targets():
    listed = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True).stdout
    shown = {line.split()[1]: line for line in listed.splitlines()}
    assert shown.keys() >= {"lab", "test", "demo", "setup", "check", "bench", "notebooks", "binder"}
    assert all(len(line.split()) > 3 for line in shown.values())


def test_setup_runs_once(sandbox):
    assert sandbox.run("make", "setup").returncode == 0
    assert sandbox.calls() == ["-m venv .venv", "pip install"]
    settings = sandbox.venv / "share/jupyter/lab/settings/overrides.json"
    assert json.loads(settings.read_text())["@jupyter-widgets/jupyterlab-manager:plugin"]["saveState"]
    assert "Nothing to be done" in sandbox.run("make", "setup").stdout
    assert sandbox.calls() == []


def test_a_changed_pyproject_updates_in_place(sandbox):
    sandbox.run("make", "setup")
    (sandbox.venv / "mine").touch()
    os.utime(sandbox.folder / "pyproject.toml", (2e9, 2e9))
    sandbox.calls()
    assert sandbox.run("make", "setup").returncode == 0
    assert sandbox.calls() == ["pip install"]
    assert (sandbox.venv / "mine").exists()


def test_an_unfinished_venv_is_removed(sandbox):
    assert sandbox.run("make", "setup", PIP_FAILS="1").returncode == 2
    (sandbox.venv / "ruin").touch()
    assert sandbox.run("make", "setup").returncode == 0
    assert not (sandbox.venv / "ruin").exists()
    assert sandbox.calls() == ["-m venv .venv", "pip install"] * 2


def test_without_ensurepip_root_installs_it(sandbox):
    assert sandbox.run("make", "setup", NO_ENSUREPIP="1").returncode == 0
    install = "apt-get install -y --no-install-recommends python3-venv"
    assert sandbox.calls() == ["apt-get update", install, "-m venv .venv", "pip install"]


def test_without_ensurepip_others_are_told(sandbox):
    sandbox.user(1000)
    stopped = sandbox.run("make", "setup", NO_ENSUREPIP="1")
    assert stopped.returncode == 2
    assert "apt-get install -y --no-install-recommends python3-venv" in stopped.stderr
    assert sandbox.calls() == []
    assert not sandbox.venv.exists()


def test_an_old_python_is_refused(sandbox):
    stopped = sandbox.run("make", "setup", OLD="1")
    assert stopped.returncode == 2
    assert "needs Python 3.11 or newer, and python3 is Python 3.9.2" in stopped.stderr


def test_a_newer_python_beside_an_old_one_is_taken(sandbox):
    sandbox.put("python3.12", PYTHON.replace("echo python3", "echo python3.12"))
    sandbox.put("python3", PYTHON.replace('[ -z "$OLD" ] && ', "false && "))
    assert sandbox.run("make", "setup").returncode == 0
    assert sandbox.calls() == ["-m venv .venv", "pip install"]


PACKAGES = "apt-get install -y --no-install-recommends chromium fonts-dejavu-core libatomic1"


def test_the_browser_on_path_is_found(sandbox):
    found = sandbox.run(".ci/browser")
    assert (found.returncode, found.stdout.strip()) == (0, str(sandbox.bin / "chromium"))


def test_chromium_variable_comes_first(sandbox):
    sandbox.put("mine", CHROMIUM)
    assert sandbox.run(".ci/browser", CHROMIUM="mine").stdout.strip() == str(sandbox.bin / "mine")
    assert sandbox.run(".ci/browser", CHROMIUM="none").returncode == 2


def test_without_a_browser_root_installs_it(sandbox):
    assert sandbox.run(".ci/browser", "--install", NO_CHROMIUM="1").returncode == 0
    assert sandbox.calls() == ["apt-get update", PACKAGES]


@pytest.mark.parametrize(("user", "flags"), [(1000, ["--install"]), (0, [])])
def test_without_a_browser_others_are_told(sandbox, user, flags):
    sandbox.user(user)
    stopped = sandbox.run(".ci/browser", *flags, NO_CHROMIUM="1")
    assert stopped.returncode == 2
    assert PACKAGES in stopped.stderr
    assert sandbox.calls() == []


def test_playwright_needs_its_library_too(sandbox):
    """Without libatomic1 Playwright's own node dies, whatever browser stands ready."""
    sandbox.put("playwright", "#!/bin/bash\n[ -e installed ]\n")
    assert sandbox.run(".ci/browser").returncode == 2
    assert sandbox.run(".ci/browser", "--install").returncode == 0
    assert sandbox.calls() == ["apt-get update", PACKAGES]


def test_make_lab_serves_the_tour(start_lab):
    lab = start_lab(["make", "lab", "ARGS=--no-browser"], ROOT)
    assert lab.folder == ROOT
    tour = json.loads(lab.get("api/contents/notebooks/00_tour.ipynb"))
    assert tour["type"] == "notebook"
    assert b"JupyterLab" in lab.get("lab/tree/notebooks/00_tour.ipynb")
    widgets = json.loads(lab.get("lab/api/settings/@jupyter-widgets/jupyterlab-manager:plugin"))
    assert widgets["schema"]["properties"]["saveState"]["default"] is True
    news = json.loads(lab.get("lab/api/settings/@jupyterlab/apputils-extension:notification"))
    assert news["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert lab.stop() == 0
