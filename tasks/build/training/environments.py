"""The environments that policies act in: made from a spec, their spaces described, the spec's limits checked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bentos.package.manifest import Space
from tasks.errors import Misconfigured
from tasks.spec.sections import Environment

if TYPE_CHECKING:
    import gymnasium
    from gymnasium import Space as GymSpace
    from stable_baselines3.common.vec_env import VecEnv

    from tasks.spec.sections import PolicySpec


def make(environment: Environment) -> gymnasium.Env[Any, Any]:
    """One Gymnasium environment. Raises Misconfigured when it is unknown or not installed."""
    import gymnasium

    try:
        return gymnasium.make(environment.id, disable_env_checker=True, **environment.kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        raise Misconfigured(
            f"environment {environment.id!r} cannot be made: {error}; install the package that registers it"
        ) from error


def action_mask(environment: gymnasium.Env[Any, Any]) -> npt.NDArray[np.bool_]:
    """The actions an environment allows now [entries of the mask], from its `action_masks()`, as sb3-contrib asks it.

    Raises Misconfigured for an environment that has none.
    """
    try:
        masks = environment.get_wrapper_attr("action_masks")()
    except AttributeError as error:
        raise Misconfigured(
            f"{environment.unwrapped}: a maskable policy needs an environment with a method `action_masks()`"
        ) from error
    return np.asarray(masks, dtype=bool).reshape(-1)


def make_vectorised(environment: Environment, n_envs: int, seed: int) -> VecEnv:
    """`n_envs` seeded environments in this process, each under SB3's Monitor, for training.

    Environment `i` is seeded with `seed + i`, its action space too.
    """
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    vectorised = DummyVecEnv([lambda: Monitor(make(environment)) for _ in range(n_envs)])
    vectorised.seed(seed)
    for index, single in enumerate(vectorised.envs):
        single.action_space.seed(seed + index)
    return vectorised


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


def check_limits(spec: PolicySpec, observations: GymSpace[Any], actions: GymSpace[Any]) -> None:
    """Raise Misconfigured, saying what was expected, where the envelope does not fit an environment's spaces."""
    from bentos.envelope import build
    from bentos.package.manifest import PackageError
    from tasks.spec.packaging import Packaging

    try:
        build(describe(actions), Packaging.of(spec).safety, describe(observations), None)
    except PackageError as error:
        raise Misconfigured(f"the spec of {spec.name} does not fit {spec.environment.id}: {error}") from error
