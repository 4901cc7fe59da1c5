"""SAC, TQC and CrossQ: a Gaussian squashed by tanh, unscaled to the action space."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from bentos.package.manifest import DistributionName
from tasks.build.export.families.base import EnvironmentAction, Exporter
from tasks.build.export.families.gaussian import NetworkLogStd, StateDependentLogStd, log_prob_of_mean
from tasks.build.export.families.preprocess import Observation
from tasks.inputs import Inputs

LOG_STD_RANGE = (-20.0, 2.0)


class SquashedGaussianNetwork(nn.Module):
    """`latent_pi -> mu -> tanh -> unscale`; under gSDE `mu` itself ends in a Hardtanh."""

    def __init__(self, actor: Any, action_space: spaces.Box) -> None:
        super().__init__()
        self.features = actor.features_extractor
        self.latent = actor.latent_pi
        self.mean = actor.mu
        self.log_std: nn.Module = (
            StateDependentLogStd(actor.action_dist, actor.log_std)
            if actor.use_sde
            else NetworkLogStd(actor.log_std, *LOG_STD_RANGE)
        )
        self.environment_action = EnvironmentAction(action_space, squashed=True)

    def forward(self, observation: Observation) -> tuple[Tensor, ...]:
        latent = self.latent(self.features(observation))
        mean = self.mean(latent)
        log_std = self.log_std(latent, mean)
        return self.environment_action(torch.tanh(mean)), mean, log_std, log_prob_of_mean(log_std, mean)


class SquashedGaussianExporter(Exporter):
    """SAC, TQC, CrossQ."""

    algorithms = ("sac", "tqc", "crossq")
    output_names = ("mean", "log_std", "log_prob")
    distribution: DistributionName | None = "squashed_gaussian"

    def network(self) -> nn.Module:
        self.require((spaces.Box,))
        return SquashedGaussianNetwork(self.policy.actor, self.action_space)

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        mean, log_std, extra = self.policy.actor.get_action_dist_params(observation)
        if not self.policy.actor.use_sde:
            return {"mean": mean, "log_std": log_std}
        # Under gSDE the deviation is only known to the distribution itself, which must be in the state first.
        distribution = self.policy.actor.action_dist.proba_distribution(mean, log_std, **extra)
        return {"mean": mean, "log_std": distribution.distribution.stddev.log()}
