"""Drift: how far what a version sees and does now lies from the baseline its package carries.

The decision path hands requests over to a sample (`sample`), by reference. Everything else happens when `readings` is
asked, about once a second: rows go into a window of the last 1,000 (`window`), whose statistics are read over the
cells of the baseline (`cells`), and one row goes to a sequential detector (`detector`). Rows far from all of the
baseline (`bentos.telemetry.outliers`) are counted for the arm that they came from.

The figures of a window say how far, not how surely: rows of one episode depend on each other, and a few slow episodes
move them a long way while nothing is wrong. The sequential evidence is what an alarm should be raised by.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

import numpy as np

from bentos.package.manifest import Manifest
from bentos.rows import Array
from bentos.telemetry import baseline
from bentos.telemetry.histogram import Cells, entropy
from bentos.telemetry.sampling import Block, Sample, Turns
from bentos.telemetry.sequential import RUN_LENGTH, categorical, ordered

ALL = "all"
"""Name of the dimension that stands for all: the worst one's value (the least, for entropy)."""

NAMED_DIMENSIONS = 16
"""With more dimensions than this, only the worst one's value is told."""


class Reading(NamedTuple):
    """One figure. `statistic` is ks, chi_squared, psi, mean, total_variation, entropy or sequential."""

    subject: Literal["observation", "action"]
    statistic: str
    dimension: str
    value: float


class Drift:
    """The drift of one version in this worker. Used from one thread.

    A package whose environment could not run has no on-policy baseline: what is drawn is met by nobody, and to compare
    with it would raise alarms about nothing. Drift is off for it, and `off` says why.
    """

    def __init__(self, manifest: Manifest, run_length: float = RUN_LENGTH) -> None:
        random = Random(0)
        self._sample = Sample(random)
        self.sample = self._sample.add
        """Takes a request's rows, its actions [size, ...] and the counters of its arm."""
        self._turns = Turns(random)
        self._observed = baseline.observations(manifest)
        self._acted = baseline.actions(manifest)
        seen, done = self._observed, self._acted
        self.off = None if seen is not None and done is not None else "the package has no on-policy baseline"
        self._observations = Window(len(seen.names), seen.cells) if seen else None
        self._actions = Window(len(done.cells.names), done.cells) if done else None
        self._of_observations = ordered(seen.cells, seen.effective, run_length) if seen and seen.cells else None
        make = categorical if done and done.discrete else ordered
        self._of_actions = make(done.cells, done.effective, run_length) if done else None

    def readings(self) -> list[Reading]:
        """Take in what was sampled since the last call, and say what is known now; [] where nothing is new.

        A window's figures are told once it is full, the sequential evidence from the first row on.
        """
        taken = self._sample.take()
        if not taken:
            return []
        chosen = self._turns.choose(taken)
        found: list[Reading] = []
        if self._observed and self._observations:
            rows = np.concatenate([_observed(block, index, self._observed) for block, index in taken])
            codes = self._observations.add(rows.astype(np.float64))
            self._count_outliers(taken, rows)
            if self._of_observations:
                if chosen is not None:
                    self._of_observations.look(codes[chosen])
                found.append(Reading("observation", "sequential", ALL, self._of_observations.evidence))
            found += self._told("observation", self._observations)
        if self._acted and self._actions and self._of_actions:
            rows = np.concatenate([block.actions[index].reshape(len(index), -1) for block, index in taken])
            codes = self._actions.add(rows.astype(np.float64))
            if chosen is not None:
                self._of_actions.look(codes[chosen])
            found.append(Reading("action", "sequential", ALL, self._of_actions.evidence))
            found += self._told("action", self._actions)
        return found

    def _count_outliers(self, taken: list[tuple[Block, Array]], rows: Array) -> None:
        if self._observed is None or self._observed.outliers is None:
            return
        flagged = self._observed.outliers.flagged(rows)
        start = 0
        for block, index in taken:
            if block.arm is not None:
                block.arm.sampled(len(index), int(flagged[start : start + len(index)].sum()))
            start += len(index)

    def _told(self, subject: Literal["observation", "action"], window: Window) -> list[Reading]:
        if not window.full:
            return []
        figures: dict[str, Array] = {}
        if subject == "observation" and self._observed:
            distance = np.abs(window.mean() - self._observed.mean)
            figures["mean"] = distance / np.maximum(self._observed.std, 1e-8)
        if window.cells is not None:
            counts = window.counts()
            figures["chi_squared"] = window.cells.chi_squared(counts)
            figures["psi"] = window.cells.population_stability(counts)
            if subject == "observation" or not (self._acted and self._acted.discrete):
                figures["ks"] = window.cells.kolmogorov_smirnov(counts)
            if subject == "action":
                figures["total_variation"] = window.cells.total_variation(counts)
                figures["entropy"] = entropy(counts)
        found = []
        for statistic, values in figures.items():
            worst = values.min() if statistic == "entropy" else values.max()
            found.append(Reading(subject, statistic, ALL, float(worst)))
            if len(values) <= NAMED_DIMENSIONS:
                found += [
                    Reading(subject, statistic, name, value)
                    for name, value in zip(self._names(subject), values.tolist(), strict=True)
                ]
        return found

    def _names(self, subject: str) -> tuple[str, ...]:
        if subject == "observation" and self._observed:
            return self._observed.names
        return self._acted.cells.names if self._acted else ()


def _observed(block: Block, index: Array, expected: baseline.Observations) -> Array:
    """The expected dimensions of a block's rows at `index`, [n, d]."""
    parts = [
        block.feeds[name][index].reshape(len(index), -1)[:, entries] for name, entries in expected.entries_by_input
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


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
