"""PPO, A2C and TRPO: an actor-critic network with a head for each type of action space."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from tasks.exporters.base import EnvironmentAction, Exporter, Head, Space
from tasks.exporters.gaussian import log_prob_of_mean, log_std_module
from tasks.importing import Agent


class CategoricalHead(Head):
    """Discrete actions: the index of the largest logit."""

    names = ("logits", "log_prob")

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        logits = self.action_net(latent)
        log_probs = torch.log_softmax(logits, dim=1)
        return torch.argmax(logits, dim=1), logits, log_probs.amax(dim=1)


class MultiCategoricalHead(Head):
    """MultiDiscrete actions: one categorical per dimension, logits side by side."""

    names = ("logits", "log_prob")

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.sizes = [int(n) for n in policy.action_space.nvec.reshape(-1)]
        self.shape = policy.action_space.shape

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        logits = self.action_net(latent)
        parts = torch.split(logits, self.sizes, dim=1)
        actions = torch.stack([torch.argmax(part, dim=1) for part in parts], dim=1).reshape(-1, *self.shape)
        log_prob = torch.stack([torch.log_softmax(part, dim=1).amax(dim=1) for part in parts], dim=1).sum(dim=1)
        return actions, logits, log_prob


class BernoulliHead(Head):
    """MultiBinary actions: each probability rounded (half to even, as torch does)."""

    names = ("logits", "log_prob")

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.action_net = policy.action_net
        self.shape = policy.action_space.shape

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        logits = self.action_net(latent)
        chosen = torch.round(torch.sigmoid(logits))
        log_prob = -nn.functional.softplus((1.0 - 2.0 * chosen) * logits).sum(dim=1)
        return chosen.to(torch.int8).reshape(-1, *self.shape), logits, log_prob


class GaussianHead(Head):
    """Continuous actions: the mean, clipped to the bounds; squashed and unscaled under gSDE with squash_output."""

    names = ("mean", "log_std", "log_prob")

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


class ActorCriticNetwork(nn.Module):
    """Features, the two latents, the head and the value, without SB3's distribution objects."""

    def __init__(self, policy: Any, head: Head) -> None:
        super().__init__()
        self.shared = bool(policy.share_features_extractor)
        self.actor_features = policy.pi_features_extractor
        self.critic_features = policy.vf_features_extractor
        self.actor = policy.mlp_extractor.policy_net
        self.critic = policy.mlp_extractor.value_net
        self.value_net = policy.value_net
        self.head = head

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        features = self.actor_features(observation)
        action, *parameters = self.head(self.actor(features))
        critic = features if self.shared else self.critic_features(observation)
        return (action, *parameters, self.value_net(self.critic(critic)).flatten())


class ActorCriticExporter(Exporter):
    """PPO, A2C, TRPO."""

    algorithms = ("ppo", "a2c", "trpo")

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        super().__init__(agent, raw_space)
        self.require(tuple(HEADS))
        self.head = next(head for kind, head in HEADS.items() if isinstance(self.action_space, kind))
        self.output_names = (*self.head.names, "value")

    def network(self) -> nn.Module:
        return ActorCriticNetwork(self.policy, self.head(self.policy))
