"""The project stands alone: no file of it points outside the repository."""

import gzip
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = {"__pycache__", "dist", "build", "out"}

CLIMBS = re.compile(r"(?<![\w./])(?:\.\./)+[\w./-]*")
SOMEONES_DISK = re.compile(r"(?<![\w.-])/(?:home|root|work|Users|mnt|srv)/[\w.-]*")


def files():
    """Every file a commit could hold: all but hidden and generated folders."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f == ".ci" or (f[0] != "." and f not in GENERATED)]
        yield from (Path(folder, name) for name in names)


def text(path: Path) -> str:
    raw = path.read_bytes()
    return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode(errors="ignore")


def strays(path: Path) -> list[str]:
    """The places in a file that lead out of the repository."""
    found = SOMEONES_DISK.findall(words := text(path))
    for climb in CLIMBS.findall(words):
        target = Path(os.path.normpath(path.parent / climb))
        if target != ROOT and ROOT not in target.parents:
            found.append(climb)
    return found


def test_no_path_leads_outside():
    assert {str(path.relative_to(ROOT)): stray for path in files() if (stray := strays(path))} == {}


def test_this_would_see_one(tmp_path):
    stray = tmp_path / "notes.md"
    stray.write_text("see " + "../" * 2 + "elsewhere/notes.md and " + "/".join(["", "home", "me", "trace.csv"]))
    assert len(strays(stray)) == 2
