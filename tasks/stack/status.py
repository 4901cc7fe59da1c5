"""What is live: the health of each component, and of each policy who serves and what is being tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from bentos import settings
from bentos.http_client import trusted
from tasks.control import manual_moves
from tasks.stack import supervisor
from tasks.stack.components import StackError, components
from tasks.stack.health import Health, check

if TYPE_CHECKING:
    from rich.console import Console


def _components() -> dict[str, dict[str, Any]]:
    control = supervisor.Supervisor()
    try:
        states = control.states()
    except StackError:
        states = {}
    wanted = components()
    health = check({c.name: float(states.get(c.name, {}).get("started_at", 0)) for c in wanted})
    found = {}
    for component in wanted:
        process = states.get(component.name)
        answer = health.get(component.name, Health(False, "unknown"))
        found[component.name] = {
            "ok": answer.ok,
            "detail": answer.detail,
            "state": process["state"] if process else "not supervised",
            "pid": process["pid"] or None if process else None,
            "port": component.port,
        }
    return found


def _policies() -> tuple[dict[str, Any], str | None]:
    """Live policies as the gateway routes them, or why they are not known."""
    try:
        url = settings.gateway_url()
        response = httpx.get(f"{url}/v1/policies", timeout=5, verify=trusted(url))
        response.raise_for_status()
        found = response.json()["policies"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return {}, f"the gateway at {settings.gateway_url()} does not say ({type(error).__name__})"
    return {item["policy"]: _policy(item) for item in found}, None


def _policy(item: dict[str, Any]) -> dict[str, Any]:
    canary = item.get("canary")
    return {
        "champion": item.get("champion"),
        "previous": item.get("previous"),
        "challenger": canary["version"] if canary else None,
        "canary_weight": canary["weight"] if canary else 0.0,
        "canary": canary,
        "versions": item.get("versions", {}),
        "statistics": item.get("statistics", {}),
        "overrides": item.get("overrides", []),
    }


def status() -> dict[str, Any]:
    """`{"ok", "components": {name: …}, "policies": {name: …}, "policies_unknown": reason|null, "moved_by_hand": {name:
    sentences}, "urls", "home"}`. Aliases that were moved by hand are noticed by this look, if they were not before.
    """
    found = _components()
    policies, unknown = _policies()
    moved = manual_moves.notice_all(policies, "airlock status") if found["mlflow"]["ok"] else {}
    return {
        "ok": all(component["ok"] for component in found.values()),
        "components": found,
        "policies": policies,
        "policies_unknown": unknown,
        "moved_by_hand": moved,
        "urls": {"airflow": settings.airflow_url(), "mlflow": settings.mlflow_url(), "gateway": settings.gateway_url()},
        "home": str(settings.home()),
    }


def render(document: dict[str, Any], out: Console) -> None:
    """The status as two tables."""
    from rich.table import Table

    table = Table("component", "health", "process", "pid", "port", box=None, pad_edge=False)
    for name, item in document["components"].items():
        health = "[green]healthy[/]" if item["ok"] else f"[red]{item['detail']}[/]"
        table.add_row(name, health, item["state"].lower(), str(item["pid"] or ""), str(item["port"] or ""))
    out.print(table)
    out.print()
    if document["policies_unknown"]:
        out.print(f"policies: {document['policies_unknown']}")
        return
    if not document["policies"]:
        out.print("policies: none released yet; `airlock release POLICY` starts the first release")
        return
    table = Table("policy", "champion", "previous", "challenger", "weight", "versions", box=None, pad_edge=False)
    for name, item in document["policies"].items():
        versions = ", ".join(f"{v} {d.get('status', '')}" for v, d in sorted(item["versions"].items()))
        weight = (f"{item['canary_weight']:g}" if item["canary_weight"] else "shadow") if item["canary"] else ""
        cells = [str(item[key] or "-") for key in ("champion", "previous", "challenger")]
        table.add_row(name, *cells, weight, versions)
    out.print(table)
    for name, sentences in document["moved_by_hand"].items():
        for sentence in sentences:
            out.print(f"[yellow]{name}: {sentence}[/]")
