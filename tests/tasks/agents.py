"""Agents of every kind, made in a moment: real SB3 models with weights and statistics far from their initial values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from tasks.build.training.agent import Agent
from tasks.build.training.algorithms import algorithm_class

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
DICT = spaces.Dict(
    {
        "vector": VECTOR,
        "image": IMAGE,
        "kind": spaces.Discrete(3),
        "flags": spaces.MultiBinary(2),
    }
)
ASYMMETRIC = spaces.Box(np.array([-2.0, 0.0, -0.5], np.float32), np.array([1.0, 3.0, 0.5], np.float32))


class Still(gymnasium.Env[Any, Any]):
    """An environment of nothing but its spaces."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def agent(
    algorithm: str,
    action_space: spaces.Space[Any],
    observation_space: spaces.Space[Any] = VECTOR,
    normalize: Mapping[str, Any] | None = None,
    policy: Any = "MlpPolicy",
    **arguments: Any,
) -> Agent:
    """An agent of its own spaces; with `normalize` (VecNormalize's arguments, or {}) one trained under statistics.

    Off-policy algorithms get a buffer of one step.
    """
    from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    vectorised: Any = DummyVecEnv([lambda: Still(observation_space, action_space)])
    if normalize is not None:
        vectorised = VecNormalize(vectorised, training=False, **normalize)
        set_statistics(vectorised)
    kind = algorithm_class(algorithm)
    if issubclass(kind, OffPolicyAlgorithm):
        arguments.setdefault("buffer_size", 1)
    model: Any = kind(policy, vectorised, seed=1, device="cpu", **arguments)
    disturb(model.policy)
    return Agent(algorithm, model, vectorised if normalize is not None else None)


def set_statistics(normalizer: Any, offset: float = 3.0) -> None:
    """Means far from 0 and variances far from 1, different in every dimension."""
    if not normalizer.norm_obs:
        return
    found = normalizer.obs_rms
    generator = np.random.default_rng(5)
    for statistics in found.values() if isinstance(found, dict) else [found]:
        statistics.mean = offset * generator.normal(size=statistics.mean.shape)
        statistics.var = generator.uniform(0.1, 9.0, size=statistics.var.shape)


def disturb(policy: torch.nn.Module, scale: float = 0.1) -> None:
    """Move all weights, and running statistics of normalization layers, away from where they begin."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.parameters():
            # Biases less: where they outweigh the rest, a policy does the same whatever it sees.
            share = 0.1 if parameter.ndim == 1 else 1.0
            parameter.add_(share * scale * torch.randn(parameter.shape, generator=generator))
        for name, buffer in policy.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    policy.train(False)
