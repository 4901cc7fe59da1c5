"""Fine-tuning every algorithm on logged transitions alone: it goes where the log says, and no environment is asked."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured
from tasks.learning.candidate import acting, alike
from tasks.learning.dataset import Transitions
from tasks.learning.trainable import Champion, trainable
from tasks.spec.sections import LEARNING, ON_POLICY, STOCHASTIC, Learn, PolicySpec
from tasks.stages.learn import fine_tuned
from tests.tasks.agents import agent

OBSERVED = spaces.Box(-1, 1, (2,), np.float32)
CONTINUOUS = spaces.Box(np.float32([-2.0]), np.float32([1.0]))
DISCRETE = spaces.Discrete(3)
SMALL = {"policy_kwargs": {"net_arch": [16]}}
WHOLE = ("dqn", "qrdqn")


def small(algorithm: str) -> dict[str, Any]:
    few = {"n_quantiles": 5} if algorithm == "qrdqn" else {}
    return {"policy_kwargs": {**SMALL["policy_kwargs"], **few}}


def spec_of(algorithm: str, **hyperparameters: Any) -> PolicySpec:
    document = {
        "name": "p",
        "environment": {"id": "Pendulum-v1"},
        "train": {"algorithm": algorithm, "hyperparameters": small(algorithm) | hyperparameters},
        "evaluate": {"minimum_mean_return": 0},
        "serve": {"fallback": {"constant": 0}, "explore": algorithm in STOCHASTIC},
        "canary": {"margin": 1},
        "learn": {},
    }
    return PolicySpec.model_validate(document)


def champion_of(algorithm: str, action_space: spaces.Space[Any], directory: Path, **arguments: Any) -> Champion:
    made = agent(algorithm, action_space, OBSERVED, **small(algorithm), **arguments)
    made.model.save(directory / "model.zip")
    if made.normalizer is not None:
        made.normalizer.save(str(directory / "vecnormalize.pkl"))
    return Champion(directory, algorithm)


def log_of(champion: Champion, episodes: int = 40, length: int = 10) -> Transitions:
    """Episodes of single steps' worth: the highest action earns most, whatever the state."""
    random = np.random.default_rng(0)
    count = episodes * length
    observation = random.uniform(-1, 1, (count, 2)).astype(np.float32)
    judged = acting(champion.agent(), champion.algorithm in STOCHASTIC, 0)
    action = judged.act(observation)
    if champion.algorithm not in STOCHASTIC:
        others = [champion.agent().model.action_space.sample() for _ in range(count)]
        action = np.where(random.random(np.shape(action)) < 0.5, action, np.stack(others)).astype(action.dtype)
    log_prob = np.full(count, np.nan) if judged.log_prob is None else judged.log_prob(observation, action)
    last = np.arange(count) % length == length - 1
    return Transitions(
        episode=np.repeat(np.arange(episodes), length),
        step=np.tile(np.arange(length), episodes),
        observation=observation,
        action=action,
        log_prob=log_prob,
        reward=action.reshape(count).astype(float),
        next_observation=np.roll(observation, -1, axis=0),
        terminated=last,
        truncated=np.zeros(count, bool),
        continued=np.ones(count, bool),
        key=tuple(str(number) for number in range(episodes)),
        version=("1",) * episodes,
    )


def mean_action(found: Agent) -> float:
    observation = np.random.default_rng(9).uniform(-1, 1, (500, 2)).astype(np.float32)
    act = acting(found, found.algorithm in STOCHASTIC, 1).act
    return float(np.mean(act(observation)))


@pytest.mark.parametrize("algorithm", LEARNING)
def test_every_algorithm_learns_from_the_log_alone_what_earns_more(algorithm: str, tmp_path: Path) -> None:
    space = DISCRETE if algorithm in WHOLE or algorithm == "ppo" else CONTINUOUS
    champion = champion_of(algorithm, space, tmp_path)
    # short horizons and quick steps: what is asked here is which way it goes
    speed = {} if algorithm == "trpo" else {"learning_rate": 0.005}
    candidate = trainable(spec_of(algorithm, gamma=0.5, **speed), champion, seed=1)
    before = mean_action(champion.agent())
    assert mean_action(candidate) == pytest.approx(before, abs=0.2), "it starts as the champion"
    data = log_of(champion)
    settings = Learn(updates_per_transition=0.3, epochs=15)
    fine_tuned(candidate, data, settings, mean_action)
    assert mean_action(candidate) > before
    with pytest.raises(NotImplementedError, match="no environment"):
        candidate.model.get_env().reset()


