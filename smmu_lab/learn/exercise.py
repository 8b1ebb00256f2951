"""An exercise: a folder whose problems come from seeds, and are solved by the simulator."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import attrs

from smmu_lab.learn.page import Page, show
from smmu_lab.learn.problem import Problem
from smmu_lab.learn.result import Result
from smmu_lab.scenario import InvalidInput
from smmu_lab.scenario.fields import invalid, unknown

_BESIDE = Path(__file__).with_name("exercises")
FOLDER = _BESIDE if _BESIDE.is_dir() else Path(__file__).parents[2] / "exercises"
"""The exercises: beside this file in an installed wheel, at the top of a checkout."""

_NO_USUAL_MISTAKE = "this is none of the usual mistakes: count this one case by hand, step by step"

Answer = Callable[[Any], Mapping[str, Any]] | Mapping[str, Any]

_START = """
## Start

Open `exercises/{folder}/exercise.ipynb`, or stay where you are:

```python
exercise = lab.exercise("{key}")
exercise.problem(1)               # a problem; every seed makes another
exercise.check({{...}}, 1)          # your answer to that one
exercise.check(predict)           # your function, on 50 of them
```
"""


@attrs.frozen(repr=False)
class Exercise:
    """One exercise: what it asks, its problems, and the check of an answer.

    Attributes:
        key: such as ``e01``.
        folder: where its files are.
    """

    key: str
    folder: Path

    @property
    def statement(self) -> Page:
        """What it asks: the first cell of its notebook."""
        source = (self.folder / "exercise.py").read_text("utf-8")
        cell = source.partition("# %% [markdown]\n")[2].partition("\n# %%")[0]
        return Page(re.sub("^# ?", "", cell, flags=re.MULTILINE).strip() + "\n")

    @property
    def title(self) -> str:
        """The heading of the statement."""
        return self.statement.partition("\n")[0].lstrip("# ")

    @property
    def explanation(self) -> Page:
        """Why the answer is what it is, and a solution. It spoils the exercise."""
        why = (self.folder / "explanation.md").read_text("utf-8")
        solution = (self.folder / "solution.py").read_text("utf-8")
        return Page(f"{why}\n## A solution\n\n```python\n{solution}```\n")

    def problem(self, seed: int) -> Problem:
        """The problem of a seed, the same on every machine."""
        if type(seed) is not int:
            raise InvalidInput([invalid("seed", seed, "an integer")])
        problem: Problem = self.part("check").make(Random(f"{self.key}:{seed}"))
        return problem

    def check(self, answer: Answer, seeds: int | Iterable[int] = range(50)) -> Result:
        """Compare an answer with the simulator.

        Args:
            answer: a function from a problem to its answer, or the answer to one problem.
            seeds: of the problems: one, or for a function also several.

        Returns:
            Whether it passed; if not, a problem on which it fails, and a hint that follows from the answer.

        Raises:
            InvalidInput: a seed is not valid.
        """
        chosen = list(seeds) if isinstance(seeds, Iterable) else [seeds]
        if not chosen:
            raise InvalidInput([invalid("seeds", chosen, "at least one integer")])
        if not callable(answer) and len(chosen) > 1:
            verdict = f"{self.key}: {show(answer)} is not a function, and can answer one problem only"
            return Result(verdict=verdict, advice="say which one by its seed: check(answer, 1)")
        part = self.part("check")
        wrong = []
        for seed in chosen:
            problem = self.problem(seed)
            expected = part.solve(problem)
            given, verdict, advice = _ask(answer, problem, expected)
            case = Result(
                verdict=f"{self.key}: {verdict}",
                seed=seed,
                problem=problem,
                given=given,
                expected=expected,
                advice=advice,
            )
            if given is None:
                return case
            if given != expected:
                wrong.append(case)
        right = f"{len(chosen) - len(wrong)} of {len(chosen)} right"
        if wrong:
            case, hint = _explained(wrong, part.MISTAKES)
            return attrs.evolve(case, verdict=f"{self.key}: not yet, {right}", advice=hint)
        why = f'lab.exercise("{self.key}").explanation says why'
        return Result(passed=True, verdict=f"{self.key}: passed, {right}", advice=why)

    def part(self, name: str) -> ModuleType:
        """One of its Python files as a module: ``check`` or ``solution``."""
        return _load(self.folder / f"{name}.py")

    def __repr__(self) -> str:
        return str(self._page)

    def _repr_html_(self) -> str:
        return self._page._repr_html_()

    @property
    def _page(self) -> Page:
        return Page(self.statement + _START.format(key=self.key, folder=self.folder.name))


def exercise(key: str) -> Exercise:
    """An exercise by its key.

    Raises:
        InvalidInput: there is no such exercise; the message names the nearest, or all.

    >>> exercise("e01").title
    'e01: The exits of an unmap'
    """
    folders = {path.parent.name.partition("_")[0]: path.parent for path in sorted(FOLDER.glob("*/check.py"))}
    if str(key) not in folders:
        raise InvalidInput([unknown(f"exercise {key!r}", str(key), folders)])
    return Exercise(key, folders[key])


@cache
def _load(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"smmu_lab.learn.{path.parent.name}.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _ask(answer: Answer, problem: Problem, expected: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str, str]:
    """Get an answer from code that nobody has read: the answer if it can be compared, else what is wrong with it."""
    try:
        given = answer(problem) if callable(answer) else answer
        values = list(given.values()) if isinstance(given, Mapping) else [given]
        if any(value is None or value is ... for value in values):
            return None, "not answered yet", "put your own values in the place of the dots"
        if not isinstance(given, Mapping):
            return None, f"{show(given)} is not valid: a dict, {problem.form}", ""
        given = dict(given)
    except Exception as error:
        return None, f"your function raised {_line(error)}", ""
    faults = [unknown(show(name), show(name).strip("'"), expected) for name in given if name not in expected]
    for name, value in expected.items():
        if name not in given:
            faults.append(f"{name!r}: missing")
        elif type(given[name]) is not type(value):
            types = f"of type {type(given[name]).__name__}, not {type(value).__name__}"
            faults.append(f"{name!r}: {show(given[name])} is not valid: it is {types}")
    return (None, "; ".join(faults), "") if faults else (given, "", "")


def _line(error: Exception) -> str:
    """What was raised, and by which line of the student's own file or cell."""
    text = traceback.format_exception_only(error)[-1].strip()
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    where = f" (line {own[-1].lineno}: {own[-1].line})" if own else ""
    return text[:200] + where[:200]


def _explained(wrong: list[Result], mistakes: Iterable[Callable[[Any], Mapping[str, Any]]]) -> tuple[Result, str]:
    """The case to show, and the hint: that of the mistake which gives the student's answers most often.

    Of the cases that it explains, the one is shown that the fewest others explain too.
    """
    reached = {mistake: [case for case in wrong if mistake(case.problem) == case.given] for mistake in mistakes}
    mistake = max(reached, key=lambda each: len(reached[each]))
    if not reached[mistake]:
        return wrong[0], _NO_USUAL_MISTAKE
    case = min(reached[mistake], key=lambda case: sum(case in cases for cases in reached.values()))
    return case, " ".join((mistake.__doc__ or "").split())
