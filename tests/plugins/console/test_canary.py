"""The canary as people look at it: while it runs, at its end, and its picture that is drawn only for new rows."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos import settings
from bentos.store import tables
from plugins.console import canary as module
from plugins.console.canary import CanarySeen, Pictures, latest, position
from tasks.canary import evidence
from tasks.errors import Misconfigured
from tasks.reporting import canary_plot
from tests.tasks import fabricated
from tests.tasks.analysis import plans
from tests.tasks.registry_double import RegistryDouble

PLAN = replace(plans.PLAN, version="2", champion="1", generation="2-abc", shadow_requests=200)


class Registry(RegistryDouble):
    """With the artifacts of one run."""

    def __init__(self) -> None:
        super().__init__()
        self.artifacts: dict[str, Any] = {"canary/plan.json": json.loads(PLAN.to_json())}
        self.create(PLAN.policy)
        for _ in range(2):
            self.create_version(PLAN.policy)
        self.set_alias(PLAN.policy, "champion", "1")
        self.set_version_tag(PLAN.policy, "1", "validation_status", "promoted")

    def run(self, weight: float = 0.25, step: int = 1) -> None:
        self.set_version_tag(PLAN.policy, "2", "validation_status", "approved")
        self.set_version_tag(PLAN.policy, "2", "generation", PLAN.generation)
        canary = {
            "generation": PLAN.generation,
            "champion": "1",
            "version": "2",
            "weight": weight,
            "salt": "ab" * 16,
            "step": step,
            "started_at": time.time(),
        }
        self.set_model_tag(PLAN.policy, "canary", json.dumps(canary))

    def __exit__(self, *error: object) -> None:
        pass

    def artifact(self, run_id: str, path: str) -> Any | None:
        return self.artifacts.get(path)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    double = Registry()
    for place in (module, evidence):
        monkeypatch.setattr(place, "Registry", lambda: double)
    return double


def play(count: int, difference: float = 0.0) -> None:
    generator = np.random.default_rng(0)
    with tables.connect(settings.database_url()).begin() as connection:
        for number in range(count):
            arm = ("control", "challenger")[number % 2]
            value = float(generator.uniform(200, 300)) + (difference if arm == "challenger" else 0.0)
            fabricated.unit(connection, PLAN, number, arm, value)


def test_a_policy_without_a_canary_has_none(registry: Registry) -> None:
    assert latest(PLAN.policy) is None
    assert latest("unheard_of") is None


def test_a_running_canary_says_where_it_stands(registry: Registry) -> None:
    registry.run()
    play(30)
    seen = latest(PLAN.policy)
    assert seen is not None
    assert (seen.running, seen.verdict, seen.weight) == (True, "continue", 0.25)
    assert seen.position == "step 2 of 3: 25 % of units to each arm"
    assert seen.judgement["units"] == {"control": 15, "challenger": 15}
    assert seen.results["arms"]["control"]["count"] == 15
    assert {rail["id"] for rail in seen.judgement["guardrails"]} >= {"latency", "non_finite", "lower_tail"}
    assert "has not passed" in seen.reason


def test_a_canary_that_was_ended_from_outside_runs_no_more(registry: Registry) -> None:
    registry.run()
    registry.set_alias(PLAN.policy, "champion", "2")
    seen = latest(PLAN.policy)
    assert seen is not None
    assert not seen.running
    assert "moved by hand" in seen.reason


def test_an_ended_canary_shows_what_it_was_ended_by(registry: Registry) -> None:
    registry.run()
    registry.delete_model_tag(PLAN.policy, "canary")
    registry.set_version_tag(PLAN.policy, "2", "verdict", "roll_back")
    registry.set_version_tag(PLAN.policy, "2", "validation_status", "rolled_back")
    rail = {"id": "latency", "fired": "roll_back", "observed": 80.0, "threshold": 50.0, "unit": "ms", "reason": "slow"}
    registry.artifacts["canary/verdict.json"] = {
        "verdict": "roll_back",
        "reason": "guardrail latency: slow",
        "units": {"control": 3, "challenger": 4},
        "waiting": 0,
        "step": 0,
        "difference": {"estimate": -3.0, "lower": -9.0, "upper": 2.0},
        "guardrails": [rail],
    }
    seen = latest(PLAN.policy)
    assert seen is not None
    assert (seen.running, seen.verdict, seen.position, seen.weight) == (False, "roll_back", "ended", 0.0)
    assert seen.reason == "guardrail latency: slow"
    assert seen.judgement["guardrails"] == [rail]


def test_a_plan_that_is_gone_is_said(registry: Registry) -> None:
    registry.run()
    registry.artifacts.clear()
    with pytest.raises(Misconfigured, match=r"the plan of the canary of cartpole version 2 is gone"):
        latest(PLAN.policy)


def test_a_canary_in_shadow_says_how_far_it_is() -> None:
    assert position(PLAN, -1, 40) == "in shadow, 40 of 200 decisions that nobody acts on went well"


def seen(units: int, verdict: str = "continue") -> CanarySeen:
    counts = {"control": units, "challenger": units}
    running = verdict == "continue"
    return CanarySeen(PLAN, running, verdict, f"after {units}", 0.25, "", {"units": counts}, {})


class Drawing:
    """Counts pictures; each takes a second of a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.drawn = 0.0, 0
        monkeypatch.setattr(canary_plot, "svg", self.draw)
        monkeypatch.setattr(module, "units", lambda plan: None)
        self.pictures = Pictures(clock=lambda: self.now)

    def draw(self, *given: object) -> bytes:
        self.now += 1.0
        self.drawn += 1
        return b"picture %d" % self.drawn


def test_the_same_rows_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(monkeypatch)
    assert {drawing.pictures.svg(seen(5, "promote")) for _ in range(5)} == {b"picture 1"}
    drawing.now += 1_000
    assert drawing.pictures.svg(seen(5, "promote")) == b"picture 1"


def test_a_running_canary_is_not_drawn_for_every_unit_but_soon_and_its_end_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing = Drawing(monkeypatch)
    assert drawing.pictures.svg(seen(5)) == b"picture 1"
    assert drawing.pictures.svg(seen(6)) == b"picture 1"
    drawing.now += module.REST
    assert drawing.pictures.svg(seen(6)) == b"picture 2"
    assert drawing.pictures.svg(seen(6, "promote")) == b"picture 3"


def test_the_next_canary_of_the_policy_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = Drawing(monkeypatch)
    drawing.pictures.svg(seen(5))
    assert drawing.pictures.svg(replace(seen(1), plan=replace(PLAN, generation="3-def"))) == b"picture 2"


def test_the_picture_is_the_canarys(registry: Registry) -> None:
    registry.run()
    play(20)
    found = latest(PLAN.policy)
    assert found is not None
    picture = Pictures().svg(found)
    assert picture.lstrip().startswith(b"<?xml")
    assert b"cartpole version 2, against version 1" in picture
    assert "−25: promote".encode() in picture
