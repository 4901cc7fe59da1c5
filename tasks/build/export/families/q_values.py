"""DQN and QR-DQN: the action with the largest value."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tasks.build.export.families.base import Exporter
from tasks.build.export.families.preprocess import Observation, integer
from tasks.inputs import Inputs


class QNetwork(nn.Module):
    """Features, then one value per action (the online network, never the target)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.features = network.features_extractor
        self.q_net = network.q_net
        self.dtype = integer(network.action_space)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        q_values = self.q_net(self.features(observation))
        return torch.argmax(q_values, dim=1).to(self.dtype), q_values


class QuantileNetwork(nn.Module):
    """Features, then quantiles [batch, n_quantiles, actions], whose mean is the value."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.features = network.features_extractor
        self.quantile_net = network.quantile_net
        self.quantiles = int(network.n_quantiles)
        self.actions = int(network.action_space.n)
        self.dtype = integer(network.action_space)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        quantiles = self.quantile_net(self.features(observation)).reshape(-1, self.quantiles, self.actions)
        q_values = quantiles.mean(dim=1)
        return torch.argmax(q_values, dim=1).to(self.dtype), q_values


class QValueExporter(Exporter):
    """DQN."""

    algorithms = ("dqn",)
    output_names = ("q_values",)

    def network(self) -> nn.Module:
        return QNetwork(self.policy.q_net)

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        return {"q_values": self.policy.q_net(observation)}


class QuantileExporter(Exporter):
    """QR-DQN."""

    algorithms = ("qrdqn",)
    output_names = ("q_values",)

    def network(self) -> nn.Module:
        return QuantileNetwork(self.policy.quantile_net)

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        return {"q_values": self.policy.quantile_net(observation).mean(dim=1)}
