"""Drift: how far what a version sees and does now lies from the baseline its package carries."""

from __future__ import annotations

from typing import Any

import numpy as np

from bentos.package import Manifest
from bentos.rows import Array, Rows

_EVERY = 16
_ROWS = 500


class Drift:
    """Samples one request in sixteen; a figure is given for each window of at least 500 rows.

    A package whose environment could not run has no on-policy baseline: what is drawn is met by nobody, and to compare
    with it would raise alarms about nothing. Drift is off for it, and `off` says why.
    """

    def __init__(self, manifest: Manifest) -> None:
        observations = manifest.baselines.get("observations") or {}
        self._mean, self._std = (_flat(observations.get(name)) for name in ("mean", "std"))
        self._expected = _shares(manifest.baselines.get("actions") or {})
        self._observed = [tensor.name for tensor in manifest.inputs if tensor.name.partition(".")[0] == "observation"]
        self.off = None if self._mean is not None and self._expected else "the package has no on-policy baseline"
        self._turn = 0
        self._rows = 0
        self._sum: Array | None = None
        self._seen: dict[str, int] = {}

    def sample(self, rows: Rows) -> None:
        """Look at a request's observations, if it is its turn."""
        self._turn += 1
        if self._turn % _EVERY or self._mean is None:
            return
        added = np.concatenate(
            [rows.feeds[name].reshape(rows.size, -1).sum(axis=0, dtype=np.float64) for name in self._observed]
        )
        if added.size != self._mean.size:
            return
        self._sum = added if self._sum is None else self._sum + added
        self._rows += rows.size

    def observations(self) -> float | None:
        """Largest distance of the window's mean from the baseline's, in baseline standard deviations."""
        if self._rows < _ROWS or self._sum is None or self._mean is None or self._std is None:
            return None
        distance = np.abs(self._sum / self._rows - self._mean) / np.maximum(self._std, 1e-8)
        self._rows, self._sum = 0, None
        return float(distance.max())

    def actions(self, counts: dict[str, int]) -> float | None:
        """Total variation distance (0 to 1; the largest over dimensions) of the actions since the last window.

        `counts` are cumulative, by the names of `ActionLabels`.
        """
        gained = {name: count - self._seen.get(name, 0) for name, count in counts.items()}
        if not self._expected or sum(gained.values()) < _ROWS:
            return None
        self._seen = dict(counts)
        distances = []
        for prefix, shares in self._expected.items():
            found = np.array([gained.get(f"{prefix}{index}", 0) for index in range(len(shares))], dtype=np.float64)
            if found.sum() > 0:
                distances.append(0.5 * float(np.abs(found / found.sum() - shares).sum()))
        return max(distances, default=None)


def _flat(values: Any) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.float64).reshape(-1)


def _shares(baseline: dict[str, Any]) -> dict[str, Array]:
    """Baseline shares of actions by the prefix of their names: "" for discrete ones, "d<dimension>:" for continuous."""
    counts = baseline.get("counts")
    if not counts:
        return {}
    columns = {"": counts} if baseline.get("kind") == "discrete" else {f"d{i}:": c for i, c in enumerate(counts)}
    shares = {}
    for prefix, column in columns.items():
        array = np.asarray(column, dtype=np.float64)
        if array.sum() > 0:
            shares[prefix] = array / array.sum()
    return shares
