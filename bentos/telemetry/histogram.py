"""The baseline as cells: each dimension cut into intervals, with the share of baseline rows in each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bentos.rows import Array

GROUPS = 10
"""Chi-squared and PSI are read over at most this many groups of cells, of about equal baseline share."""


@dataclass(frozen=True)
class Column:
    """One dimension's baseline. Cell k holds `counts[k]` rows with edges[k-1] <= value < edges[k]; the ends are open.

    `edges` [cells - 1] rise. `name` is how metrics call the dimension.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.edges) + 1 or not sum(self.counts) > 0 or min(self.counts) < 0:
            raise ValueError(
                f"dimension {self.name}: expected one count more than edges, none negative, not all zero; "
                f"came {len(self.edges)} edges and counts {list(self.counts)[:5]}..."
            )
        rising = all(earlier < later for earlier, later in itertools.pairwise(self.edges))
        if not rising or not all(math.isfinite(edge) for edge in self.edges):
            raise ValueError(f"dimension {self.name}: expected finite edges that rise, came {list(self.edges)[:5]}...")


class Cells:
    """The baselines of `d` dimensions, padded to the same number `c` of cells with empty ones.

    `shares` [d, c] of the baseline's rows; `middles` [d, c] is the mean of the baseline's distribution function before
    and after each cell: the mid-rank probability transform, whose mean under the baseline is ½ exactly.
    """

    def __init__(self, columns: Sequence[Column], grouped: bool = True) -> None:
        """`grouped` merges cells to `GROUPS` for chi-squared and PSI; otherwise each cell (an action) stands alone."""
        self.names = tuple(column.name for column in columns)
        self.size = max(len(column.counts) for column in columns)
        self._edges = [np.asarray(column.edges, dtype=np.float64) for column in columns]
        counts = np.zeros((len(columns), self.size))
        self.used = np.zeros((len(columns), self.size), dtype=bool)
        for row, column in enumerate(columns):
            counts[row, : len(column.counts)] = column.counts
            self.used[row, : len(column.counts)] = True
        self.shares: Array = counts / counts.sum(axis=1, keepdims=True)
        upto = np.cumsum(self.shares, axis=1)
        self.middles: Array = upto - self.shares / 2
        self._upto = upto
        place = np.minimum((self.middles * GROUPS).astype(np.int64), GROUPS - 1) if grouped else np.arange(self.size)
        groups = GROUPS if grouped else self.size
        member = (np.broadcast_to(place, counts.shape)[..., None] == np.arange(groups)) & self.used[..., None]
        self._member: Array = member.astype(np.float64)
        self._occupied = member.any(axis=1)
        self._degrees = np.maximum(self._occupied.sum(axis=1) - 1, 1)
        # half a row in every group: what the baseline never saw is rare, not impossible
        smoothed = np.where(self._occupied, self._grouped(counts) + 0.5, 0.0)
        self._expected: Array = smoothed / smoothed.sum(axis=1, keepdims=True)

    def codes(self, rows: Array) -> Array:
        """The cell of every value of `rows` [n, d]: int16 [n, d]."""
        found = np.empty(rows.shape, dtype=np.int16)
        for dimension, edges in enumerate(self._edges):
            found[:, dimension] = np.searchsorted(edges, rows[:, dimension], side="right")
        return found

    def count(self, codes: Array) -> Array:
        """Rows in each cell, [d, c], of `codes` [n, d]."""
        dimensions = len(self._edges)
        offset = codes + np.arange(dimensions, dtype=np.int64) * self.size
        return np.bincount(offset.ravel(), minlength=dimensions * self.size).reshape(dimensions, self.size)

    def kolmogorov_smirnov(self, counts: Array) -> Array:
        """Largest distance of the two distribution functions at the edges of the cells, [d], 0 to 1.

        It falls short of the statistic on all values by at most the share of one cell.
        """
        found: Array = np.abs(np.cumsum(counts, axis=1) / _total(counts) - self._upto).max(axis=1)
        return found

    def chi_squared(self, counts: Array) -> Array:
        """Pearson's goodness-of-fit statistic over its degrees of freedom, [d]: 1 is what independent rows give."""
        found, expected = self._grouped(counts), self._expected * _total(counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = np.where(self._occupied, (found - expected) ** 2 / expected, 0.0)
        statistic: Array = parts.sum(axis=1) / self._degrees
        return statistic

    def population_stability(self, counts: Array) -> Array:
        """Population stability index, [d]: Σ(q-p)·ln(q/p) over groups; below 0.1 is calm, above 0.25 a shift."""
        smoothed = np.where(self._occupied, self._grouped(counts) + 0.5, 0.0)
        found = smoothed / _total(smoothed)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = np.where(self._occupied, (found - self._expected) * np.log(found / self._expected), 0.0)
        index: Array = parts.sum(axis=1)
        return index

    def total_variation(self, counts: Array) -> Array:
        """Half the summed difference of the cells' shares, [d]: the largest change of any event's probability."""
        found: Array = np.abs(counts / _total(counts) - self.shares).sum(axis=1) / 2
        return found

    def _grouped(self, counts: Array) -> Array:
        return np.einsum("dc,dcg->dg", counts, self._member)


def entropy(counts: Array) -> Array:
    """Entropy of each row of `counts` [d, c] as a distribution, in nats, [d]."""
    shares = counts / _total(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(shares > 0, shares * np.log(shares), 0.0)
    found: Array = 0.0 - parts.sum(axis=1)
    return found


def _total(counts: Array) -> Array:
    return np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
