"""Wealth of a gambler who bets against a hypothesis: the engine of every exact sequential test here.

A test by betting (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS-B,
Theorem 3) pays a factor 1 + λ·g for each unit, where the payoff g >= -1 has a mean of at most 0 under the hypothesis,
whatever came before. The product is a nonnegative supermartingale, so by Ville's inequality it ever reaches 1/α with
probability at most α: looking after every unit costs nothing. The fraction λ is not chosen but mixed over.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FRACTIONS: Floats = np.geomspace(0.01, 0.95, 24)
"""The stakes of the mixture: from patient (small differences) to bold (large ones)."""

_BLOCK = 128
_TOLERANCE = 1e-6


def log_wealth(payoffs: Floats) -> Floats:
    """Logarithm of the mixture's wealth after each unit.

    `payoffs` has shape [..., n], each entry in [-1, 100]; the result has the same shape. It is the mean over
    `FRACTIONS` of Π(1 + λ·g) (ibid., the hedged mixture of section 4.2, with a fixed grid). Products are taken in
    blocks that can neither underflow nor overflow and joined in logarithms: exact, and faster than logarithms alone.
    """
    units = payoffs.shape[-1]
    if units == 0:
        return np.zeros(payoffs.shape)
    blocks = -(-units // _BLOCK)
    padded = np.zeros((*payoffs.shape[:-1], 1, blocks * _BLOCK))
    padded[..., 0, :units] = payoffs
    factors = padded * FRACTIONS[:, None]
    factors += 1.0
    products = np.cumprod(factors.reshape(*payoffs.shape[:-1], len(FRACTIONS), blocks, _BLOCK), axis=-1)
    totals = np.log(products[..., -1])
    before = np.cumsum(totals, axis=-1) - totals
    scale = before.max(axis=-2, keepdims=True)
    shares = np.exp(before - scale) / len(FRACTIONS)
    mixed = np.log(np.einsum("...lb,...lbk->...bk", shares, products)) + scale[..., 0, :, None]
    flat: Floats = mixed.reshape(*payoffs.shape[:-1], blocks * _BLOCK)[..., :units]
    return flat


def last_rejected(excess: Callable[[float], float], low: float, high: float, hint: float) -> float:
    """The largest hypothesis in [low, high] that is rejected, or `low` when none is.

    `excess(h)` is the gambler's best log-wealth against h minus log(1/α): 0 or more means rejected; it falls as h
    grows. `hint` (a point of interest between the ends) is probed first, so that the answer lies on the same side of
    it as a test of the hint itself. Regula falsi with the Illinois rule; the answer errs towards `low`.
    """
    above = excess(low)
    if above < 0.0:
        return low
    below = excess(high)
    if below >= 0.0:
        return high
    rejected, kept = low, high
    probe = min(max(hint, low), high)
    side = 0
    for _ in range(60):
        value = excess(probe)
        if value >= 0.0:
            rejected, above = probe, value
            below, side = (below / 2 if side == 1 else below), 1
        else:
            kept, below = probe, value
            above, side = (above / 2 if side == -1 else above), -1
        if kept - rejected < _TOLERANCE:
            break
        share = above / (above - below) if above > below else 0.5
        probe = rejected + (kept - rejected) * min(max(share, 0.02), 0.98)
    return rejected
