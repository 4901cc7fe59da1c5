"""Fine-tuning every algorithm on logged transitions alone: it goes where the log says, and no environment is asked."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from tasks.importing import Agent
from tasks.learning.candidate import acting
from tasks.learning.stages import fine_tuned
from tasks.learning.trainable import Champion, trainable
from tasks.learning.transitions import Transitions
from tasks.spec import LEARNING, STOCHASTIC, Learn, PolicySpec
from tests.tasks.agents import agent

OBSERVED = spaces.Box(-1, 1, (2,), np.float32)
CONTINUOUS = spaces.Box(np.float32([-2.0]), np.float32([1.0]))
DISCRETE = spaces.Discrete(3)
SMALL = {"policy_kwargs": {"net_arch": [16]}}
WHOLE = ("dqn", "qrdqn")


def spec_of(algorithm: str, **hyperparameters: Any) -> PolicySpec:
    document = {
        "name": "p",
        "environment": {"id": "Pendulum-v1"},
        "train": {"algorithm": algorithm, "hyperparameters": SMALL | hyperparameters},
        "evaluate": {"minimum_mean_return": 0},
        "serve": {"fallback": {"constant": 0}, "explore": algorithm in STOCHASTIC},
        "canary": {"margin": 1},
        "learn": {},
    }
    return PolicySpec.model_validate(document)


def champion_of(algorithm: str, action_space: spaces.Space[Any], directory: Path, **arguments: Any) -> Champion:
    made = agent(algorithm, action_space, OBSERVED, **deepcopy(SMALL), **arguments)  # SB3 writes into it
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
