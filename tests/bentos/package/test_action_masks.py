"""Masks of every space that can have them: what is forbidden gives way to the best that is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bentos.package.action_masks import Masks
from bentos.package.manifest import Space

SHIFTED = Space("Discrete", "int64", n=3, start=5)
PAIR = Space("MultiDiscrete", "int64", (2,), nvec=(3, 2))
BITS = Space("MultiBinary", "int8", (2,), n=2)


@pytest.mark.parametrize(
    ("space", "mask", "action", "scores", "expected"),
    [
        (SHIFTED, [1, 1, 1], 6, None, 6),
        (SHIFTED, [0, 1, 1], 5, [9.0, 1.0, 2.0], 7),
        (SHIFTED, [0, 1, 1], 5, None, 6),
        (SHIFTED, [0, 1, 1], 5, [9.0, np.nan, -np.inf], 7),
        (PAIR, [1, 0, 1, 0, 1], [1, 0], [3.0, 9.0, 4.0, 1.0, 0.0], [2, 1]),
        (PAIR, [1, 0, 1, 1, 1], [0, 0], [3.0, 9.0, 4.0, 1.0, 2.0], [0, 0]),
        (BITS, [1, 0, 0, 1], [1, 0], [5.0, -5.0], [0, 1]),
        (BITS, [1, 1, 0, 1], [1, 1], None, [1, 1]),
    ],
)
def test_what_is_forbidden_gives_way_to_the_best_that_is_allowed(
    space: Space, mask: list[int], action: Any, scores: Any, expected: Any
) -> None:
    given = np.array([action], dtype=space.dtype)
    found = Masks(space).obeyed(np.array([mask], bool), given, None if scores is None else np.array([scores]))
    assert found.tolist() == [expected]
    assert found.dtype == given.dtype


def test_rows_are_looked_at_one_by_one() -> None:
    masks = np.array([[1, 0, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    found = Masks(PAIR).obeyed(masks, np.array([[1, 1], [1, 1], [1, 1]]), None)
    assert found.tolist() == [[0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize(("space", "width"), [(SHIFTED, 3), (PAIR, 5), (BITS, 4), (Space("Box", shape=(2,)), 0)])
def test_a_mask_has_an_entry_for_each_action_of_each_dimension(space: Space, width: int) -> None:
    assert Masks(space).width == width
