"""What every exporter shares: raw observations in, the env-ready action and a finiteness flag out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from bentos.package import Tensor as TensorDescription
from tasks.errors import Misconfigured
from tasks.exporters.spaces import graph_dtype
from tasks.importing import Agent

Space: TypeAlias = spaces.Space[Any]


class Normalize(nn.Module):
    """VecNormalize's observations: clip((x − mean) / sqrt(var + epsilon)), in float64 as VecNormalize computes it.

    In float32 a mean of 1e6 with a deviation of 0.1 would lose a quarter of the signal.
    """

    def __init__(self, mean: Any, variance: Any, epsilon: float, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(np.asarray(mean, dtype=np.float64)))
        self.register_buffer("scale", torch.as_tensor(np.sqrt(np.asarray(variance, dtype=np.float64) + epsilon)))
        self.clip = float(clip)

    def forward(self, observation: Tensor) -> Tensor:
        normal = (observation.double() - self.mean) / self.scale
        return torch.clamp(normal, -self.clip, self.clip).float()


class Preprocess(nn.Module):
    """SB3's `preprocess_obs` for one space, in operations that every format keeps batch-dynamic."""

    def __init__(self, space: Space, image: bool) -> None:
        super().__init__()
        self.image = image
        match space:
            case spaces.Discrete():
                sizes = [int(space.n)]
            case spaces.MultiDiscrete():
                sizes = [int(n) for n in space.nvec.reshape(-1)]
            case spaces.Box() | spaces.MultiBinary():
                sizes = []
            case _:
                raise Misconfigured(f"observations of type {type(space).__name__} cannot be exported yet")
        self.columns = len(sizes)
        # One-hot of all columns at once: entry i is 1 where column `owner[i]` equals `wanted[i]`.
        self.register_buffer(
            "owner", torch.tensor([c for c, n in enumerate(sizes) for _ in range(n)], dtype=torch.long)
        )
        self.register_buffer("wanted", torch.tensor([v for n in sizes for v in range(n)], dtype=torch.long))

    def forward(self, observation: Tensor) -> Tensor:
        if self.columns:
            columns = observation.long().reshape(-1, self.columns)
            return (columns[:, self.owner] == self.wanted).float()
        return observation.float() / 255.0 if self.image else observation.float()


class Head(nn.Module):
    """Turns the network's raw outputs into the env-ready action; `names` says what else it puts out.

    `forward(latent)` returns the action followed by one tensor per name.
    """

    names: tuple[str, ...] = ()


class EnvironmentAction(nn.Module):
    """The continuous action `env.step` takes: the network's, unscaled from [-1, 1] or clipped to the bounds."""

    def __init__(self, space: spaces.Box, squashed: bool) -> None:
        super().__init__()
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
    """The whole policy: normalization, preprocessing, the family's network, and whether input and output are finite."""

    def __init__(
        self,
        network: nn.Module,
        preprocess: Preprocess,
        normalize: Normalize | None,
        transpose: bool,
        check_input: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocess = preprocess
        self.normalize = normalize
        self.transpose = transpose
        self.check_input = check_input

    def forward(self, observation: Tensor) -> tuple[Tensor, ...]:
        value = observation.permute(0, 3, 1, 2) if self.transpose else observation
        if self.normalize is not None:
            value = self.normalize(value)
        action, *others = self.network(self.preprocess(value))
        # The first output is what the action is computed from; the value plays no part in it.
        watched = _rows(others[0])
        total = torch.cat([watched, _rows(observation).float()], dim=1) if self.check_input else watched
        # x − x is 0 exactly where x is finite, else NaN: three operations instead of IsNaN, IsInf, Or, Not and All.
        finite = (total - total).sum(dim=1) == 0
        return (action, finite, *others)


def _rows(tensor: Tensor) -> Tensor:
    """The tensor as [batch, columns]; no operation at all where it is that already."""
    return tensor if tensor.ndim == 2 else tensor.reshape(tensor.shape[0], -1)


class Exporter(ABC):
    """One family of policies: its inputs, outputs and graph.

    `raw_space` is the environment's own observation space where it is known: it tells whether images must be
    transposed for the model. Raises Misconfigured for spaces the family cannot take.
    """

    algorithms: ClassVar[tuple[str, ...]]
    output_names: tuple[str, ...]
    """Names of what `network` returns after the action, in order; the first is what the action is computed from."""

    def __init__(self, agent: Agent, raw_space: Space | None = None) -> None:
        self.agent = agent
        self.policy: Any = agent.model.policy
        self.action_space: Space = agent.model.action_space
        self.model_space: Space = agent.model.observation_space
        self.observation_space = raw_space or self.model_space
        if isinstance(self.model_space, spaces.Dict):
            raise Misconfigured("Dict observations cannot be exported yet")
        self.transpose = self.observation_space.shape != self.model_space.shape
        if self.transpose and not _is_transposed(self.observation_space, self.model_space):
            raise Misconfigured(
                f"the environment observes {self.observation_space.shape}, "
                f"but the model expects {self.model_space.shape}"
            )

    @abstractmethod
    def network(self) -> nn.Module:
        """Maps preprocessed float observations [batch, ...] to (action, *outputs named by `output_names`)."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs of the graph, in order."""
        return ("action", "finite", *self.output_names)

    @property
    def inputs(self) -> tuple[TensorDescription, ...]:
        """The graph's inputs, batch dimension left out."""
        space = self.observation_space
        return (TensorDescription("observation", graph_dtype(space), tuple(space.shape or ())),)

    def graph(self) -> nn.Module:
        """The whole policy as a module in evaluation mode, from raw observations to all `outputs`."""
        image = bool(self.policy.normalize_images) and is_image_space(self.model_space)
        module = Graph(
            self.network(),
            Preprocess(self.model_space, image),
            self._normalize(),
            self.transpose,
            check_input=bool(np.issubdtype(self.model_space.dtype, np.floating)),
        )
        return module.eval()

    def dummy(self, batch: int = 2) -> Tensor:
        """A batch of raw observations sampled from the space, in the graph's dtype."""
        self.observation_space.seed(0)
        sampled = np.stack([self.observation_space.sample() for _ in range(batch)])
        return torch.as_tensor(sampled.astype(graph_dtype(self.observation_space)))

    def _normalize(self) -> Normalize | None:
        statistics = self.agent.normalizer
        if statistics is None or not statistics.norm_obs:
            return None
        rms: Any = statistics.obs_rms
        return Normalize(rms.mean, rms.var, statistics.epsilon, statistics.clip_obs)

    def require(self, allowed: Sequence[type[Space]]) -> None:
        """Raise Misconfigured unless the action space is of one of these types."""
        if not isinstance(self.action_space, tuple(allowed)):
            raise Misconfigured(
                f"{self.agent.algorithm} with {type(self.action_space).__name__} actions cannot be exported; "
                f"supported: {[kind.__name__ for kind in allowed]}"
            )


def _is_transposed(raw: Space, model: Space) -> bool:
    """Whether `raw` holds images [height, width, channels] and `model` the same as [channels, height, width]."""
    return raw.shape is not None and len(raw.shape) == 3 and (raw.shape[2], *raw.shape[:2]) == model.shape
