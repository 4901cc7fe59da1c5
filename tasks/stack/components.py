"""The processes of the embedded stack: how each is started, on which port it answers, and the stack's errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from bentos import settings

SCHEDULER = "airflow-scheduler"


@dataclass(frozen=True)
class Component:
    """One supervised process. `waits_for_database` says that Airflow's tables must be there first."""

    name: str
    command: tuple[str, ...]
    port: int | None = None
    port_variable: str = ""
    waits_for_database: bool = False
    stop_signal: str = "TERM"
    environment: Mapping[str, str] = field(default_factory=dict)


def _airflow(name: str, *arguments: str, port: int | None = None, stop_signal: str = "TERM") -> Component:
    return Component(
        name=f"airflow-{name}",
        command=(sys.executable, "-m", "airflow", name, *arguments),
        port=port,
        port_variable="AIRLOCK_AIRFLOW_PORT" if port else "",
        waits_for_database=True,
        stop_signal=stop_signal,
    )


def _mlflow(port: int) -> Component:
    state = settings.home() / "mlflow"
    return Component(
        name="mlflow",
        command=(
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"),
            *("--serve-artifacts", "--artifacts-destination", str(state / "artifacts")),
        ),
        port=port,
        port_variable="AIRLOCK_MLFLOW_PORT",
        environment={"PYTHONWARNINGS": "ignore"},
    )


def _gateway(port: int) -> Component:
    state = settings.home() / "gateway"
    return Component(
        name="gateway",
        command=(
            *(sys.executable, "-m", "bentoml", "serve", "bentos.service:Gateway"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ),
        port=port,
        port_variable="AIRLOCK_GATEWAY_PORT",
        environment={"BENTOML_HOME": str(state / "bentoml")},
    )


def components() -> list[Component]:
    """What `airlock up` runs. MLflow is left out where `$MLFLOW_TRACKING_URI` names another server."""
    mlflow_port = settings.port("mlflow", 5000)
    external = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/") not in (
        "",
        f"http://127.0.0.1:{mlflow_port}",
        f"http://localhost:{mlflow_port}",
    )
    return [
        *([] if external else [_mlflow(mlflow_port)]),
        _gateway(settings.port("gateway", 3000)),
        _airflow("api-server", port=settings.port("airflow", 8080)),
        # At SIGTERM a scheduler waits for its tasks; they are ended with it, and put back by the next one.
        _airflow(SCHEDULER.removeprefix("airflow-"), "--skip-serve-logs", stop_signal="KILL"),
        _airflow("dag-processor"),
        # At SIGTERM a triggerer takes ten seconds. Its triggers only wait and read: another one takes them over.
        _airflow("triggerer", "--skip-serve-logs", stop_signal="KILL"),
    ]


class StackError(Exception):
    """The stack could not be started, stopped or reached; the message says what to do."""
