"""Proof that an exported policy acts as the original does: every format, at several batch sizes, to the last row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bentos.package.manifest import Space
from tasks.build.export.cases import Cases
from tasks.inputs import Array, Decide, Outputs, in_batches, size, take

BATCHES = (1, 2, 7, 64)
CALLS = 128
CONTINUOUS_TOLERANCE = 1e-5
PARAMETER_TOLERANCE = 1e-4
TIE_TOLERANCE = 1e-6
"""Two actions whose scores differ by less, relative to the largest score, are told apart by rounding alone."""

FORBIDDEN = 1e7
"""No logit is that large but those of actions that a mask forbids, up to their sign."""

SCORES = ("logits", "q_values")


@dataclass(frozen=True)
class Difference:
    """How two sets of actions compare.

    `agreement` is the share of rows that are equal (discrete) or within tolerance (continuous); `max_error` and
    `p99_error` are shares of the action's span, 0 for discrete actions that agree and 1 for those that do not. `ties`
    counts rows that agree only up to rounding: the original itself scores both actions alike.
    """

    rows: int
    agreement: float
    max_error: float
    p99_error: float
    ties: int = 0


def span(space: Space, reference: Array) -> Array:
    """Span of each action dimension: high − low of a bounded Box, else that of the reference actions (at least 1)."""
    low, high = space.bounds()
    width = high - low
    seen = np.maximum(np.ptp(np.asarray(reference, dtype=np.float64), axis=0), 1.0)
    return np.where(np.isfinite(width) & (width > 0), width, seen)


def errors(space: Space, reference: Array, actions: Array) -> Array:
    """Error of each row [n]: the largest over its dimensions, as a share of the span; 0 or 1 for whole numbers."""
    rows = len(reference)
    if space.type == "Box":
        error = np.abs(actions.astype(np.float64) - reference.astype(np.float64)) / span(space, reference)
        return np.where(np.isnan(error), np.inf, error).reshape(rows, -1).max(axis=1)
    return (actions != reference).reshape(rows, -1).any(axis=1).astype(np.float64)


def compare(
    space: Space,
    reference: Array,
    actions: Array,
    tolerance: float = CONTINUOUS_TOLERANCE,
    scores: Array | None = None,
) -> Difference:
    """Compare actions [n, ...] with reference actions [n, ...]. An action of another shape, or NaN, never agrees.

    With `scores` [n, k] (logits or q-values of the reference) actions that differ by a tie count as equal.
    """
    rows = len(reference)
    if actions.shape != reference.shape:
        return Difference(rows, 0.0, float("inf"), float("inf"))
    error = errors(space, reference, actions)
    ties = np.zeros(rows, dtype=bool)
    if scores is not None and space.type != "Box" and error.any():
        ties = (error > 0) & tied(space, scores, reference, actions)
        error = np.where(ties, 0.0, error)
    limit = tolerance if space.type == "Box" else 0.0
    return Difference(
        rows,
        float((error <= limit).mean()),
        float(error.max()),
        float(np.quantile(error, 0.99, method="higher")),
        int(ties.sum()),
    )


def groups(space: Space) -> list[int]:
    """How many scores each dimension of a space of whole numbers has, where it is chosen by the largest of them."""
    if space.type == "Discrete":
        return [int(space.n or 0)]
    if space.type == "MultiDiscrete":
        return [int(n) for n in space.nvec or ()]
    return [2] * int(np.prod(space.shape))


def tied(space: Space, scores: Array, reference: Array, actions: Array) -> Array:
    """Rows [n] in which every dimension scores the two actions alike, up to `TIE_TOLERANCE`."""
    rows = len(reference)
    first, second = (np.asarray(a).reshape(rows, -1).astype(np.int64) for a in (reference, actions))
    score = scores.astype(np.float64)
    size = np.where(np.abs(score) < FORBIDDEN, np.abs(score), 0.0).max(axis=1, keepdims=True)
    tolerance = TIE_TOLERANCE * np.maximum(1.0, size)
    widths = groups(space)
    if score.shape[1] != sum(widths):
        # One logit a dimension (Bernoulli): its sign decides.
        return ((first == second) | (np.abs(score) <= tolerance)).all(axis=1)
    starts = np.cumsum([0, *widths[:-1]])
    row = np.arange(rows)[:, None]
    apart = np.abs(score[row, starts + first] - score[row, starts + second])
    return (apart <= tolerance).all(axis=1)


def canonical(space: Space, name: str, value: Array) -> Array:
    """A parameter in the form in which two can be compared: logits are only known up to a constant a group."""
    given = value.astype(np.float64)
    if name != "logits" or given.shape[1] != sum(groups(space)):
        return given
    parts = np.split(given, np.cumsum(groups(space))[:-1], axis=1)
    tops = [part - part.max(axis=1, keepdims=True) for part in parts]
    return np.concatenate([top - np.log(np.exp(top).sum(axis=1, keepdims=True)) for top in tops], axis=1)


def parameter_errors(space: Space, reference: Outputs, outputs: Outputs) -> dict[str, float]:
    """Largest error of each parameter, relative to 1 + its size (see `_sizes`)."""
    found = {}
    for name, value in reference.items():
        ours, theirs = canonical(space, name, outputs[name]), canonical(space, name, value)
        error = np.abs(ours - theirs).reshape(len(theirs), -1) / (1.0 + _sizes(theirs.reshape(len(theirs), -1)))
        found[name] = float(np.nan_to_num(error, nan=np.inf).max())
    return found


def _sizes(parameter: Array) -> Array:
    """The size of what each entry of a parameter [n, k] was summed from: the largest of its row, or of a usual row.

    Float32 rounds sums in proportion to their terms. A q-value of 0 beside one of 300 is as uncertain as that one, and
    SB3 itself answers it differently at another batch size. The logit of a forbidden action tells of no other's size.
    """
    magnitude = np.abs(parameter)
    largest = np.where(magnitude < FORBIDDEN, magnitude, 0.0).max(axis=1, keepdims=True)
    return np.where(magnitude < FORBIDDEN, np.maximum(largest, np.median(largest)), magnitude)


@dataclass(frozen=True)
class Original:
    """The policy as SB3 runs it: its actions, and its own distribution parameters."""

    decide: Decide
    parameters: Decide


@dataclass(frozen=True)
class Answers:
    """What the original answers, asked once for all formats: outputs by batch size, and parameters of all usual rows.

    `edges` has outputs and parameters by case.
    """

    batches: Mapping[int, Outputs]
    parameters: Outputs
    edges: Mapping[str, tuple[Outputs, Outputs]]


def ask(original: Original, cases: Cases, batches: Iterable[int] = BATCHES) -> Answers:
    """Ask the original all that a proof compares: at each batch size the first 128 batches, at the largest all rows."""
    sizes, total = sorted(batches), size(cases.usual)
    return Answers(
        {
            batch: in_batches(
                original.decide, take(cases.usual, slice(total if batch == sizes[-1] else CALLS * batch)), batch
            )
            for batch in sizes
        },
        in_batches(original.parameters, cases.usual, 256),
        {case: (original.decide(given), original.parameters(given)) for case, given in cases.edges.items()},
    )


def prove(
    space: Space, original: Original, formats: Mapping[str, Decide], cases: Cases, batches: Iterable[int] = BATCHES
) -> dict[str, Any]:
    """Compare every format with the original, and say where it is equal and where not.

    Returns `{"observations", "source", "tolerance", "equal", "formats": {name: {batch: Difference}}, "edges": {name:
    {case: Difference}}, "refused": {name: {case: share of rows flagged}}, "parameters": {name: {output: error}}}`.
    `equal` asks for every row of every format at every batch and edge, for every bad row flagged and every good one
    not, and for parameters (and a recurrent policy's next state) within 1e-4. At each batch size the first 128 batches
    are compared, or all there are; the last, and the edges, are all compared.
    """
    return compare_formats(space, ask(original, cases, batches), formats, cases)


def compare_formats(space: Space, asked: Answers, formats: Mapping[str, Decide], cases: Cases) -> dict[str, Any]:
    """The proof (see `prove`) from what the original has answered; one format after the other, in their order."""
    found: dict[str, dict[str, Any]] = {name: {} for name in formats}
    edges, refused, parameters = {}, {}, {}
    fine = True
    for name, decide in formats.items():
        for batch, reference in asked.batches.items():
            rows = len(reference["action"])
            outputs = in_batches(decide, take(cases.usual, slice(rows)), batch)
            difference = compare(
                space, reference["action"], outputs["action"], scores=_scores(asked.parameters, slice(rows))
            )
            found[name][str(batch)] = asdict(difference)
            states = parameter_errors(space, {k: v for k, v in reference.items() if k != "action"}, outputs)
            fine &= difference.agreement == 1.0 and bool(outputs["finite"].all())
            fine &= all(error <= PARAMETER_TOLERANCE for error in states.values())
        edges[name] = _edges(space, asked, decide, cases)
        refused[name] = {case: 1.0 - float(decide(given)["finite"].mean()) for case, given in cases.refused.items()}
        parameters[name] = _parameters(space, asked, decide, cases)
    fine &= all(entry["agreement"] == 1.0 for entries in edges.values() for entry in entries.values())
    fine &= all(share == 1.0 for shares in refused.values() for share in shares.values())
    fine &= all(error <= PARAMETER_TOLERANCE for entry in parameters.values() for error in entry.values())
    return {
        "observations": size(cases.usual),
        "source": cases.source,
        "tolerance": CONTINUOUS_TOLERANCE if space.type == "Box" else 0.0,
        "equal": bool(fine),
        "formats": found,
        "edges": edges,
        "refused": refused,
        "parameters": parameters,
    }


def _scores(parameters: Outputs, rows: slice) -> Array | None:
    return next((parameters[name][rows] for name in SCORES if name in parameters), None)


def _edges(space: Space, asked: Answers, decide: Decide, cases: Cases) -> dict[str, Any]:
    found = {}
    for case, (outputs, parameters) in asked.edges.items():
        actions = decide(cases.edges[case])["action"]
        found[case] = asdict(compare(space, outputs["action"], actions, scores=_scores(parameters, slice(None))))
    return found


def _parameters(space: Space, asked: Answers, decide: Decide, cases: Cases) -> dict[str, float]:
    rows = slice(1_024)
    return parameter_errors(space, take(asked.parameters, rows), in_batches(decide, take(cases.usual, rows), 256))


def worst(proof: Mapping[str, Any]) -> str:
    """What of a proof is furthest from equal, in words."""
    for name, shares in proof["refused"].items():
        for case, share in shares.items():
            if share < 1.0:
                return f"{name} trusts {1 - share:.0%} of observations with {case}"
    for name, entry in proof["parameters"].items():
        for output, error in entry.items():
            if not error <= PARAMETER_TOLERANCE:
                return f"{name}: its {output} differs from the original's by {error:.2e}"
    compared = [
        (name, f"at batch {batch}", difference)
        for name, batches in proof["formats"].items()
        for batch, difference in batches.items()
    ] + [
        (name, f"at the edge {case!r}", difference)
        for name, cases in proof["edges"].items()
        for case, difference in cases.items()
    ]
    name, where, difference = min(compared, key=lambda item: (item[2]["agreement"], -item[2]["max_error"]))
    return (
        f"{name} {where}: {difference['agreement']:.2%} of {difference['rows']} actions equal, "
        f"largest error {difference['max_error']:.2e} of the span"
    )
