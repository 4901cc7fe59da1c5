"""The `airlock` command line: assembles the commands and turns errors into one clear line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from tasks.commands import demo, files, live, policies, releases, stack

app = typer.Typer(
    name="airlock",
    help="Releases reinforcement-learning policies: exported, checked, canaried, promoted or rolled back on evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="AIRLOCK_DEBUG", help="Show tracebacks and more logging.")
    ] = False,
) -> None:
    if debug:
        os.environ["AIRLOCK_DEBUG"] = "1"
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )


for _command in (stack.up, stack.down, stack.status):
    app.command()(_command)
app.command("release")(releases.release)
for _command in (releases.rollback, releases.results):
    app.command()(_command)
app.command()(live.override)
app.add_typer(policies.app, name="policies")
for _command in (live.traffic, live.serve, files.analyze):
    app.command()(_command)
app.command("demo")(demo.demo)


def main() -> None:
    """Run a command. Exits with 0 when it did its work, 1 when it failed, 2 when it was called wrongly."""
    try:
        app()
    except Exception as error:  # noqa: BLE001 -- the top of the program: a person reads what went wrong
        if os.environ.get("AIRLOCK_DEBUG"):
            raise
        name = "" if type(error).__module__.startswith("tasks.") else f"{type(error).__name__}: "
        sys.stderr.write(f"error: {name}{error}\n")
        sys.exit(1)
