"""The parts that serve and store are killed in turn during one canary under load. Airflow is not started.

The test does what a release's canary task and its trigger do, with the same waiting.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tasks.canary
from tasks.outage import wait_out
from tasks.promote import ControlPlane
from tasks.runs import Release
from tests.cluster.harness import Cluster
from tests.cluster.outages import POLICY, UNITS_BETWEEN, Books, champion, eventually, published
from tests.servers.load import Load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

PARTS = ("postgres", "s3", "bucket", "mlflow", "init", "gateway-1", "gateway-2", "loadbalancer")
KILLED = ("gateway-1", "postgres", "mlflow", "s3", "gateway-2")


@pytest.fixture(scope="module")
def plane(place: Path) -> Iterator[Cluster]:
    """The services that serve and store; this process's environment points at them."""
    before = dict(os.environ)
    running = Cluster(place)
    running.services = {name: running.services[name] for name in PARTS}
    with running:
        os.environ.update(
            {
                "AIRLOCK_GATEWAY_URL": running.url("loadbalancer"),
                "AIRLOCK_ADMIN_TOKEN": running.secret("admin_token"),
                "AIRLOCK_DATABASE_URL": running.secret("airlock_database_url"),
                "MLFLOW_TRACKING_URI": running.url("mlflow"),
            }
        )
        yield running
    os.environ.clear()
    os.environ.update(before)


class Conductor(threading.Thread):
    """Takes a release's canary to its verdict; `ended` is what it came to, or `error` what it broke of."""

    def __init__(self, made: Release) -> None:
        super().__init__()
        self._made = made
        self.ended: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Look every two seconds, and act on what is seen."""
        try:
            self._conduct(self._made)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self.error = error

    def _conduct(self, made: Release) -> None:
        wait_out(tasks.canary.start, made)
        plan = wait_out(tasks.canary.plan, made)
        while self.ended is None:
            time.sleep(2)
            seen = wait_out(tasks.canary.look, made.policy, plan.generation, plan.document())
            if seen["verdict"] != "continue":
                ended = wait_out(tasks.canary.finish, made, seen)
                self.ended = ended if ended["verdict"] != "continue" else None
            elif seen["advance"]:
                wait_out(tasks.canary.advance, made)

    def result(self, seconds: float) -> dict[str, Any]:
        """What it came to, waited for."""
        self.join(seconds)
        if self.error is not None:
            raise self.error
        assert self.ended is not None, "the canary has not ended"
        return self.ended


def test_a_canary_outlives_the_death_of_what_serves_and_stores(plane: Cluster, tmp_path: Path) -> None:
    first = champion(tmp_path)
    made = published(tmp_path, "second")
    load = Load(plane.url("loadbalancer"), POLICY)
    books = Books(plane, load)
    try:
        conductor = Conductor(made)
        eventually(lambda: load.experimental() > UNITS_BETWEEN, "units come in")
        for name in KILLED:
            books.outage(name, partial(wait_out, made.put_json, f"away/{name}.json", {"away": name}))
        load.loss = 150.0
        ended = conductor.result(1500)
    finally:
        load.stop()
    books.close(made, tmp_path / "kills.json")
    assert [made.need_json(f"away/{name}.json")["away"] for name in KILLED] == list(KILLED)
    without_store = next(one for one in books.outages if one["killed"] == "postgres")
    assert without_store["of_them_in_the_canary"] == 0
    assert set(load.decisions) == {"policy"}, "nobody fell back"
    assert ended["verdict"] == "roll_back"
    state = ControlPlane("test").state(POLICY)
    assert (state["champion"], state["canary"]) == (first, None)
