"""Quantize a candidate: write its reduced-precision variants and measure how each acts beside fp32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bentos.package.manifest import Space, Tensor
from tasks.build.export.graph import decider
from tasks.build.export.parity import FORBIDDEN, SCORES, compare, errors, groups
from tasks.build.training.rollout import QUANTIZATION_SEED, bootstrap_interval, play
from tasks.build.variants.gate import ActionDifference, Behaviour, ReturnDifference, judge_behaviour
from tasks.build.variants.layers import check_interface
from tasks.build.variants.writers import VARIANTS, quiet
from tasks.errors import Misconfigured
from tasks.inputs import OBSERVATION, Array, Decide, Inputs, Outputs, in_batches, repeat, spread
from tasks.spec.sections import Environment

COMPARED_ROWS = 4_096
COMPARED_BATCH = 64
INVARIANCE_ROWS = 256
BATCH_TOLERANCE = 1e-4
EPISODES = 32
DEFAULT_LOSS = 0.01
"""Share of fp32's mean return that a variant may lose where no policy spec says how much."""
POISON = (np.nan, np.inf, -np.inf)

log = logging.getLogger(__name__)


def margins(space: Space, outputs: Outputs) -> Array:
    """How sure a policy is of each whole number it chose [n, dimensions]: its score minus the runner-up's.

    For one logit a dimension (Bernoulli) its distance from 0. Where a mask leaves no choice, the largest margin there
    is; 1 everywhere for a policy that puts out no scores.
    """
    action = outputs["action"]
    rows = len(action)
    scores = next((outputs[name].astype(np.float64) for name in SCORES if name in outputs), None)
    if scores is None:
        return np.ones((rows, action.reshape(rows, -1).shape[1]))
    widths = groups(space)
    if scores.shape[1] != sum(widths):
        return np.abs(scores)
    columns = []
    for part in np.split(scores, np.cumsum(widths)[:-1], axis=1):
        ordered = np.sort(part, axis=1)
        margin = ordered[:, -1] - ordered[:, -2] if part.shape[1] > 1 else np.full(rows, np.inf)
        columns.append(np.where(ordered[:, max(part.shape[1] - 2, 0)] > -FORBIDDEN, margin, np.inf))
    found = np.stack(columns, axis=1)
    finite = found[np.isfinite(found)]
    return np.where(np.isfinite(found), found, finite.max() if finite.size else 1.0)


def compare_actions(space: Space, reference: Outputs, action: Array) -> ActionDifference:
    """Actions [n, ...] beside those of the fp32 outputs `reference`."""
    rows, discrete = len(action), space.type != "Box"
    error = errors(space, reference["action"], action)
    agreement = float((error <= 0.0).mean())
    weighted = agreement
    if discrete:
        weight = margins(space, reference)
        equal = (action == reference["action"]).reshape(rows, -1)
        weighted = float((weight * equal).sum() / weight.sum()) if weight.sum() > 0 else agreement
    return ActionDifference(
        discrete, rows, agreement, weighted, float(error.max()), float(np.quantile(error, 0.99, method="higher"))
    )


def is_batch_invariant(space: Space, decide: Decide, given: Inputs) -> bool:
    """Whether actions for 256 rows are the same alone, in sevens and in sixty-fours."""
    rows = spread(given, INVARIANCE_ROWS)
    alone = in_batches(decide, rows, 1)["action"]
    return all(
        compare(space, alone, in_batches(decide, rows, batch)["action"], BATCH_TOLERANCE).agreement == 1.0
        for batch in (7, 64)
    )


def keeps_flags(reference: Decide, decide: Decide, given: Inputs) -> bool:
    """Whether usual rows are flagged as fp32 flags them, and every poisoned row that fp32 flags is flagged, too.

    Poisoned are single numbers of floating-point observations: NaN and the infinities, in one row of a batch each.
    """
    usual = repeat(given, COMPARED_BATCH)
    if (reference(usual)["finite"] != decide(usual)["finite"]).any():
        return False
    for name, value in usual.items():
        if not name.startswith(OBSERVATION) or value.dtype.kind != "f":
            continue
        for column in range(value[0].size) if value[0].size <= COMPARED_BATCH else (0, value[0].size - 1):
            poisoned = value.copy()
            poisoned.reshape(len(value), -1)[np.arange(len(POISON)), column] = POISON
            rows = {**usual, name: poisoned}
            if (decide(rows)["finite"] & ~reference(rows)["finite"]).any():
                return False
    return True


