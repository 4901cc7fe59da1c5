"""`airlock release`, `rollback`, `abort`, `pause`, `resume` and `results`."""

from __future__ import annotations

import difflib
import getpass
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.output import Json, Policy, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.control.plane import ControlPlane
    from tasks.stack.airflow_api import Run


def _control() -> ControlPlane:
    """The control plane, for whoever types the command."""
    from tasks.control.plane import ControlPlane

    return ControlPlane(f"{getpass.getuser()} (command line)")


def parse_params(pairs: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs as a release's params; a value is read as YAML. Raises BadParameter."""
    import yaml

    from tasks.spec.params import Params

    known = list(Params.model_fields)
    params: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected KEY=VALUE, came {pair!r}", param_hint="--param")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
            raise typer.BadParameter(f"a release has no parameter {key!r}{hint}", param_hint="--param")
        try:
            params[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{key}: {value!r} is not YAML: {error}", param_hint="--param") from error
    return params


def release(
    policy: Policy,
    param: Annotated[
        list[str] | None,
        typer.Option(help="A parameter of the trigger form, as KEY=VALUE (VALUE as YAML); repeat for more."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the release; exit 0 only if it ends promoted.")] = False,
    as_json: Json = False,
) -> None:
    """Release a policy: trigger release_POLICY in Airflow and, with --wait, follow it to its verdict."""
    from tasks.spec.files import load
    from tasks.stack.airflow_api import Airflow
    from tasks.stack.release_progress import outcome

    params = parse_params(param or [])
    load(policy)
    dag_id = f"release_{policy}"
    with Airflow() as airflow:
        airflow.await_dag(dag_id)
        run = airflow.trigger(dag_id, params)
        document = {"policy": policy, "dag_run_id": run.run_id, "url": airflow.run_url(dag_id, run.run_id)}
        if not wait:
            emit(document, as_json, lambda out: out.print(document["url"], soft_wrap=True))
            return
        stderr().print(document["url"], soft_wrap=True)
        run = airflow.follow(dag_id, run.run_id, on_change=StageLines(stderr()))
    ended = outcome(policy, run)
    promoted = run.state == "success" and ended["outcome"] == "promoted"
    emit(
        {**document, "state": run.state, **ended},
        as_json,
        lambda out: out.print(f"{policy}: {ended['outcome']}: {ended.get('reason', '')}", soft_wrap=True),
    )
    if not promoted:
        raise typer.Exit(1)


class StageLines:
    """Prints a line whenever a stage of the run starts, does something else or ends."""

    def __init__(self, console: Console, prefix: str = "") -> None:
        self._console, self._prefix = console, prefix
        self._seen: dict[str, tuple[str, tuple[str, ...]]] = {}

    def __call__(self, run: Run) -> None:
        from tasks.stack.release_progress import stages

        for stage in stages(run, time.time()):
            now = (stage.state, stage.doing)
            if stage.state == "waiting" or self._seen.get(stage.name) == now:
                continue
            self._seen[stage.name] = now
            doing = f" ({', '.join(stage.doing)})" if stage.doing else ""
            self._console.print(f"{self._prefix}{stage.seconds:6.1f} s  {stage.name}: {stage.state}{doing}")


def rollback(
    policy: Policy,
    now: Annotated[bool, typer.Option("--now", help="Move running episodes at once, too.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
    as_json: Json = False,
) -> None:
    """Take the champion back to the previous one. A running canary ends first."""
    moved = _control().rollback(policy, reason, now=now)
    document = {"policy": policy, **moved}
    to = f"version {moved['to']}" if moved["to"] else "no version: the fallback serves"
    emit(document, as_json, lambda out: out.print(f"{policy}: from version {moved['from']} to {to}"))


def abort(
    policy: Policy,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
    as_json: Json = False,
) -> None:
    """End the running canary and mark its version aborted; the champion stays."""
    from tasks.errors import Misconfigured

    control = _control()
    running = control.state(policy)["canary"]
    if running is None:
        raise Misconfigured(f"no canary of {policy} is running")
    control.abort(policy, running["version"], reason)
    document = {"policy": policy, "version": running["version"]}
    emit(document, as_json, lambda out: out.print(f"{policy}: the canary of version {running['version']} was aborted"))


def pause(
    policy: Policy,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
    as_json: Json = False,
) -> None:
    """Hold the running canary at its weight: no verdict, except a guardrail's, until it is resumed."""
    canary = _control().pause(policy, reason)
    said = f"{policy}: the canary of version {canary['version']} is paused at weight {canary['weight']:g}"
    emit({"policy": policy, **canary}, as_json, lambda out: out.print(said))


def resume(
    policy: Policy,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "asked for on the command line",
    as_json: Json = False,
) -> None:
    """Let a paused canary go on."""
    canary = _control().resume(policy, reason)
    said = f"{policy}: the canary of version {canary['version']} goes on"
    emit({"policy": policy, **canary}, as_json, lambda out: out.print(said))


def results(policy: Policy, as_json: Json = False) -> None:
    """Show the A/B test of a policy, running or ended: arms, difference with bounds, winner, improvement."""
    from tasks.canary.results import results as read

    document = read(policy)
    emit(document, as_json, lambda out: _show_results(out, document))


def _show_results(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("arm", "units", "mean", "standard deviation", "total", box=None, pad_edge=False)
    for arm, item in document["arms"].items():
        numbers = (item["mean"], item["standard_deviation"], item["total"])
        table.add_row(arm, str(item["count"]), *("-" if number is None else f"{number:.2f}" for number in numbers))
    out.print(table)
    out.print(f"{document['status']}; confidence {document['confidence']:g} a side")
    for name, unit in (("difference", ""), ("improvement", " %"), ("against_minimum", "")):
        if document[name]:
            bounds = [document[name].get(key) for key in ("estimate", "lower", "upper")]
            estimate, lower, upper = ("-" if bound is None else f"{bound:+.2f}" for bound in bounds)
            out.print(f"{name.replace('_', ' ')}: {estimate}{unit}, bounds {lower} to {upper}{unit}")
    out.print(f"winner: {document['winner']}")
    if document["verdict"]:
        out.print(f"verdict: {document['verdict']}: {document['reason']}", soft_wrap=True, markup=False)
