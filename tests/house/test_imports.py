"""`import smmu_lab` is light, and imports only go down the rooms."""

import subprocess
import sys
from pathlib import Path

from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"anywidget", "ipywidgets", "matplotlib", "networkx", "numpy", "pandas", "plotly"}


def test_import_loads_nothing_heavy(tmp_path):
    # away from the repository, so that the installed package is what is imported
    program = "import smmu_lab, sys; print(*sys.modules)"
    fresh = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in fresh.stdout.split()}
    assert "smmu_lab" in loaded
    assert loaded & HEAVY == set()


def test_imports_only_go_down(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0
