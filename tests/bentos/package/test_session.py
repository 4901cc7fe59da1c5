"""One observation at a time goes through memory that is bound once: nothing of one call is seen in another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bentos.package.loader import load
from bentos.package.manifest import Space
from bentos.package.session import Policy
from tests.bentos.policy_packages import box_graph, write_package

PAIR = Space("Box", shape=(2,), low=(-9.0, -9.0), high=(9.0, 9.0))


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    graph = box_graph([[1, 0], [0, 1], [0, 0], [0, 0]], [0, 0])  # the action is the observation's first two numbers
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    write_package(tmp_path, graph=graph, action_space=PAIR)
    return load(tmp_path)


def test_an_action_is_the_callers_to_keep(policy: Policy) -> None:
    kept = [policy.predict(np.full(4, number, np.float32)) for number in range(3)]
    assert [action.tolist() for action in kept] == [[0, 0], [1, 1], [2, 2]]
    kept[0][:] = 7
    assert policy.predict(np.zeros(4, np.float32)).tolist() == [0, 0]


def test_threads_get_the_answers_to_their_own_observations(policy: Policy) -> None:
    observations = np.random.default_rng(0).normal(size=(16, 300, 4)).astype(np.float32)

    def ask(rows: Any) -> Any:
        return np.stack([policy.predict(row) for row in rows])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, observations))
    np.testing.assert_array_equal(np.stack(answers), observations[:, :, :2])


def test_an_observation_that_is_not_finite_leaves_no_trace(policy: Policy) -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        policy.predict(np.array([1, np.nan, 0, 0], np.float32))
    assert policy.predict(np.ones(4, np.float32)).tolist() == [1, 1]
