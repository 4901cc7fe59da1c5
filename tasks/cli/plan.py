"""`airlock plan` and `airlock analyze`: what a canary would come to, and what recorded ones came to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasks.cli.output import Json, Policy, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.canary.champion_returns import Returns, Traffic


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


def plan(
    policy: Policy,
    returns: Annotated[
        Path | None,
        typer.Option(
            help="File of the champion's returns (numbers, or a JSON array); needs no running stack.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    units_per_hour: Annotated[
        float | None, typer.Option(help="Units (users, or episodes without one) an hour; default: measured.", min=1e-6)
    ] = None,
    promote: Annotated[float, typer.Option(help="Wished probability of promotion.", min=0.01, max=0.999)] = 0.8,
    objective: Annotated[
        Literal["non_inferiority", "superiority"] | None, typer.Option(help="In place of the spec's.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="In place of the spec's, in return units.", min=1e-12)] = None,
    max_units_per_arm: Annotated[int | None, typer.Option(help="In place of the spec's.", min=2)] = None,
    canaries: Annotated[int, typer.Option(help="Simulated canaries a question.", min=20, max=100_000)] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Say what a canary would come to: units, hours and verdicts by true difference; what margin or budget would do."""
    from tasks.canary.planning import Planner
    from tasks.spec.files import load
    from tasks.spec.sections import Canary

    given = {"objective": objective, "margin": margin, "max_units_per_arm": max_units_per_arm}
    section = load(policy).canary.model_dump() | {name: value for name, value in given.items() if value is not None}
    source, traffic = _inputs(policy, returns, units_per_hour)
    try:
        planner = Planner(source.values, Canary.model_validate(section), traffic.units_per_hour, canaries, seed)
    except ValueError as error:
        raise PlanError(f"{source.source}: {error}") from error
    with stderr().status("planning", spinner="dots") as shown:
        asked = planner.differences()
        found = []
        for place, (name, difference) in enumerate(asked, start=1):
            shown.update(f"{place} of {len(asked)}: {canaries} canaries with {name} ({difference:+.4g})")
            found.append(planner.prospect(name, difference))
        suggestion = planner.suggest(promote, lambda what: shown.update(f"looking for a promotion: {what}"))
    document = {
        "policy": policy,
        "returns_from": source.source,
        "traffic_from": traffic.source,
        **planner.document(found, suggestion),
    }
    emit(document, as_json, lambda out: show_plan(out, document))


class PlanError(Exception):
    """Returns that no plan can be made from, for a reason a person can read."""


def _inputs(policy: str, file: Path | None, units_per_hour: float | None) -> tuple[Returns, Traffic]:
    from tasks.canary import champion_returns
    from tasks.tracking.client import RegistryUnavailable

    known = champion_returns.Traffic(units_per_hour, "--units-per-hour")
    if file is not None:
        nothing = champion_returns.Traffic(None, "not known; give --units-per-hour for hours")
        return champion_returns.from_file(file), nothing if units_per_hour is None else known
    try:
        found = champion_returns.of_champion(policy)
    except RegistryUnavailable as error:
        raise PlanError(f"{error}. Start the stack, or give --returns FILE, which needs none") from error
    return found, champion_returns.traffic(policy) if units_per_hour is None else known


def show_plan(out: Console, document: dict[str, Any]) -> None:
    """The plan as a table and the suggestions as sentences."""
    from rich.table import Table

    champion, hourly = document["champion"], document["units_per_hour"]
    out.print(
        f"champion: mean {champion['mean']:.5g}, standard deviation {champion['standard_deviation']:.4g}, from "
        f"{document['returns_from']}",
        soft_wrap=True,
    )
    out.print(
        f"plan: {document['objective']}, margin {document['margin']:g}, alpha {document['alpha']:g} a side, at most "
        f"{document['max_units_per_arm']} units an arm; {document['method']}",
        soft_wrap=True,
    )
    known = "" if hourly is None else f"{hourly:.4g} units an hour, "
    out.print(f"traffic: {known}{document['traffic_from']}\n", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("true difference")
    for name in ("", "promote", "roll back", "inconclusive", "units an arm: mean", "median", "hours: mean", "median"):
        table.add_column(name, justify="right")
    for row in document["differences"]:
        shares = [_percent(row[name]) for name in ("promote", "roll_back", "inconclusive")]
        units = [_number(row[name]) for name in ("mean_units_per_arm", "median_units_per_arm")]
        hours = [_number(row[name]) for name in ("mean_hours", "median_hours")]
        table.add_row(row["name"], f"{row['difference']:+.4g}", *shares, *units, *hours)
    out.print(table)
    if any(row["promote"] is None for row in document["differences"]):
        out.print("-: the bounds of the return leave no room for this difference")
    out.print(
        f"shares to within {100 * document['uncertainty']:.1f} % (95 %), of {document['canaries']} simulated canaries; "
        "time that episodes take comes on top\n"
    )
    for line in advice(document):
        out.print(line, soft_wrap=True)


def advice(document: dict[str, Any]) -> list[str]:
    """What is suggested, in sentences."""
    found = document["suggestion"]
    wished = f"{100 * found['probability']:g} %"
    if document["objective"] == "superiority":
        if found["gain"] is None:
            return [f"No true gain up to {found['tried']:.4g} is promoted with {wished} within this budget."]
        return [f"A challenger truly better by {found['gain']:.4g} or more is promoted with {wished}."]
    margin, units = found["margin"], found["max_units_per_arm"]
    kept = f"With the margin of {document['margin']:g}"
    return [
        f"No margin that was tried promotes an equal challenger with {wished} within this budget."
        if margin is None
        else f"A margin of {margin:.4g} promotes an equal challenger with {wished} within this budget.",
        f"{kept}, {found['tried']:.0f} units an arm are too few for {wished}."
        if units is None
        else f"{kept}, a budget of {units} units an arm promotes one with {wished}.",
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
