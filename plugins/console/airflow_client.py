"""Airflow's own REST API, asked in its process as the user who asked the console: its permissions and checks apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import Request

from plugins.console import AIRFLOW, PREFIX
from plugins.console.access import bearer, dag_of

_TIMEOUT = 30.0


class AirflowRefused(Exception):
    """Airflow said no; `status` is its HTTP status, the message what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


@dataclass(frozen=True)
class Awaited:
    """An approval that a release waits for, and the path of the page in Airflow where it is answered."""

    subject: str
    dag_run_id: str
    path: str


async def trigger(request: Request, policy: str, conf: dict[str, Any], note: str) -> str:
    """Start the policy's release as the user; its DAG run id. Raises AirflowRefused."""
    body = {"logical_date": None, "conf": conf, "note": note}
    document = await _ask(request, "POST", f"/dags/{quote(dag_of(policy))}/dagRuns", json=body)
    return str(document["dag_run_id"])


async def awaited(request: Request, policy: str) -> list[Awaited]:
    """The approvals that releases of the policy wait for. Raises AirflowRefused."""
    path = f"/dags/{quote(dag_of(policy))}/dagRuns/~/hitlDetails"
    document = await _ask(request, "GET", path, params={"response_received": "false", "limit": 10})
    found = []
    for item in document["hitl_details"]:
        task = item["task_instance"]
        if task["state"] in ("deferred", "running", "awaiting_input"):
            run, name = quote(task["dag_run_id"], safe=""), quote(task["task_id"])
            page = f"/dags/{quote(dag_of(policy))}/runs/{run}/tasks/{name}/required_actions"
            found.append(Awaited(str(item["subject"]), str(task["dag_run_id"]), page))
    return found


async def _ask(request: Request, method: str, path: str, **sent: Any) -> dict[str, Any]:
    root = str(request.scope.get("root_path", "")).removesuffix(PREFIX)
    token = bearer(request) or request.cookies.get(COOKIE_NAME_JWT_TOKEN, "")
    transport = httpx.ASGITransport(app=request.scope[AIRFLOW], raise_app_exceptions=False, root_path=root)
    async with httpx.AsyncClient(transport=transport, base_url=str(request.base_url), timeout=_TIMEOUT) as airflow:
        answer = await airflow.request(
            method, f"{root}/api/v2{path}", headers={"Authorization": f"Bearer {token}"}, **sent
        )
    try:
        document: dict[str, Any] = answer.json()
    except ValueError as error:
        raise AirflowRefused(answer.status_code, f"Airflow answers {answer.status_code} without JSON") from error
    if not answer.is_success:
        said = str(document.get("detail", document)).split("\n\n", 1)[0]  # what follows is the schema
        raise AirflowRefused(answer.status_code, said)
    return document
