"""A live embedded stack for the session: Airflow, MLflow and the gateway in a home and on ports of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.ports import free_port
from tasks.stack.airflow_api import Airflow
from tasks.stack.lifecycle import Running, down, up

PORTS = ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT")
SPECS = Path(__file__).resolve().parents[2] / "dags" / "policies"
NEVER = "0 0 29 2 *"
"""A cron that no test lives to see."""

BRISK: dict[str, Any] = {"canary": {"episode_ttl_seconds": 1}, "evaluate": {"minimum_mean_return": 490}}
ADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "rolling": ("cartpole", {**BRISK, "monitor": {"on_breach": "roll_back", "breach_runs": 2}}),
    "learner": (
        "cartpole",
        {
            **BRISK,
            "monitor": {"breach_runs": 1},
            "retrain": {"on_drift": True},
            "train": {"total_timesteps": 256},
        },
    ),
    "swinger": (
        "pendulum",
        {
            "train": {"total_timesteps": 2_500, "seed": 3},
            "evaluate": {"minimum_mean_return": -1_600},
            "serve": {"explore": True, "deadline_ms": 30_000, "latency_slo_ms": 10_000},
            "alerts": {"max_latency_ms": 10_000},
            "canary": {"steps": [0.5]},
            "learn": {"seed": 3},
        },
    ),
}
"""Policies beside the shipped ones: the spec of one of them with these changes."""


def _specs(directory: Path) -> Path:
    """The shipped specs and `ADDED`, none of which starts a run by the clock."""
    shipped = {path.stem: yaml.safe_load(path.read_text()) for path in SPECS.glob("*.yaml")}
    wanted: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in shipped}
    for name, (like, changes) in {**wanted, **ADDED}.items():
        document = dict(shipped[like], name=name)
        document["retrain"] = {"on_drift": False}
        for section, fields in changes.items():
            document[section] = {**document.get(section, {}), **fields}
        document["monitor"] = {**document.get("monitor", {}), "schedule": NEVER}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return directory


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The running stack. This process's environment points at it while the session lasts. No clock starts a run."""
    before = dict(os.environ)
    os.environ["AIRLOCK_HOME"] = str(tmp_path_factory.mktemp("stack"))
    os.environ["AIRLOCK_POLICIES"] = str(_specs(tmp_path_factory.mktemp("policies")))
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.update({name: str(free_port()) for name in PORTS})
    try:
        yield up()
    finally:
        down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def airflow(stack: Running) -> Iterator[Airflow]:
    """Airflow's REST API, which knows `release_cartpole` by now."""
    with Airflow(stack.airflow, stack.user, stack.password) as client:
        client.await_dag("release_cartpole", timeout=120)
        yield client
