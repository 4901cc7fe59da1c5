"""Watching: wrappers that see what a predictor is never told, rewards and ends of episodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class End(NamedTuple):
    """An episode that ended: of which environment, the sum of its rewards, its number of steps."""

    row: int
    episode_return: float
    length: int


class Watch:
    """What was seen of environments that are stepped together. `beginning` [n]: no action was asked for since reset."""

    def __init__(self, size: int, monitored: bool) -> None:
        """`monitored`: below is SB3's Monitor, which knows the real returns, and ends that are none (a life lost)."""
        self.size = size
        self._monitored = monitored
        self.beginning: npt.NDArray[np.bool_] = np.ones(size, dtype=bool)
        self._returns = np.zeros(size)
        self._lengths = np.zeros(size, dtype=np.int64)

    def reset(self) -> None:
        """All environments were reset."""
        self.beginning[:] = True
        self._returns[:] = 0
        self._lengths[:] = 0

    def stepped(self, rewards: Any, dones: Any, infos: Sequence[dict[str, Any]]) -> list[End]:
        """Take in one step of all; the episodes that ended with it."""
        self._returns += rewards
        self._lengths += 1
        ends = []
        for row in np.flatnonzero(dones).tolist():
            told = infos[row].get("episode")
            if told is not None:
                ends.append(End(row, float(told["r"]), int(told["l"])))
            elif self._monitored:
                continue
            else:
                ends.append(End(row, float(self._returns[row]), int(self._lengths[row])))
            self.beginning[row] = True
            self._returns[row], self._lengths[row] = 0, 0
        return ends


Began = Callable[[Watch], None]
Ended = Callable[[Watch, list[End]], None]


def watched(env: Any, began: Began, ended: Ended) -> Any:
    """A wrapper of a Gymnasium environment, or of an SB3 VecEnv, that calls `began` and `ended`."""
    library = sys.modules.get("stable_baselines3.common.vec_env")  # whoever has a VecEnv has imported it
    if library is not None and isinstance(env, library.VecEnv):
        return _vectorised(library, env, began, ended)
    return _single(env, began, ended)


def _vectorised(library: Any, env: Any, began: Began, ended: Ended) -> Any:
    monitor = sys.modules["stable_baselines3.common.monitor"].Monitor
    monitored = library.is_vecenv_wrapped(env, library.VecMonitor) or env.env_is_wrapped(monitor)[0]
    watch = Watch(env.num_envs, bool(monitored))

    class Watched(library.VecEnvWrapper):
        def reset(self) -> Any:
            observations = self.venv.reset()
            watch.reset()
            began(watch)
            return observations

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = self.venv.step_wait()
            ended(watch, watch.stepped(rewards, dones, infos))
            return observations, rewards, dones, infos

    return Watched(env)


def _single(env: Any, began: Began, ended: Ended) -> Any:
    import gymnasium

    watch = Watch(1, False)

    class Watched(gymnasium.Wrapper):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            result = self.env.reset(seed=seed, options=options)
            watch.reset()
            began(watch)
            return result

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = self.env.step(action)
            ended(watch, watch.stepped([reward], [terminated or truncated], [info]))
            return observation, reward, terminated, truncated, info

    return Watched(env)
