"""Wealth of a gambler who bets against a hypothesis: the engine of every exact sequential test here.

A test by betting (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS-B,
Theorem 3) pays a factor 1 + λ·g for each unit, where the payoff g has a mean of at most 0 under the hypothesis,
whatever came before, and the stake λ >= 0 is chosen before the unit is seen, small enough for the factor to stay
positive. The product is a nonnegative supermartingale, and so is a mixture of such products with fixed weights that
add up to 1. By Ville's inequality it ever reaches 1/α with probability at most α: looking after every unit costs
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST = 0.95
"""The largest share of the wealth that one unit may cost: a stake is cut to `MOST` over the worst loss."""

LEAST_WORST = 0.01
"""Worst losses below this count as this: payoffs that can hardly lose would otherwise carry stakes without end."""

_BLOCK = 64


def cut(worst: Floats | float) -> Floats:
    """The largest stake allowed where a payoff can be as low as -`worst`."""
    limit: Floats = np.asarray(MOST / np.maximum(worst, LEAST_WORST), dtype=np.float64)
    return limit


def log_products(payoffs: Floats, stakes: Floats, limit: Floats, start: Floats | float = 0.0) -> Floats:
    """Logarithm of each stake's wealth after each unit, beginning at `start` [..., J].

    `payoffs` and `limit` [..., n], `stakes` [..., J, n] before they are cut to `limit`; the result is [..., J, n].
    Sums run from left to right, so a sequence taken up where it was left is the same to the last digit.
    """
    logs = np.log1p(np.minimum(stakes, limit[..., None, :]) * payoffs[..., None, :])
    if logs.shape[-1]:
        logs[..., 0] += start
    return np.cumsum(logs, axis=-1, out=logs)


def mixed(logs: Floats, weights: Floats) -> Floats:
    """Logarithm of the mixture of wealths: `logs` [..., J, n] with `weights` [J] gives [..., n]."""
    top = logs.max(axis=-2)
    total = np.zeros(top.shape)
    # row by row, so that no column's sum depends on how many columns there are
    for row, weight in enumerate(weights):
        total += weight * np.exp(logs[..., row, :] - top)
    return top + np.log(total)


def log_wealth(payoffs: Floats, stakes: Floats, limit: Floats, weights: Floats) -> Floats:
    """Logarithm of the mixture's wealth after each unit; shapes as in `log_products` and `mixed`."""
    return mixed(log_products(payoffs, stakes, limit), weights)


def best_log_wealth(payoffs: Floats, stakes: Floats, limit: Floats, weights: Floats) -> float:
    """The largest log-wealth at the last unit or at any `_BLOCK`-th: `log_wealth` at fewer looks, many times faster.

    `payoffs` and `limit` [n], `stakes` [J, n]. A block's product can neither overflow nor underflow: a factor lies
    between 1 - `MOST` and 1 + 2·`MOST` / `LEAST_WORST`.
    """
    units = len(payoffs)
    whole = units - units % _BLOCK
    carried = np.zeros(len(weights))
    best = -math.inf
    # a part at a time: what fits the processor's cache is several times as fast
    for begin in range(0, units, 64 * _BLOCK):
        part = slice(begin, min(begin + 64 * _BLOCK, units))
        factors = np.minimum(stakes[:, part], limit[part])
        factors *= payoffs[part]
        factors += 1.0
        inside = min(part.stop, whole) - begin
        products = [np.multiply.reduce(factors[:, :inside].reshape(len(weights), -1, _BLOCK), axis=-1)]
        if inside < factors.shape[1]:
            products.append(np.multiply.reduce(factors[:, inside:], axis=-1, keepdims=True))
        logs = np.cumsum(np.log(np.concatenate(products, axis=-1)), axis=-1) + carried[:, None]
        best = max(best, float(mixed(logs, weights).max()))
        carried = logs[:, -1]
    return best


def last_rejected(excess: Callable[[float], float], low: float, high: float, guess: float, step: float) -> float:
    """The largest hypothesis in [low, high] that is rejected, or `low` when none is; to a two-hundredth of `step`.

    `excess(h)` is the gambler's best log-wealth against h minus log(1/α): 0 or more means rejected; it falls as h
    grows. The search leaves `guess` by `step`, ever faster, until the answer is enclosed, and ends by regula falsi
    with the Illinois rule; the answer errs towards `low`, and is above it if anything is.
    """
    rejected, above, kept, below = low, math.inf, high, -math.inf
    probe, side, tolerance = min(max(guess, low), high), 0, 5e-3 * step
    for _ in range(80):
        value = excess(probe)
        if value >= 0.0:
            rejected, above = probe, value
            below, side = (below / 2 if side == 1 else below), 1
        else:
            kept, below = probe, value
            above, side = (above / 2 if side == -1 else above), -1
        near = kept - rejected <= (tolerance if rejected > low else 1e-6 * tolerance)
        if near or rejected == high or kept == low:
            break
        if math.isinf(above) or math.isinf(below):
            probe = min(max(probe + math.copysign(step, side), low), high)
            step *= 2.0
        else:
            share = above / (above - below)
            probe = rejected + (kept - rejected) * min(max(share, 0.02), 0.98)
    return rejected
