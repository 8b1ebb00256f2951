"""Views for a projector: the notebook that holds them. Voila's template for it stands below ``voila``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smmu_lab.scenario import Scenario

TEMPLATE = "projector"
ON_JUPYTER_PATH = Path(__file__).parent
"""Where Jupyter must look for the template, too."""


def write(folder: Path, scenario: Scenario, names: Sequence[str], by: str) -> Path:
    """Write a notebook with a view in each cell, and beside it the scenario, which nobody must take for code.

    Args:
        folder: where to.
        scenario: what is shown.
        names: keys of the approaches that the explorer compares.
        by: key of the approach that the microscope shows.

    Returns:
        The notebook.
    """
    import nbformat.v4

    setting, book = folder / "scenario.toml", folder / "present.ipynb"
    setting.write_text(scenario.to_toml(), "utf-8")
    views = {
        "Explorer": f"lab.explore(scenario, {list(names)!r})",
        "Microscope": f"lab.microscope(lab.simulate(scenario, {by!r}))",
    }
    start = f"import os\nimport smmu_lab as lab\nos.chdir({str(Path.cwd())!r})\n"  # where relative paths lead from
    start += f"scenario = lab.Scenario.from_toml({str(setting)!r})\n"
    cells = [nbformat.v4.new_code_cell(start + code, metadata={"view": view}) for view, code in views.items()]
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"title": "Guest SMMUv3 invalidation", "kernelspec": python})
    book.write_text(nbformat.v4.writes(made), "utf-8")
    return book
