"""What a student is asked: a few facts and a question."""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar

import attrs

from smmu_lab.learn.page import show
from smmu_lab.sheet import Sheet


class Problem:
    """Base of every exercise's problem; the student's function reads the facts as attributes.

    An exercise derives a class with ``@attrs.frozen(repr=False)``; its fields are the facts.

    Attributes:
        question: what is asked.
        form: what an answer looks like.
    """

    __slots__ = ()
    question: ClassVar[str]
    form: ClassVar[str]

    def sheet(self) -> Sheet:
        """The facts, by the names under which a function reads them."""
        fields: Any = attrs.fields(type(self))  # type: ignore[arg-type]  # a subclass has them
        head = "fact", "value"
        return Sheet(head, [(f"problem.{f.name}", show(getattr(self, f.name))) for f in fields], left=head)

    def __repr__(self) -> str:
        return f"{self.question}\n\n{self.sheet()}\n\nAn answer: {self.form}"

    def _repr_html_(self) -> str:
        answer = f"<p>An answer: <code>{escape(self.form)}</code></p>"
        return f"<p>{escape(self.question)}</p>{self.sheet()._repr_html_()}{answer}"
