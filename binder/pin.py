"""Write requirements.txt: the core of pyproject.toml, JupyterLab and hatchling, and all they pull, pinned.

Only third-party names stand there, never this package: so Binder keeps that layer when a notebook changes,
and postBuild installs the package into it. Run as `make binder`, on the Python and the system of Binder.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = (HERE / "runtime.txt").read_text().strip().removeprefix("python-")


def asked(pyproject: dict) -> list[str]:
    """The requirements to resolve: the core, JupyterLab as the `lab` extra wants it, the build backend."""
    project = pyproject["project"]
    lab = [need for need in project["optional-dependencies"]["lab"] if need.startswith("jupyterlab")]
    return project["dependencies"] + lab + pyproject["build-system"]["requires"]


def resolved(needs: list[str]) -> dict[str, tuple[str, bool]]:
    """Name -> (version, was asked for): what pip reports it would install into an empty environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    dry = ["--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*pip, *dry, *needs], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {
        item["metadata"]["name"].lower(): (item["metadata"]["version"], item["requested"])
        for item in json.loads(report)["install"]
    }


def main() -> None:
    """Resolve and write, or say why not."""
    if sys.platform != "linux" or "{}.{}".format(*sys.version_info) != PYTHON:
        sys.exit(f"binder/pin.py resolves for Linux and Python {PYTHON}: run it there")
    pins = sorted(resolved(asked(tomllib.loads((HERE.parent / "pyproject.toml").read_text()))).items())
    lines = ["# Written by `make binder`; do not edit.", "", "# asked for in pyproject.toml"]
    lines += [f"{name}=={version}" for name, (version, requested) in pins if requested]
    lines += ["", "# what those pull"]
    lines += [f"{name}=={version}" for name, (version, requested) in pins if not requested]
    (HERE / "requirements.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
