"""PPO, A2C, TRPO and MaskablePPO: an actor-critic network with a head for each type of action space."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bentos.package.manifest import Tensor as TensorDescription
from tasks import inputs
from tasks.build.export.families.base import Exporter, Head
from tasks.build.export.families.heads import HEADS, MASKABLE_HEADS, categories, head_for, parameters_of
from tasks.build.export.families.preprocess import Observation, Space
from tasks.build.training.agent import Agent
from tasks.inputs import Inputs


class ActorCriticNetwork(nn.Module):
    """Features, the two latents, the head and the value, without SB3's distribution objects.

    The latents come from the extractor's methods, as SB3 asks for them: a user's own need not have SB3's layers.
    """

    def __init__(self, policy: Any, head: Head) -> None:
        super().__init__()
        self.shared = bool(policy.share_features_extractor)
        self.actor_features = policy.pi_features_extractor
        self.critic_features = policy.vf_features_extractor
        self.latents = policy.mlp_extractor
        self.value_net = policy.value_net
        self.head = head

    def forward(self, observation: Observation, *mask: Tensor) -> tuple[Tensor, ...]:
        features = self.actor_features(observation)
        action, *parameters = self.head(self.latents.forward_actor(features), *mask)
        critic = features if self.shared else self.critic_features(observation)
        return (action, *parameters, self.value_net(self.latents.forward_critic(critic)).flatten())


class ActorCriticExporter(Exporter):
    """PPO, A2C, TRPO."""

    algorithms: ClassVar[tuple[str, ...]] = ("ppo", "a2c", "trpo")
    heads: ClassVar[dict[type[Space], type[Head]]] = HEADS

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        super().__init__(agent, raw_space)
        self.require(tuple(self.heads))
        self.head = head_for(self.action_space, self.heads)
        self.output_names = (*self.head.names, "value")
        self.distribution = "squashed_gaussian" if self.policy.squash_output else self.head.distribution

    def network(self) -> nn.Module:
        return ActorCriticNetwork(self.policy, self.head(self.policy))

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        found = parameters_of(self.policy.get_distribution(observation))
        return {**found, "value": self.policy.predict_values(observation).flatten()}


class MaskableExporter(ActorCriticExporter):
    """MaskablePPO: actions that the mask forbids are out of the race."""

    algorithms = ("ppo_mask",)
    heads = MASKABLE_HEADS

    @property
    def extra_inputs(self) -> tuple[TensorDescription, ...]:
        return (TensorDescription(inputs.MASK, "bool", (sum(categories(self.action_space)),)),)

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        distribution = self.policy.get_distribution(observation, torch.as_tensor(given[inputs.MASK]))
        return {**parameters_of(distribution), "value": self.policy.predict_values(observation).flatten()}
