"""Outliers: observations that lie further from the baseline's mean than almost all of the baseline's own did.

Distances are those of Mahalanobis (1936, "On the generalised distance in statistics"): |W (x - mean)|, where W'W is the
inverse of the baseline's regularised covariance. Unlike a range they see entries that are usual each on its own, and
never were so together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bentos.package.manifest import Array


class Outliers:
    """Flags rows of `k` entries whose distance from `mean` [k] is above `threshold`, in standard deviations."""

    def __init__(self, mean: Array, factor: Array, threshold: float) -> None:
        """`factor` [k (k + 1) / 2] is the lower triangle of W, row by row. Raises ValueError for another size."""
        k = len(mean)
        rows, columns = np.tril_indices(k)
        if factor.shape != rows.shape or not (np.isfinite(factor).all() and threshold > 0):
            raise ValueError(f"expected {len(rows)} finite numbers and a threshold above 0, came {factor.shape}")
        self._mean = mean
        self._factor = np.zeros((k, k))
        self._factor[rows, columns] = factor
        self.threshold = threshold

    @staticmethod
    def read(document: dict[str, Any] | None, mean: Array) -> Outliers | None:
        """From the baseline's `mahalanobis`, if it has one. Raises KeyError, TypeError or ValueError if unreadable."""
        if document is None:
            return None
        return Outliers(mean, np.asarray(document["factor"], dtype=np.float64), float(document["threshold"]))

    def distances(self, rows: Array) -> Array:
        """The distance of every row of `rows` [n, k] from the mean: float64 [n]."""
        return np.sqrt((((rows - self._mean) @ self._factor.T) ** 2).sum(axis=1))

    def flagged(self, rows: Array) -> Array:
        """Which of `rows` [n, k] are outliers: bool [n]."""
        return ~(self.distances(rows) <= self.threshold)
