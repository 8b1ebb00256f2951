"""How a result shows itself: in a terminal, in a notebook, as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from smmu_lab.sheet import Sheet

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Shown:
    """A result with a title, tables, a verdict and warnings; perhaps with pictures.

    Attributes:
        unfolded: so many tables stand open in a notebook, the others are folded.
    """

    unfolded: ClassVar[int] = 100

    @property
    def title(self) -> str:
        """What was run, in one line."""
        raise NotImplementedError

    @property
    def sheets(self) -> Sequence[Sheet]:
        """All tables, in the order of reading."""
        raise NotImplementedError

    @property
    def verdict(self) -> str:
        """What it says, in one sentence."""
        raise NotImplementedError

    @property
    def warnings(self) -> Sequence[str]:
        """What makes a figure less than it seems, one sentence each."""
        return ()

    def pictures(self) -> Sequence[str]:
        """HTML of each picture."""
        return ()

    def __repr__(self) -> str:
        tables = [f"{sheet.caption}\n{sheet}".lstrip() for sheet in self.sheets]
        return "\n\n".join([self.title, *tables, self.verdict, *self.warnings])

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(line)}</p>" for line in (self.verdict, *self.warnings))
        tables = [sheet._repr_html_() for sheet in self.sheets]
        more = "".join(tables[self.unfolded :])
        folded = f"<details><summary>All figures</summary>{more}</details>" if more else ""
        shown = "".join([*self.pictures(), *tables[: self.unfolded]])
        return f"<p><b>{escape(self.title)}</b></p>{said}{shown}{folded}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        yield Text(self.title, style="bold")
        yield from self.sheets
        yield Text("\n".join([self.verdict, *self.warnings]))

    def to_dict(self) -> dict[str, Any]:
        """Everything shown, as plain data; times in ns."""
        raise NotImplementedError

    def to_json(self) -> str:
        """`to_dict` as one JSON document."""
        return json.dumps(self.to_dict(), indent=1)
