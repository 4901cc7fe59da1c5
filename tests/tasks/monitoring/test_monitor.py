"""The monitor on a real registry and database: what it finds of a champion, and what it does about it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from bentos.telemetry.counters import Arm
from tasks.control import audit
from tasks.control.plane import ControlPlane
from tasks.monitoring import checks
from tasks.monitoring.monitor import monitor
from tasks.stages.register import register
from tests.tasks import fabricated
from tests.tasks.alerts.test_notify import receiving

MakePolicy = Callable[..., str]
PATIENT = {"breach_runs": 2, "clear_runs": 2, "cooldown_minutes": 60}
EXAMPLE = {"episode_ttl_seconds": 1}


@pytest.fixture(autouse=True)
def elsewhere(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No gateway, no Prometheus: the counters are those in the database."""
    monkeypatch.setenv("AIRLOCK_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("PROMETHEUS_URL", raising=False)
    monkeypatch.setattr(checks, "SAMPLE_SECONDS", 0.0)


def promoted(policy: str, *dag_run_ids: str) -> None:
    """Versions 1, 2, … of the policy, each champion in turn."""
    control = ControlPlane("a test")
    for dag_run_id in dag_run_ids:
        version = register(fabricated.candidate(policy, dag_run_id))["version"]
        control.approve(policy, version)
        control.start_canary(policy, version, dag_run_id, 0.05)
        control.promote(policy, dag_run_id, "a test promotes it")


class Traffic:
    """What a gateway would have stored of a version's traffic."""

    def __init__(self, policy: str, version: str) -> None:
        self.policy, self.version = policy, version
        self.engine = tables.connect(settings.database_url())
        self.arm = Arm()
        self._outcomes = 0
        self._outcome(500.0, at=time.time() - 1000)

    def _outcome(self, value: float, at: float) -> None:
        self._outcomes += 1
        row = {"policy": self.policy, "version": self.version, "generation": "", "arm": "champion", "kind": "reported"}
        ended = {"episode": f"{self.policy}-{self.version}-{self._outcomes}", "episode_return": value, "length": 10}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(tables.outcomes).values(**row, **ended, recorded_at=at))

    def serve(self, episode_return: float = 490.0, faults: int = 0, decisions: int = 2_000) -> None:
        """So many decisions more, half of them each way, and 40 episodes."""
        for _ in range(200):
            self.arm.decided(decisions // 200, 0.001)
        self.arm.count(self.arm.sources, "policy", decisions)
        self.arm.count(self.arm.faults, "exception", faults)
        self.arm.count(self.arm.actions, "0", decisions // 2)
        self.arm.count(self.arm.actions, "1", decisions - decisions // 2)
        for number in range(40):
            self.arm.ended(episode_return, 10)
            self._outcome(episode_return + number % 3, time.time())
        key = {"policy": self.policy, "generation": "", "version": self.version, "arm": "champion", "worker": "w"}
        with self.engine.begin() as connection:
            connection.execute(sa.delete(tables.arm_stats).filter_by(**key))
            connection.execute(sa.insert(tables.arm_stats).values(**key, stats=self.arm.to_json(), updated_at=0.0))


def report(policy: str) -> dict[str, Any]:
    """The newest report that is stored."""
    query = sa.select(tables.monitor_reports).where(tables.monitor_reports.c.policy == policy)
    with tables.connect(settings.database_url()).connect() as connection:
        return dict(connection.execute(query.order_by(tables.monitor_reports.c.id.desc())).first().report)  # type: ignore[union-attr]


def test_a_policy_without_a_champion_is_skipped(make_policy: MakePolicy) -> None:
    assert monitor(make_policy(), "r1")["verdict"] == "skip"


def test_a_sound_champion_passes_and_what_has_been_judged_is_not_judged_again(make_policy: MakePolicy) -> None:
    policy = make_policy(canary=EXAMPLE)
    promoted(policy, "manual__1")
    traffic = Traffic(policy, "1")
    traffic.serve()
    found = monitor(policy, "r1")
    assert (found["version"], found["verdict"], found["action"]["what"]) == ("1", "pass", "none")
    assert found["alerts"] == ["GATEWAY_DOWN"]
    statuses = {check["id"]: check["status"] for check in report(policy)["checks"]}
    assert statuses == {
        "latency_sla": "pass",
        "finite_outputs": "pass",
        "action_distribution": "pass",
        "reward_trend": "pass",
        "error_rate": "pass",
        "resource_usage": "skip",
    }
    again = monitor(policy, "r2")
    assert again["verdict"] == "inconclusive", "nothing was served since"
    traffic.serve(decisions=400)
    assert monitor(policy, "r3")["verdict"] == "inconclusive"
    traffic.serve(decisions=800)
    assert monitor(policy, "r4")["verdict"] == "pass", "stretches that are too short add up"


def test_a_run_that_is_tried_again_does_nothing_twice(make_policy: MakePolicy) -> None:
    policy = make_policy(canary=EXAMPLE)
    promoted(policy, "manual__1")
    traffic = Traffic(policy, "1")
    traffic.serve(faults=100)
    first = monitor(policy, "r1")
    told = len(audit.story(traffic.engine, policy))
    assert monitor(policy, "r1") == first
    assert len(audit.story(traffic.engine, policy)) == told


def test_a_breach_in_two_runs_rolls_back_once_and_the_cooldown_keeps_the_next_champion(
    make_policy: MakePolicy,
) -> None:
    policy = make_policy(canary=EXAMPLE, monitor={**PATIENT, "on_breach": "roll_back"}, retrain={"on_drift": False})
    promoted(policy, "manual__1", "manual__2", "manual__3")
    bad = Traffic(policy, "3")
    bad.serve(faults=100)
    first = monitor(policy, "r1")
    assert (first["verdict"], first["action"]["what"]) == ("fail", "none")
    assert "HIGH_ERROR_RATE" in first["alerts"]
    assert monitor(policy, "r2")["action"]["what"] == "none", "the same faults do not count twice"
    bad.serve(faults=100)
    second = monitor(policy, "r3")
    assert second["action"]["what"] == "monitor_rollback"
    assert "100 faults in 2,000 decisions" in second["action"]["why"]
    state = ControlPlane("a test").state(policy)
    assert (state["champion"], state["versions"]["3"]["validation_status"]) == ("2", "rolled_back")

    promoted(policy, "manual__4")
    worse = Traffic(policy, "4")
    for run in ("r4", "r5", "r6"):
        worse.serve(faults=100)
        found = monitor(policy, run)
    assert found["verdict"] == "fail"
    assert "in its cool-down" in found["action"]["why"]
    assert ControlPlane("a test").state(policy)["champion"] == "4"
    story = [(event.who, event.what) for event in audit.story(bad.engine, policy)]
    assert story.count(("monitor r3", "monitor_rollback")) == 1
    assert ("monitor r1", "alert_raised") in story


def test_a_champion_without_a_sound_predecessor_is_not_rolled_back_to_nothing(make_policy: MakePolicy) -> None:
    policy = make_policy(canary=EXAMPLE, monitor={"breach_runs": 1, "on_breach": "roll_back"})
    promoted(policy, "manual__1")
    Traffic(policy, "1").serve(faults=100)
    found = monitor(policy, "r1")
    assert found["action"] == {"what": "none", "why": "no rollback: there is no previous version"}
    assert ControlPlane("a test").state(policy)["champion"] == "1"


def test_returns_that_decay_ask_for_a_release_and_the_mail_says_when_it_is_over(make_policy: MakePolicy) -> None:
    with receiving([200]) as (url, bodies):
        sections = {"monitor": PATIENT, "retrain": {"on_drift": True}, "alerts": {"notify": [url]}}
        policy = make_policy(canary=EXAMPLE, **sections)
        promoted(policy, "manual__1")
        traffic = Traffic(policy, "1")
        asked = []
        for run in range(3):
            traffic.serve(episode_return=200.0)
            asked.append(monitor(policy, f"bad{run}")["action"]["what"])
        assert asked == ["none", "retraining", "none"]
        assert report(policy)["drift"]["decay"]["decayed"]
        firing = [alert["name"] for alert in bodies[0]["alerts"]]
        assert firing == ["PERFORMANCE_DEGRADATION", "GATEWAY_DOWN"]
        assert len(bodies) == 1, "an alert is told once, not in every run"
        for run in range(2):
            traffic.serve(episode_return=490.0)
            found = monitor(policy, f"good{run}")
        assert "PERFORMANCE_DEGRADATION" not in found["alerts"]
    (over,) = bodies[1]["alerts"]
    assert (over["name"], over["status"]) == ("PERFORMANCE_DEGRADATION", "resolved")
