"""Whether each component of the stack does its work, asked over HTTP as a user would."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from bentos import settings
from bentos.http_client import trusted

_HEARTBEATS = {
    "airflow-scheduler": ("scheduler", "latest_scheduler_heartbeat"),
    "airflow-dag-processor": ("dag_processor", "latest_dag_processor_heartbeat"),
    "airflow-triggerer": ("triggerer", "latest_triggerer_heartbeat"),
}


@dataclass(frozen=True)
class Health:
    """The answer of one component: healthy or not, and in words why not."""

    ok: bool
    detail: str


def _heartbeat(document: dict[str, Any], component: str, since: float) -> Health:
    part, field = _HEARTBEATS[component]
    report = document.get(part) or {}
    beat = report.get(field)
    if report.get("status") != "healthy" or not beat:
        return Health(False, "no recent heartbeat")
    # After a restart the heartbeat of the run before still looks healthy for a while.
    if datetime.fromisoformat(beat).timestamp() < since:
        return Health(False, "no heartbeat since it was started")
    return Health(True, "healthy")


def _plain(url: str) -> Health:
    try:
        response = httpx.get(url, timeout=5, verify=trusted(url))
    except httpx.HTTPError as error:
        return Health(False, f"no answer from {url} ({type(error).__name__})")
    return Health(True, "healthy") if response.is_success else Health(False, f"{url} answers {response.status_code}")


def check(started: dict[str, float]) -> dict[str, Health]:
    """The health of every component named in `started` (component to Unix time of its start; 0 asks for any)."""
    health = {}
    if "mlflow" in started:
        health["mlflow"] = _plain(f"{settings.mlflow_url()}/health")
    if "gateway" in started:
        health["gateway"] = _plain(f"{settings.gateway_url()}/readyz")
    url = f"{settings.airflow_url()}/api/v2/monitor/health"
    try:
        response = httpx.get(url, timeout=10, verify=trusted(url))
        document = response.raise_for_status().json()
        # The first request to the API that tasks use builds it, which takes seconds: the first task must not pay.
        httpx.get(f"{settings.airflow_url()}/execution/health", timeout=60, verify=trusted(url)).raise_for_status()
        health["airflow-api-server"] = Health(True, "healthy")
        health |= {name: _heartbeat(document, name, started[name]) for name in _HEARTBEATS if name in started}
    except (httpx.HTTPError, ValueError) as error:
        health["airflow-api-server"] = Health(False, f"no answer from {url} ({type(error).__name__})")
        health |= {name: Health(False, "unknown: the API server does not answer") for name in _HEARTBEATS}
    return {name: health[name] for name in started if name in health}
