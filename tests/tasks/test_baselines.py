"""Baselines count what the policy saw and did."""

from __future__ import annotations

import numpy as np

from bentos import package
from tasks.baselines import baselines


def test_baselines_count_what_the_policy_saw_and_did() -> None:
    given = {"observation": np.array([[0.0, 2.0], [2.0, 4.0]], np.float32)}
    returns = np.array([1.0, 3.0])
    discrete = baselines(package.Space("Discrete", "int64", n=3), given, np.array([2, 2]), returns)
    assert discrete["observations"] == {
        "mean": [1.0, 3.0],
        "std": [1.0, 1.0],
        "min": [0.0, 2.0],
        "max": [2.0, 4.0],
        "count": 2,
        "source": "on-policy",
    }
    assert discrete["actions"] == {"kind": "discrete", "counts": [0, 0, 2]}
    assert discrete["returns"]["mean"] == 2.0
    box = package.Space("Box", "float32", (1,), (-2.0,), (2.0,))
    continuous = baselines(box, given, np.array([[-2.0], [2.0]]), returns)["actions"]
    assert (continuous["edges"][0][0], continuous["edges"][0][-1]) == (-2.0, 2.0)
    assert (continuous["counts"][0][0], continuous["counts"][0][-1], sum(continuous["counts"][0])) == (1, 1, 2)


def test_drawn_rows_are_no_baseline() -> None:
    given = {"observation": np.zeros((2, 2), np.float32)}
    found = baselines(package.Space("Discrete", "int64", n=3), given, np.array([2, 2]), np.array([]))
    assert found == {"observations": {"source": "drawn"}, "actions": {}, "returns": {"count": 0}}
