"""A live embedded stack for the session: Airflow, MLflow and the gateway in a home and on ports of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from tasks.stack.lifecycle import Running, down, up

PORTS = ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT")


def free_ports(count: int) -> list[int]:
    """That many different ports that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The running stack. This process's environment points at it while the session lasts. Scheduled runs are off."""
    before = dict(os.environ)
    os.environ["AIRLOCK_HOME"] = str(tmp_path_factory.mktemp("stack"))
    os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    os.environ.update({name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)})
    try:
        yield up()
    finally:
        down()
        os.environ.clear()
        os.environ.update(before)
