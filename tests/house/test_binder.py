"""The Binder image holds what pyproject.toml asks for, pinned, and nothing that makes people wait."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
BINDER = ROOT / "binder"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
ASKED = [
    Requirement(line)
    for line in (
        *PROJECT["dependencies"],
        *(need for need in PROJECT["optional-dependencies"]["lab"] if need.startswith("jupyterlab")),
        *PYPROJECT["build-system"]["requires"],
    )
]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    return {
        canonicalize_name(name): version
        for name, _, version in (line.partition("==") for line in lines if line and line[0] != "#")
    }


def test_every_line_is_a_pin():
    """No `.` and no `-e .`: the layer then survives an edited notebook."""
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)] == []


@pytest.mark.parametrize("need", ASKED, ids=str)
def test_pins_follow_pyproject(need, pins):
    assert pins[canonicalize_name(need.name)] in need.specifier


def test_what_they_pull_is_pinned_too(pins):
    """Walk the metadata of the installed packages: each active requirement has a pin that satisfies it."""
    seen, missing = set(), []
    todo = [(canonicalize_name(need.name), frozenset(need.extras)) for need in ASKED]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # hatchling lives in pip's isolated build only
            continue
        if installed.version != pins[name]:  # another version may ask for other things
            continue
        for need in map(Requirement, installed.requires or ()):
            if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                continue
            pulled = canonicalize_name(need.name)
            if pulled not in pins or pins[pulled] not in need.specifier:
                missing.append(f"{name} needs {need}; pinned: {pins.get(pulled)}")
            else:
                todo.append((pulled, frozenset(need.extras)))
    assert missing == []


def test_nothing_heavy_in_the_image(pins):
    assert pins.keys() & {"matplotlib", "numpy", "pandas", "playwright", "voila", PROJECT["name"]} == set()


def test_python_is_one_we_support():
    version = (BINDER / "runtime.txt").read_text().strip().removeprefix("python-")
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_repo2docker_accepts_it(tmp_path):
    """It reads the folder as meant: our Python, pins before sources (a cached layer), then postBuild."""
    shutil.copytree(BINDER, tmp_path / "binder")
    repo2docker = [sys.executable, "-m", "repo2docker", "--no-build", "--debug", str(tmp_path)]
    accepted = subprocess.run(repo2docker, capture_output=True, text=True)
    assert accepted.returncode == 0, accepted.stderr
    assert "python=3.11" in accepted.stderr
    steps = ["binder/requirements.txt", "COPY --chown=0:0 src/ ", "RUN ./binder/postBuild"]
    places = [accepted.stdout.index(step) for step in steps]
    assert places == sorted(places)
