"""What an export is proved on where the policy's environment cannot run, and at the edges of what it may be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.package.manifest import Tensor
from tasks import inputs
from tasks.build.training.environments import parts
from tasks.inputs import Array, Inputs

if TYPE_CHECKING:
    from gymnasium import Space
    from stable_baselines3.common.vec_env import VecNormalize

ROWS = 4_096
EDGE_ROWS = 16
CHUNK = 512
FAR = 1e6
"""Beyond this a bound is no range to draw from, and an observation is large."""

ON_POLICY, STATISTICS, SPACE = "on-policy", "VecNormalize statistics", "observation space"


@dataclass(frozen=True)
class Cases:
    """Rows to prove equality on: `usual` ones (`source` says where they come from) and edges by their names.

    The actions of `refused` are not compared (SB3 raises or answers anything): there the graph must say, row by row,
    that it cannot be trusted.
    """

    usual: Inputs
    source: str
    edges: Mapping[str, Inputs]
    refused: Mapping[str, Inputs]


def cases(
    space: Space[Any],
    interface: Sequence[Tensor],
    normalizer: VecNormalize | None = None,
    on_policy: Inputs | None = None,
    groups: Sequence[int] = (),
    rows: int = ROWS,
) -> Cases:
    """At least `rows` rows for a policy with the inputs `interface`: on-policy where given, else drawn.

    `groups` says how many entries of a mask belong to each dimension of the action. Draws have a fixed seed.
    """
    generator = np.random.default_rng(0)
    draw = _Draw(space, interface, normalizer, groups, generator)
    if on_policy is None:
        usual, source = draw.usual(rows), STATISTICS if draw.statistics else SPACE
    else:
        missing = rows - inputs.size(on_policy)
        usual, source = on_policy, ON_POLICY
        if missing > 0:
            usual = inputs.concatenate([on_policy, draw.around(inputs.repeat(on_policy, missing))])
            source = f"{ON_POLICY}, {missing} of them perturbed"
    return Cases(usual, source, draw.edges(), draw.refused())


class _Draw:
    """Draws rows for every input of a policy."""

    def __init__(
        self,
        space: Space[Any],
        interface: Sequence[Tensor],
        normalizer: VecNormalize | None,
        groups: Sequence[int],
        generator: np.random.Generator,
    ) -> None:
        self.parts = parts(space)
        self.interface = interface
        self.groups = groups
        self.generator = generator
        self.statistics = {name: found for name in self.parts if (found := _statistics(name, normalizer)) is not None}

    def usual(self, rows: int) -> Inputs:
        """Rows such as the policy may meet."""
        return {name: self._part(name, rows) for name in self.parts} | self._others(rows)

    def around(self, given: Inputs) -> Inputs:
        """The given rows with floating-point numbers moved by a hundredth of their deviation, whole ones drawn anew."""
        moved = dict(given)
        for name in self.parts:
            value = given[name]
            if value.dtype.kind == "f":
                noise = self.generator.normal(size=value.shape) * (0.01 * value.std(axis=0) + 1e-6)
                moved[name] = (value + noise).astype(value.dtype)
            else:
                moved[name] = self._part(name, len(value))
        return moved

    def edges(self) -> dict[str, Inputs]:
        """Zeros, the bounds of the space, and large numbers of either sign."""
        return {name: self._edge(name) for name in ("zeros", "low", "high", "large")}

    def refused(self) -> dict[str, Inputs]:
        """One NaN, one infinity, or one number out of a one-hot's range among otherwise usual rows."""
        found: dict[str, Inputs] = {}
        for name, part in self.parts.items():
            for label, wrong in _wrong(part):
                given = self.usual(EDGE_ROWS)
                value = given[name].reshape(EDGE_ROWS, -1).copy()
                value[np.arange(EDGE_ROWS), self.generator.integers(0, value.shape[1], EDGE_ROWS)] = wrong
                found[f"{label} in {name}"] = given | {name: value.reshape(given[name].shape)}
        return found

    def _edge(self, name: str) -> Inputs:
        return {
            part: self._edge_part(name, space).astype(_dtype(space)) for part, space in self.parts.items()
        } | self._others(EDGE_ROWS)

    def _edge_part(self, name: str, space: Any) -> Array:
        shape = (EDGE_ROWS, *space.shape)
        low, high = limits(space)
        far = min(FAR, float(np.finfo(_dtype(space)).max)) if np.dtype(_dtype(space)).kind == "f" else FAR
        if name == "zeros":
            return np.broadcast_to(np.clip(0.0, low, high), shape)
        if name in ("low", "high"):
            bound = low if name == "low" else high
            return np.broadcast_to(np.clip(np.clip(bound, -far, far), low, high), shape)
        return np.clip(self.generator.choice([-far, far], size=shape), low, high)

    def _others(self, rows: int) -> Inputs:
        found: Inputs = {}
        for tensor in self.interface:
            shape = (rows, *tensor.shape)
            if tensor.name == inputs.MASK:
                found[tensor.name] = self._masks(rows)
            elif tensor.name == inputs.START:
                found[tensor.name] = (self.generator.random(shape) < 0.1).astype(tensor.dtype)
            elif tensor.name in inputs.STATES:
                found[tensor.name] = np.tanh(self.generator.normal(size=shape)).astype(tensor.dtype)
        return found

    def _masks(self, rows: int) -> Array:
        """Masks that allow at least one action in every dimension."""
        columns = []
        for width in self.groups:
            mask = self.generator.random((rows, width)) < 0.5
            mask[np.arange(rows), self.generator.integers(0, width, rows)] = True
            columns.append(mask)
        return np.concatenate(columns, axis=1)

    def _part(self, name: str, rows: int) -> Array:
        # A few rows at a time: thousands of images in float64 would take gigabytes.
        return np.concatenate([self._rows(name, min(CHUNK, rows - at)) for at in range(0, rows, CHUNK)])

    def _rows(self, name: str, rows: int) -> Array:
        space: Any = self.parts[name]
        low, high = limits(space)
        shape = (rows, *space.shape)
        dtype = np.dtype(_dtype(space))
        if name in self.statistics:
            mean, deviation = self.statistics[name]
            value = np.clip(mean + deviation * 1.5 * self.generator.normal(size=shape), low, high)
            return (value if dtype.kind == "f" else np.rint(value)).astype(dtype)
        if dtype.kind != "f":
            least, most = np.clip(-FAR, low, high).astype(np.int64), np.clip(FAR, low, high).astype(np.int64)
            return self.generator.integers(least, most, size=shape, endpoint=True).astype(dtype)
        with np.errstate(over="ignore"):
            width = high - low
        bounded = width < 2 * FAR
        scale = self.generator.choice([0.1, 1.0, 5.0], size=(rows, *[1] * len(space.shape)))
        near = np.clip(np.clip(0.0, low, high) + scale * self.generator.normal(size=shape), low, high)
        within = np.where(bounded, low, 0.0) + self.generator.random(shape) * np.where(bounded, width, 0.0)
        return np.where(bounded, within, near).astype(dtype)


