"""How much a gambler stakes: set by how far scores have scattered so far, and mixed over the differences to be found.

For a payoff of mean d·s and standard deviation s the best constant stake is about d / ((1 + d²)·s) (the growth rate's
second-order optimum: Waudby-Smith & Ramdas 2024, section B.2, "aGRAPA"). With r² = (1 + d²)·s² the mean square of the
payoff that is u / r with u = d / √(1 + d²), a number without units. So a grid of u serves every scale of returns, and
r is taken from earlier units only, which keeps every stake predictable.
"""

from __future__ import annotations

import numpy as np

from tasks.analysis.sequential.wealth import Floats

GRID: Floats = np.geomspace(0.01, 0.9, 12)
"""Stakes of the mixture in units of 1/r: from differences of 0.02 of a return's standard deviation up."""

AIMED = 0.6
"""The share of a not-worse test's mixture on the one stake that is best if the arms are equal."""

_EVEN: Floats = np.full(len(GRID), 1.0 / len(GRID))
_PATIENT: Floats = GRID**-0.5 / (GRID**-0.5).sum()
"""Shares of the grid: losses are to be found fast, while a promotion beside an aim should not come by early luck."""

_FIRST_SQUARE = 0.25
_FIRST_UNITS = 3.0
"""Before there are any scores r² is taken for this (of scores on a unit range), with the weight of so many units."""


class Scale:
    """Running mean square r² of earlier scores, fed in blocks of any size (the same to the last digit)."""

    def __init__(self) -> None:
        self._sum: Floats | float = _FIRST_SQUARE * _FIRST_UNITS
        self._seen = 0

    def feed(self, scores: Floats) -> Floats:
        """Mean square [..., n] of the scores before each of the next ones [..., n]."""
        units = scores.shape[-1]
        if not units:
            return scores
        sums = scores * scores
        first = np.broadcast_to(np.asarray(self._sum, dtype=np.float64), sums.shape[:-1])[..., None]
        sums[..., 0] += self._sum
        np.cumsum(sums, axis=-1, out=sums)
        before = np.concatenate([first, sums[..., :-1]], axis=-1)
        counts = _FIRST_UNITS + self._seen + np.arange(units)
        self._sum, self._seen = sums[..., -1], self._seen + units
        mean: Floats = before / counts
        return mean


def stakes(square: Floats, aim: float | None = None, boldest: int = len(GRID)) -> Floats:
    """Stakes [..., J, n] from r² [..., n]: the first `boldest` of `GRID` / r, and with `aim` the best if the payoff's
    mean is that.
    """
    inverse = 1.0 / np.maximum(square, 1e-12)
    root = np.sqrt(inverse)[..., None, :]
    grid = GRID[:boldest, None] * root
    if aim is None:
        return grid
    return np.concatenate([grid, np.maximum(aim * inverse[..., None, :], GRID[0] * root)], axis=-2)


def weights(aim: float | None = None, boldest: int = len(GRID)) -> Floats:
    """Weights [J] of the stakes that `stakes` gives; all of them together add up to 1."""
    return _EVEN[:boldest] if aim is None else np.append((1.0 - AIMED) * _PATIENT[:boldest], AIMED)
