"""Seeded episodes: many environments in step, one batched decision for all of them, each episode on its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.environments import make
from tasks.spec import Environment

Array = npt.NDArray[Any]
Decide = Callable[[Array], Array]
"""Raw observations [n, ...] -> actions [n, ...] as `env.step` takes them."""

EVALUATION_SEED = 1_000_000
QUANTIZATION_SEED = 2_000_000


@dataclass(frozen=True)
class Rollout:
    """Finished episodes, in the order of their seeds, and the steps in them.

    `returns` float64 [episodes], `lengths` int64 [episodes]; `observations` (raw, before each decision) and `actions`
    are [steps, ...], `episode_index` int64 [steps], ordered by episode and then by time.
    """

    returns: Array
    lengths: Array
    observations: Array
    actions: Array
    episode_index: Array


def play(environment: Environment, decide: Decide, seeds: Sequence[int], n_envs: int = 50) -> Rollout:
    """Play one episode a seed, to its end, at most `n_envs` at a time.

    Each environment is reset by hand with its episode's seed, so no autoreset can mix two episodes. The result
    depends on nothing but the policy, the environment and the seeds.
    """
    environments = [make(environment) for _ in range(min(n_envs, len(seeds)))]
    observed: list[list[Array]] = [[] for _ in seeds]
    acted: list[list[Array]] = [[] for _ in seeds]
    rewarded: list[list[float]] = [[] for _ in seeds]
    waiting = iter(range(len(seeds)))
    running: list[tuple[int, Any, Array]] = []
    for single in environments:
        episode = next(waiting)
        running.append((episode, single, single.reset(seed=seeds[episode])[0]))
    while running:
        actions = decide(np.stack([observation for _, _, observation in running]))
        following = []
        for (episode, single, observation), action in zip(running, actions, strict=True):
            observed[episode].append(observation)
            acted[episode].append(action)
            successor, reward, terminated, truncated, _ = single.step(action)
            rewarded[episode].append(float(reward))
            if not (terminated or truncated):
                following.append((episode, single, successor))
            elif (fresh := next(waiting, None)) is not None:
                following.append((fresh, single, single.reset(seed=seeds[fresh])[0]))
        running = following
    for single in environments:
        single.close()
    lengths = np.array([len(rewards) for rewards in rewarded], dtype=np.int64)
    return Rollout(
        returns=np.array([sum(rewards) for rewards in rewarded], dtype=np.float64),
        lengths=lengths,
        observations=np.stack([observation for steps in observed for observation in steps]),
        actions=np.stack([action for steps in acted for action in steps]),
        episode_index=np.repeat(np.arange(len(seeds)), lengths),
    )


def bootstrap_interval(values: Array, confidence: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` [n] (Efron 1979), with a fixed seed."""
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[chosen].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def thin(rollout: Rollout, rows: int) -> Rollout:
    """The same episodes with at most `rows` of their steps, evenly spaced."""
    steps = len(rollout.episode_index)
    if steps <= rows:
        return rollout
    kept = np.linspace(0, steps - 1, rows).astype(np.int64)
    return Rollout(
        rollout.returns,
        rollout.lengths,
        rollout.observations[kept],
        rollout.actions[kept],
        rollout.episode_index[kept],
    )
