"""Cases: every row a proof draws is one that the policy's environment could show, however odd its space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tasks.build.export.cases import cases, drawn
from tasks.build.export.families import exporter_for
from tests.tasks.agents import agent

WIDEST = float(np.finfo(np.float64).max)
LONGEST = np.iinfo(np.int64)
ODD: dict[str, spaces.Space[Any]] = {
    "the widest bounds of float64": spaces.Box(-WIDEST, WIDEST, (4,), np.float64),
    "the widest bounds of int64": spaces.Box(LONGEST.min, LONGEST.max, (4,), np.int64),
    "half precision without bounds": spaces.Box(-np.inf, np.inf, (4,), np.float16),
    "bounds that are far from 0 and near each other": spaces.Box(1e6, 1e6 + 5, (4,), np.float32),
    "one bound": spaces.Box(0.0, np.inf, (4,), np.float32),
    "a dimension that never changes": spaces.Box(np.array([0, 1], np.float32), np.array([0, 3], np.float32)),
    "negative whole numbers": spaces.Box(-9, -3, (4,), np.int16),
    "one category": spaces.Discrete(1),
    "one category among others": spaces.MultiDiscrete([3, 1]),
    "flags in two dimensions": spaces.MultiBinary([2, 3]),
}


@pytest.mark.parametrize("name", ODD)
def test_all_rows_are_of_the_space(name: str) -> None:
    space = ODD[name]
    found = cases(space, (), rows=600)
    for given in (found.usual, *found.edges.values()):
        observations = given["observation"]
        assert observations.dtype == space.dtype
        assert np.isfinite(observations).all()
        rows = observations if space.shape else [np.int64(row) for row in observations]
        assert all(space.contains(row) for row in rows)


def test_rows_between_far_bounds_differ() -> None:
    rows = drawn(ODD["bounds that are far from 0 and near each other"], 100)["observation"]
    assert (np.ptp(rows, axis=0) > 4).all()


@pytest.mark.parametrize("name", ["the widest bounds of float64", "the widest bounds of int64"])
def test_a_graph_can_be_traced_within_the_widest_bounds(name: str) -> None:
    exporter = exporter_for(agent("ppo", spaces.Discrete(3), ODD[name]))
    (observation,) = exporter.dummy(3)
    assert observation.shape == (3, 4)
    assert bool(observation.isfinite().all())


@pytest.mark.parametrize("space", [spaces.Box(0, 255, (6, 6, 3), np.uint8), spaces.Box(-1, 1, (3,), np.float32)])
def test_few_steps_are_not_shown_again_and_again(space: spaces.Space[Any]) -> None:
    seen = {"observation": np.stack([space.sample() for _ in range(8)])}
    found = cases(space, (), on_policy=seen, rows=100)
    assert len(np.unique(found.usual["observation"], axis=0)) == 100
    assert found.source == "on-policy, 92 of them perturbed"
