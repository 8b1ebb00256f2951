"""What every chart needs: a theme, elements, round ticks. Pure functions that return text."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape

STYLE = """
.smmu-lab { --ink: var(--jp-ui-font-color1, #212121); --faint: var(--jp-ui-font-color2, #616161);
  --line: var(--jp-border-color2, #d0d0d0); --paper: var(--jp-layout-color0, #ffffff); }
@media (prefers-color-scheme: dark) { .smmu-lab { --ink: var(--jp-ui-font-color1, #e8e8e8);
  --faint: var(--jp-ui-font-color2, #a8a8a8); --line: var(--jp-border-color2, #424242);
  --paper: var(--jp-layout-color0, #111111); } }
svg.smmu-lab { font: 12px var(--jp-ui-font-family, system-ui, sans-serif); fill: var(--ink); background: var(--paper);
  max-width: 100%; height: auto; display: block; }
svg.smmu-lab .faint { fill: var(--faint); }
svg.smmu-lab .small { font-size: 11px; }
svg.smmu-lab .strong { font-weight: 600; }
svg.smmu-lab .line { stroke: var(--line); }
svg.smmu-lab .mark { stroke: var(--ink); stroke-width: 1.5; }
svg.smmu-lab .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg.smmu-lab .edge { stroke: var(--paper); stroke-width: 0.75; }
"""
"""Theme of every picture: Jupyter's variables where there are any, else what the reader's system prefers."""


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element; attributes are escaped, children are markup already.

    >>> tag("a", escape("x < y"), class_="k", data_of='"b"')
    '<a class="k" data-of="&quot;b&quot;">x &lt; y</a>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value != ""
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def picture(width: float, height: float, label: str, *parts: str, data: Mapping[str, object] | None = None) -> str:
    """The ``<svg>`` of a chart: it stands alone, needs no script, and says in words what it shows.

    Args:
        width: px.
        height: px.
        label: what it shows, for those who do not see it.
        parts: its elements.
        data: ``data-*`` attributes: what it shows, for programs.
    """
    return tag(
        "svg",
        tag("style", STYLE),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        class_="smmu-lab",
        width=width,
        height=height,
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        role="img",
        aria_label=label,
        **{f"data-{name}": value for name, value in (data or {}).items()},
    )


def text(words: str, x: float, y: float, class_: str = "", anchor: str = "", style: str = "", title: str = "") -> str:
    """A line of text, with a tooltip if `title` is given."""
    tip = tag("title", escape(title)) if title else ""
    return tag("text", tip, escape(words), class_=class_, x=x, y=y, text_anchor=anchor, style=style)


def fit(words: str, room: float, per_letter: float) -> str:
    """Words cut to a room in px."""
    letters = int(room / per_letter)
    return words if len(words) <= letters else words[: max(1, letters - 1)] + "…"


def ticks(full: float, most: int) -> list[float]:
    """Round values from zero up to `full`, at most `most` besides zero.

    >>> ticks(33_700, 5)
    [0, 10000, 20000, 30000]
    """
    power = 1
    while True:
        for step in (power, 2 * power, 5 * power):
            if full / step <= max(1, most):
                return [k * step for k in range(int(full / step) + 1)]
        power *= 10


def still(chart: str, words: str) -> str:
    """A chart as an ``<img>``, with a text for those who do not see it.

    JupyterLab takes an ``<svg>`` apart in a notebook that it does not trust, and leaves its words; an ``<img>`` stays.
    """
    return tag("img", src=f"data:image/svg+xml;base64,{b64encode(chart.encode()).decode()}", alt=words)


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
