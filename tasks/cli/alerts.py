"""`airlock alerts`: the specs' alerts for those who run Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tasks.cli.output import Json, emit

app = typer.Typer(help="Alerts: the specs' thresholds as Prometheus rules.", no_args_is_help=True)


@app.command()
def rules(
    out: Annotated[Path | None, typer.Option("--out", help="Write the rules file here instead of to stdout.")] = None,
    window: Annotated[str, typer.Option(help="Stretch of time that rates are read over, such as 5m.")] = "5m",
    patience: Annotated[
        str | None, typer.Option("--for", help="How long a rule is broken before it fires; default by severity.")
    ] = None,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="As a PrometheusRule, for the Prometheus operator.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the alert rules of every policy spec as Prometheus reads them."""
    from bentos.files import replace
    from tasks.alerts.prometheus import document, duration, render, resource
    from tasks.spec.files import SpecError, load_all

    for given in (window, patience):
        if given is not None:
            duration(given)
    specs, problems = load_all()
    if problems:
        raise SpecError(problems)
    text = render(specs, window, patience, kubernetes)
    file = document(specs, window, patience)
    found = resource(file) if kubernetes else file
    if out is not None:
        replace(out, text.encode())
        found = {"written": str(out), "rules": sum(len(group["rules"]) for group in file["groups"])}
        emit(found, as_json, lambda console: console.print(f"wrote {found['rules']} rules to {out}"))
    else:
        emit(found, as_json, lambda console: console.print(text, soft_wrap=True, markup=False, end=""))
