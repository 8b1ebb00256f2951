"""What the README shows runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1].joinpath("README.md").read_text()
COMMANDS = re.findall(r"^smmu-lab ([^#\n]+)", README, re.MULTILINE)


def test_its_python_runs():
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shown = {}
    exec(program, shown)  # our own README
    assert shown["run"].counts.ioctls


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command):
    program = [sys.executable, "-c", "from smmu_lab.cli import main; main()", *shlex.split(command)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert Path(__file__).parents[1].joinpath(target).exists(), target
