"""`airlock store prune`: what ended long ago goes; what a verdict or a baseline may need stays."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa

from bentos.store import tables
from tasks.canary import pruning
from tasks.canary.pruning import DAY, prune
from tasks.errors import Misconfigured
from tasks.tracking.client import RegistryUnavailable
from tests.bentos.store_rows import outcome, start
from tests.tasks.registry_double import RegistryDouble

NOW = 1000 * DAY
OLD, YOUNG = NOW - 200 * DAY, NOW - 10 * DAY


class Shared(RegistryDouble):
    """One registry, however often it is opened."""

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Shared:
    """Policy p: versions 1 to 4 each had a canary `g<version>`; 3 is champion, 2 previous, 4 is being tried."""
    double = Shared()
    double.create("p")
    for version in range(1, 5):
        double.set_version_tag("p", double.create_version("p"), "generation", f"g{version}")
    double.set_alias("p", "champion", "3")
    double.set_alias("p", "previous", "2")
    canary = {"generation": "g4", "champion": "3", "version": "4", "weight": 0.5, "salt": "00", "started_at": OLD}
    double.set_model_tag("p", "canary", json.dumps(canary))
    monkeypatch.setattr(pruning, "Registry", lambda: double)
    return double


@pytest.fixture
def engine(database: str, registry: Shared, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    """A store in which everything is old, but for the canary `young`; of each canary three outcomes, of one none."""
    monkeypatch.setenv("AIRLOCK_DATABASE_URL", database)
    monkeypatch.setattr(pruning, "BATCH", 2)
    engine = tables.connect(database)
    with engine.begin() as connection:
        for generation, at in (("g1", OLD), ("g0", OLD), ("young", YOUNG), ("g2", OLD), ("g3", OLD), ("g4", OLD)):
            versions = {"generation": generation, "version": "0"}
            names = [f"{generation}-{number}" for number in range(3)]
            connection.execute(tables.episodes.insert(), [start(name, at, **versions) for name in names])
            if generation != "g0":
                ended = [outcome(name, recorded_at=at + 1, **versions) for name in names]
                connection.execute(tables.outcomes.insert(), ended)
            connection.execute(tables.arm_stats.insert(), [counters(generation, "0", at)])
    return engine


def counters(generation: str, version: str, at: float) -> dict[str, Any]:
    """What a worker counted of an arm."""
    row = {"policy": "p", "generation": generation, "version": version, "arm": "control", "worker": "w"}
    return {**row, "stats": {}, "updated_at": at}


def outside(engine: sa.Engine, version: str, ages: list[float]) -> None:
    """Outcomes of traffic outside any experiment."""
    with engine.begin() as connection:
        rows = [
            outcome(f"{version}-{number}", generation="", version=version, arm="champion", recorded_at=at)
            for number, at in enumerate(ages)
        ]
        connection.execute(tables.outcomes.insert(), rows)


def left(engine: sa.Engine, column: sa.Column[Any]) -> Counter[Any]:
    """How many rows there are of each value."""
    with engine.connect() as connection:
        return Counter(connection.execute(sa.select(column)).scalars())


def test_canaries_that_ended_long_ago_go_as_a_whole(engine: sa.Engine) -> None:
    (told,) = prune(100, dry_run=True, now=NOW)
    assert (told.canaries, told.rows) == (2, {"episodes": 6, "outcomes": 3, "arm_stats": 2})
    assert len(left(engine, tables.episodes.c.generation)) == 6, "a dry run deletes nothing"
    (done,) = prune(100, now=NOW)
    assert done == told
    stayed = {"young", "g2", "g3", "g4"}
    assert left(engine, tables.episodes.c.generation) == dict.fromkeys(stayed, 3)
    assert left(engine, tables.outcomes.c.generation) == dict.fromkeys(stayed, 3)
    assert left(engine, tables.arm_stats.c.generation) == dict.fromkeys(stayed, 1)
    (again,) = prune(100, now=NOW)
    assert (again.canaries, again.rows) == (0, {})


def test_of_other_traffic_the_latest_of_champion_and_previous_stay_however_old(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LATEST", 3)
    outside(engine, "1", [OLD] * 5 + [YOUNG])
    outside(engine, "2", [OLD] * 5)
    outside(engine, "3", [OLD] * 2)
    (done,) = prune(100, now=NOW)
    assert done.rows["outcomes"] == 3 + 5 + 2
    kept = left(engine, tables.outcomes.c.episode)
    assert {name for name in kept if name[0].isdigit()} == {"1-5", "2-2", "2-3", "2-4", "3-0", "3-1"}


def test_a_canary_in_whose_control_arm_the_champion_is_measured_stays(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        control = outcome("control", generation="g1", version="3", recorded_at=OLD)
        connection.execute(tables.outcomes.insert(), [control])
    prune(100, now=NOW)
    assert left(engine, tables.outcomes.c.generation)["g1"] == 4


def test_what_the_log_still_holds_keeps_its_outcomes(engine: sa.Engine) -> None:
    decision = {"policy": "p", "arm": "control", "generation": "g1", "episode": "g1-0", "step": 0, "action": 0}
    rest = {"observation_norm": 0.0, "source": "policy", "adjusted": [], "latency_seconds": 0.0}
    with engine.begin() as connection:
        connection.execute(tables.decisions.insert(), [{**decision, **rest, "at": OLD - 1}])
    (done,) = prune(100, now=NOW)
    assert (done.canaries, done.rows) == (0, {})


def test_counters_and_reports_of_versions_that_are_gone_go_but_never_the_last_report(engine: sa.Engine) -> None:
    report = {"policy": "p", "version": "3", "verdict": "pass", "report": {}}
    with engine.begin() as connection:
        connection.execute(tables.arm_stats.insert(), [counters("", version, OLD) for version in ("1", "3")])
        connection.execute(tables.monitor_reports.insert(), [{**report, "at": OLD + number} for number in range(5)])
    (done,) = prune(100, now=NOW)
    assert (done.rows["arm_stats"], done.rows["monitor_reports"]) == (2 + 1, 4)
    assert left(engine, tables.monitor_reports.c.at) == {OLD + 4: 1}
    assert left(engine, tables.arm_stats.c.version)["3"] == 1


def test_nothing_goes_while_nobody_can_say_what_is_needed(
    engine: sa.Engine, registry: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_policy: str) -> None:
        raise RegistryUnavailable("MLflow does not answer")

    with pytest.raises(Misconfigured, match="at least 1 day"):
        prune(0.5, now=NOW)
    registry.create("q")
    (unknown,) = prune(100, "nobody", now=NOW)
    assert "does not know it" in str(unknown.skipped)
    monkeypatch.setattr(registry, "model", silent)
    with pytest.raises(RegistryUnavailable):
        prune(100, now=NOW)
    assert sum(left(engine, tables.outcomes.c.generation).values()) == 15
