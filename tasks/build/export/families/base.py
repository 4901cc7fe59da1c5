"""What every exporter shares: raw observations in, the env-ready action and a finiteness flag out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from bentos.package.manifest import DistributionName
from bentos.package.manifest import Tensor as TensorDescription
from tasks import inputs
from tasks.build.export.cases import drawn
from tasks.build.export.families.preprocess import Prepare, Space, rows
from tasks.build.training.agent import Agent
from tasks.build.training.environments import graph_dtype, parts
from tasks.errors import Misconfigured
from tasks.inputs import Inputs, Outputs


class Head(nn.Module):
    """Turns the network's raw outputs into the env-ready action; `names` says what else it puts out.

    `forward(latent, *mask)` returns the action followed by one tensor per name.
    """

    names: tuple[str, ...] = ()
    distribution: ClassVar[DistributionName]
    """What its outputs are the parameters of."""


class EnvironmentAction(nn.Module):
    """The continuous action `env.step` takes: the network's, unscaled from [-1, 1] or clipped to the bounds."""

    def __init__(self, space: spaces.Box, squashed: bool) -> None:
        """Raises Misconfigured for a Box of whole or half-precision numbers: `predict` answers float32 there."""
        super().__init__()
        if space.dtype not in (np.float32, np.float64):
            raise Misconfigured(
                f"a Box of {space.dtype} actions cannot be exported: predict answers numbers there that are not of the "
                "space; expected float32 or float64: train with a wrapper that takes such actions and rounds them"
            )
        self.squashed = squashed
        self.dtype = torch.float64 if space.dtype == np.float64 else torch.float32
        self.register_buffer("low", torch.as_tensor(space.low, dtype=self.dtype))
        self.register_buffer("high", torch.as_tensor(space.high, dtype=self.dtype))
        self.shape = space.shape

    def forward(self, action: Tensor) -> Tensor:
        shaped = action.reshape(-1, *self.shape)
        if self.squashed:
            return self.low + (0.5 * (shaped + 1.0).to(self.dtype) * (self.high - self.low))
        return torch.minimum(torch.maximum(shaped.to(self.dtype), self.low), self.high)


class Graph(nn.Module):
    """The whole policy: preparation, the family's network, and whether input and output can be trusted.

    Takes the observation's parts in order, then what else the network takes (mask, state).
    """

    def __init__(self, prepare: Prepare, network: nn.Module) -> None:
        super().__init__()
        self.prepare = prepare
        self.network = network
        self.observed = len(prepare.names)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        observations, others = tensors[: self.observed], tensors[self.observed :]
        action, *found = self.network(self.prepare(*observations), *others)
        # The first output is what the action is computed from; the value plays no part in it.
        watched = torch.cat([rows(found[0]), *self.prepare.floats(*observations)], dim=1)
        # x − x is 0 exactly where x is finite, else NaN: three operations instead of IsNaN, IsInf, Or, Not and All.
        doubt = (watched - watched).sum(dim=1)
        for misfits in self.prepare.misfits(*observations):
            doubt = doubt + misfits
        return (action, doubt == 0, *found)


class Exporter(ABC):
    """One family of policies: its inputs, outputs and graph.

    `raw_space` is the environment's own observation space where it is known: it tells whether images must be
    transposed for the model. Raises Misconfigured for spaces the family cannot take.
    """

    algorithms: ClassVar[tuple[str, ...]]
    output_names: tuple[str, ...]
    """Names of what `network` returns after the action, in order; the first is what the action is computed from."""
    distribution: DistributionName | None = None
    """What stochastic actions are drawn from, by these outputs; None where the policy only has the one."""

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        self.agent = agent
        self.policy: Any = agent.model.policy
        self.action_space: Space = agent.model.action_space
        self.model_space: Space = agent.model.observation_space
        self.observation_space = self.model_space if raw_space is None else raw_space
        self.prepare = Prepare(self.observation_space, self.model_space, self.policy, agent.normalizer)

    @abstractmethod
    def network(self) -> nn.Module:
        """Maps a prepared observation (and `extra_inputs`) to (action, *outputs named by `output_names`)."""

    @abstractmethod
    def parameters(self, observation: Any, given: Inputs) -> dict[str, Tensor]:
        """SB3's own distribution parameters and value, to compare outputs of the same name with.

        `observation` is normalized and a tensor (or a dict of them), as SB3's own methods take it; `given` holds mask
        and state.
        """

    @property
    def extra_inputs(self) -> tuple[TensorDescription, ...]:
        """What the graph takes beside the observation."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs of the graph, in order."""
        return ("action", "finite", *self.output_names)

    @property
    def inputs(self) -> tuple[TensorDescription, ...]:
        """The graph's inputs, batch dimension left out."""
        observed = (
            TensorDescription(name, graph_dtype(part), tuple(part.shape or ()))
            for name, part in parts(self.observation_space).items()
        )
        return (*observed, *self.extra_inputs)

    def graph(self) -> nn.Module:
        """The whole policy as a module in evaluation mode, from raw inputs to all `outputs`."""
        return Graph(self.prepare, self.network()).eval()

    def dummy(self, batch: int = 2) -> tuple[Tensor, ...]:
        """A batch of raw inputs, drawn from the space, in the graph's dtypes."""
        sampled = drawn(self.observation_space, batch)
        for tensor in self.extra_inputs:
            sampled[tensor.name] = np.ones((batch, *tensor.shape), dtype=tensor.dtype)
        return self.tensors(sampled)

    def tensors(self, given: Inputs) -> tuple[Tensor, ...]:
        """Inputs as the graph takes them."""
        return tuple(
            torch.from_numpy(np.ascontiguousarray(given[tensor.name], dtype=tensor.dtype)) for tensor in self.inputs
        )

    def original_parameters(self, given: Inputs) -> Outputs:
        """`parameters` for raw inputs, through the real VecNormalize: output name -> array [n, ...]."""
        observed = self.agent.normalize(inputs.observations(given))
        with torch.no_grad():
            found = self.parameters(self.policy.obs_to_tensor(observed)[0], given)
        return {name: value.numpy() for name, value in found.items()}

    def require(self, allowed: Sequence[type[Space]]) -> None:
        """Raise Misconfigured unless the action space is of one of these types."""
        if not isinstance(self.action_space, tuple(allowed)):
            raise Misconfigured(
                f"{self.agent.algorithm} with {type(self.action_space).__name__} actions cannot be exported; "
                f"supported: {[kind.__name__ for kind in allowed]}"
            )
