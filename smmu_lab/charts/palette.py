"""One colour and one shape for each stage, command and approach, wherever it is drawn.

Stages of one party share a family of hues, taken from Okabe and Ito and darkened or lightened until each stands out by
at least 3:1 from white and from Jupyter's dark backgrounds: the same colour serves both themes. A thick bar is work, a
thin one is waiting, so that a stage is not told by its hue alone.
"""

from __future__ import annotations

from collections.abc import Iterable

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

COMMANDS = {
    "TLBI": ("T", "#0e8a94"),
    "ATC_INV": ("A", "#a85b2a"),
    "CFGI": ("C", "#8a6fb0"),
    "CMD_SYNC": ("S", "#5c7f1f"),
    "illegal": ("!", "#d7263d"),
    "request": ("R", "#0e8a94"),
}
"""Letter and colour of each kind of entry in a queue; the letter stands in its slot."""

INKS = ("#0072b2", "#d55e00", "#009e73", "#a6508a", "#8f7a00", "#757575")
"""Of series and approaches."""
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-4-4h8v8h-8z",
    "M0-5l5 9h-10z",
    "M0-5l5 5-5 5-5-5z",
    "M-4-4l8 8m0-8l-8 8",
    "M-5 0h10m-5-5v10",
)
"""Their shapes, so that none is told by its hue alone."""


FAMILIES = {
    "#d55e00": ("qemu-today", "per-command"),
    "#0072b2": ("batched", "batched-at-sync"),
    "#8f7a00": ("native-queue",),
    "#a6508a": ("short-path", "short-path-trapped-cons", "short-path-sync", "short-path-polled"),
    "#0e8a94": ("vhost-iommu", "virtio-iommu"),
    "#009e73": ("vcmdq", "vcmdq-overlay", "vcmdq-emulated", "vcmdq-emulated-vmm"),
    "#757575": ("bare-metal", "ecmdq"),
}
"""The rows of the catalogue by ink: those that hand commands over alike share one."""


def identities(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Ink and marker of each approach, the same in every picture.

    A row of the catalogue has the ink of its family. A what-if has that of the row it was made from, and a marker that
    nothing else in the picture has with it; a name that is not in the catalogue takes the first free pair.

    >>> given = identities(["vcmdq", "short-path", "short-path*"])
    >>> given["short-path"][0] == given["short-path*"][0], len(set(given.values()))
    (True, 3)
    """
    own = {}
    for number, (ink, family) in enumerate(FAMILIES.items()):
        for place, name in enumerate(family):
            own[name] = ink, (number + place) % len(MARKERS)
    found: dict[str, tuple[str, str]] = {}
    for name in sorted(dict.fromkeys(names), key=lambda name: name not in own):
        ink, first = own.get(name.rstrip("*"), (INKS[0], 0))
        inks = [ink, *(each for each in INKS if each != ink)]
        markers = MARKERS[first:] + MARKERS[:first]
        pairs = [(ink, marker) for ink in inks for marker in markers]
        found[name] = next((pair for pair in pairs if pair not in found.values()), pairs[0])
    return found


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
