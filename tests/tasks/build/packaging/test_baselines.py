"""The baseline a package carries: what cells hold, what rows are worth, and that nothing older is lost."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from bentos import package
from bentos.rows import Rows
from bentos.telemetry.drift import Drift
from bentos.telemetry.histogram import Column
from bentos.tokens import Episode
from tasks.build.packaging.baselines import CELLS, MAX_COLUMNS, baselines, cells, effective_rows
from tests.bentos.policy_packages import write_package

DISCRETE = package.Space("Discrete", "int64", n=3)
BOX = package.Space("Box", "float32", (2,), (-1.0, None), (1.0, None))


def test_cells_hold_about_as_many_rows_each() -> None:
    values = np.random.default_rng(0).normal(size=6400)
    edges, counts = cells(values)
    assert sum(counts) == 6400
    assert CELLS - 2 <= len(counts) <= CELLS
    assert max(counts) <= 101
    np.testing.assert_array_equal(np.histogram(values, [-np.inf, *edges, np.inf])[0], counts)


def test_a_value_that_fills_a_cell_stands_alone() -> None:
    values = np.concatenate([np.full(500, 1.0), np.linspace(0, 1, 500, endpoint=False), np.full(300, 2.0)])
    edges, counts = cells(values)
    for atom, number in ((1.0, 500), (2.0, 300)):
        place = edges.index(atom)
        assert counts[place + 1] == number
        assert edges[place + 1] == np.nextafter(atom, np.inf)
    assert counts[-1] == 0, "and what comes beyond is nothing yet"
    Column("0", tuple(edges), tuple(counts))


@pytest.mark.parametrize("values", [np.zeros(100), np.array([1.0]), np.array([1.0, 2.0]), np.arange(10.0).repeat(50)])
def test_cells_of_few_values_make_a_column(values: np.ndarray) -> None:
    edges, counts = cells(values)
    assert sum(Column("0", tuple(edges), tuple(counts)).counts) == len(values)


def test_rows_are_worth_their_number_when_independent_and_their_episodes_when_not() -> None:
    generator = np.random.default_rng(1)
    worth = {"independent": [], "whole episodes": []}  # type: dict[str, list[float]]
    index = np.repeat(np.arange(50), 80)
    for _ in range(40):
        worth["independent"].append(effective_rows(generator.normal(size=(4000, 1)), index))
        worth["whole episodes"].append(effective_rows(generator.normal(size=(50, 1)).repeat(80, axis=0), index))
    assert 2500 <= np.median(worth["independent"]) <= 4000
    assert 35 <= np.median(worth["whole episodes"]) <= 70


def test_the_order_of_the_rows_tells_episodes_apart_where_nobody_does() -> None:
    generator = np.random.default_rng(2)
    features = generator.normal(size=(50, 1)).repeat(80, axis=0)
    assert effective_rows(features) <= 120
    assert effective_rows(np.zeros((500, 2))) == 500
    assert effective_rows(np.zeros((1, 2))) == 1


def test_observations_actions_and_returns_are_summed_up() -> None:
    observations = np.array([[0.0, 2.0], [2.0, 4.0]], np.float32)
    returns = np.array([1.0, 3.0])
    found = baselines(DISCRETE, {"observation": observations}, np.array([2, 2]), returns)
    assert found["returns"] == {"mean": 2.0, "std": pytest.approx(2**0.5), "count": 2}
    known = {"mean": [1.0, 3.0], "std": [1.0, 1.0], "min": [0.0, 2.0], "max": [2.0, 4.0], "count": 2}
    assert found["observations"] | known | {"source": "on-policy"} == found["observations"]
    assert [column["counts"] for column in found["observations"]["columns"]] == [[2], [2]]
    assert (found["actions"]["kind"], found["actions"]["counts"]) == ("discrete", [0, 0, 2])
    actions = baselines(BOX, {"observation": observations}, np.array([[-1.0, 5.0], [1.0, 7.0]]), returns)["actions"]
    assert [(edges[0], edges[-1]) for edges in actions["edges"]] == [(-1.0, 1.0), (5.0, 7.0)], "unbounded: as seen"
    assert [(column[0], column[-1], sum(column)) for column in actions["counts"]] == [(1, 1, 2), (1, 1, 2)]
    several = package.Space("MultiDiscrete", "int64", (2,), nvec=(3, 4))
    actions = baselines(several, {"observation": observations}, np.array([[0, 3], [2, 0]]), returns)["actions"]
    assert actions["counts"] == [[1, 0, 1], [1, 0, 0, 1]], "a bin a value"


def test_drawn_rows_are_no_baseline() -> None:
    given = {"observation": np.zeros((2, 2), np.float32)}
    found = baselines(DISCRETE, given, np.array([2, 2]), np.array([]))
    assert found == {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}


def test_columns_name_the_graphs_inputs_and_many_dimensions_are_thinned_evenly() -> None:
    generator = np.random.default_rng(4)
    both = {
        "observation.camera": generator.integers(0, 255, (50, 20, 10)),
        "observation.speed": generator.normal(size=(50, 1)),
    }
    found = baselines(DISCRETE, both, generator.integers(0, 3, 50), np.ones(5))["observations"]
    places = [(column["input"], column["index"]) for column in found["columns"]]
    assert len(places) == MAX_COLUMNS
    assert places[0] == ("observation.camera", 0)
    assert places[-1] == ("observation.speed", 0)
    assert len(found["mean"]) == 201


class CartPoles:
    """Users who play CartPole side by side with a linear policy; `length` is half the pole's, in metres."""

    def __init__(self, users: int, seed: int, length: float = 0.5) -> None:
        self._poles = [gymnasium.make("CartPole-v1") for _ in range(users)]
        self._seed = seed
        for pole in self._poles:
            pole.unwrapped.length = length  # type: ignore[attr-defined]
            pole.unwrapped.polemass_length = 0.1 * length  # type: ignore[attr-defined]
        self._observed = [self._begin(pole) for pole in self._poles]
        self.episodes = list(range(users))

    def step(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Observations, actions and episodes of one step of every user."""
        seen, named = np.array(self._observed, np.float32), list(self.episodes)
        actions = (seen @ np.array([0.1, 0.5, 4.0, 1.0]) > 0).astype(np.int64)
        for place, pole in enumerate(self._poles):
            self._observed[place], _, terminated, truncated, _ = pole.step(int(actions[place]))
            if terminated or truncated:
                self._observed[place] = self._begin(pole)
                self.episodes[place] = max(self.episodes) + 1
        return seen, actions, named

    def _begin(self, pole: gymnasium.Env) -> np.ndarray:
        self._seed += 1
        return pole.reset(seed=self._seed)[0]


def test_users_in_real_episodes_raise_no_alarm_and_a_heavier_pole_does(tmp_path: Path) -> None:
    evaluated = CartPoles(40, seed=0)
    steps = [evaluated.step() for _ in range(500)]
    observations, actions = (np.array([step[k] for step in steps]).swapaxes(0, 1) for k in (0, 1))
    index = np.repeat(np.arange(40), 500)
    space = package.Space("Discrete", "int64", n=2)
    made = baselines(
        space, {"observation": observations.reshape(-1, 4)}, actions.reshape(-1), np.full(40, 500.0), index
    )
    assert 20 <= made["observations"]["effective"] <= 400
    write_package(tmp_path, baselines=made)

    def alarmed(length: float, looks: int) -> bool:
        users, drift = CartPoles(12, seed=1000, length=length), Drift(package.read_manifest(tmp_path))
        found = 0.0
        for _ in range(looks):
            for _ in range(20):
                seen, chosen, named = users.step()
                episodes: list[Episode | None] = [Episode("p", "1", "champion", "", str(k), "", 0.0) for k in named]
                drift.sample(Rows(feeds={"observation": seen}, size=len(seen), episodes=episodes), chosen)
            found = max(found, *(r.value for r in drift.readings() if r.statistic == "sequential"))
        return found >= 1

    assert not alarmed(0.5, looks=150)
    assert alarmed(1.5, looks=150)
