"""Every exercise keeps to the form: placeholder fails kindly, solution passes, each mistake gets its own hint."""

import attrs
import jupytext
import nbclient
import nbformat
import pytest

from smmu_lab.learn import Exercise, exercise
from smmu_lab.learn.exercise import FOLDER

KEYS = sorted(path.parent.name.partition("_")[0] for path in FOLDER.glob("*/check.py"))
MISTAKES = [(key, mistake) for key in KEYS for mistake in exercise(key).part("check").MISTAKES]


@pytest.fixture(params=KEYS)
def each(request) -> Exercise:
    return exercise(request.param)


def hint(mistake) -> str:
    return " ".join(mistake.__doc__.split())


def test_keys_are_those_of_the_folders():
    assert [f"e{number:02}" for number in range(1, len(KEYS) + 1)] == KEYS


def test_it_says_what_it_asks(each):
    assert each.title.startswith(f"{each.key}: ")
    assert each.statement in repr(each)
    assert "# %%" not in each.statement
    assert each.folder.name in repr(each)


def test_the_explanation_ends_with_the_solution(each):
    assert (each.folder / "solution.py").read_text() in each.explanation
    assert "## Key points" in each.explanation


def test_a_seed_is_one_problem(each):
    problems = [each.problem(seed) for seed in range(50)]
    assert problems == [each.problem(seed) for seed in range(50)]
    assert len(set(problems)) > 10
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(problems[0], attrs.fields(type(problems[0]))[0].name, None)


def test_the_solution_passes(each):
    result = each.check(each.part("solution").predict)
    assert result, result
    assert "passed, 50 of 50 right" in repr(result)
    assert each.check(each.part("solution").predict, range(50, 500))


@pytest.mark.parametrize(("key", "mistake"), MISTAKES, ids=[f"{key}-{each.__name__}" for key, each in MISTAKES])
def test_each_mistake_fails_with_its_own_hint(key, mistake):
    result = exercise(key).check(mistake)
    assert not result
    assert result.advice == hint(mistake)
    assert mistake(result.problem) == result.given != result.expected


def test_hints_are_distinct(each):
    hints = [hint(mistake) for mistake in each.part("check").MISTAKES]
    assert len(hints) == len(set(hints)) >= 3
    assert all(len(each) < 300 for each in hints)


def test_the_notebook_runs_to_its_end_unanswered(each, tmp_path):
    """From any folder: the package knows where its exercises are. The placeholder fails, without a traceback."""
    notebook = nbformat.read(each.folder / "exercise.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs[-1]["text"] == "ALL-DONE\n"
    texts = [output["data"]["text/plain"] for output in outputs if "data" in output]
    assert any("not answered yet" in text for text in texts)
    assert not any("passed" in text for text in texts)


def test_the_notebook_is_its_source(each):
    source = jupytext.read(each.folder / "exercise.py")
    notebook = nbformat.read(each.folder / "exercise.ipynb", as_version=4)
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in source.cells]
    assert notebook.cells[0].source + "\n" == each.statement
