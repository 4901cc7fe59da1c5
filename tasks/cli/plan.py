"""`airlock analyze`: work on files alone, with no stack running."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def analyze(
    file: Annotated[Path, typer.Argument(help="JSON lines, one canary each.", exists=True, dir_okay=False)],
) -> None:
    """Replay canaries through the primary test: a JSON line in, a JSON line out. Exits with 2 at a bad line."""
    from tasks.canary.replay import ReplayError, replay

    try:
        for line in replay(file):
            sys.stdout.write(json.dumps(line) + "\n")
    except ReplayError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from error
