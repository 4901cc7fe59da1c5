"""What commands write: one JSON document on stdout, or lines for a person; everything else goes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead.")]
Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Name of the policy.", show_default=False)]


def stdout() -> Console:
    """Where results go."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a file has no width; tables in it should not be broken at 80
    return console


def stderr() -> Console:
    """Where progress and errors go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def emit(document: Any, as_json: bool, render: Callable[[Console], None]) -> None:
    """Print the document as JSON, or let `render` show it."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
    else:
        render(stdout())
