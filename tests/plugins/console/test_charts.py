"""What charts over time are drawn from: the newest rows of one policy, in stretches of time."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from plugins.console import charts
from plugins.console.charts import Chart


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    return tables.connect(settings.database_url())


def outcome(at: float, version: str, value: float, policy: str = "cartpole") -> dict[str, object]:
    outcome.count += 1  # type: ignore[attr-defined]
    return {
        "episode": f"e{outcome.count}",  # type: ignore[attr-defined]
        "policy": policy,
        "generation": "",
        "arm": "champion",
        "version": version,
        "episode_return": value,
        "length": 9,
        "kind": "reported",
        "recorded_at": at,
    }


outcome.count = 0  # type: ignore[attr-defined]


def decision(at: float, milliseconds: float, norm: float) -> dict[str, object]:
    return {
        "at": at,
        "policy": "cartpole",
        "version": "1",
        "arm": "champion",
        "generation": "",
        "episode": "e",
        "step": 0,
        "observation_norm": norm,
        "action": 0,
        "source": "policy",
        "adjusted": [],
        "latency_seconds": milliseconds / 1e3,
    }


def chart(name: str) -> Chart:
    return next(found for found in charts.charts("cartpole") if found.id == name)


def test_of_a_policy_without_rows_nothing_is_drawn() -> None:
    assert charts.charts("cartpole") == []


def test_returns_are_means_of_each_stretch_by_version(database: sa.Engine) -> None:
    rows = [outcome(1000 + n, "1", 100.0) for n in range(60)]
    rows += [outcome(1060 + n, "2", 200.0 + 2 * (n % 2)) for n in range(60)]
    rows += [outcome(1030.0, "9", -1.0, policy="pendulum"), outcome(1000.0, "", 9.0)]
    with database.begin() as connection:
        connection.execute(sa.insert(tables.outcomes), rows)
    found = chart("returns")
    assert len(found.times) == charts.BINS
    assert list(found.times) == sorted(found.times)
    nobody, one, two = found.series
    assert (nobody.name, one.name, two.name) == ("fallback", "version 1", "version 2")
    assert nobody.values[0] == 9.0
    assert {value for value in one.values if value is not None} == {100.0}
    assert one.values[-1] is None
    assert two.values[0] is None
    assert np.nanmean([value for value in two.values if value is not None]) == pytest.approx(201.0)


def test_latency_is_told_by_its_ranks_in_milliseconds(database: sa.Engine) -> None:
    with database.begin() as connection:
        connection.execute(sa.insert(tables.decisions), [decision(1000.0, n, 2.0) for n in range(101)])
    found = chart("latency")
    assert (found.unit, found.times) == ("ms", (1000.0,))
    assert [(line.name, *line.values) for line in found.series] == [
        ("p50", pytest.approx(50.0)),
        ("p99", pytest.approx(99.0)),
    ]
    assert chart("observations").series[0].values == (2.0,)


def test_drift_is_told_in_multiples_of_its_threshold(database: sa.Engine) -> None:
    alerts = [
        {"name": "ACTION_SHIFT", "firing": True, "value": 0.3, "threshold": 0.2, "since": 1.0},
        {"name": "OOD_OBSERVATION", "firing": False, "value": None, "threshold": 0.01, "since": None},
        {"name": "HIGH_LATENCY", "firing": False, "value": 3.0, "threshold": 100.0, "since": None},
    ]
    report = {"policy": "cartpole", "version": "1", "at": 5.0, "verdict": "fail"}
    with database.begin() as connection:
        connection.execute(sa.insert(tables.monitor_reports), [{**report, "report": {"alerts": alerts}}])
    found = chart("drift")
    assert (found.times, found.threshold) == ((5.0,), 1.0)
    assert {line.name: line.values for line in found.series} == {
        "observations": (None,),
        "actions": (pytest.approx(1.5),),
    }


def test_only_the_newest_rows_are_looked_at(database: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "ROWS", 10)
    now = time.time()
    with database.begin() as connection:
        connection.execute(sa.insert(tables.outcomes), [outcome(now + n, "1", float(n)) for n in range(50)])
    values = [value for value in chart("returns").series[0].values if value is not None]
    assert (min(values), max(values)) == (40.0, 49.0)
