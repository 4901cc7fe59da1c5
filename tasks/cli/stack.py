"""`airlock up`, `airlock down` and `airlock status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.output import Json, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console

    from tasks.stack.health import Health
    from tasks.stack.lifecycle import Running


def up(
    timeout: Annotated[float, typer.Option(help="Seconds to wait for all components to be healthy.")] = 300,
    as_json: Json = False,
) -> None:
    """Start the embedded stack: Airflow, MLflow and the gateway. Returns when everything is healthy."""
    from tasks.stack.lifecycle import up as start

    console = stderr()
    with console.status("starting the stack", spinner="dots") as status:
        ready: set[str] = set()

        def progress(health: dict[str, Health]) -> None:
            for name, answer in health.items():
                if answer.ok and name not in ready:
                    ready.add(name)
                    console.print(f"  {name} is healthy")
            waiting = [name for name in health if name not in ready]
            status.update(f"waiting for {', '.join(waiting)}" if waiting else "all healthy")

        running = start(timeout=timeout, progress=progress)
    emit(_document(running), as_json, lambda out: _show(out, running))


def _document(running: Running) -> dict[str, Any]:
    return {
        "airflow": running.airflow,
        "mlflow": running.mlflow,
        "gateway": running.gateway,
        "user": running.user,
        "passwords_file": str(running.passwords_file),
        "logs": str(running.logs),
        "seconds": running.seconds,
        "already": running.already,
    }


def _show(out: Console, running: Running) -> None:
    out.print("Airlock was up already" if running.already else f"Airlock is up ({running.seconds:.0f} s)")
    out.print(f"  Airflow  {running.airflow}  user {running.user}, password {running.password}", soft_wrap=True)
    out.print(f"  MLflow   {running.mlflow}")
    out.print(f"  gateway  {running.gateway}")
    out.print(f"  logs     {running.logs}", soft_wrap=True)


def down(as_json: Json = False) -> None:
    """Stop the embedded stack and everything it started."""
    from tasks.stack.lifecycle import down as stop

    with stderr().status("stopping the stack", spinner="dots"):
        stopped = stop()
    emit(
        {"stopped": stopped},
        as_json,
        lambda out: out.print("Airlock is down" if stopped else "Airlock was not running"),
    )


def status(as_json: Json = False) -> None:
    """Show what is live: health of each component; champion, challenger and canary of each policy.

    Exits with 1 when a component is not healthy.
    """
    from tasks.stack.status import render
    from tasks.stack.status import status as look

    document = look()
    emit(document, as_json, lambda out: render(document, out))
    if not document["ok"]:
        raise typer.Exit(1)
