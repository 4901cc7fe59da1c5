"""What an operator sees of the policies: each part on its own, whatever else is down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bentos import settings
from bentos.store import tables
from bentos.telemetry import counters
from plugins.console import canary as latest_canary
from plugins.console import overview
from plugins.console.overview import Health, checklists, glances, health_of, names, page, served
from tasks.checklist.run import run_all
from tasks.checklist.types import PHASES, Finding
from tasks.monitoring import live
from tasks.monitoring.live import Drift, GatewaySilent, Live
from tasks.tracking.client import RegistryUnavailable
from tasks.tracking.history import PastRelease
from tests.tasks.registry_double import RegistryDouble

ALARM = Drift("1", "champion", "observations", "sequential", "all", 1.5)
RELEASE = PastRelease("manual__1", "run", "2", "reported", "promoted", "better", 1e9, {})


def route(**changes: Any) -> dict[str, Any]:
    arm = {
        "version": "1",
        "total_inferences": 10,
        "avg_latency_ms": 0.5,
        "episodes_completed": 2,
        "avg_episode_reward": 480.0,
        "sources": {"policy": 9, "fallback": 1},
        "faults": {"deadline": 1},
        "breaker_open": False,
    }
    document = {
        "policy": "cartpole",
        "champion": "1",
        "canary": None,
        "versions": {"1": {"status": "ready"}},
        "arms": {"champion": arm},
        "overrides": [],
        "registry": {"ok": True},
    }
    return {**document, **changes}


def fail(error: Exception) -> Callable[..., Any]:
    def ask(*given: Any) -> Any:
        raise error

    return ask


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway with a champion and a canary, a release, no more."""
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    canary = {"version": "2", "weight": 0.25}
    monkeypatch.setattr(live, "recent", lambda: Live({"cartpole": route(canary=canary)}, {"cartpole": (ALARM,)}))
    monkeypatch.setattr(latest_canary, "recent", lambda policy: None)
    monkeypatch.setattr(overview, "_recent_releases", lambda policy: [RELEASE])
    monkeypatch.setattr(overview, "checklists", lambda past: [])


def test_policies_are_those_with_a_spec_and_those_that_are_routed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "recent", lambda: Live({"imported": route()}, {}))
    assert names() == ["cartpole", "imported", "pendulum"]
    monkeypatch.setattr(live, "recent", fail(GatewaySilent("down")))
    assert names() == ["cartpole", "pendulum"]


def test_a_policy_at_a_glance() -> None:
    found, unrouted = glances(["cartpole", "pendulum"])
    assert (found.champion, found.challenger, found.weight) == ("1", "2", 0.25)
    assert found.health == Health(False, ("observations of the champion have drifted",))
    assert found.last.value == RELEASE
    assert (unrouted.champion, unrouted.health) == (None, Health(None, ("not released yet",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"versions": {"2": {"status": "refused", "reason": "digest"}}}, "version 2 is refused: digest"),
        ({"versions": {"2": {"status": "quarantined", "reason": "killed"}}}, "version 2 is quarantined: killed"),
        ({"arms": {"challenger": {"breaker_open": True}}}, "the breaker of the challenger is open"),
        ({"registry": {"ok": False}}, "the gateway cannot reach MLflow and serves what it last knew"),
    ],
)
def test_trouble_is_said_in_words(changes: dict[str, Any], said: str) -> None:
    assert health_of(route(**changes), ()) == Health(False, (said,))


def test_an_override_is_noted_and_no_trouble() -> None:
    assert health_of(route(overrides=[{}, {}]), ()) == Health(True, ("2 overrides in force",))
    assert health_of(route(), ()) == Health(True, ())


def test_a_policy_that_was_never_promoted_is_not_called_healthy() -> None:
    assert health_of(route(champion=None), ()) == Health(None, ("no version is champion yet",))


def test_with_the_gateway_down_the_champion_is_the_registrys_and_the_rest_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = RegistryDouble()
    monkeypatch.setattr(RegistryDouble, "__exit__", lambda *given: None)
    registry.create("cartpole")
    registry.set_alias("cartpole", "champion", registry.create_version("cartpole"))
    monkeypatch.setattr(overview, "Registry", lambda: registry)
    monkeypatch.setattr(live, "recent", fail(GatewaySilent("the gateway at X does not answer")))
    found = page("cartpole")
    assert found.glance.champion == "1"
    assert found.glance.health == Health(None, ("the gateway at X does not answer",))
    problems = {part.problem for part in (found.traffic, found.drift, found.overrides)}
    assert problems == {"the gateway at X does not answer"}
    assert found.releases.value == [RELEASE]
    assert found.canary.problem is None


def test_with_mlflow_down_traffic_drift_and_overrides_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    down = RegistryUnavailable("MLflow at Y did not answer")
    monkeypatch.setattr(overview, "_recent_releases", fail(down))
    monkeypatch.setattr(latest_canary, "recent", fail(down))
    found = page("cartpole")
    problems = {part.problem for part in (found.canary, found.releases, found.checklists, found.glance.last)}
    assert problems == {"MLflow at Y did not answer"}
    assert found.glance.champion == "1"
    assert found.drift.value == (ALARM,)
    assert found.traffic.value is not None
    assert found.traffic.value[0].decisions == 10
    assert found.overrides.value == []


def test_what_nobody_foresaw_spoils_its_own_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_canary, "recent", fail(KeyError("steps")))
    found = page("cartpole")
    assert found.canary.problem == "this cannot be shown, the API server's log says why: KeyError"
    assert found.releases.value == [RELEASE]


def test_latencies_are_of_all_that_the_version_served() -> None:
    counted = counters.Arm()
    for _ in range(99):
        counted.decided(1, 0.0004)
    counted.decided(1, 0.04)
    with tables.connect(settings.database_url()).begin() as connection:
        connection.execute(
            tables.arm_stats.insert().values(
                policy="cartpole",
                generation="",
                version="1",
                arm="champion",
                worker="w",
                stats=counted.to_json(),
                updated_at=0.0,
            )
        )
    (found,) = served("cartpole", route())
    assert found.p50_ms is not None
    assert found.p99_ms is not None
    assert 0.25 <= found.p50_ms <= 0.5 <= found.p99_ms <= 50
    assert (found.mean_return, found.fallbacks, found.faults) == (480.0, 1, 1)


def test_an_arm_that_served_nothing_has_no_latency() -> None:
    quiet = {**route()["arms"]["champion"], "version": None, "episodes_completed": 0}
    (found,) = served("cartpole", route(arms={"champion": quiet}))
    assert (found.p50_ms, found.p99_ms, found.mean_return) == (None, None, None)


def test_the_checklists_are_the_newest_releases_that_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {name: lambda: Finding("pass", "seen") for name in PHASES["pre_deployment"]}
    made, _ = run_all("cartpole", "2", "pre_deployment", checks, lambda name: "enforce", "a test")
    contents = {("older", "checklist/pre_deployment.json"): json.dumps(made.to_json()).encode()}

    class Runs:
        def __enter__(self) -> Runs:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def get(self, run_id: str) -> Any:
            return type("Run", (), {"root": run_id})()

        def read(self, root: str, path: str) -> bytes | None:
            return contents.get((root, path))

    monkeypatch.setattr(overview, "Tracking", Runs)
    past = [PastRelease(name, name, None, "", None, "", 0.0, {}) for name in ("newest", "older")]
    assert checklists(past) == [made]
    assert checklists(past[:1]) == []
