"""`airlock results`: the numbers of the A/B test."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos import settings
from bentos.store import tables
from tasks.analysis.sequential.decision import Bounds
from tasks.canary import results as module
from tasks.canary.results import improvement, results, summary, winner
from tasks.errors import Misconfigured
from tasks.tracking.registry import Version
from tests.tasks import fabricated
from tests.tasks.analysis import plans
from tests.tasks.registry_double import RegistryDouble

PLAN = replace(plans.PLAN, version="2", champion="1", generation="2-abc", steps=(0.5,), objective="superiority")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))


def play(control: list[float], challenger: list[float]) -> None:
    """Store finished units, the arms taking turns, and one that still runs."""
    pairs: list[tuple[str, float | None]] = []
    for place, value in enumerate(challenger):
        pairs += [("control", control[place])] if control else []
        pairs.append(("challenger", value))
    with tables.connect(settings.database_url()).begin() as connection:
        for number, (arm, value) in enumerate([*pairs, ("challenger", None)]):
            fabricated.unit(connection, PLAN, number, arm, value)


def version(**tags: str) -> Version:
    return Version("2", "run", {"validation_status": "approved", "generation": PLAN.generation, **tags})


def test_a_running_test_reports_both_arms_and_nobody_as_winner() -> None:
    play([10.0, 20.0], [20.0, 40.0])
    found = summary(PLAN, version())
    assert found["status"] == "running"
    assert found["arms"]["control"] == {
        "count": 2,
        "mean": 15.0,
        "standard_deviation": pytest.approx(math.sqrt(50)),
        "total": 30.0,
        "abandoned": 0,
    }
    assert found["arms"]["challenger"]["mean"] == 30.0
    assert found["difference"]["estimate"] == 15.0
    assert found["difference"]["lower"] < 0 < found["difference"]["upper"]
    assert found["winner"] == "none"
    assert found["improvement"]["estimate"] == 100.0
    assert found["improvement"]["lower"] == pytest.approx(100 * found["difference"]["lower"] / 15)


def test_an_ended_test_shows_what_its_verdict_was_read_from() -> None:
    generator = np.random.default_rng(0)
    play(generator.uniform(180, 220, 150).tolist(), generator.uniform(380, 420, 150).tolist())
    found = summary(PLAN, version(verdict="promote", validation_status="promoted", reason="better"))
    assert (found["status"], found["verdict"], found["winner"]) == ("ended", "promote", "challenger")
    assert found["difference"]["lower"] >= 0
    assert found["arms"]["control"]["count"] < 150, "units after the verdict are not in it"


def test_a_first_release_has_no_control_and_no_winner() -> None:
    play([], [])
    found = summary(replace(PLAN, champion=None), version())
    assert (found["winner"], found["difference"], found["improvement"]) == ("none", None, None)
    assert found["arms"].keys() == {"challenger"}
    assert found["against_minimum"]["minimum"] == 400.0


@pytest.mark.parametrize(
    ("lower", "upper", "won"),
    [(1.0, 3.0, "challenger"), (-3.0, -1.0, "champion"), (-1.0, 1.0, "none"), (0.0, 1.0, "none"), (None, None, "none")],
)
def test_nobody_has_won_unless_a_bound_excludes_zero(lower: float | None, upper: float | None, won: str) -> None:
    assert winner(Bounds(0.5, lower, upper, "test")) == won


def test_improvement_is_in_percent_of_the_size_of_the_control_mean() -> None:
    difference = Bounds(20.0, -10.0, None, "test")
    assert improvement(difference, -200.0) == {"estimate": 10.0, "lower": -5.0, "upper": None}
    assert improvement(difference, 0.0) is None
    assert improvement(difference, None) is None


def test_the_last_canary_of_the_policy_is_found_with_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stored(RegistryDouble):
        def artifact(self, run_id: str, path: str) -> Any | None:
            return json.loads(PLAN.to_json()) if path == "canary/plan.json" else None

        def __exit__(self, *_: Any) -> None:
            pass

    registry = Stored()
    monkeypatch.setattr(module, "Registry", lambda: registry)
    with pytest.raises(Misconfigured, match="no A/B test yet"):
        results("cartpole")
    registry.create("cartpole")
    registry.create_version("cartpole")
    with pytest.raises(Misconfigured, match="no A/B test yet"):
        results("cartpole")
    registry.create_version("cartpole")
    registry.create_version("cartpole")
    registry.set_version_tag("cartpole", "2", "generation", PLAN.generation)
    registry.set_version_tag("cartpole", "2", "validation_status", "approved")
    found = results("cartpole")
    assert (found["version"], found["generation"], found["status"]) == ("2", PLAN.generation, "running")
