"""Gymnasium spaces as the package's JSON, and the dtypes that the graph uses for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from bentos.package.manifest import Space
from tasks.errors import Misconfigured

if TYPE_CHECKING:
    from gymnasium import Space as GymSpace


def _flat(bounds: Any) -> tuple[float | None, ...]:
    return tuple(float(v) if math.isfinite(v) else None for v in np.asarray(bounds, dtype=np.float64).reshape(-1))


def describe(space: GymSpace[Any]) -> Space:
    """The package's description of a Gymnasium space. Raises Misconfigured for a type it does not know."""
    from gymnasium import spaces

    match space:
        case spaces.Box():
            return Space("Box", str(space.dtype), tuple(space.shape), _flat(space.low), _flat(space.high))
        case spaces.Discrete():
            return Space("Discrete", str(space.dtype), n=int(space.n), start=int(space.start))
        case spaces.MultiDiscrete():
            nvec = tuple(int(n) for n in space.nvec.reshape(-1))
            return Space("MultiDiscrete", str(space.dtype), tuple(space.shape), nvec=nvec)
        case spaces.MultiBinary():
            return Space("MultiBinary", str(space.dtype), tuple(space.shape), n=int(np.prod(space.shape)))
        case spaces.Dict():
            return Space("Dict", spaces={key: describe(part) for key, part in space.spaces.items()})
    raise Misconfigured(f"spaces of type {type(space).__name__} are not supported")


def graph_dtype(space: GymSpace[Any]) -> str:
    """The dtype in which the graph takes values of a space: its own, but float32 for float64."""
    return "float32" if str(space.dtype) == "float64" else str(space.dtype)


def parts(space: GymSpace[Any]) -> dict[str, GymSpace[Any]]:
    """The spaces that observations of `space` consist of, by the name of their input: one, or one a key of a Dict."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {f"observation.{key}": part for key, part in space.spaces.items()}
    return {"observation": space}