def test_a_candidate_can_be_saved_opened_and_learned_on_again(tmp_path: Path) -> None:
    champion = champion_of("sac", CONTINUOUS, tmp_path, normalize={})
    candidate = trainable(spec_of("sac"), champion, seed=1)
    fine_tuned(candidate, log_of(champion), Learn(updates_per_transition=0.2), mean_action)
    (tmp_path / "next").mkdir()
    candidate.model.save(tmp_path / "next" / "model.zip")
    assert champion.statistics is not None
    shutil.copy(champion.statistics, tmp_path / "next")
    again = trainable(spec_of("sac"), Champion(tmp_path / "next", "sac"), seed=1)
    observation = np.zeros((1, 2), np.float32)
    np.testing.assert_array_equal(
        again.model.predict(observation, deterministic=True)[0],
        candidate.model.predict(observation, deterministic=True)[0],
    )


def test_the_same_log_and_seed_give_the_same_candidate(tmp_path: Path) -> None:
    champion = champion_of("td3", CONTINUOUS, tmp_path)
    found = []
    for _ in range(2):
        candidate = trainable(spec_of("td3"), champion, seed=5)
        fine_tuned(candidate, log_of(champion), Learn(updates_per_transition=0.2), mean_action)
        found.append(candidate.model.predict(np.ones((1, 2), np.float32), deterministic=True)[0])
    np.testing.assert_array_equal(*found)


def test_a_learner_whose_every_snapshot_scores_worse_gives_the_champion_back(tmp_path: Path) -> None:
    champion = champion_of("sac", CONTINUOUS, tmp_path)
    candidate = trainable(spec_of("sac"), champion, seed=1)
    scores = iter(range(0, -100, -1))
    fine_tuned(candidate, log_of(champion), Learn(updates_per_transition=0.2), lambda _: float(next(scores)))
    observation = np.linspace(-1, 1, 20, dtype=np.float32).reshape(10, 2)
    np.testing.assert_array_equal(
        candidate.model.predict(observation, deterministic=True)[0],
        champion.agent().model.predict(observation, deterministic=True)[0],
    )
    assert alike(candidate, champion.agent(), observation)
    fine_tuned(candidate, log_of(champion), Learn(updates_per_transition=0.2), mean_action)
    assert not alike(candidate, champion.agent(), observation)


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_an_on_policy_algorithm_refuses_a_log_without_probabilities(algorithm: str, tmp_path: Path) -> None:
    champion = champion_of(algorithm, DISCRETE, tmp_path)
    data = log_of(champion)
    blind = replace(data, log_prob=np.full(len(data), np.nan))
    candidate = trainable(spec_of(algorithm), champion, seed=1)
    with pytest.raises(Misconfigured, match=r"100% of the logged steps have no log-probability.*serve.explore"):
        fine_tuned(candidate, blind, Learn(), mean_action)


def test_a_champion_of_another_network_is_refused(tmp_path: Path) -> None:
    champion = champion_of("sac", CONTINUOUS, tmp_path)
    with pytest.raises(Misconfigured, match="do not fit this spec's network"):
        trainable(spec_of("sac", policy_kwargs={"net_arch": [8]}), champion, seed=1)


@pytest.mark.parametrize("algorithm", ["ars", "ppo_mask", "ppo_lstm"])
def test_a_spec_of_an_algorithm_that_cannot_learn_from_a_log_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be fine-tuned on logged transitions"):
        spec_of(algorithm)


def test_a_spec_that_learns_on_policy_without_exploring_is_refused() -> None:
    document = spec_of("ppo").model_dump(mode="json")
    document["serve"]["explore"] = False
    with pytest.raises(ValueError, match=r"set serve\.explore to true"):
        PolicySpec.model_validate(document)
