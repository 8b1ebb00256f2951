"""smmu-lab: the lab from a shell. Tables for people; ``--json`` for programs, one document on stdout.

Exit status: 0 done, 1 a check failed or an entry is illegal, 2 bad input, with one line per problem on stderr: the
field, the value and what is valid.

Here belong the commands, by what they are about. Not here: what they do, which is the rooms' below.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable
from typing import Any

import typer

from smmu_lab.cli import decoding, places, presenting, studies, tables
from smmu_lab.cli.app import app
from smmu_lab.scenario import InvalidInput

__all__ = ["app", "decoding", "main", "places", "presenting", "studies", "tables"]

USAGE: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def main() -> None:
    """Entry point of ``smmu-lab``."""
    try:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "stdout is closed")
        status = app(standalone_mode=False)
    except InvalidInput as error:
        status = _refuse(error.problems)
    except USAGE as error:
        status = _refuse([error.format_message()])
    except OSError as error:
        print(f"smmu-lab: cannot write: {error.strerror}", file=sys.stderr)
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


def _refuse(problems: Iterable[str]) -> int:
    for problem in problems:
        print("smmu-lab:", " ".join(problem.split()), file=sys.stderr)
    return 2
