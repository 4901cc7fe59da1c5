"""Gaussian policies: standard deviations (state-dependent ones too) and the density of the deterministic action."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor, nn

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_SQUASH_EPSILON = 1e-6


class ConstantLogStd(nn.Module):
    """Log standard deviations that are parameters of the policy, the same in every state."""

    def __init__(self, log_std: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_std", log_std.detach().clone())

    def forward(self, latent: Tensor, mean: Tensor) -> Tensor:
        return self.log_std + torch.zeros_like(mean)


class NetworkLogStd(nn.Module):
    """Log standard deviations from a layer of the network, clamped as SAC does."""

    def __init__(self, layer: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.layer, self.low, self.high = layer, low, high

    def forward(self, latent: Tensor, mean: Tensor) -> Tensor:
        return torch.clamp(self.layer(latent), self.low, self.high)


class StateDependentLogStd(nn.Module):
    """gSDE (Raffin et al. 2021, eq. 5): the variance is the squared latent times the squared noise matrix."""

    def __init__(self, distribution: StateDependentNoiseDistribution, log_std: Tensor) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("variance", distribution.get_std(log_std).clone() ** 2)
        self.epsilon = float(distribution.epsilon)

    def forward(self, latent: Tensor, mean: Tensor) -> Tensor:
        return 0.5 * torch.log(torch.mm(latent**2, self.variance) + self.epsilon)


def log_std_module(policy: Any, distribution: Any) -> nn.Module:
    """The module that gives an actor-critic policy's log standard deviations."""
    if isinstance(distribution, StateDependentNoiseDistribution):
        return StateDependentLogStd(distribution, policy.log_std)
    return ConstantLogStd(policy.log_std)


def log_prob_of_mean(log_std: Tensor, squashed_mean: Tensor | None = None) -> Tensor:
    """Log-density [batch] of a Gaussian at its own mean; with `squashed_mean`, of its tanh image at tanh(mean).

    SB3 corrects by log(1 − tanh²(x) + ε), which cancels in float32 where tanh saturates. The same 1 − tanh²(x) is
    computed here as 4e / (1 + e)² with e = exp(−2|x|), which keeps its digits.
    """
    density = (-log_std - _HALF_LOG_2PI).sum(dim=1)
    if squashed_mean is None:
        return density
    decay = torch.exp(-2.0 * torch.abs(squashed_mean))
    slope = 4.0 * decay / (1.0 + decay) ** 2
    return density - torch.log(slope + _SQUASH_EPSILON).sum(dim=1)