def drawn(space: Space[Any], rows: int) -> Inputs:
    """Observations such as a policy of this space may meet. `space.sample()` cannot draw within the widest bounds."""
    return _Draw(space, (), None, (), np.random.default_rng(0)).usual(rows)


def limits(space: Any) -> tuple[Array, Array]:
    """Lowest and highest value of a space that is no Dict, float64 in its shape; infinite where it has none."""
    match type(space).__name__:
        case "Box":
            return space.low.astype(np.float64), space.high.astype(np.float64)
        case "Discrete":
            return np.zeros(()), np.array(space.n - 1.0)
        case "MultiDiscrete":
            return np.zeros(space.shape), space.nvec - 1.0
        case _:
            return np.zeros(space.shape), np.ones(space.shape)


def _dtype(space: Any) -> str:
    return str(space.dtype)


def _wrong(space: Any) -> list[tuple[str, float]]:
    """What no part of this space may hold, by name."""
    match type(space).__name__:
        case "Box" if np.dtype(space.dtype).kind == "f":
            return [("NaN", np.nan), ("infinity", np.inf)]
        case "Discrete":
            return [("out of range", float(space.n))]
        case "MultiDiscrete":
            return [("out of range", float(space.nvec.max()))]
        case _:
            return []


def _statistics(name: str, normalizer: VecNormalize | None) -> tuple[Array, Array] | None:
    if normalizer is None or not normalizer.norm_obs:
        return None
    found: Any = normalizer.obs_rms
    if isinstance(found, dict):
        found = found.get(name.partition(".")[2])
    return None if found is None else (found.mean, np.sqrt(found.var))
