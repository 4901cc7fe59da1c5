"""`airlock override`: a person's action in the place of a policy's, and the log of all such."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasks.cli.output import Json, Policy, emit

if TYPE_CHECKING:
    from rich.console import Console

MOST = 1000
"""Most entries that a gateway tells at once."""


def override(
    policy: Policy,
    verb: Annotated[
        Literal["set", "clear", "list", "log"],
        typer.Argument(help="Set or clear one; list those that hold; or the log of all.", show_default=False),
    ],
    action: Annotated[str | None, typer.Option(help="The action, as JSON, as env.step takes it.")] = None,
    ttl: Annotated[float, typer.Option(help="Seconds until it ends by itself.", min=0.001)] = 300,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    user: Annotated[str | None, typer.Option(help="Only for this user.")] = None,
    episode: Annotated[str | None, typer.Option(help="Only for this episode.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Past the safety constraints, too.")] = False,
    limit: Annotated[int, typer.Option(help="Most entries of the log to look at.", min=1, max=MOST)] = 100,
    url: Annotated[str | None, typer.Option(help="Gateway; by default the embedded one.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """Put a human's action in the place of the policy's, end that, or see who did so, when, why and until when."""
    from tasks.control.overrides import call

    body: dict[str, Any] = {"user_id": user, "episode_id": episode, "who": f"{getpass.getuser()} (command line)"}
    if verb == "set":
        if action is None or not reason:
            raise typer.BadParameter("set needs --action and --reason")
        try:
            value = json.loads(action)
        except ValueError as error:
            raise typer.BadParameter(f"{action!r} is not JSON: {error}", param_hint="--action") from error
        body |= {"action": value, "ttl_seconds": ttl, "reason": reason, "force": force}
        document = call("PUT", policy, url, json=body)
        emit(document, as_json, lambda out: out.print(f"{policy}: override set until {_time(document['until'])}"))
    elif verb == "clear":
        document = call("DELETE", policy, url, json=body)
        emit(document, as_json, lambda out: out.print(f"{policy}: {document['cleared']} override(s) cleared"))
    else:
        document = call("GET", policy, url, params={"limit": limit if verb == "log" else MOST})
        if verb == "list":
            document["log"] = [entry for entry in document["log"] if entry["state"] == "active"]
        emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: Mapping[str, Any]) -> None:
    """Overrides as a table, newest first."""
    from rich.markup import escape
    from rich.table import Table

    if not document["log"]:
        out.print(f"{document['policy']}: none")
        return
    table = Table("set", "who", "for", "action", "why", "until", "ended", box=None, pad_edge=False)
    for entry in document["log"]:
        whom = f"user {entry['user_id']}" if entry["user_id"] else f"episode {entry['episode']}"
        ended = entry["state"]
        if entry["cleared_at"] is not None:
            ended = escape(f"cleared {_time(entry['cleared_at'])} by {entry['cleared_by']}")
        table.add_row(
            _time(entry["set_at"]),
            escape(entry["who"]),
            escape(whom) if entry["user_id"] or entry["episode"] else "all",
            escape(json.dumps(entry["action"])) + (" (forced)" if entry["force"] else ""),
            escape(entry["reason"]),
            _time(entry["until"]),
            ended,
        )
    out.print(table)


def _time(seconds: float) -> str:
    """A Unix time as people read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
