"""Off-policy evaluation on a small MDP whose values are known exactly: estimates, coverage, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tasks.analysis.off_policy import importance_sampling
from tasks.analysis.off_policy.fitted_q import Fitted, Logged, Neighbourhood
from tasks.analysis.off_policy.importance_sampling import Played

HORIZON = 5
STEPS = np.random.default_rng(1)
MOVES = STEPS.dirichlet(np.ones(4), size=(3, 2))
"""Chances of the next state, the fourth of which ends the episode, by state and action."""

REWARDS = STEPS.normal(size=(3, 2))
LOGGING = np.array([[0.6, 0.4], [0.5, 0.5], [0.3, 0.7]])
EVALUATED = np.array([[0.3, 0.7], [0.6, 0.4], [0.5, 0.5]])


def truth(policy: npt.NDArray[np.float64], left: int = HORIZON) -> npt.NDArray[np.float64]:
    """Q with so many steps left [3, 2], by dynamic programming."""
    q = np.zeros((3, 2))
    for _ in range(left):
        q = REWARDS + MOVES[:, :, :3] @ (policy * q).sum(axis=1)
    return q


def value(policy: npt.NDArray[np.float64]) -> float:
    """The exact mean return from state 0."""
    return float((policy[0] * truth(policy)[0]).sum())


def simulate(episodes: int, seed: int) -> dict[str, Any]:
    """Logged episodes, arrays [episodes, HORIZON]; rows after an end are not `live`."""
    random = np.random.default_rng(seed)
    state = np.zeros(episodes, int)
    found: dict[str, list[Any]] = {name: [] for name in ("state", "action", "reward", "following", "live")}
    for _ in range(HORIZON):
        live = state < 3
        at = np.where(live, state, 0)
        action = (random.random(episodes) > LOGGING[at, 0]).astype(int)
        chances = MOVES[at, action].cumsum(axis=1)
        following = np.where(live, (random.random((episodes, 1)) > chances).sum(axis=1).clip(0, 3), 3)
        reward = np.where(live, REWARDS[at, action] + 0.3 * random.standard_normal(episodes), 0.0)
        for name, values in zip(found, (at, action, reward, following, live), strict=True):
            found[name].append(values)
        state = following
    return {name: np.stack(values, axis=1) for name, values in found.items()}


def played(log: dict[str, Any]) -> Played:
    at = log["state"], log["action"]
    return Played(log["reward"], np.where(log["live"], np.log(EVALUATED[at] / LOGGING[at]), 0.0))


def exact_model(log: dict[str, Any]) -> tuple[Any, Any]:
    """q and v as dynamic programming has them."""
    by_left = np.stack([truth(EVALUATED, HORIZON - step) for step in range(HORIZON)])
    steps = np.arange(HORIZON)[None, :]
    q = by_left[steps, log["state"], log["action"]]
    v = (EVALUATED[None] * by_left).sum(axis=2)[steps, log["state"]]
    return q * log["live"], v * log["live"]


def logged(log: dict[str, Any]) -> Logged:
    live = log["live"].reshape(-1)
    episodes = len(log["state"])

    def flat(name: str) -> Any:
        return log[name].reshape(-1)[live]

    return Logged(
        np.eye(3)[flat("state")],
        flat("action"),
        flat("reward"),
        np.eye(4)[flat("following")][:, :3],
        flat("following") == 3,
        np.repeat(np.arange(episodes), HORIZON)[live],
        episodes,
    )


def every(episodes: int) -> Any:
    return np.ones((1, episodes))


def test_the_policies_differ_by_enough_to_tell() -> None:
    assert abs(value(EVALUATED) - value(LOGGING)) > 0.1


@pytest.mark.parametrize("estimator", ["importance", "robust", "robust with a wrong model"])
def test_estimates_approach_the_exact_value_with_more_episodes(estimator: str) -> None:
    log = simulate(40_000, seed=3)
    if estimator == "importance":
        found = importance_sampling.per_decision(played(log), every(40_000))[0]
    else:
        q, v = exact_model(log)
        wrong = 0.0 if estimator == "robust" else 2.0
        found = importance_sampling.doubly_robust(
            played(log), q + wrong * log["live"], v + wrong * log["live"], every(40_000)
        )[0]
    assert found == pytest.approx(value(EVALUATED), abs=0.03)


def test_a_robust_estimate_with_the_right_model_does_not_need_the_right_probabilities() -> None:
    log = simulate(40_000, seed=4)
    q, v = exact_model(log)
    careless = Played(log["reward"], np.zeros_like(log["reward"]))
    assert importance_sampling.doubly_robust(careless, q, v, every(40_000))[0] == pytest.approx(
        value(EVALUATED), abs=0.03
    )
    assert importance_sampling.per_decision(careless, every(40_000))[0] == pytest.approx(value(LOGGING), abs=0.03)


def test_the_logged_policy_evaluates_to_what_was_logged() -> None:
    log = simulate(50, seed=5)
    same = Played(log["reward"], np.zeros_like(log["reward"]))
    assert importance_sampling.per_decision(same, every(50))[0] == pytest.approx(log["reward"].sum(axis=1).mean())
    assert same.effective == pytest.approx(50)
    assert played(log).effective < 50


@pytest.mark.parametrize("robust", [False, True])
def test_intervals_of_the_gain_cover_the_true_one_about_as_often_as_they_say(robust: bool) -> None:
    gain, covered, repetitions, episodes = value(EVALUATED) - value(LOGGING), 0, 300, 100
    for seed in range(repetitions):
        log = simulate(episodes, seed=1_000 + seed)
        counts = importance_sampling.resampled(episodes, seed, 400)
        returns = log["reward"].sum(axis=1)
        if robust:
            q, v = exact_model(log)
            values = importance_sampling.doubly_robust(played(log), q, v, counts)
        else:
            values = importance_sampling.per_decision(played(log), counts)
        found = importance_sampling.estimate(
            "m", values, values.mean(), counts @ returns / episodes, returns.mean(), alpha=0.1
        )
        covered += found.lower <= gain <= found.upper
    # at 90 %, three binomial deviations of 300 are 5.2 points; the bootstrap of 100 episodes may miss one or two more
    assert 0.83 < covered / repetitions < 0.97


def test_a_weight_that_one_episode_carries_is_seen_in_the_effective_number() -> None:
    ratios = np.zeros((20, 3))
    ratios[0] = 5.0
    assert Played(np.ones((20, 3)), ratios).effective == pytest.approx(1.0, abs=0.01)


def test_long_products_of_ratios_neither_overflow_nor_vanish() -> None:
    random = np.random.default_rng(0)
    long = Played(np.ones((30, 1_000)), random.normal(scale=5.0, size=(30, 1_000)))
    assert np.isfinite(importance_sampling.per_decision(long, importance_sampling.resampled(30, 0))).all()
    assert importance_sampling.per_decision(long, every(30))[0] == pytest.approx(1_000)


def evaluated(policy: npt.NDArray[np.float64], seed: int) -> Any:
    random = np.random.default_rng(seed)

    def act(states: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return (random.random(len(states)) > policy[states.argmax(axis=1), 0]).astype(int)

    return act


def test_fitted_values_are_those_of_dynamic_programming() -> None:
    data = logged(simulate(4_000, seed=6))
    around = Neighbourhood(data, whole=True, neighbours=600)
    targets = Fitted(around, evaluated(EVALUATED, 0), HORIZON).targets()
    for left in (1, HORIZON):
        for state in range(3):
            for action in range(2):
                near = around.near(np.eye(3)[[state]], np.array([action]))
                assert near.mean(targets[left])[0] == pytest.approx(truth(EVALUATED, left)[state, action], abs=0.08)


def test_bootstrapped_fitted_values_cover_the_exact_value() -> None:
    covered, repetitions = 0, 40
    for seed in range(repetitions):
        log = simulate(200, seed=2_000 + seed)
        around = Neighbourhood(logged(log), whole=True, neighbours=40)
        act = evaluated(EVALUATED, seed)
        first = np.eye(3)[np.zeros(200, int)]
        values = Fitted(around, act, HORIZON).values(
            around.near(first, act(first)), importance_sampling.resampled(200, seed, 60)
        )
        low, high = np.quantile(values, [0.05, 0.95])
        covered += low <= value(EVALUATED) <= high
    assert covered / repetitions > 0.7


def test_fitted_values_never_leave_the_range_of_what_was_earned_however_long_the_horizon() -> None:
    random = np.random.default_rng(0)
    state = random.normal(size=(300, 2))
    data = Logged(
        state,
        random.normal(size=(300, 1)),
        random.uniform(-1, 0, 300),
        3 * state,
        np.zeros(300, bool),
        np.repeat(np.arange(10), 30),
        10,
    )
    targets = Fitted(Neighbourhood(data, whole=False), lambda states: 100 * states[:, :1], 500).targets()
    assert targets[-1].min() >= -500
    assert targets[-1].max() <= 0
