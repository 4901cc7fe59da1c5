"""Fine-tuning off-policy: SB3's own gradient steps on the logged transitions, held near what the log can vouch for."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.training.agent import Agent
from tasks.learning.dataset import Transitions

if TYPE_CHECKING:
    import torch

BATCH = 256
ROUND = 10
"""Gradient steps of SB3 in a round."""

IMITATIONS = 5
"""Steps of an actor in a round."""

TAU = 0.005
"""How far a DQN's target moves to it at each gradient step (Lillicrap et al. 2016, section 3)."""

SNAPSHOTS = 8
"""How often, on the way, the averaged policy is scored; the best is kept."""

MEMORY = 0.3
"""Of the whole way: how far back the average of the policy's weights reaches."""

_VALUED = ("dqn", "qrdqn")
_DETERMINISTIC = ("td3", "ddpg")


def fine_tune(
    agent: Agent,
    data: Transitions,
    gradient_steps: int,
    conservatism: float,
    score: Callable[[], float],
    note: Callable[[int, dict[str, float]], None] = lambda step, seen: None,
) -> None:
    """Change the agent's model by `gradient_steps` steps on `data`; nothing is asked of any environment.

    SB3's `train` is the engine. Left alone it fails on a log, since actors drift to actions that nobody tried and whose
    values are therefore wrong (Fujimoto et al. 2019). So of an actor-critic's round only the critics stay as `train`
    leaves them; the actor is put back and makes steps of its own, in which it imitates those logged actions that the
    critics find better than its own (critic-regularised regression with the binary filter, Wang et al. 2020, eq. 2; for
    the deterministic actors of TD3 and DDPG by squared distance). Q-networks are drawn to logged actions by
    `conservatism` times the gap between the soft maximum and the value of the logged action (CQL, Kumar et al. 2020,
    eq. 4).

    One snapshot of an off-policy learner swings widely. So the policy's weights are averaged on the way (exponentially;
    Polyak & Juditsky 1992), the average is scored by fitted Q evaluation on the same data several times (`score`; Paine
    et al. 2020), and the best stays; the champion itself is the first of them. `note` hears of each score.
    """
    import torch

    model: Any = agent.model
    model.replay_buffer = _filled(agent, data)
    online = _online(agent.algorithm, model)
    step = _draw_back if agent.algorithm in _VALUED else _imitate
    rounds = max(SNAPSHOTS, gradient_steps // ROUND)
    fresh = 1.0 - math.exp(-1.0 / (MEMORY * rounds))
    torch.manual_seed(model.seed or 0)
    mean = _copy(online)
    best, best_score = _copy(online), score()
    note(0, {"score": best_score})
    for number in range(1, rounds + 1):
        step(agent.algorithm, model, conservatism)
        for name, value in online.state_dict().items():
            mean[name] = value.clone() if not value.is_floating_point() else torch.lerp(mean[name], value, fresh)
        if number % (rounds // SNAPSHOTS) == 0:
            present = _copy(online)
            online.load_state_dict(mean)
            model.policy.set_training_mode(False)
            found = score()
            note(number * ROUND, {"score": found})
            if found > best_score:
                best, best_score = _copy(online), found
            online.load_state_dict(present)
    online.load_state_dict(best)
    model.policy.set_training_mode(False)


def _copy(network: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def _filled(agent: Agent, data: Transitions) -> Any:
    """A replay buffer of SB3 with the rows whose next observation is known, normalised as the policy is."""
    from stable_baselines3.common.buffers import ReplayBuffer

    model: Any = agent.model
    known = data.rows(data.continued | data.terminated)
    buffer = ReplayBuffer(
        len(known),
        model.observation_space,
        model.action_space,
        device="cpu",
        n_envs=1,
        handle_timeout_termination=False,
    )
    actions = known.action
    if agent.algorithm not in _VALUED:
        actions = model.policy.scale_action(actions)
    rewards = known.reward if agent.normalizer is None else agent.normalizer.normalize_reward(known.reward)
    buffer.observations[:, 0] = np.reshape(agent.normalize(known.observation), buffer.observations[:, 0].shape)
    buffer.next_observations[:, 0] = np.reshape(
        agent.normalize(known.next_observation), buffer.next_observations[:, 0].shape
    )
    buffer.actions[:, 0] = np.reshape(actions, buffer.actions[:, 0].shape)
    buffer.rewards[:, 0] = rewards
    buffer.dones[:, 0] = known.terminated  # a time limit is no end: what follows is worth what it is worth
    buffer.full = True
    return buffer


def _draw_back(algorithm: str, model: Any, conservatism: float) -> None:
    """A round of a Q-network: SB3's steps, each with the target moved, then one that draws it to logged actions."""
    from stable_baselines3.common.utils import polyak_update

    online = _online(algorithm, model)
    target = model.q_net_target if algorithm == "dqn" else model.quantile_net_target
    for _ in range(ROUND):
        model.train(gradient_steps=1, batch_size=BATCH)
        polyak_update(online.parameters(), target.parameters(), TAU)
    if conservatism:
        _step(model, model.policy.optimizer, conservatism * _gap(algorithm, model, model.replay_buffer.sample(BATCH)))


def _imitate(algorithm: str, model: Any, _conservatism: float) -> None:
    """A round of an actor-critic: SB3's steps for the critics, then the actor's own."""
    actor = model.actor
    before, moments = _copy(actor), deepcopy(actor.optimizer.state_dict())
    model.train(gradient_steps=ROUND, batch_size=BATCH)
    actor.load_state_dict(before)
    actor.optimizer.load_state_dict(moments)
    for _ in range(IMITATIONS):
        model.policy.set_training_mode(False)
        _step(model, actor.optimizer, _imitation(algorithm, model, model.replay_buffer.sample(BATCH)))


def _step(model: Any, optimizer: Any, loss: Any) -> None:
    model.policy.set_training_mode(False)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _online(algorithm: str, model: Any) -> Any:
    """The network that chooses actions."""
    if algorithm == "dqn":
        return model.q_net
    return model.quantile_net if algorithm == "qrdqn" else model.actor


def _imitation(algorithm: str, model: Any, batch: Any) -> torch.Tensor:
    import torch

    actor = model.actor
    with torch.no_grad():
        own = (
            actor(batch.observations, deterministic=True)
            if algorithm not in _DETERMINISTIC
            else actor(batch.observations)
        )
        better = _value(model, batch.observations, batch.actions) > _value(model, batch.observations, own)
    if algorithm in _DETERMINISTIC:
        distance = (actor(batch.observations) - batch.actions).square().mean(dim=1)
        return (better * distance).mean()
    mean, log_std, options = actor.get_action_dist_params(batch.observations)
    log_prob = actor.action_dist.proba_distribution(mean, log_std, **options).log_prob(
        batch.actions.clamp(-1 + 1e-4, 1 - 1e-4)
    )
    return -(better * log_prob).mean()


def _value(model: Any, observations: Any, actions: Any) -> torch.Tensor:
    """The pessimistic value of actions [n]: the least of the critics' means."""
    import torch

    found = model.critic(observations, actions)
    if isinstance(found, tuple):
        return torch.cat(found, dim=1).min(dim=1).values
    return found.mean(dim=2).min(dim=1).values  # TQC: [n, critics, quantiles]


def _gap(algorithm: str, model: Any, batch: Any) -> torch.Tensor:
    import torch

    values = model.q_net(batch.observations) if algorithm == "dqn" else model.quantile_net(batch.observations).mean(1)
    chosen = values.gather(1, batch.actions.long().reshape(-1, 1)).reshape(-1)
    return (torch.logsumexp(values, dim=1) - chosen).mean()
