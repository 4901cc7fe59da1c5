"""Parity: every row of every format at every batch size, and nothing else, is equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bentos.package import Space
from tasks.parity import compare, prove, worst

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


def _positive(rows: Array) -> Array:
    return (rows[:, 0] > 100).astype(np.int64)


def _wrong_in_sevens(rows: Array) -> Array:
    return _positive(rows) + (1 if len(rows) == 7 else 0)


def _wrong_once(rows: Array) -> Array:
    return _positive(rows) + (rows[:, 0] == 199)


@pytest.mark.parametrize(
    ("decide", "equal", "where"),
    [(_positive, True, ""), (_wrong_in_sevens, False, "copy at batch 7"), (_wrong_once, False, "copy at batch")],
)
def test_one_row_at_one_batch_size_is_enough_to_differ(
    decide: Callable[[Array], Array], equal: bool, where: str
) -> None:
    proof = prove(DISCRETE, _positive, {"itself": _positive, "copy": decide}, OBSERVATIONS)
    assert proof["equal"] is equal
    assert set(proof["formats"]["copy"]) == {"1", "2", "7", "64"}
    if not equal:
        assert where in worst(proof)
