"""`import smmu_lab` is light, and imports only go down the rooms."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"anywidget", "ipywidgets", "matplotlib", "networkx", "numpy", "pandas", "plotly"}
COMPARISON = "lab.compare(lab.Scenario(workload=lab.unmaps(ops=5)), ['batched', 'vcmdq'])._repr_html_()"


@pytest.mark.parametrize(("use", "needed"), [("lab", set()), (COMPARISON, {"networkx"})], ids=["import", "comparison"])
def test_only_what_is_needed_is_loaded_of_what_is_heavy(tmp_path, use, needed):
    # away from the repository, so that the installed package is what is imported
    program = f"import sys, smmu_lab as lab; {use}; print(*sys.modules)"
    fresh = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in fresh.stdout.split()}
    assert "smmu_lab" in loaded
    assert loaded & HEAVY == needed


def test_imports_only_go_down(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0
