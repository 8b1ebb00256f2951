"""Notebooks are committed without outputs, agree with the .py beside them, and end where tests can see it."""

from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALL = NOTEBOOKS + sorted((ROOT / "exercises").glob("*/*.ipynb"))


def cells(notebook) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def of(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_the_tour_is_there():
    assert ROOT / "notebooks" / "00_tour.ipynb" in NOTEBOOKS


@of(ALL)
def test_no_outputs(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.source for cell in code if cell.outputs or cell.execution_count is not None] == []


@of(ALL)
def test_agrees_with_its_source(path):
    """When they differ: `make notebooks` copies the newer of the two over the older."""
    assert cells(nbformat.read(path, as_version=4)) == cells(jupytext.read(path.with_suffix(".py")))


def test_each_source_has_its_notebook():
    assert sorted(source.stem for source in (ROOT / "notebooks").glob("*.py")) == [path.stem for path in NOTEBOOKS]


@of(ALL)
def test_names_its_kernel(path):
    """Without a kernel in its metadata JupyterLab asks for one."""
    assert nbformat.read(path, as_version=4).metadata.kernelspec.name == "python3"


@of(ALL)
def test_ends_with_all_done(path):
    """What nbmake, the browser tests and Binder's readers wait for."""
    assert 'print("ALL-DONE")' in nbformat.read(path, as_version=4).cells[-1].source
