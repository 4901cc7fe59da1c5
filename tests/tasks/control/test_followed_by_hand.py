"""An alias moved by hand on a real MLflow: a real gateway follows it, and it is in the story of the policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bentos import settings
from bentos.store import tables
from tasks.control import audit
from tasks.control.manual_moves import notice
from tasks.control.plane import ControlPlane
from tasks.stages.register import register
from tests.bentos.gateway_process import GatewayProcess, wait_until
from tests.tasks import fabricated


@pytest.fixture
def gateway(mlflow_server: str, tmp_path: Path) -> Iterator[GatewayProcess]:
    """A gateway that follows the test's registry."""
    running = GatewayProcess(tmp_path / "gateway", MLFLOW_TRACKING_URI=mlflow_server)
    yield running
    running.stop()


def test_a_champion_moved_by_hand_in_mlflow_reaches_the_gateway_and_is_audited(
    gateway: GatewayProcess, mlflow_server: str, make_policy: Callable[..., str]
) -> None:
    policy, control = make_policy(), ControlPlane("a test")
    for number in ("1", "2"):
        register(fabricated.candidate(policy, f"manual__{number}"))
        control.approve(policy, number)
        control.start_canary(policy, number, f"g{number}", 0.5)
        control.promote(policy, f"g{number}", "it was put there by a test")

    def serving() -> str | None:
        question = {"observation": [0.0, 0.0, 0.1, 0.0]}
        answer = httpx.post(f"{gateway.url}/v1/policies/{policy}/act", json=question, timeout=30).json()
        version: str | None = answer.get("version")
        return version

    wait_until(lambda: serving() == "2", "the champion is served")
    assert notice(policy) == []
    moved = {"name": policy, "alias": "champion", "version": "1"}
    alias = f"{mlflow_server}/api/2.0/mlflow/registered-models/alias"
    httpx.post(alias, json=moved, timeout=60).raise_for_status()
    wait_until(lambda: serving() == "1", "the gateway follows")

    (said,) = notice(policy)
    assert "from version 2 to version 1, which is promoted" in said
    newest = next(e for e in audit.story(tables.connect(settings.database_url()), policy) if e.what == "alias_moved")
    assert (newest.who, newest.words) == ("somebody, in MLflow", said)
    state = control.state(policy)
    assert (state["champion"], state["versions"]["1"]["moved_by_hand"]) == ("1", said)
    assert notice(policy) == []
