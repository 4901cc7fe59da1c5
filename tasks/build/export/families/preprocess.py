"""From raw observations to what a network was trained on: transposition, VecNormalize and SB3's preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from torch import Tensor, nn

from tasks.build.training.environments import parts
from tasks.errors import Misconfigured

Space: TypeAlias = spaces.Space[Any]
Observation: TypeAlias = Tensor | dict[str, Tensor]


class Normalize(nn.Module):
    """VecNormalize's observations: clip((x − mean) / sqrt(var + epsilon)), in float64 as VecNormalize computes it.

    In float32 a mean of 1e6 with a deviation of 0.1 would lose a quarter of the signal.
    """

    def __init__(self, mean: Any, variance: Any, epsilon: float, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(np.asarray(mean, dtype=np.float64)))
        self.register_buffer("scale", torch.tensor(np.sqrt(np.asarray(variance, dtype=np.float64) + epsilon)))
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
                raise Misconfigured(f"observations of type {type(space).__name__} cannot be exported")
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


class Part(nn.Module):
    """One part of an observation: transposed to channels first, normalized, preprocessed."""

    def __init__(self, raw: Space, space: Space, normalize: Normalize | None, scale_images: bool) -> None:
        super().__init__()
        self.transpose = raw.shape != space.shape
        if self.transpose and not _is_transposed(raw, space):
            raise Misconfigured(f"the environment observes {raw.shape}, but the model expects {space.shape}")
        self.normalize = normalize
        self.preprocess = Preprocess(space, scale_images and is_image_space(space))

    def forward(self, observation: Tensor) -> Tensor:
        value = observation.permute(0, 3, 1, 2) if self.transpose else observation
        return self.preprocess(value if self.normalize is None else self.normalize(value))

    def misfits(self, observation: Tensor) -> Tensor:
        """How many numbers [n] one-hot encoding has no place for: torch refuses them, ONNX would pass them by."""
        return self.preprocess.columns - self.preprocess(observation).sum(dim=1)


class Prepare(nn.Module):
    """All parts of an observation: what the network's features extractor takes."""

    def __init__(self, raw: Space, space: Space, policy: Any, statistics: Any) -> None:
        super().__init__()
        raws, wanted = parts(raw), parts(space)
        if list(raws) != list(wanted):
            raise Misconfigured(f"the environment observes {list(raws)}, but the model expects {list(wanted)}")
        self.names = list(wanted)
        self.parts = nn.ModuleList(
            Part(raws[name], wanted[name], _normalize(name, statistics), bool(policy.normalize_images))
            for name in self.names
        )

    def forward(self, *observations: Tensor) -> Observation:
        prepared = [part(one) for part, one in zip(self.parts, observations, strict=True)]
        if self.names == ["observation"]:
            return prepared[0]
        return {name.partition(".")[2]: one for name, one in zip(self.names, prepared, strict=True)}

    def floats(self, *observations: Tensor) -> list[Tensor]:
        """The raw parts that hold floating-point numbers, each [n, columns]: those that can be other than finite."""
        return [rows(one).float() for one in observations if one.dtype.is_floating_point]

    def misfits(self, *observations: Tensor) -> list[Tensor]:
        """`Part.misfits` of the parts that are one-hot encoded."""
        pairs = zip(self.parts, observations, strict=True)
        return [part.misfits(one) for part, one in pairs if part.preprocess.columns]


def _normalize(name: str, statistics: Any) -> Normalize | None:
    if statistics is None or not statistics.norm_obs:
        return None
    found = statistics.obs_rms
    if isinstance(found, Mapping):
        key = name.partition(".")[2]
        if key not in (statistics.norm_obs_keys or ()):
            return None
        found = found[key]
    return Normalize(found.mean, found.var, statistics.epsilon, statistics.clip_obs)


def integer(space: Space) -> torch.dtype:
    """The torch dtype of a space of whole numbers."""
    return getattr(torch, np.dtype(space.dtype).name)


def rows(tensor: Tensor) -> Tensor:
    """The tensor as [batch, columns]; no operation at all where it is that already."""
    return tensor if tensor.ndim == 2 else tensor.reshape(tensor.shape[0], -1)


def _is_transposed(raw: Space, model: Space) -> bool:
    height_width_channels = tuple(raw.shape or ())
    return len(height_width_channels) == 3 and (height_width_channels[2], *height_width_channels[:2]) == model.shape
