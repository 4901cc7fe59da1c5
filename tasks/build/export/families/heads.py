"""Heads of actor-critic policies, one for each type of action space: from the policy's latent to the action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from bentos.package.manifest import DistributionName
from tasks.build.export.families.base import EnvironmentAction, Head
from tasks.build.export.families.gaussian import log_prob_of_mean, log_std_module
from tasks.build.export.families.preprocess import Space, integer

MASKED_LOGIT = -1e8
"""What sb3-contrib puts in the place of a forbidden action's logit."""


class CategoricalHead(Head):
    """Discrete actions: the index of the largest logit among the allowed."""

    names = ("logits", "log_prob")
    distribution: ClassVar[DistributionName] = "categorical"

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.dtype = integer(policy.action_space)

    def forward(self, latent: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        logits = allowed(self.action_net(latent), mask)
        log_probs = torch.log_softmax(logits, dim=1)
        return torch.argmax(logits, dim=1).to(self.dtype), logits, log_probs.amax(dim=1)


class MultiCategoricalHead(Head):
    """MultiDiscrete actions, and maskable MultiBinary ones: one categorical a dimension, logits side by side."""

    names = ("logits", "log_prob")
    distribution: ClassVar[DistributionName] = "categorical"

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.sizes = categories(policy.action_space)
        self.shape = policy.action_space.shape
        self.dtype = integer(policy.action_space)

    def forward(self, latent: Tensor, *mask: Tensor) -> tuple[Tensor, ...]:
        logits = allowed(self.action_net(latent), mask)
        parts = torch.split(logits, self.sizes, dim=1)
        actions = torch.stack([torch.argmax(part, dim=1) for part in parts], dim=1)
        log_prob = torch.stack([torch.log_softmax(part, dim=1).amax(dim=1) for part in parts], dim=1).sum(dim=1)
        return actions.to(self.dtype).reshape(-1, *self.shape), logits, log_prob


class BernoulliHead(Head):
    """MultiBinary actions: each probability rounded (half to even, as torch does)."""

    names = ("logits", "log_prob")
    distribution: ClassVar[DistributionName] = "bernoulli"

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.shape = policy.action_space.shape
        self.dtype = integer(policy.action_space)

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        logits = self.action_net(latent)
        chosen = torch.round(torch.sigmoid(logits))
        log_prob = -nn.functional.softplus((1.0 - 2.0 * chosen) * logits).sum(dim=1)
        return chosen.to(self.dtype).reshape(-1, *self.shape), logits, log_prob


class GaussianHead(Head):
    """Continuous actions: the mean, clipped to the bounds; squashed and unscaled under gSDE with squash_output."""

    names = ("mean", "log_std", "log_prob")
    distribution: ClassVar[DistributionName] = "gaussian"

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.log_std = log_std_module(policy, policy.action_dist)
        self.squashed = bool(policy.squash_output)
        self.environment_action = EnvironmentAction(policy.action_space, self.squashed)

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        mean = self.action_net(latent)
        log_std = self.log_std(latent, mean)
        chosen = torch.tanh(mean) if self.squashed else mean
        log_prob = log_prob_of_mean(log_std, mean if self.squashed else None)
        return self.environment_action(chosen), mean, log_std, log_prob


HEADS: dict[type[Space], type[Head]] = {
    spaces.Discrete: CategoricalHead,
    spaces.MultiDiscrete: MultiCategoricalHead,
    spaces.MultiBinary: BernoulliHead,
    spaces.Box: GaussianHead,
}
MASKABLE_HEADS: dict[type[Space], type[Head]] = {
    spaces.Discrete: CategoricalHead,
    spaces.MultiDiscrete: MultiCategoricalHead,
    spaces.MultiBinary: MultiCategoricalHead,
}


def head_for(space: Space, heads: dict[type[Space], type[Head]]) -> type[Head]:
    """The head of an action space, which is one of those allowed."""
    return next(head for kind, head in heads.items() if isinstance(space, kind))


def categories(space: Space) -> list[int]:
    """How many entries of the logits (and of a mask) each dimension of a space of whole numbers has."""
    match space:
        case spaces.Discrete():
            return [int(space.n)]
        case spaces.MultiBinary():
            return [2] * int(np.prod(space.shape))
        case _:
            return [int(n) for n in space.nvec.reshape(-1)]


def allowed(logits: Tensor, mask: Sequence[Tensor]) -> Tensor:
    """Logits with those of forbidden actions out of the race; none at all where there is no mask."""
    return torch.where(mask[0], logits, MASKED_LOGIT) if mask else logits


def parameters_of(distribution: Any) -> dict[str, Tensor]:
    """The parameters of an SB3 distribution by the names that heads put out, and the log-density of its mode."""
    inner = distribution.distribution if hasattr(distribution, "distribution") else distribution.distributions
    if isinstance(inner, list):
        found = {"logits": torch.cat([part.logits for part in inner], dim=1)}
    elif hasattr(inner, "logits"):
        found = {"logits": inner.logits}
    else:
        return {"mean": inner.mean, "log_std": inner.stddev.log()}
    return {**found, "log_prob": distribution.log_prob(distribution.mode())}
