"""The `airlock` command: looks whether Airlock's packages are what would be imported under their names, then starts it.

Airlock is an application whose packages have short names: `bentos`, `tasks`, `plugins`, `dags`. A module of another
application's that has one of them, and stands before them on `sys.path`, is imported in their place. This package has a
name that nobody else has, and imports the standard library alone until it has looked.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

MARKERS = {"bentos": "service.py", "tasks": "cli/__init__.py", "plugins": "airlock.py", "dags": "factory.py"}
"""Airlock's packages, and a file that each of them has."""
_ADVICE = (
    "Airlock is an application. Install it in an environment of its own, and keep directories with modules of this "
    "name out of PYTHONPATH and of the directory you start it in"
)


def shadows() -> list[str]:
    """A line for each of Airlock's packages in whose place another module would be imported. Imports none of them."""
    return [line for name, marker in MARKERS.items() if (line := _shadow(name, marker))]


def _shadow(name: str, marker: str) -> str | None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        return f"Airlock's package {name!r} is not there: its installation is incomplete. Install Airlock again"
    directories = list(spec.submodule_search_locations or ())
    if any((Path(directory) / marker).is_file() for directory in directories):
        return None
    found = spec.origin or ", ".join(directories)
    return f"{found} is imported in place of Airlock's package {name!r}: {_ADVICE}"


def main() -> None:
    """Run the command. Exits with 1, before anything else of Airlock's is imported, where a package is shadowed."""
    found = shadows()
    if found:
        sys.stderr.writelines(f"error: {line}\n" for line in found)
        sys.exit(1)
    from tasks.cli import main as run

    run()
