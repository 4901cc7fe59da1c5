"""A release that began under the first version's tables goes on after they were brought forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos.store import tables
from tasks.canary import lifecycle, results
from tasks.canary.evidence import units
from tasks.control.plane import ControlPlane
from tasks.tracking.registry import Registry
from tests.bentos import first_version
from tests.bentos.gateway_process import GatewayProcess, MlflowProcess, wait_until
from tests.bentos.policy_packages import constant_graph, write_package
from tests.tasks.analysis.plans import PLAN

pytestmark = pytest.mark.timeout(900)

POLICY = "cartpole"


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowProcess]:
    """An MLflow server with a champion and an approved version, as the canary left it."""
    server = MlflowProcess(tmp_path / "mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    for version, status in (("1", "promoted"), ("2", "approved")):
        package = tmp_path / version
        digest = write_package(package, name=POLICY, graph=constant_graph(0))
        assert server.publish(POLICY, package, digest, status) == version
    server.alias(POLICY, "champion", "1")
    yield server
    server.stop()


def test_a_canary_that_began_under_the_first_version_is_promoted_after_it(
    database: str, mlflow: MlflowProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_version.write(database)
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AIRLOCK_DATABASE_URL", database)
    gateway = GatewayProcess(tmp_path / "home", MLFLOW_TRACKING_URI=mlflow.url, AIRLOCK_DATABASE_URL=database)
    try:
        control = ControlPlane("release r2")
        assert control.reconcile(POLICY) == 1, "what the first version's release had begun is completed"
        wait_until(lambda: gateway.client.policy(POLICY)["canary"], "the canary is routed")

        answer = gateway.client.act(POLICY, [[0.0] * 4], user_ids=["vip"])
        assert (answer["actions"], answer["sources"]) == ([1], ["override"])
        assert gateway.client.policy(POLICY)["statistics"]["total_inferences"] >= 600

        episodes = gateway.client.start_episodes(POLICY, [None] * 40)
        ended = [
            {"episode_id": one["episode_id"], "return": 260.0 if one["arm"] == "challenger" else 200.0, "length": 9}
            for one in episodes
        ]
        ended.append({"episode_id": first_version.RUNNING, "return": 260.0, "length": 9})
        assert gateway.client.outcomes(POLICY, ended) == {"accepted": 41, "duplicates": 0}

        plan = replace(
            PLAN, version="2", champion="1", generation=first_version.GENERATION, objective="superiority", steps=(0.5,)
        )
        found = units(plan)
        assert (len(found.challenger), found.waiting) == (161, 0)
        looked = lifecycle.look(POLICY, plan.generation, plan.to_json())
        assert looked["verdict"] == "promote"

        control.promote(POLICY, plan.generation, looked["reason"])
        wait_until(lambda: gateway.client.policy(POLICY)["champion"] == "2", "the promoted version is routed")
        with Registry() as registry:
            said = results.summary(plan, registry.versions(POLICY)[-1])
        assert (said["verdict"], said["winner"]) == ("promote", "challenger")
        with tables.connect(database).connect() as connection:
            assert connection.execute(sa.select(tables.leases.c.fence)).scalar_one() > 7
            states = connection.execute(sa.select(tables.intents.c.state)).scalars().all()
        assert set(states) == {"done"}
    finally:
        gateway.stop()
