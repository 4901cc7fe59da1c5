"""Parity: every row of every format at every batch size, and nothing else, is equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bentos.package.manifest import Space
from tasks.build.export.cases import Cases
from tasks.build.export.parity import PARAMETER_TOLERANCE, Original, compare, parameter_errors, prove, worst
from tasks.inputs import Decide, Inputs, Outputs

Array = np.ndarray[Any, Any]
DISCRETE = Space("Discrete", "int64", n=3)
BOX = Space("Box", "float32", (2,), (-2.0, 0.0), (2.0, 1.0))
OBSERVATIONS = np.arange(200, dtype=np.float32)[:, None]


def test_discrete_actions_agree_or_they_do_not() -> None:
    difference = compare(DISCRETE, np.array([0, 1, 2, 2]), np.array([0, 1, 2, 0]))
    assert (difference.agreement, difference.max_error) == (0.75, 1.0)


@pytest.mark.parametrize(("error", "agreement"), [(0.9e-5, 1.0), (1.1e-5, 0.0)])
def test_continuous_actions_agree_within_a_share_of_their_own_span(error: float, agreement: float) -> None:
    reference = np.zeros((8, 2))
    difference = compare(BOX, reference, reference + np.array([0.0, error]))
    assert difference.agreement == agreement
    wide = compare(BOX, reference, reference + np.array([4 * error, 0.0]))
    assert wide.max_error == pytest.approx(difference.max_error)


@pytest.mark.parametrize("actions", [np.full((8, 2), np.nan), np.zeros((8, 1)), np.zeros((8, 2, 1))])
def test_nan_and_other_shapes_never_agree(actions: Array) -> None:
    difference = compare(BOX, np.zeros((8, 2)), actions)
    assert difference.agreement == 0
    assert difference.max_error == float("inf")


def _positive(given: Inputs) -> Outputs:
    rows = given["observation"]
    actions = (rows[:, 0] > 100).astype(np.int64)
    return {"action": actions, "finite": np.isfinite(rows[:, 0]), "logits": np.eye(3)[actions]}


def _wrong_in_sevens(given: Inputs) -> Outputs:
    found = _positive(given)
    return {**found, "action": found["action"] + (1 if len(found["action"]) == 7 else 0)}


def _wrong_once(given: Inputs) -> Outputs:
    found = _positive(given)
    return {**found, "action": found["action"] + (given["observation"][:, 0] == 199)}


@pytest.mark.parametrize(
    ("decide", "equal", "where"),
    [(_positive, True, ""), (_wrong_in_sevens, False, "copy at batch 7"), (_wrong_once, False, "copy at batch")],
)
def test_one_row_at_one_batch_size_is_enough_to_differ(decide: Decide, equal: bool, where: str) -> None:
    def parameters(given: Inputs) -> Outputs:
        return {"logits": _positive(given)["logits"]}

    proof = prove(
        DISCRETE,
        Original(_positive, parameters),
        {"itself": _positive, "copy": decide},
        Cases({"observation": OBSERVATIONS}, "a count", {}, {}),
    )
    assert proof["equal"] is equal
    assert set(proof["formats"]["copy"]) == {"1", "2", "7", "64"}
    if not equal:
        assert where in worst(proof)


@pytest.mark.parametrize(
    ("reference", "error", "equal"),
    [
        ([0.0, 300.0], [1e-2, 0.0], True),
        ([0.0, 0.5], [1e-2, 0.0], False),
        ([-1e8, 0.5], [0.0, 1e-2], False),
        ([-1e8, 0.5], [8.0, 0.0], True),
    ],
    ids=["beside a large one", "beside a small one", "beside a forbidden one", "a forbidden one"],
)
def test_a_parameter_is_as_uncertain_as_the_largest_of_its_row(
    reference: list[float], error: list[float], equal: bool
) -> None:
    theirs = np.tile(np.array(reference), (4, 1))
    found = parameter_errors(DISCRETE, {"q_values": theirs}, {"q_values": theirs + np.array(error)})
    assert (found["q_values"] <= PARAMETER_TOLERANCE) is equal
