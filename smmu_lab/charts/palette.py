"""One colour and one shape for each stage, wherever it is drawn.

Stages of one party share a family of hues, taken from Okabe and Ito and darkened or lightened until each stands out by
at least 3:1 from white and from Jupyter's dark backgrounds: the same colour serves both themes. A thick bar is work, a
thin one is waiting, so that a stage is not told by its hue alone.
"""

from __future__ import annotations

PARTIES = {
    "guest driver": ("build", "gather", "space"),
    "doorbell": ("lock", "doorbell"),
    "consumer": ("wake", "consume"),
    "host": ("handoff", "queue"),
    "SMMU": ("execute",),
    "completion": ("recover", "complete", "stolen"),
}
"""Who is at it in each stage, in the order in which a command meets them."""

COLOURS = {
    "build": "#0072b2",
    "gather": "#3f98cf",
    "space": "#6b73c9",
    "lock": "#b84a00",
    "doorbell": "#d55e00",
    "wake": "#c77f00",
    "consume": "#8f7a00",
    "handoff": "#a6508a",
    "queue": "#cc79a7",
    "execute": "#009e73",
    "recover": "#d7263d",
    "complete": "#757575",
    "stolen": "#808080",
}

WAITING = frozenset({"gather", "space", "lock", "wake", "queue", "recover", "stolen"})


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``, 0 to 1 (WCAG 2.2)."""
    red, green, blue = (_linear(int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2).

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    dark, light = sorted((luminance(one), luminance(other)))
    return round((light + 0.05) / (dark + 0.05), 2)


def ink_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour."""
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, colour))


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
