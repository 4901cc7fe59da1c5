"""The cluster of docker-compose.yml for a session of tests, and somebody who uses it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tasks.airflow_api import Airflow
from tests.cluster.harness import Cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """All services, healthy. This process's environment points at them while the session lasts."""
    before = dict(os.environ)
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        os.environ.update(running.client())
        try:
            yield running
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture(scope="session")
def airflow(cluster: Cluster) -> Iterator[Airflow]:
    """Airflow's REST API, which knows the shipped policies' releases by now."""
    with Airflow() as client:
        for policy in ("cartpole", "pendulum"):
            client.await_dag(f"release_{policy}", timeout=300)
        yield client
