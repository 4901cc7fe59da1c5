"""The environments that policies act in, made from a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tasks.errors import Misconfigured
from tasks.spec.sections import Environment

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3.common.vec_env import VecEnv


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
