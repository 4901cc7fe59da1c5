"""The last rows seen, as values and as cells of the baseline."""

from __future__ import annotations

import numpy as np

from bentos.rows import Array
from bentos.telemetry.histogram import Cells

WINDOW = 1000
"""Rows that the statistics of a window are read from."""


class Window:
    """A ring of the last `WINDOW` rows of `d` dimensions; `cells` is None where the baseline has none."""

    def __init__(self, dimensions: int, cells: Cells | None) -> None:
        self.cells = cells
        self._values = np.zeros((WINDOW, dimensions))
        self._codes = np.zeros((WINDOW, dimensions), dtype=np.int16)
        self._seen = 0

    def add(self, rows: Array) -> Array:
        """Take in `rows` [n, d] and return their cells, int16 [n, d]."""
        codes = self.cells.codes(rows) if self.cells else np.zeros(rows.shape, dtype=np.int16)
        places = np.arange(self._seen, self._seen + len(rows)) % WINDOW
        self._values[places[-WINDOW:]] = rows[-WINDOW:]
        self._codes[places[-WINDOW:]] = codes[-WINDOW:]
        self._seen += len(rows)
        return codes

    @property
    def full(self) -> bool:
        """Whether a whole window of rows was seen."""
        return self._seen >= WINDOW

    def mean(self) -> Array:
        """Mean of the window, [d]."""
        found: Array = self._values.mean(axis=0)
        return found

    def counts(self) -> Array:
        """Rows of the window in each cell, [d, c]."""
        if self.cells is None:
            raise ValueError("this window's baseline has no cells to count")
        return self.cells.count(self._codes)
