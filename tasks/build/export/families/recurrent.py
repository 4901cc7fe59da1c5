"""RecurrentPPO: the actor's LSTM, its state explicit, one step at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bentos.package.manifest import Tensor as TensorDescription
from tasks import inputs
from tasks.build.export.families.actor_critic import ActorCriticExporter
from tasks.build.export.families.base import Head
from tasks.build.export.families.heads import parameters_of
from tasks.build.export.families.preprocess import Observation, Space
from tasks.build.training.agent import Agent
from tasks.errors import Misconfigured
from tasks.inputs import Inputs


class LstmStep(nn.Module):
    """One step of an `nn.LSTM` (Hochreiter & Schmidhuber 1997, in torch's order of gates) for a batch of episodes.

    Written out in matrix products, so that every format keeps the batch dynamic. State is [n, layers, hidden].
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        if lstm.bidirectional or lstm.proj_size:
            raise Misconfigured("an LSTM that is bidirectional or projects its state cannot be exported")
        self.lstm = lstm

    def forward(self, features: Tensor, state_h: Tensor, state_c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value = features
        hidden, cells = [], []
        for layer in range(self.lstm.num_layers):
            entering = [getattr(self.lstm, f"{name}_ih_l{layer}", None) for name in ("weight", "bias")]
            recurring = [getattr(self.lstm, f"{name}_hh_l{layer}", None) for name in ("weight", "bias")]
            gates = nn.functional.linear(value, *entering) + nn.functional.linear(state_h[:, layer], *recurring)
            enter, forget, candidate, leave = torch.chunk(gates, 4, dim=1)
            cell = torch.sigmoid(forget) * state_c[:, layer] + torch.sigmoid(enter) * torch.tanh(candidate)
            value = torch.sigmoid(leave) * torch.tanh(cell)
            hidden.append(value)
            cells.append(cell)
        return value, torch.stack(hidden, dim=1), torch.stack(cells, dim=1)


class RecurrentNetwork(nn.Module):
    """Features, one step of the actor's LSTM, the head; the value, too, where the critic has no state of its own."""

    def __init__(self, policy: Any, head: Head) -> None:
        super().__init__()
        self.actor_features = policy.pi_features_extractor
        self.critic_features = policy.vf_features_extractor
        self.step = LstmStep(policy.lstm_actor)
        self.latents = policy.mlp_extractor
        self.head = head
        self.valued = has_value(policy)
        self.from_actor = bool(policy.shared_lstm)
        self.critic_input = policy.critic
        self.value_net = policy.value_net

    def forward(
        self, observation: Observation, state_h: Tensor, state_c: Tensor, episode_start: Tensor
    ) -> tuple[Tensor, ...]:
        kept = (1.0 - episode_start).reshape(-1, 1, 1)
        latent, next_h, next_c = self.step(self.actor_features(observation), kept * state_h, kept * state_c)
        action, *parameters = self.head(self.latents.forward_actor(latent))
        value = (self._value(observation, latent),) if self.valued else ()
        return (action, *parameters, *value, next_h, next_c)

    def _value(self, observation: Observation, latent: Tensor) -> Tensor:
        critic = latent if self.from_actor else self.critic_input(self.critic_features(observation))
        return self.value_net(self.latents.forward_critic(critic)).flatten()


def has_value(policy: Any) -> bool:
    """Whether the value can be told from the actor's state: not where the critic keeps an LSTM of its own."""
    return policy.lstm_critic is None


class RecurrentExporter(ActorCriticExporter):
    """RecurrentPPO."""

    algorithms = ("ppo_lstm",)

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        super().__init__(agent, raw_space)
        value = ("value",) if has_value(self.policy) else ()
        self.output_names = (*self.head.names, *value, *(f"next_{name}" for name in inputs.STATES))

    @property
    def extra_inputs(self) -> tuple[TensorDescription, ...]:
        layers, _, hidden = self.policy.lstm_hidden_state_shape
        states = (TensorDescription(name, "float32", (int(layers), int(hidden))) for name in inputs.STATES)
        return (*states, TensorDescription(inputs.START, "float32", ()))

    def network(self) -> nn.Module:
        return RecurrentNetwork(self.policy, self.head(self.policy))

    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        states = tuple(torch.from_numpy(given[name]).swapaxes(0, 1).contiguous() for name in inputs.STATES)
        starts = torch.from_numpy(given[inputs.START]).float()
        distribution, _ = self.policy.get_distribution(observation, states, starts)
        found = parameters_of(distribution)
        if has_value(self.policy):
            found["value"] = self.policy.predict_values(observation, states, starts).flatten()
        return found
