"""A live embedded stack for the session: Airflow, MLflow and the gateway in a home and on ports of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tasks.airflow_api import Airflow
from tasks.stack.lifecycle import Running, down, up
from tasks.stack.ports import free_port

PORTS = ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The running stack. This process's environment points at it while the session lasts. Scheduled runs are off."""
    before = dict(os.environ)
    os.environ["AIRLOCK_HOME"] = str(tmp_path_factory.mktemp("stack"))
    os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
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
