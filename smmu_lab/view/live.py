"""What every widget of the lab is: a script with what all scripts share, and a picture that stands in for it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from IPython.display import display

from smmu_lab.charts import STYLE, tag
from smmu_lab.charts.palette import COLOURS, COMMANDS, PARTIES, WAITING

SCRIPTS = Path(__file__).with_name("js")


def script(*names: str) -> str:
    """The JavaScript of a widget: the palette, what all share, and its own files, joined."""
    palette = {"stages": COLOURS, "waiting": sorted(WAITING), "parties": PARTIES, "commands": COMMANDS}
    files = [SCRIPTS.joinpath(f"{name}.js").read_text("utf-8") for name in ("shared", *names)]
    return "\n".join([f"const PALETTE = {json.dumps(palette)};", *files])


def style(*names: str) -> str:
    """The style sheet of a widget: that of the pictures, what all share, and its own."""
    return STYLE + "".join(SCRIPTS.joinpath(f"{name}.css").read_text("utf-8") for name in ("shared", *names))


class Live(anywidget.AnyWidget):
    """A widget. In a notebook it is two outputs: a picture that lasts, and itself, which hides the picture while alive.

    So a notebook that is read without a kernel, by nbconvert or as text, still shows something true. Its script is
    `script(...)`, its style `style(...)`.

    Attributes:
        picture: marks the picture that stands in for this widget.
    """

    picture = traitlets.Unicode().tag(sync=True)

    def __init__(self, **traits: Any) -> None:
        super().__init__(picture=uuid.uuid4().hex, **traits)

    def lasting(self) -> tuple[str, str]:
        """What stands in for it: HTML, without a script and with pictures as `still` makes them, and plain text."""
        raise NotImplementedError

    def _ipython_display_(self, **kwargs: Any) -> None:
        html, words = self.lasting()
        display({"text/html": tag("div", html, data_picture=self.picture), "text/plain": words}, raw=True)
        live, metadata = self._repr_mimebundle_() or ({}, {})
        display(live | {"text/plain": "Live beside a running kernel."}, metadata=metadata, raw=True)
