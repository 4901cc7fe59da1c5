"""Whether the arms were drawn by a fair coin: a broken split makes every comparison worthless."""

from __future__ import annotations

import math

import numpy as np

from tasks.analysis.sequential.decision import Bools
from tasks.analysis.sequential.wealth import Floats

ALPHA = 0.01
PRIOR = 10.0
"""Concentration of the Beta prior, each side: moderate, for a split that is off by some percent rather than wholly."""


def log_evidence(challenger: Bools) -> Floats:
    """Log e-process [n] against a fair coin, after each unit at its assignment, in order of start.

    The ratio of the Beta(PRIOR, PRIOR)-binomial's likelihood to the fair coin's: Lindon & Malek 2022, "Anytime-valid
    inference for multinomial count data", equation 6, for two arms. Built from predictive probabilities.
    """
    before = np.arange(len(challenger), dtype=np.float64)
    heads: Floats = np.cumsum(challenger, dtype=np.float64) - challenger
    chance = (heads + PRIOR) / (before + 2.0 * PRIOR)
    return np.cumsum(np.log(2.0 * np.where(challenger, chance, 1.0 - chance)))


def broken(challenger: Bools) -> bool:
    """Whether the evidence has ever reached 1/ALPHA: at most once in 1/ALPHA fair experiments, however often asked."""
    return len(challenger) > 0 and bool(log_evidence(challenger).max() >= math.log(1.0 / ALPHA))
