"""The demo around its three releases: its own state, its verdict on them, and a stack that is always stopped."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.stack import demo as module
from tasks.stack.components import StackError
from tasks.stack.demo import PLANS, Follower, demo
from tests.tasks.airflow_double import AirflowDouble, instance, serving

Evidence = dict[str, Any]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A stack whose Airflow is a stand-in, and whose releases leave the evidence that the test sets."""
    state: dict[str, Any] = {"up": 0, "down": 0, "verdicts": ["promote", "promote", "roll_back"], "failures": 0}
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path / "home"))
    with serving(AirflowDouble()) as airflow:
        state["airflow"] = airflow

        def up(progress: object = None) -> Any:
            state["up"] += 1
            state["home"] = os.environ["AIRLOCK_HOME"]
            state["environment"] = dict(os.environ)
            monkeypatch.setattr(module, "Airflow", lambda: module_airflow(airflow.url, "admin", "secret"))
            return type("Running", (), {"seconds": 1.0})()

        def evidence(run: object) -> Evidence:
            verdict = state["verdicts"][len(airflow.triggered) - 1]
            traffic = {"decisions": 30_000, "requests": 500, "failures": state["failures"]}
            return {"version": str(len(airflow.triggered)), "verdict": verdict, "traffic": traffic, "checklists": {}}

        module_airflow = module.Airflow
        monkeypatch.setattr(module, "up", up)
        monkeypatch.setattr(module, "down", lambda: state.__setitem__("down", state["down"] + 1))
        monkeypatch.setattr(module, "_evidence", evidence)
        monkeypatch.setattr(module, "outcome", lambda policy, run: {"outcome": "ended", "reason": ""})
        yield state


def written(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "home" / "demo.json").read_text()))


def test_three_releases_that_end_as_they_should_are_ok(stack: dict[str, Any], tmp_path: Path) -> None:
    document = demo()

    assert document == written(tmp_path)
    assert document["ok"] is True
    assert document["problem"] is None
    assert [(r["version"], r["verdict"]) for r in document["releases"]] == [
        ("1", "promote"),
        ("2", "promote"),
        ("3", "roll_back"),
    ]
    assert document["requests"] == {"total": 90_000, "failed": 0, "http_requests": 1_500}
    assert all(isinstance(release["seconds"], dict) for release in document["releases"])
    assert stack["down"] == 1


def test_the_releases_differ_in_nothing_but_their_params(stack: dict[str, Any]) -> None:
    demo()
    assert stack["airflow"].triggered == [{**plan.params, "simulate_users": module.USERS} for plan in PLANS]
    assert PLANS[1].params["objective"] == "superiority"


def test_another_verdict_ends_the_demo_and_names_the_task_that_failed(stack: dict[str, Any]) -> None:
    stack["verdicts"][1] = "inconclusive"
    stack["airflow"].moments = [("failed", [instance("build.evaluate", "failed")])]
    stack["verdicts"][0] = None
    document = demo()

    assert document["ok"] is False
    assert "release 1" in document["problem"]
    assert "build.evaluate failed" in document["problem"]
    assert "mean return 9.3 is below 400" in document["problem"]
    assert stack["down"] == 1


def test_a_failed_request_is_not_ok(stack: dict[str, Any]) -> None:
    stack["failures"] = 1
    document = demo()
    assert document["ok"] is False
    assert "3 requests failed" in document["problem"]


def test_too_little_traffic_is_not_ok(stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_REQUESTS", 100_000)
    assert "only 90000 actions" in demo()["problem"]


def test_a_stack_that_does_not_start_is_reported(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def up(progress: object = None) -> None:
        raise StackError("port 5000 is taken")

    monkeypatch.setattr(module, "up", up)
    assert demo()["problem"] == "port 5000 is taken"
    assert written(tmp_path)["ok"] is False
    assert stack["down"] == 1


def test_an_interrupt_stops_the_stack_and_still_leaves_a_report(stack: dict[str, Any], tmp_path: Path) -> None:
    def interrupt(number: int, run: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(Follower(moved=interrupt))
    assert stack["down"] == 1
    assert written(tmp_path)["problem"] == "interrupted"


def test_the_demo_has_a_fresh_home_of_its_own_and_gives_the_environment_back(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "home" / "demo" / "left-over"
    old.parent.mkdir(parents=True)
    old.write_text("from the demo before")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    before = dict(os.environ)

    demo()

    assert stack["home"] == str(tmp_path / "home" / "demo")
    assert "MLFLOW_TRACKING_URI" not in stack["environment"]
    assert stack["environment"]["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] == "False"
    assert not old.exists()
    assert dict(os.environ) == before


@pytest.mark.parametrize("chosen", [True, False])
def test_a_taken_port_is_replaced_unless_it_was_asked_for(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    taken: Callable[[int], bool] = lambda port: port != 8080  # noqa: E731
    monkeypatch.setattr(module, "is_free", taken)
    monkeypatch.delenv("AIRLOCK_AIRFLOW_PORT", raising=False)
    if chosen:
        monkeypatch.setenv("AIRLOCK_AIRFLOW_PORT", "8080")
    demo()
    used = stack["environment"].get("AIRLOCK_AIRFLOW_PORT", "8080")
    assert (used == "8080") is chosen
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(used) if not chosen else 0))
