"""Seeded episodes: many environments in step, one batched decision for all of them, each episode on its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bentos.package.manifest import Tensor
from tasks import inputs
from tasks.build.training.environments import action_mask, make
from tasks.inputs import Array, Decide, Inputs
from tasks.spec.sections import Environment

EVALUATION_SEED = 1_000_000
QUANTIZATION_SEED = 2_000_000


@dataclass(frozen=True)
class Rollout:
    """Finished episodes, in the order of their seeds, and the steps in them.

    `returns` float64 [episodes], `lengths` int64 [episodes]; `inputs` (what each decision was made from: the raw
    observation, and mask and state where the policy takes them) and `actions` have one row a step, `episode_index`
    int64 [steps], ordered by episode and then by time.
    """

    returns: Array
    lengths: Array
    inputs: Inputs
    actions: Array
    episode_index: Array


@dataclass
class _Seat:
    """One environment in the middle of one episode."""

    episode: int
    environment: Any
    observation: Any
    states: dict[str, Array]
    started: bool = True


@dataclass
class _Steps:
    """What one episode gave, step by step."""

    inputs: list[Inputs] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


def play(
    environment: Environment,
    decide: Decide,
    seeds: Sequence[int],
    interface: Sequence[Tensor] = (),
    n_envs: int = 50,
) -> Rollout:
    """Play one episode a seed, to its end, at most `n_envs` at a time.

    `interface` is the policy's inputs (see `Exporter.inputs`): what a maskable or recurrent policy needs beside the
    observation is fed as it asks. Each environment is reset by hand with its episode's seed, so no autoreset can mix
    two episodes. The result depends on nothing but the policy, the environment and the seeds.
    """
    memory = {tensor.name: np.zeros(tensor.shape, tensor.dtype) for tensor in interface if tensor.name in inputs.STATES}
    masked = any(tensor.name == inputs.MASK for tensor in interface)
    steps = [_Steps() for _ in seeds]
    waiting = iter(range(len(seeds)))

    def seat(episode: int, single: Any) -> _Seat:
        return _Seat(episode, single, single.reset(seed=seeds[episode])[0], dict(memory))

    environments = [make(environment) for _ in range(min(n_envs, len(seeds)))]
    running = [seat(next(waiting), single) for single in environments]
    while running:
        batch = _batch(running, masked, bool(memory))
        outputs = decide(batch)
        following = []
        for row, one in enumerate(running):
            action, kept = outputs["action"][row], steps[one.episode]
            kept.inputs.append(inputs.take(batch, slice(row, row + 1)))
            kept.actions.append(action)
            one.observation, reward, terminated, truncated, _ = one.environment.step(action)
            kept.rewards.append(float(reward))
            one.states = {name: outputs[f"next_{name}"][row] for name in memory}
            one.started = False
            if not (terminated or truncated):
                following.append(one)
            elif (fresh := next(waiting, None)) is not None:
                following.append(seat(fresh, one.environment))
        running = following
    for single in environments:
        single.close()
    lengths = np.array([len(kept.rewards) for kept in steps], dtype=np.int64)
    return Rollout(
        returns=np.array([sum(kept.rewards) for kept in steps], dtype=np.float64),
        lengths=lengths,
        inputs=inputs.concatenate([one for kept in steps for one in kept.inputs]),
        actions=np.stack([action for kept in steps for action in kept.actions]),
        episode_index=np.repeat(np.arange(len(seeds)), lengths),
    )


def _batch(running: list[_Seat], masked: bool, recurrent: bool) -> Inputs:
    batch = inputs.stack([one.observation for one in running])
    if masked:
        batch[inputs.MASK] = np.stack([action_mask(one.environment) for one in running])
    if recurrent:
        for name in inputs.STATES:
            batch[name] = np.stack([one.states[name] for one in running])
        batch[inputs.START] = np.array([one.started for one in running], dtype=np.float32)
    return batch


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
        inputs.take(rollout.inputs, kept),
        rollout.actions[kept],
        rollout.episode_index[kept],
    )


def join(first: Rollout, second: Rollout) -> Rollout:
    """The episodes of both, in order."""
    return Rollout(
        np.concatenate([first.returns, second.returns]),
        np.concatenate([first.lengths, second.lengths]),
        inputs.concatenate([first.inputs, second.inputs]),
        np.concatenate([first.actions, second.actions]),
        np.concatenate([first.episode_index, second.episode_index + len(first.returns)]),
    )
