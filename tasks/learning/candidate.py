"""A candidate: how it would act and how probably, for its evaluation; and how a release takes it over."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.build.training.agent import Agent
from tasks.inputs import Array
from tasks.learning.evaluation import Judged
from tasks.spec.sections import STOCHASTIC

if TYPE_CHECKING:
    pass

_ROWS = 4_096

logger = logging.getLogger(__name__)


def acting(agent: Agent, explores: bool, seed: int) -> Judged:
    """How the agent acts as it would be served, and the probabilities of actions under it (none: it does not explore).

    Log-densities are those that the gateway would record: in [-1, 1] where the policy is squashed.
    """
    import torch

    torch.manual_seed(seed)
    model: Any = agent.model

    def act(observation: Array) -> Array:
        return np.asarray(model.predict(agent.normalize(observation), deterministic=not explores)[0])

    def log_prob(observation: Array, action: Array) -> Array:
        found = []
        with torch.no_grad():
            for at in range(0, len(observation), _ROWS):
                some = torch.as_tensor(agent.normalize(observation[at : at + _ROWS]))
                found.append(_log_prob(agent.algorithm, model, some, action[at : at + _ROWS]).numpy().reshape(-1))
        return np.concatenate(found).astype(np.float64)

    return Judged(act, log_prob if explores and agent.algorithm in STOCHASTIC else None)


def alike(one: Agent, other: Agent, observation: Array) -> bool:
    """Whether both take the same deterministic action for every observation [n, ...], but for rounding."""

    def acts(agent: Agent) -> Array:
        model: Any = agent.model
        return np.asarray(model.predict(agent.normalize(observation), deterministic=True)[0])

    return bool(np.allclose(acts(one), acts(other), rtol=0.0, atol=1e-6))


def _log_prob(algorithm: str, model: Any, observation: Any, action: Array) -> Any:
    import torch

    if algorithm in ("sac", "tqc", "crossq"):
        mean, log_std, options = model.actor.get_action_dist_params(observation)
        scaled = torch.as_tensor(model.policy.scale_action(action), dtype=torch.float32)
        return model.actor.action_dist.proba_distribution(mean, log_std, **options).log_prob(scaled)
    return model.policy.evaluate_actions(observation, torch.as_tensor(action))[1]
