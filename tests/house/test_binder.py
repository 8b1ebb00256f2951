"""The Binder image holds what pyproject.toml asks for, pinned, and nothing that makes people wait."""

import os
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


def test_its_steps_replay_in_a_fresh_environment(tmp_path):
    """What the image does, without the image: the pins, then postBuild; then a reader's first steps."""
    environment, sources = tmp_path / "venv", tmp_path / "src"
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    path = f"{environment / 'bin'}:{os.environ['PATH']}"
    steps = (
        ["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", "binder/requirements.txt"],
        ["./binder/postBuild"],
        ["smmu-lab", "compare", "vcmdq", "--trace", "nvme_dd_r1m_j1_strict_61"],
        ["python", "-P", "-c", "import smmu_lab as lab; print(lab.exercise('e01').title); lab.explore()"],
        ["jupyter", "lab", "--version"],
    )
    for step in steps:
        done = subprocess.run(step, cwd=sources, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{step}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
