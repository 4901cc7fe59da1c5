"""The `airlock` command line: assembles the commands and turns errors into one clear line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from tasks.cli import alerts, demo, export, overrides, plan, policies, releases, serve, stack, store, verify

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
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")


app.command("up")(stack.up)
app.command("down")(stack.down)
app.command("status")(stack.status)
app.command("release")(releases.release)
app.command("rollback")(releases.rollback)
app.command("abort")(releases.abort)
app.command("pause")(releases.pause)
app.command("resume")(releases.resume)
app.command("results")(releases.results)
app.command("override")(overrides.override)
app.add_typer(policies.app, name="policies")
app.add_typer(alerts.app, name="alerts")
app.add_typer(store.app, name="store")
app.command("traffic")(serve.traffic)
app.command("export")(export.export)
app.command("serve")(serve.serve)
app.command("analyze")(plan.analyze)
app.command("plan")(plan.plan)
app.command("verify")(verify.verify)
app.command("demo")(demo.demo)


def main() -> None:
    """Run a command. Exits with 0 when it did its work, 1 when it failed, 2 when it was called wrongly."""
    try:
        app()
    except Exception as error:
        if os.environ.get("AIRLOCK_DEBUG"):
            raise
        name = "" if type(error).__module__.startswith("tasks.") else f"{type(error).__name__}: "
        sys.stderr.write(f"error: {name}{error}\n")
        sys.exit(1)
