"""Proof that an exported policy acts as the original does: on real observations, at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bentos.package import Space

Array = npt.NDArray[Any]
Decide = Callable[[Array], Array]
"""Raw observations [n, ...] -> env-ready actions [n, ...]."""

BATCHES = (1, 2, 7, 64)
CALLS = 512
CONTINUOUS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """How two sets of actions compare.

    `agreement` is the share of rows that are equal (discrete) or within tolerance (continuous); `max_error` and
    `p99_error` are shares of the action's span, 0 for discrete actions that agree and 1 for those that do not.
    """

    rows: int
    agreement: float
    max_error: float
    p99_error: float


def span(space: Space, reference: Array) -> Array:
    """Span of each action dimension: high − low of a bounded Box, else that of the reference actions (at least 1)."""
    low, high = space.bounds()
    width = high - low
    seen = np.maximum(np.ptp(np.asarray(reference, dtype=np.float64), axis=0), 1.0)
    return np.where(np.isfinite(width) & (width > 0), width, seen)


def compare(space: Space, reference: Array, actions: Array, tolerance: float = CONTINUOUS_TOLERANCE) -> Difference:
    """Compare actions [n, ...] with reference actions [n, ...]. An action of another shape, or NaN, never agrees."""
    rows = len(reference)
    if actions.shape != reference.shape:
        return Difference(rows, 0.0, float("inf"), float("inf"))
    if space.type == "Box":
        error = np.abs(actions.astype(np.float64) - reference.astype(np.float64)) / span(space, reference)
        error = np.where(np.isnan(error), np.inf, error).reshape(rows, -1).max(axis=1)
    else:
        error = (actions != reference).reshape(rows, -1).any(axis=1).astype(np.float64)
    limit = tolerance if space.type == "Box" else 0.0
    return Difference(
        rows, float((error <= limit).mean()), float(error.max()), float(np.quantile(error, 0.99, method="higher"))
    )


def in_batches(decide: Decide, observations: Array, batch: int) -> Array:
    """Actions for all observations, asked for `batch` rows at a time."""
    return np.concatenate([decide(observations[at : at + batch]) for at in range(0, len(observations), batch)])


def prove(
    space: Space, original: Decide, formats: Mapping[str, Decide], observations: Array, batches: Iterable[int] = BATCHES
) -> dict[str, Any]:
    """Compare every format with the original at every batch size.

    Returns `{"observations", "tolerance", "equal", "formats": {name: {batch: Difference}}}`. `equal` asks for every
    row of every format at every batch. At each batch size the first 512 batches are compared, or all there are.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in formats}
    equal = True
    for batch in batches:
        rows = observations[: CALLS * batch]
        reference = in_batches(original, rows, batch)
        for name, decide in formats.items():
            difference = compare(space, reference, in_batches(decide, rows, batch))
            found[name][str(batch)] = asdict(difference)
            equal = equal and difference.agreement == 1.0
    return {
        "observations": len(observations),
        "tolerance": CONTINUOUS_TOLERANCE if space.type == "Box" else 0.0,
        "equal": equal,
        "formats": found,
    }


def worst(proof: Mapping[str, Any]) -> str:
    """The comparison of a proof that is furthest from equal, in words."""
    name, batch, difference = min(
        (
            (name, batch, difference)
            for name, batches in proof["formats"].items()
            for batch, difference in batches.items()
        ),
        key=lambda item: (item[2]["agreement"], -item[2]["max_error"]),
    )
    return (
        f"{name} at batch {batch}: {difference['agreement']:.2%} of {difference['rows']} actions equal, "
        f"largest error {difference['max_error']:.2e} of the span"
    )