def measure(
    space: Space,
    interface: Sequence[Tensor],
    reference: Path,
    variant: Path,
    given: Inputs,
    environment: Environment | None,
    baseline: Array | str,
) -> Behaviour:
    """Compare a variant with the fp32 graph on `given` rows, and its returns with `baseline` [episodes].

    A `baseline` in words says why there are no returns; where actions depend on the batch none are played either.
    """
    check_interface(reference, variant, given)
    exact, decide = decider(reference), decider(variant)
    rows = spread(given, COMPARED_ROWS)
    batch_invariant = is_batch_invariant(space, decide, given)
    returns, unmeasured = None, ""
    if environment is None or isinstance(baseline, str):
        unmeasured = str(baseline)
    elif not batch_invariant:
        unmeasured = "it depends on the batch as its actions do"
    else:
        seeds = range(QUANTIZATION_SEED, QUANTIZATION_SEED + len(baseline))
        paired = play(environment, decide, seeds, interface).returns - baseline
        returns = ReturnDifference(len(paired), float(paired.mean()), *bootstrap_interval(paired))
    return Behaviour(
        compare_actions(
            space, in_batches(exact, rows, COMPARED_BATCH), in_batches(decide, rows, COMPARED_BATCH)["action"]
        ),
        returns,
        batch_invariant,
        keeps_flags(exact, decide, given),
        unmeasured,
    )


def quantize_policy(
    reference: Path,
    given: Inputs,
    space: Space,
    interface: Sequence[Tensor],
    environment: Environment | None,
    tolerated_loss: float | None,
    directory: Path,
    episodes: int = EPISODES,
) -> dict[str, dict[str, Any]]:
    """Write every variant of the fp32 graph `reference` into `directory` and judge how each acts.

    `given` are the rows it is calibrated and compared on; `tolerated_loss` is in return units (None: 1 % of fp32's mean
    return). Returns `{variant: {"accepted_actions", "reason", "file", "size_bytes", "agreement", "weighted_agreement",
    "max_error", "p99_error", "return_difference", "batch_invariant", "flags_kept"}}`; a variant that cannot be made has
    no file and says why.
    Where the environment cannot run there are no returns, and no variant is accepted.
    """
    baseline = _baseline(reference, environment, interface, episodes)
    if tolerated_loss is None:
        tolerated_loss = 0.0 if isinstance(baseline, str) else DEFAULT_LOSS * abs(float(baseline.mean()))
    found: dict[str, dict[str, Any]] = {}
    for name, variant in VARIANTS.items():
        target = directory / variant.file
        try:
            with quiet():
                variant.write(reference, target, given)
            behaviour = measure(space, interface, reference, target, given, environment, baseline)
        except Exception as error:  # noqa: BLE001 - a converter that fails on this graph rejects its own variant only
            target.unlink(missing_ok=True)
            why = str(error) if isinstance(error, Misconfigured) else f"{type(error).__name__}: {error}"
            reason = f"cannot be made for this graph: {why}"
            found[name] = {"accepted_actions": False, "reason": reason, "file": None}
            continue
        verdict = judge_behaviour(behaviour, tolerated_loss)
        found[name] = {
            "accepted_actions": verdict.accepted,
            "reason": verdict.reason,
            "file": variant.file,
            "size_bytes": target.stat().st_size,
            **asdict(behaviour.actions),
            "return_difference": None if behaviour.returns is None else asdict(behaviour.returns),
            "batch_invariant": behaviour.batch_invariant,
            "flags_kept": behaviour.flags_kept,
        }
    return found


def _baseline(
    reference: Path, environment: Environment | None, interface: Sequence[Tensor], episodes: int
) -> Array | str:
    """Returns of fp32 [episodes], or why there are none."""
    if environment is None:
        return "the environment is not known"
    seeds = range(QUANTIZATION_SEED, QUANTIZATION_SEED + episodes)
    try:
        return play(environment, decider(reference), seeds, interface).returns
    except Misconfigured as error:
        return str(error)
