"""Sequential detection of a change, whose false alarms are set as an expected run length.

A Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo 2023, "E-detectors: a nonparametric framework for sequential
change detection", arXiv:2203.03532): M = (M' + 1)·L after each row, where L >= 0 has a conditional mean of at most 1
while nothing has changed. M minus the number of rows is then a supermartingale, so E[M at τ] <= E[τ] at any stopping
time τ: the first time that M reaches the run length comes, on average, no earlier than after that many rows. A mean of
such detectors is one, too.
"""

from __future__ import annotations

import numpy as np

from bentos.rows import Array
from bentos.telemetry.histogram import Cells

RUN_LENGTH = 1_000_000
"""Rows looked at until a false alarm, on average, at least: at a row a second, twelve days."""

FRACTIONS: Array = np.geomspace(0.05, 0.95, 6)
"""The stakes that are mixed over: patient ones for small changes, bold ones for large ones."""

LEAST_CHANGE = 0.02
"""Changes of a feature's mean (features are in [0, 1]) up to this are no drift, whatever the number of rows."""

STANDARD_ERRORS = 3.0
_CAP = 100.0


class Detector:
    """Bets that the mean of a feature has risen above the baseline's, for every feature at once.

    The bet on a feature g in [0, 1] pays L = 1 + λ·(g - m)/m, with m the baseline's mean and what is tolerated: a mean
    of 1 at most while E[g] <= m, whatever the rest of the distribution does (Waudby-Smith & Ramdas 2024, section 4).
    """

    def __init__(self, table: Array, allowed: Array, run_length: float = RUN_LENGTH) -> None:
        """`table` [d, c, f] is the value of feature f for cell c of dimension d; `allowed` [d, f] is m, above 0."""
        self._table = table
        self._allowed = allowed
        self._run_length = run_length
        self._dimensions = np.arange(table.shape[0])
        self._wealth = np.zeros((*allowed.shape, len(FRACTIONS)))

    def look(self, codes: Array) -> float:
        """Take in one row of cells [d] and return the evidence now."""
        payoff = self._table[self._dimensions, codes] / self._allowed - 1.0
        wealth = (self._wealth + 1.0) * (1.0 + payoff[..., None] * FRACTIONS)
        # held down, so that the evidence falls again soon after a drift is over; below the alarm nothing changes
        self._wealth = np.minimum(wealth, _CAP * self._run_length * wealth.size)
        return self.evidence

    @property
    def evidence(self) -> float:
        """Evidence of a change in units of the alarm: 1 raises it; held at 100."""
        return min(float(self._wealth.mean()) / self._run_length, _CAP)


def ordered(cells: Cells, effective: float, run_length: float = RUN_LENGTH) -> Detector:
    """For dimensions with an order: higher, lower, wider and narrower, in ranks of the baseline."""
    rank = cells.middles
    spread = np.abs(2.0 * rank - 1.0)
    return _detector(np.stack([rank, 1.0 - rank, spread, 1.0 - spread], axis=-1), cells, effective, run_length)


def categorical(cells: Cells, effective: float, run_length: float = RUN_LENGTH) -> Detector:
    """For dimensions whose cells are choices: each one chosen more often, or less."""
    same = np.broadcast_to(np.eye(cells.size), (len(cells.names), cells.size, cells.size))
    return _detector(np.concatenate([same, 1.0 - same], axis=-1), cells, effective, run_length)


def _detector(table: Array, cells: Cells, effective: float, run_length: float) -> Detector:
    """A detector that tolerates `LEAST_CHANGE` and the baseline's own sampling error, of `effective` independent rows.

    Three standard errors, or three rows (Hanley & Lippman-Hand 1983) for what the baseline happened not to see.
    """
    mean = np.einsum("dc,dcf->df", cells.shares, table)
    variance = np.einsum("dc,dcf->df", cells.shares, table**2) - mean**2
    rows = max(effective, 1.0)
    error = np.maximum(STANDARD_ERRORS * np.sqrt(np.maximum(variance, 0.0) / rows), 3.0 / rows)
    return Detector(table, mean + LEAST_CHANGE + error, run_length)
