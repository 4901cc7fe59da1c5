"""Paired returns: the exported policy and the original play the same seeds, and earn the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bentos.package.manifest import Tensor
from tasks.build.export.parity import SCORES, compare
from tasks.build.training.environments import make
from tasks.build.training.rollout import play
from tasks.inputs import Array, Decide, in_batches
from tasks.spec.sections import Environment

EPISODES = 16
TOLERANCE = 0.01
"""Continuous actions may differ by rounding, and returns then by this share of the mean return (or its deviation)."""

_BATCH = 256


def paired_returns(
    environment: Environment,
    original: Decide,
    exported: Decide,
    interface: Sequence[Tensor],
    seeds: Sequence[int],
    earned: Array | None = None,
) -> dict[str, Any]:
    """Play both policies on the same seeds and compare what they earn, an episode a seed.

    `interface` is the policy's inputs (see `play`); `earned` are the original's returns on these seeds, where it has
    played them already.

    Returns `{"episodes", "original", "exported" (mean returns), "largest_difference" (of an episode), "equal",
    "actions"}`. `equal` asks for every episode's return exactly where actions are whole numbers, and for means
    within 1 % of the larger of the original's mean and standard deviation where they are continuous. `actions` compares
    the two policies on every step of the exported one's episodes (see `Difference`): where all of these agree, up to
    ties, and returns do not, the environment magnifies rounding.
    """
    from tasks.build.training.environments import describe

    single = make(environment)
    space = describe(single.action_space)
    single.close()
    first = play(environment, original, seeds, interface).returns if earned is None else earned
    second = play(environment, exported, seeds, interface)
    asked = in_batches(original, second.inputs, _BATCH)["action"]
    outputs = in_batches(exported, second.inputs, _BATCH)
    scores = next((outputs[name] for name in SCORES if name in outputs), None)
    difference = np.abs(second.returns - first)
    means = float(first.mean()), float(second.returns.mean())
    allowed = TOLERANCE * max(abs(means[0]), float(first.std())) if space.type == "Box" else 0.0
    kept = abs(means[1] - means[0]) <= allowed if space.type == "Box" else not difference.any()
    return {
        "episodes": len(seeds),
        "original": means[0],
        "exported": means[1],
        "largest_difference": float(difference.max()),
        "equal": bool(kept),
        "actions": asdict(compare(space, asked, second.actions, scores=scores)),
    }


def acts_alike(returns: dict[str, Any]) -> bool:
    """Whether paired play shows one policy: the same action at every step that was taken.

    Returns may then still differ, where the environment magnifies rounding. Without play (`{"skipped": reason}`)
    nothing speaks against it.
    """
    return "skipped" in returns or returns["actions"]["agreement"] == 1.0
