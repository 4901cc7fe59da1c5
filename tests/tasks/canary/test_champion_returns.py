"""Where a plan's numbers come from: production, the evaluation, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.canary import champion_returns
from tasks.canary.champion_returns import from_file, of_champion, stored, traffic
from tasks.errors import Misconfigured
from tests.tasks.registry_double import RegistryDouble

NOW = 1_700_000_000.0


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))


def play(version: str, returns: list[float], at: float = NOW - 3600, apart: float = 0.0) -> None:
    rows = [
        {
            "episode": f"{version}-{at}-{number}",
            "policy": "cartpole",
            "generation": "",
            "arm": "champion",
            "version": version,
            "episode_return": value,
            "length": 1,
            "kind": "reported",
            "recorded_at": at + number * apart,
        }
        for number, value in enumerate(returns)
    ]
    with tables.connect(settings.database_url()).begin() as connection:
        connection.execute(sa.insert(tables.outcomes), rows)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> RegistryDouble:
    class Double(RegistryDouble):
        evaluation: Any = None

        def artifact(self, run_id: str, path: str) -> Any:
            return self.evaluation if path == "evaluation/evaluation.json" else None

        def __exit__(self, *_: Any) -> None:
            pass

    double = Double()
    double.create("cartpole")
    monkeypatch.setattr(champion_returns, "Registry", lambda: double)
    return double


def test_episodes_in_production_come_before_the_evaluation(registry: Any) -> None:
    registry.create_version("cartpole")
    registry.set_alias("cartpole", "champion", "1")
    registry.evaluation = {"returns": [400.0, 500.0]}
    play("1", [1.0] * 49)
    assert of_champion("cartpole").values == [400.0, 500.0]
    assert "2 evaluation episodes of champion version 1" in of_champion("cartpole").source
    play("1", [2.0], at=NOW)
    play("2", [9.0] * 60)
    found = of_champion("cartpole")
    assert found.values == [1.0] * 49 + [2.0]
    assert "last 50 episodes of champion version 1 in production" in found.source


def test_without_a_champion_or_its_returns_the_error_says_what_to_do(registry: Any) -> None:
    with pytest.raises(Misconfigured, match=r"no champion .* --returns FILE"):
        of_champion("unheard_of")
    registry.create_version("cartpole")
    with pytest.raises(Misconfigured, match="release it first, or give --returns FILE"):
        of_champion("cartpole")
    registry.set_alias("cartpole", "champion", "1")
    with pytest.raises(Misconfigured, match=r"0 stored episodes .* no evaluation/evaluation.json: give --returns FILE"):
        of_champion("cartpole")


def test_only_the_latest_returns_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champion_returns, "LATEST", 3)
    play("1", [1.0, 2.0, 3.0, 4.0])
    assert stored("cartpole", "1") == [2.0, 3.0, 4.0]


def test_traffic_is_measured_over_the_last_day() -> None:
    assert traffic("cartpole", NOW).units_per_hour is None
    play("1", [1.0] * 30, at=NOW - 3 * 86_400)
    assert traffic("cartpole", NOW).units_per_hour is None
    play("1", [1.0] * 100, at=NOW - 7200, apart=60.0)
    play("2", [1.0] * 20, at=NOW - 3600)
    found = traffic("cartpole", NOW)
    assert found.units_per_hour == pytest.approx(60.0)
    assert "120 episodes in the last 2 hours" in found.source


@pytest.mark.parametrize(
    "text", ["[1, 2.5, -3e2]", "1\n2.5\n-3e2\n", "1, 2.5; -3e2", "  [1,\n2.5, -300]\n"], ids=range(4)
)
def test_a_file_may_hold_an_array_or_numbers(tmp_path: Path, text: str) -> None:
    file = tmp_path / "returns.txt"
    file.write_text(text)
    assert from_file(file).values == [1.0, 2.5, -300.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n2\nthree", "line 3: expected numbers, came 'three'"),
        ('[1, "2"]', "expected a JSON array of numbers, came '2'"),
        ("[1, 2", "begins as a JSON array but is none"),
        ("[true]", "came True"),
    ],
)
def test_what_is_not_a_number_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "returns.txt"
    file.write_text(text)
    with pytest.raises(Misconfigured, match=said):
        from_file(file)
    with pytest.raises(Misconfigured, match="cannot be read"):
        from_file(tmp_path / "nothing")
