"""Evaluate a candidate: deterministic episodes on fixed seeds, the same for every candidate, against a minimum."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bentos.package.manifest import Tensor
from tasks.build.training.rollout import EVALUATION_SEED, Rollout, bootstrap_interval, join, play, thin
from tasks.inputs import Array, Decide, Inputs
from tasks.spec.sections import Environment

CONFIDENCE = 0.95
MINIMUM_STEPS = 2_000
KEPT_STEPS = 8_192
EXTRA_EPISODES = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Returns of the episodes, in the order of their seeds; `lower`/`upper` bound the mean (percentile bootstrap)."""

    episodes: int
    returns: list[float]
    lengths: list[int]
    mean: float
    std: float
    lower: float
    upper: float
    confidence: float
    interval: str
    minimum: float
    passed: bool


def judge(returns: Array, lengths: Array, minimum: float) -> Evaluation:
    """Summarise returns [n] and lengths [n]; `passed` when the mean is at least `minimum`."""
    lower, upper = bootstrap_interval(returns, CONFIDENCE)
    mean = float(returns.mean())
    return Evaluation(
        episodes=len(returns),
        returns=[float(value) for value in returns],
        lengths=[int(value) for value in lengths],
        mean=mean,
        std=float(returns.std(ddof=1)) if len(returns) > 1 else 0.0,
        lower=lower,
        upper=upper,
        confidence=CONFIDENCE,
        interval="percentile bootstrap of the mean, 10,000 resamples",
        minimum=minimum,
        passed=mean >= minimum,
    )


def evaluate_policy(
    environment: Environment, decide: Decide, episodes: int, minimum: float, interface: Sequence[Tensor] = ()
) -> tuple[Evaluation, Rollout]:
    """Play `episodes` on the fixed evaluation seeds and judge them. `interface`: see `play`.

    The rollout that is returned has at least 2,000 on-policy steps: where the judged episodes are too short for it,
    it holds further ones that count for nothing else.
    """
    rollout = play(environment, decide, range(EVALUATION_SEED, EVALUATION_SEED + episodes), interface)
    evaluation = judge(rollout.returns, rollout.lengths, minimum)
    while len(rollout.episode_index) < MINIMUM_STEPS:
        first = EVALUATION_SEED + len(rollout.returns)
        rollout = join(rollout, play(environment, decide, range(first, first + EXTRA_EPISODES), interface))
    return evaluation, rollout


def save_rollout(rollout: Rollout, path: Path) -> None:
    """Write the steps of a rollout (at most 8,192 of them, evenly spaced) as plain arrays."""
    kept = thin(rollout, KEPT_STEPS)
    arrays: dict[str, Any] = {**kept.inputs, "actions": kept.actions, "episode_index": kept.episode_index}
    np.savez_compressed(path, **arrays)


def load_rollout(path: Path) -> tuple[Inputs, Array]:
    """Inputs and actions [n, ...] of a saved rollout."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    actions = arrays.pop("actions")
    del arrays["episode_index"]
    return arrays, actions


def load_episodes(path: Path) -> Array:
    """Which episode each step of a saved rollout is of, int64 [n]."""
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive["episode_index"])
