"""Text for people: Markdown as a page, and values as their owner would type them."""

from __future__ import annotations

from typing import Any

LONGEST = 60
"""Characters of a value that are shown, as in `smmu_lab.scenario.fields.invalid`."""


class Page(str):
    """Markdown: a notebook shows it as a page, a terminal as it stands. HTML inside it stays text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from markdown_it import MarkdownIt

        return MarkdownIt("js-default").render(self)


def show(value: Any) -> str:
    """A value on one line: cut when long, named by its type when it cannot be written.

    >>> show("short-path"), show({1: "x" * 99}), show(9**9999)
    ("'short-path'", "{1: 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", 'a value of type int')
    """
    try:
        shown = " ".join(repr(value).split())
    except Exception:  # a broken __repr__, or an integer beyond Python's limit of digits
        return f"a value of type {type(value).__name__}"
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
