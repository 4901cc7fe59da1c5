"""Policies without a distribution: TD3 and DDPG (tanh inside the network) and ARS."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from tasks.build.export.families.base import EnvironmentAction, Exporter
from tasks.build.export.families.preprocess import Observation, Space, integer
from tasks.build.training.agent import Agent
from tasks.inputs import Inputs


class DeterministicNetwork(nn.Module):
    """`mu`, whose last layer is a tanh, unscaled. Its raw output stands for `mean`."""

    def __init__(self, actor: Any, action_space: spaces.Box) -> None:
        super().__init__()
        self.features = actor.features_extractor
        self.mean = actor.mu
        self.environment_action = EnvironmentAction(action_space, squashed=True)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        mean = self.mean(self.features(observation))
        return self.environment_action(mean), mean


class ContinuousLinear(nn.Module):
    """ARS on continuous actions: unscaled where its network ends in a tanh, clipped where it does not."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.features = policy.features_extractor
        self.action_net = policy.action_net
        self.environment_action = EnvironmentAction(policy.action_space, bool(policy.squash_output))

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        mean = self.action_net(self.features(observation))
        return self.environment_action(mean), mean


class DiscreteLinear(nn.Module):
    """ARS on discrete actions: the index of the largest output."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.features = policy.features_extractor
        self.action_net = policy.action_net
        self.dtype = integer(policy.action_space)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        logits = self.action_net(self.features(observation))
        return torch.argmax(logits, dim=1).to(self.dtype), logits


class DeterministicExporter(Exporter):
    """TD3, DDPG."""

    algorithms = ("td3", "ddpg")
    output_names = ("mean",)

    def network(self) -> nn.Module:
        self.require((spaces.Box,))
        return DeterministicNetwork(self.policy.actor, self.action_space)

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        return {"mean": self.policy.actor(observation)}


class LinearExporter(Exporter):
    """ARS."""

    algorithms = ("ars",)

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        super().__init__(agent, raw_space)
        self.require((spaces.Box, spaces.Discrete))
        self.output_names = ("mean",) if isinstance(self.action_space, spaces.Box) else ("logits",)

    def network(self) -> nn.Module:
        return (
            ContinuousLinear(self.policy) if isinstance(self.action_space, spaces.Box) else DiscreteLinear(self.policy)
        )

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        features = self.policy.extract_features(observation, self.policy.features_extractor)
        return {self.output_names[0]: self.policy.action_net(features)}
