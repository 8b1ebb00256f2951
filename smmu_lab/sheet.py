"""One way to show rows of text: a rich table in a terminal, HTML without script in a notebook, plain text elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from rich.table import Table

SHORT = 32
"""Longer texts may wrap."""

_STYLE = "text-align:{};padding:2px 4px;vertical-align:top;white-space:{}"


@attrs.frozen(repr=False)
class Sheet:
    """A small table of texts.

    Attributes:
        header: names of the columns.
        rows: one text per column.
        left: columns that hold words; they are left-aligned, all others to the right.
        caption: what the table is, in a few words.

    >>> Sheet(("name", "ns"), (("a", "12"), ("long", "7")), left=("name",))
    name  ns
    a     12
    long   7
    """

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: tuple[str, ...] = ()
    caption: str = ""

    def __repr__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                text.ljust(width) if name in self.left else text.rjust(width)
                for name, text, width in zip(self.header, line, widths, strict=True)
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        aligned = ["left" if name in self.left else "right" for name in self.header]

        def line(tag: str, cells: Sequence[str]) -> str:
            return "".join(
                f'<{tag} style="{_STYLE.format(side, "nowrap" if tag == "td" and len(text) <= SHORT else "normal")}">'
                f"{html.escape(text)}</{tag}>"
                for side, text in zip(aligned, cells, strict=True)
            )

        body = "".join(f"<tr>{line('td', row)}</tr>" for row in self.rows)
        caption = f'<caption style="text-align:left">{html.escape(self.caption)}</caption>' if self.caption else ""
        return f"<table>{caption}<thead><tr>{line('th', self.header)}</tr></thead><tbody>{body}</tbody></table>"

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, title=Text(self.caption) if self.caption else None, title_justify="left")
        for name, *cells in zip(self.header, *self.rows, strict=True):
            longest = max(len(word) for text in (name, *cells) for word in text.split() or [""])
            table.add_column(Text(name), justify="left" if name in self.left else "right", min_width=longest)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def show(shown: object) -> None:
    """Print something to stdout; where that is no terminal, tables get all the width they need."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=160)).print(shown)
