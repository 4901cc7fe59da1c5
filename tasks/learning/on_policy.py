"""Fine-tuning on-policy: PPO's (or A2C's, TRPO's) own update, with logged episodes as its rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured
from tasks.inputs import Array
from tasks.learning.dataset import Transitions

VALUE_PASSES = 20
LEAST_READABLE = 0.5


def fine_tune(
    agent: Agent,
    data: Transitions,
    epochs: int,
    note: Callable[[int, dict[str, float]], None] = lambda step, seen: None,
) -> None:
    """Change the agent's model by `epochs` passes over `data`; nothing is asked of any environment.

    What SB3 collects as a rollout is made of the log: advantages by GAE (Schulman et al. 2016, eq. 16) along each
    episode, with a value network refitted on the log first, and the log-probabilities that the gateway recorded. PPO's
    clipped objective (Schulman et al. 2017, eq. 7) weighs each action by its ratio to those, so that episodes of
    earlier versions count for what they say of the present one, and none can pull it further than the clip. Steps
    without a probability (a person's, the fallback's, adjusted or clipped actions) shape the advantages of those
    before them and are not learned from themselves.

    Raises Misconfigured where most steps have no probability.
    """
    model: Any = agent.model
    readable = np.isfinite(data.log_prob)
    if readable.mean() < LEAST_READABLE:
        raise Misconfigured(
            f"learn: {np.mean(~readable):.0%} of the logged steps have no log-probability, without which "
            f"{agent.algorithm} cannot learn from them: set serve.explore to true, release that, and wait for traffic"
        )
    observations = agent.normalize(data.observation)
    following = agent.normalize(data.next_observation)
    rewards = data.reward if agent.normalizer is None else agent.normalizer.normalize_reward(data.reward)
    _fit_values(model, observations, following, rewards, data)
    values, advantages = _advantages(model, observations, following, rewards, data)
    model.rollout_buffer = _rollout(model, observations[readable], data, readable, values, advantages)
    if agent.algorithm == "ppo":
        model.n_epochs = epochs
        model.train()
        note(1, {"approx_kl": float(model.logger.name_to_value.get("train/approx_kl", 0.0))})
    else:
        # one rollout is one step for these; the advantages stay those of the log
        for number in range(1, epochs + 1):
            model.train()
            note(number, {})
    model.policy.set_training_mode(False)


def _fit_values(model: Any, observations: Array, following: Array, rewards: Array, data: Transitions) -> None:
    """Fit the value network to λ-returns of the log: the champion's may be of an environment that has changed."""
    import torch
    from torch.nn import functional

    policy = model.policy
    parameters = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    generator = np.random.default_rng(0)
    for _ in range(VALUE_PASSES):
        values, advantages = _advantages(model, observations, following, rewards, data)
        goals = torch.as_tensor(values + advantages, dtype=torch.float32)
        for rows in np.array_split(generator.permutation(len(data)), max(1, len(data) // 256)):
            found = policy.predict_values(torch.as_tensor(observations[rows]))
            loss = functional.mse_loss(found.reshape(-1), goals[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _values(model: Any, observations: Array) -> Array:
    import torch

    with torch.no_grad():
        found: Array = model.policy.predict_values(torch.as_tensor(observations)).numpy().reshape(-1)
    return found.astype(np.float64)


def _advantages(
    model: Any, observations: Array, following: Array, rewards: Array, data: Transitions
) -> tuple[Array, Array]:
    """Values and generalised advantages of all steps, float64 [n]; a time limit is bootstrapped where what followed is
    known."""
    values = _values(model, observations)
    worth = np.where(data.terminated | ~data.continued, 0.0, _values(model, following))
    delta = rewards + model.gamma * worth - values
    delta = np.where(data.continued | data.terminated, delta, 0.0)
    advantages = np.zeros(len(data))
    running = 0.0
    ends = np.append(data.episode[1:] != data.episode[:-1], True)
    for place in range(len(data) - 1, -1, -1):
        running = delta[place] + (0.0 if ends[place] else model.gamma * model.gae_lambda * running)
        advantages[place] = running
    return values, advantages


def _rollout(
    model: Any, observations: Array, data: Transitions, readable: Array, values: Array, advantages: Array
) -> Any:
    """SB3's rollout buffer with the readable steps."""
    from stable_baselines3.common.buffers import RolloutBuffer

    size = int(readable.sum())
    buffer = RolloutBuffer(
        size,
        model.observation_space,
        model.action_space,
        device="cpu",
        gamma=model.gamma,
        gae_lambda=model.gae_lambda,
        n_envs=1,
    )
    for name, given in (
        ("observations", observations),
        ("actions", data.action[readable]),
        ("log_probs", data.log_prob[readable]),
        ("values", values[readable]),
        ("advantages", advantages[readable]),
        ("returns", (values + advantages)[readable]),
    ):
        target = getattr(buffer, name)
        target[:] = np.reshape(given, target.shape)
    buffer.full = True
    return buffer
