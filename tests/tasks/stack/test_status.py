"""What is live, as people and machines read it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tasks.stack.status import render, status
from tests.tasks.gateway_double import GatewayDouble, serving


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    for variable in ("AIRLOCK_AIRFLOW_PORT", "AIRLOCK_MLFLOW_PORT", "AIRLOCK_GATEWAY_PORT"):
        monkeypatch.setenv(variable, "9")


@pytest.mark.parametrize(("weight", "shown"), [(0.25, "0.25"), (0.0, "shadow")])
def test_each_policy_shows_who_serves_and_what_is_tried(
    monkeypatch: pytest.MonkeyPatch, weight: float, shown: str
) -> None:
    listed = {
        "policy": "cartpole",
        "champion": "2",
        "previous": "1",
        "canary": {"generation": "g", "version": "3", "weight": weight},
        "versions": {"2": {"status": "ready"}, "3": {"status": "ready"}},
    }
    with serving(GatewayDouble(policies=[listed])) as double:
        monkeypatch.setenv("AIRLOCK_GATEWAY_URL", double.url)
        document = status()

    cartpole = document["policies"]["cartpole"]
    assert (cartpole["champion"], cartpole["challenger"], cartpole["canary_weight"]) == ("2", "3", weight)
    console = Console(width=160, record=True, file=io.StringIO())
    render(document, console)
    (line,) = [line for line in console.export_text().splitlines() if line.startswith("cartpole")]
    assert line.split()[:5] == ["cartpole", "2", "1", "3", shown]


def test_a_policy_without_canary_has_no_challenger(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(GatewayDouble(policies=[{"policy": "cartpole", "champion": "2", "canary": None}])) as double:
        monkeypatch.setenv("AIRLOCK_GATEWAY_URL", double.url)
        cartpole = status()["policies"]["cartpole"]
    assert (cartpole["challenger"], cartpole["canary_weight"]) == (None, 0.0)


def test_a_stack_that_is_down_is_not_ok_and_says_why() -> None:
    document = status()
    assert document["ok"] is False
    assert document["policies"] == {}
    assert "ConnectError" in document["policies_unknown"]
    assert "no answer" in document["components"]["mlflow"]["detail"]
