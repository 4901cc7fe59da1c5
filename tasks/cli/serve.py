"""`airlock traffic` and `airlock serve`: what touches a running gateway."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasks.cli.output import Json, Policy, emit, stderr

if TYPE_CHECKING:
    from rich.console import Console


class CommandError(Exception):
    """A command that cannot do what it was asked, for a reason a person can read."""


def traffic(
    policy: Policy,
    url: Annotated[str | None, typer.Option(help="Gateway; by default the embedded one.", show_default=False)] = None,
    episodes: Annotated[int, typer.Option(help="Episodes to play.", min=1)] = 100,
    users: Annotated[int | None, typer.Option(help="Different users; default: anonymous.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="Episodes at once.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the environments.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Play simulated users: real Gymnasium episodes through the gateway. Exits with 1 when a request failed."""
    from bentos import settings
    from tasks.canary.traffic import play

    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopped.append(received))
    with stderr().status("playing", spinner="dots") as shown:

        def progress(seen: Mapping[str, Any]) -> None:
            shown.update(
                f"{seen['episodes']} of {episodes} episodes, {seen['decisions']} decisions "
                f"({seen['decisions_per_second']:.0f}/s), {seen['failures']} failed requests"
            )

        document = play(
            policy,
            url or settings.gateway_url(),
            episodes=episodes,
            concurrency=concurrency,
            users=users,
            seed=seed,
            on_progress=progress,
            stopped=lambda: bool(stopped),
        )
    emit(document, as_json, lambda out: show_traffic(out, document))
    if document["failures"]:
        raise typer.Exit(1)


def show_traffic(out: Console, document: Mapping[str, Any]) -> None:
    """What simulated users saw."""
    from rich.table import Table

    table = Table("arm", "episodes", "mean return", "std", box=None, pad_edge=False)
    for arm, item in document["arms"].items():
        table.add_row(arm, str(item["episodes"]), f"{item['mean']:.1f}", f"{item['std']:.1f}")
    out.print(table)
    latency = ", ".join(f"{name} {value:.1f}" for name, value in document["latency_ms"].items())
    out.print(
        f"{document['decisions']} decisions in {document['requests']} requests, {document['seconds']:.1f} s "
        f"({document['decisions_per_second']:.0f} decisions/s); {document['failures']} failed requests"
    )
    out.print(f"latency of an act request, ms: {latency}")


def serve(
    what: Annotated[str, typer.Argument(help="A policy package, a Bento's directory, or POLICY:VERSION.")],
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 3000,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1)] = 1,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve one policy, without a registry, in the foreground, until SIGTERM."""
    from bentos import settings
    from tasks.ports import is_free
    from tasks.stack.ports import holder

    target, environment = _servable(what)
    if not is_free(port, host):
        raise CommandError(f"port {port} is taken by {holder(port) or 'another process'}; choose another with --port")
    state = settings.home() / "serve" / str(port) / "bentoml"
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", host, "--port", str(port)]
    # `bentoml serve` empties the metrics directory of its home: each server has one of its own.
    own = {"BENTOML_HOME": str(state), "BENTOML_DO_NOT_TRACK": "True", "AIRLOCK_WORKERS": str(workers)}
    os.execvpe(command[0], command, {**os.environ, **environment, **own})


def _hides_the_serving_room(directory: Path) -> Path | None:
    """What `import bentos` finds where it looks into a directory first, if that is not Airlock's own package."""
    import bentos

    found = PathFinder.find_spec("bentos", [str(directory), *sys.path])
    if found is None:
        return None
    origin = Path(found.origin) if found.origin else directory / "bentos"
    return None if origin.resolve() == Path(bentos.__file__).resolve() else origin


def _servable(what: str) -> tuple[str, dict[str, str]]:
    """What to give to `bentoml serve`, and the variables it needs."""
    from bentos.package.digests import MANIFEST

    path = Path(what).expanduser().resolve()
    if (path / MANIFEST).is_file():
        if other := _hides_the_serving_room(Path.cwd()):
            raise CommandError(
                f"{other} would be imported in place of Airlock's package 'bentos', for `bentoml serve` looks into the "
                "current directory first; start it from another directory"
            )
        return "bentos.service:Gateway", {"AIRLOCK_PACKAGE": str(path)}
    if (path / "bento.yaml").is_file():
        return str(path), {}
    policy, colon, version = what.partition(":")
    if colon and not path.exists():
        from tasks.build.packaging.bento_store import bento_path

        built = bento_path(policy, version)
        if (built / "bento.yaml").is_file():
            return str(built), {}
        raise CommandError(f"no Bento {what} was built here ({built} does not exist)")
    raise CommandError(f"{what} is neither a policy package (with {MANIFEST}) nor a Bento (with bento.yaml)")
