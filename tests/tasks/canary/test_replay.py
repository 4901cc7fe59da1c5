"""`airlock analyze`: recorded canaries through the primary test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.canary.replay import ReplayError, replay


def line(shift: float = 0.0, units: int = 1600, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A canary of Beta(4, 2) returns on [0, 500]; the challenger's are `shift` standard deviations off."""
    generator = np.random.default_rng(seed)
    challenger = generator.random(units) < 0.5
    returns = (500 * (generator.beta(4, 2, units) + 0.178 * shift * challenger)).clip(0, 500)
    return {
        "id": f"canary {seed}",
        "arm": ["challenger" if arm else "control" for arm in challenger],
        "return": returns.tolist(),
        "return_range": [0, 500],
        "margin": 9.0,
        "alpha": 0.05,
        "max_units_per_arm": 2000,
        **changes,
    }


def run(tmp_path: Path, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    path = tmp_path / "canaries.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    return list(replay(path))


def test_a_worse_challenger_is_rolled_back_and_a_much_better_one_promoted(tmp_path: Path) -> None:
    worse, better = run(tmp_path, line(-1.0, seed=1), line(0.8, seed=2, objective="superiority"))
    assert worse.keys() == {"id", "verdict", "units", "difference", "reason"}
    assert (worse["id"], worse["verdict"], better["verdict"]) == ("canary 1", "roll_back", "promote")
    assert worse["difference"]["upper"] <= 0
    assert better["difference"]["lower"] >= 0
    assert worse["difference"]["lower"] < worse["difference"]["estimate"] < worse["difference"]["upper"]
    assert sum(worse["units"].values()) < 150


def test_the_objective_is_non_inferiority_unless_the_line_says_otherwise(tmp_path: Path) -> None:
    equal = line(0.0, units=4000, margin=40.0)
    assert [found["verdict"] for found in run(tmp_path, equal, {**equal, "objective": "superiority"})] == [
        "promote",
        "inconclusive",
    ]


def test_a_line_that_ends_before_a_verdict_is_inconclusive(tmp_path: Path) -> None:
    ended, spent, empty = run(
        tmp_path,
        line(0.0, units=30),
        line(0.0, units=300, max_units_per_arm=20),
        line(0.0, units=0),
    )
    assert (ended["verdict"], sum(ended["units"].values())) == ("inconclusive", 30)
    assert (spent["verdict"], max(spent["units"].values())) == ("inconclusive", 20)
    assert "budget" in spent["reason"]
    assert empty["difference"] == {"estimate": None, "lower": -500.0, "upper": 500.0}


def test_units_after_the_budget_are_not_looked_at(tmp_path: Path) -> None:
    found, alone = run(
        tmp_path, line(-1.0, units=600, max_units_per_arm=10), line(-1.0, units=600, max_units_per_arm=600)
    )
    assert (found["verdict"], alone["verdict"]) == ("inconclusive", "roll_back")


def test_without_a_range_the_verdict_is_named_asymptotic(tmp_path: Path) -> None:
    (found,) = run(tmp_path, line(-1.0, return_range=None))
    assert found["verdict"] == "roll_back"
    assert "asymptotic" in found["reason"]
    (early,) = run(tmp_path, line(-1.0, units=10, return_range=None))
    assert early["difference"]["lower"] is None


def test_a_covariate_is_adjusted_for_where_it_is_known(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    covariate = generator.normal(0, 1, 3000)
    plain = line(-0.3, units=3000, seed=3)
    returns = (np.array(plain["return"]) / 5 + 200 + 60 * covariate).clip(0, 500).tolist()
    known = [None if place % 10 == 0 else value for place, value in enumerate(covariate.tolist())]
    for bounds in ([0, 500], None):
        without = {**plain, "return": returns, "return_range": bounds, "margin": 2.0, "max_units_per_arm": 1500}
        alone, adjusted = run(tmp_path, without, {**without, "covariate": known})
        assert adjusted["verdict"] == "roll_back"
        assert sum(adjusted["units"].values()) < 0.7 * sum(alone["units"].values())


def test_a_label_of_the_callers_own_is_ignored(tmp_path: Path) -> None:
    assert run(tmp_path, line(units=5, world="beta"))[0]["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"return": [501.0, 3.0], "arm": ["control", "challenger"]}, "return 501 of unit 1 lies outside"),
        ({"return": [3.0, -0.5], "arm": ["control", "challenger"]}, r"return -0.5 of unit 2 lies outside return_range"),
        ({"return": [3.0], "arm": ["control", "challenger"]}, "2 entries in arm and 1 in return"),
        ({"return": [3.0], "arm": ["champion"]}, "not a canary"),
        ({"covariate": [1.0]}, "1 entries in covariate and 4 in return"),
        ({"return_range": [5, 5]}, "low < high"),
        ({"alpha": 1.5}, "not a canary"),
        ({"max_units_per_arm": 0}, "not a canary"),
    ],
)
def test_a_line_that_cannot_be_replayed_is_named(tmp_path: Path, broken: dict[str, Any], words: str) -> None:
    with pytest.raises(ReplayError, match=rf"canaries\.jsonl, line 2: .*{words}"):
        run(tmp_path, line(units=4), line(units=4, **broken))


def test_what_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "canaries.jsonl"
    path.write_text(json.dumps(line(units=4)) + "\n\nnonsense\n")
    verdicts = replay(path)
    next(verdicts)
    with pytest.raises(ReplayError, match="line 3: not a canary"):
        next(verdicts)
