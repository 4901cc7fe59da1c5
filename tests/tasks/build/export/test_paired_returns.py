"""Paired returns: the same policy earns the same, another one does not, and what chaos does is told apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.build.export.paired_returns import acts_alike, paired_returns
from tasks.build.training.rollout import play
from tasks.inputs import Inputs, Outputs
from tasks.spec.sections import Environment

CARTPOLE, PENDULUM = Environment(id="CartPole-v1"), Environment(id="Pendulum-v1")
SEEDS = range(16)


def _lean(given: Inputs) -> Outputs:
    return {"action": (given["observation"] @ np.array([0.1, 0.5, 3.0, 1.0], np.float32) > 0).astype(np.int64)}


def _swing(given: Inputs, error: float = 0.0) -> Outputs:
    action = np.clip(2 * np.tanh(given["observation"][:, 1:2] * 3 + given["observation"][:, 2:3]), -2, 2)
    return {"action": (action + error).astype(np.float32)}


def test_the_same_discrete_policy_earns_exactly_the_same() -> None:
    found = paired_returns(CARTPOLE, _lean, _lean, (), SEEDS)
    assert found["episodes"] == 16
    assert found["original"] == found["exported"] > 0
    assert (found["largest_difference"], found["equal"], found["actions"]["agreement"]) == (0.0, True, 1.0)
    assert acts_alike(found)


def test_one_other_action_in_a_hundred_shows() -> None:
    def nearly(given: Inputs) -> Outputs:
        action = _lean(given)["action"]
        return {"action": np.where(np.abs(given["observation"][:, 0]) > 0.04, 1 - action, action)}

    found = paired_returns(CARTPOLE, _lean, nearly, (), SEEDS)
    assert not found["equal"]
    assert found["actions"]["agreement"] < 1.0
    assert not acts_alike(found)


@pytest.mark.parametrize(("error", "alike"), [(1e-6, True), (0.2, False)])
def test_continuous_actions_may_differ_by_rounding_alone(error: float, alike: bool) -> None:
    found = paired_returns(PENDULUM, _swing, lambda given: _swing(given, error), (), SEEDS)
    assert found["largest_difference"] > 0
    assert found["actions"]["max_error"] == pytest.approx(error / 4, rel=0.2)
    assert acts_alike(found) is alike


def test_a_tie_is_no_other_action() -> None:
    def scored(given: Inputs, threshold: float = 0.0) -> Outputs:
        right = given["observation"].astype(np.float64) @ np.array([0.1, 0.5, 3.0, 1.0])
        scores = np.stack([np.full_like(right, 1_000.0), right + 1_000.0], axis=1)
        return {"action": (right > threshold).astype(np.int64), "q_values": scores}

    tied = paired_returns(CARTPOLE, scored, lambda given: scored(given, 5e-4), (), SEEDS)
    assert tied["actions"]["ties"] > 0
    assert acts_alike(tied)
    assert not acts_alike(paired_returns(CARTPOLE, scored, lambda given: scored(given, 0.1), (), SEEDS))


def test_the_originals_episodes_are_not_played_twice() -> None:
    played = play(CARTPOLE, _lean, SEEDS)
    calls: list[int] = []

    def counted(given: Inputs) -> Outputs:
        calls.append(len(given["observation"]))
        return _lean(given)

    found = paired_returns(CARTPOLE, counted, _lean, (), SEEDS, played.returns)
    assert sum(calls) == found["actions"]["rows"] == len(played.actions)
    assert found["equal"]


@pytest.mark.parametrize(
    ("returns", "alike"),
    [
        ({"skipped": "not installed"}, True),
        ({"equal": True, "actions": {"agreement": 0.99}}, False),
        ({"equal": False, "actions": {"agreement": 1.0}}, True),
        ({"equal": False, "actions": {"agreement": 0.99}}, False),
    ],
)
def test_it_is_the_actions_that_tell_one_policy_from_another(returns: dict[str, Any], alike: bool) -> None:
    assert acts_alike(returns) is alike
