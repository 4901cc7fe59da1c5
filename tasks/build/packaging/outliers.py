"""How far observations usually lie from their mean: `bentos.telemetry.outliers` flags outliers by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from bentos.telemetry.outliers import Outliers
from tasks.inputs import Array

QUANTILE = 0.999
"""Share of the baseline's rows that lie within the threshold."""

LEAST_ROWS = 200
_LEAST_SHRINKAGE = 1e-3
_LEAST_SPREAD = 0.01
_STRETCHES = 20


def mahalanobis(values: Array, effective: float, episodes: Array | None = None) -> dict[str, Any] | None:
    """The `mahalanobis` section of an observation baseline, as JSON, of `values` [n, k]; None of fewer than 200 rows.

    `factor`: the lower triangle of W, with W'W the inverse of the covariance; `threshold`: the distance within which
    `quantile` of the rows lie. So that rows are not judged by what was fitted to them, each half of the episodes (of 20
    stretches of the rows, where fewer than two are named) is judged by the other. `shrinkage` says how much of the
    correlations was given up for independence: k of k + `effective` parts, the independent rows there are.
    """
    rows, k = values.shape
    if rows < LEAST_ROWS:
        return None
    numbers = np.zeros(rows) if episodes is None else np.unique(episodes, return_inverse=True)[1]
    if numbers.max() < 1:
        numbers = np.arange(rows) * _STRETCHES // rows
    odd = numbers % 2 == 1
    distances = [
        Outliers(values[fitted].mean(axis=0), _factor(values[fitted], effective / 2), 1.0).distances(values[~fitted])
        for fitted in (odd, ~odd)
    ]
    return {
        "factor": _factor(values, effective).tolist(),
        "threshold": max(float(np.quantile(np.concatenate(distances), QUANTILE, method="higher")), 1e-6),
        "quantile": QUANTILE,
        "shrinkage": _shrinkage(k, effective),
        "rows": rows,
    }


def _factor(values: Array, effective: float) -> Array:
    """The lower triangle of W, row by row. An entry that never varied is taken to vary a little: any change is far."""
    k = values.shape[1]
    spread = values.std(axis=0)
    least = _LEAST_SPREAD * float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    spread = np.maximum(spread, least)
    scaled = (values - values.mean(axis=0)) / spread
    correlations = (1.0 - _shrinkage(k, effective)) * (scaled.T @ scaled) / len(values)
    np.fill_diagonal(correlations, 1.0)
    inverse = np.linalg.inv(np.linalg.cholesky(correlations))
    found: Array = (inverse / spread)[np.tril_indices(k)]
    return found


def _shrinkage(k: int, effective: float) -> float:
    return max(_LEAST_SHRINKAGE, k / (k + effective))
