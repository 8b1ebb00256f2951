"""A design review on a projector."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from smmu_lab.cli.app import Json, app
from smmu_lab.cli.scenarios import of_a_scenario, possible
from smmu_lab.scenario import InvalidInput, Scenario, read_approaches

HERE = "127.0.0.1"
EXTENSIONS = ["anywidget", "@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8"]
"""Of JupyterLab: what the views need, and nothing else that this account has."""


@app.command()
@of_a_scenario
def present(
    made: Scenario,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[APPROACH]...", help="Default: those of the mail.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="APPROACH", help="What the microscope shows. Default: the first one.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Default: a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    as_json: Json = False,
) -> None:
    """Serve the explorer and the microscope in large type, to this machine alone, until Ctrl+C."""
    from smmu_lab.view import DEFAULT
    from smmu_lab.view.present import write

    def announce(address: str) -> None:
        print(json.dumps({"address": address}) if as_json else address, flush=True)
        if browser:
            threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()

    chosen = names or possible(made, DEFAULT)
    by = by or next(iter(chosen), DEFAULT[0])
    rows = {row.name: row for row in (*read_approaches(chosen), *read_approaches([by]))}
    if problems := [reason for row in rows.values() for reason in made.refuses(row)]:
        raise InvalidInput(problems)
    with TemporaryDirectory(prefix="smmu-lab-") as folder:
        server = _voila(announce, port=_free(port), port_retries=0, connection_dir_root=folder)
        server.notebook_path = str(write(Path(folder), made, chosen, by))
        server.initialize([])
        server.start()


def _voila(announce: Callable[[str], None], **traits: Any) -> Any:
    """A Voila with our template, which says only where it is, and that when it answers."""
    from smmu_lab.view.present import ON_JUPYTER_PATH, TEMPLATE

    try:
        from tornado.ioloop import IOLoop
        from traitlets.config import Config
        from voila.app import Voila
    except ImportError:
        raise InvalidInput(["present: Voila is not installed: pip install 'smmu-lab[lab]'"]) from None

    class Server(Voila):
        def launch_browser(self) -> None:  # Voila's own goes by a page that asks other machines for fonts
            address = f"{self.connection_url}?token={self.identity_provider.token}"
            IOLoop.current().add_callback(announce, address)

    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(ON_JUPYTER_PATH), os.environ.get("JUPYTER_PATH")]))
    settings = {
        "template": TEMPLATE,
        "allow_template_override": "NO",
        "extension_allowlist": EXTENSIONS,
        "show_tracebacks": True,
    }
    return Server(
        config=Config(VoilaConfiguration=settings),
        config_file_paths=[],  # none of this account's, none of the current folder's
        ip=HERE,
        auto_token=True,  # other accounts of this machine are no guests, either
        log_level=logging.ERROR,
        tornado_settings={"allow_remote_access": False},  # under no name that a stranger gave this machine
        **traits,
    )


def _free(port: int) -> int:
    """A port that nobody listens at: this one, or any for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HERE, port))
        except OSError as error:
            raise InvalidInput([f"port: {port} is not valid: {error.strerror}"]) from None
        return int(probe.getsockname()[1])
