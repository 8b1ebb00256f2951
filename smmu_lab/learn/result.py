"""What a check says: passed, or the case that fails and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import attrs

from smmu_lab.learn.page import show
from smmu_lab.learn.problem import Problem
from smmu_lab.sheet import Sheet

_PASSED, _FAILED = "#009e73", "#d55e00"
"""Two colours of Okabe and Ito that everybody can tell apart; the words say it too."""


@attrs.frozen(kw_only=True, repr=False)
class Result:
    """The outcome of a check; true when it passed.

    Attributes:
        passed: every problem was answered right.
        verdict: what happened.
        seed: of the problem that is shown.
        problem: one that was not answered right.
        given: the answer to it, if it can be compared.
        expected: what the simulator says.
        advice: a hint, or what to do next.
    """

    passed: bool = False
    verdict: str
    seed: int | None = None
    problem: Problem | None = None
    given: Mapping[str, Any] | None = None
    expected: Mapping[str, Any] | None = None
    advice: str = ""

    def __bool__(self) -> bool:
        return self.passed

    def sheet(self) -> Sheet:
        """The answer beside what was expected."""
        given, expected = self.given or {}, self.expected or {}
        rows = [
            (name, show(given[name]), show(value), "" if given[name] == value else "differs")
            for name, value in expected.items()
            if name in given
        ]
        return Sheet(("answer", "yours", "simulated", ""), rows, left=("answer", ""))

    def _parts(self) -> Iterator[str | Sheet]:
        yield self.verdict
        if self.problem is not None:
            yield f"Problem {self.seed}:"
            yield self.problem.sheet()
        if self.given is not None:
            yield self.sheet()
        if self.advice:
            yield f"{'Next' if self.passed else 'Hint'}: {self.advice}"

    def __repr__(self) -> str:
        return "\n\n".join(map(str, self._parts()))

    def _repr_html_(self) -> str:
        verdict, *parts = self._parts()
        body = f"<p><b>{escape(str(verdict))}</b></p>" + "".join(
            f"<p>{escape(part)}</p>" if isinstance(part, str) else part._repr_html_() for part in parts
        )
        colour = _PASSED if self.passed else _FAILED
        return f'<div style="border-left: 4px solid {colour}; padding-left: 1em">{body}</div>'
