"""Rules that end a canary: Airlock's primary test, and what one would use instead. Each says when it would do what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.simulated_canaries import Bools, Canaries, Floats, first_episodes
from tasks.analysis.sequential import asymptotic, mean_difference
from tasks.analysis.sequential.asymptotic import CENTRE_UNITS, PROMOTION_UNITS
from tasks.analysis.sequential.stakes import Scale, stakes, weights
from tasks.analysis.sequential.wealth import cut

ALPHA = 0.05
NEVER = np.iinfo(np.int64).max
Units = npt.NDArray[np.int64]
Rule = Callable[[Canaries], tuple[Units, Units]]
"""Units until promotion and until rollback [canaries], `NEVER` where it does not come."""

CHUNK = 128
LOOK_EVERY = 10
RANK_EVERY = 250
BATCH, BATCHES = 20, 5
Z = 1.6449


def first(hit: Bools, valid: Units) -> Units:
    """The first hit of each row [canaries, units], counted from 1, among its valid units."""
    at = np.where(hit.any(axis=-1), hit.argmax(axis=-1) + 1, NEVER)
    return np.where(at <= valid, at, NEVER)


def airlock(found: Canaries, floor: Floats | float | None = None) -> tuple[Units, Units]:
    """The primary test on randomised units: exact where returns are bounded, else the asymptotic sequence.

    A promotion must show a difference above `floor` (by default -margin), one for all canaries or one each [c, 1].
    """
    units = first_episodes(found)
    least = -units.margin if floor is None else floor
    if units.bounds is None:
        score = asymptotic.scores(units.challenger, units.returns)[:, CENTRE_UNITS:]
        lower, upper = asymptotic.Sequence(ALPHA, 2.0 * units.margin).feed(score)
        lower[:, : PROMOTION_UNITS - 1] = -np.inf
        valid = units.valid - CENTRE_UNITS
        promote, roll_back = first(lower > least, valid), first(upper < 0.0, valid)
        return _later(promote, CENTRE_UNITS), _later(roll_back, CENTRE_UNITS)
    low, span = units.bounds[0], units.bounds[1] - units.bounds[0]
    score, bound = mean_difference.scores(units.challenger, (units.returns - low) / span)
    return bets(score, bound, least / span, units.margin / span, units.valid)


def bets(score: Floats, bound: Floats, least: Floats | float, aim: float, valid: Units) -> tuple[Units, Units]:
    """The bets of `mean_difference` for many canaries, no further than the first verdict and without logarithms."""
    count, length = score.shape
    square, floor = Scale().feed(score), np.broadcast_to(np.asarray(least, dtype=np.float64), (count, 1))
    at = [np.full(count, NEVER), np.full(count, NEVER)]
    wealth = [np.broadcast_to(weights(wanted), (count, len(weights(wanted)))).copy() for wanted in (aim, None)]
    active = np.arange(count)
    for begin in range(0, length, CHUNK):
        part = slice(begin, begin + CHUNK)
        for side, (sign, wanted) in enumerate(((1.0, aim), (-1.0, None))):
            difference = floor[active] if side == 0 else np.zeros((len(active), 1))
            payoffs, limit = sign * score[active, part] - difference, cut(bound[active, part] + difference)
            grown = np.minimum(stakes(square[active, part], wanted), limit[:, None, :])
            grown *= payoffs[:, None, :]
            grown += 1.0
            grown[..., 0] *= wealth[side][active]
            np.cumprod(grown, axis=-1, out=grown)
            # what is all but lost stays lost: the slowest of a processor's numbers are the smallest
            wealth[side][active] = np.where(grown[..., -1] < 1e-90, 0.0, grown[..., -1])
            hit = grown.sum(axis=-2) >= 1.0 / ALPHA
            at[side][active] = np.where(hit.any(axis=-1), begin + hit.argmax(axis=-1) + 1, NEVER)
        active = active[(np.minimum(*at)[active] == NEVER) & (valid[active] > begin + CHUNK)]
        if not len(active):
            break
    promote, roll_back = (np.where(side <= valid, side, NEVER) for side in at)
    return promote, roll_back


def pairing(found: Canaries) -> tuple[Units, Units]:
    """The same bets on the k-th challenger minus the k-th control, instead of on scores of units as they come."""
    pairs = int(np.minimum(found.challenger.sum(axis=-1), (~found.challenger).sum(axis=-1)).min())
    sides = [
        np.take_along_axis(found.returns, np.argsort(~arm, axis=-1, kind="stable")[:, :pairs], axis=-1)
        for arm in (found.challenger, ~found.challenger)
    ]
    low, high = found.bounds or (0.0, 1.0)
    score, bound = (sides[0] - sides[1]) / (high - low), np.ones(sides[0].shape)
    margin = found.margin / (high - low)
    valid = np.full(len(score), pairs)
    promote, roll_back = bets(score, bound, -margin, margin, valid)
    return _twice(promote), _twice(roll_back)


def welch(found: Canaries) -> tuple[Units, Units]:
    """Welch's t-test on episodes, one-sided at 5 % each way, looked at after every tenth."""
    counts, means, squares = [], [], []
    for arm in (found.challenger, ~found.challenger):
        number = np.cumsum(arm, axis=-1)[:, LOOK_EVERY - 1 :: LOOK_EVERY]
        total = np.cumsum(found.returns * arm, axis=-1)[:, LOOK_EVERY - 1 :: LOOK_EVERY]
        square = np.cumsum(found.returns**2 * arm, axis=-1)[:, LOOK_EVERY - 1 :: LOOK_EVERY]
        counts.append(np.maximum(number, 1))
        means.append(total / counts[-1])
        squares.append(np.maximum(square / counts[-1] - means[-1] ** 2, 1e-12) / np.maximum(number - 1, 1))
    difference, error = means[0] - means[1], np.sqrt(squares[0] + squares[1])
    enough = (counts[0] > 1) & (counts[1] > 1)
    looks = found.valid // LOOK_EVERY
    promote = first(enough & (difference + found.margin > Z * error), looks)
    return _times(promote, LOOK_EVERY), _times(first(enough & (difference < -Z * error), looks), LOOK_EVERY)


def mann_whitney(found: Canaries) -> tuple[Units, Units]:
    """The rank test on episodes, one-sided at 5 % each way, looked at after every 250th."""
    hits: dict[str, list[Bools]] = {"promote": [], "roll_back": []}
    for units in range(RANK_EVERY, found.returns.shape[1] + 1, RANK_EVERY):
        arm, returns = found.challenger[:, :units], found.returns[:, :units]
        hits["roll_back"].append(_rank_z(arm, returns) < -Z)
        hits["promote"].append(_rank_z(arm, returns + found.margin * arm) > Z)
    looks = found.valid // RANK_EVERY
    promote, roll_back = (first(np.stack(side, axis=-1), looks) for side in (hits["promote"], hits["roll_back"]))
    return _times(promote, RANK_EVERY), _times(roll_back, RANK_EVERY)


def five_looks(found: Canaries) -> tuple[Units, Units]:
    """Five looks at twenty new episodes an arm: a mean below control's by more than the margin rolls back, five
    good ones promote.
    """
    size = BATCH * BATCHES
    sides = [
        np.take_along_axis(found.returns, np.argsort(~arm, axis=-1, kind="stable")[:, :size], axis=-1)
        for arm in (found.challenger, ~found.challenger)
    ]
    means = [side.reshape(len(side), BATCHES, BATCH).mean(axis=-1) for side in sides]
    failed = means[0] - means[1] < -found.margin
    roll_back = first(failed, np.full(len(failed), BATCHES))
    promote = np.where(failed.any(axis=-1), NEVER, 2 * size)
    return promote, _times(roll_back, 2 * BATCH)


def _rank_z(arm: Bools, returns: Floats) -> Floats:
    """Normal score of the challenger's rank sum, ties given their places at random by a tiny, fixed jitter."""
    jitter = np.random.default_rng(0).random(returns.shape[1]) * 1e-9
    ranks = np.empty(returns.shape)
    order = np.argsort(returns + jitter, axis=-1)
    np.put_along_axis(ranks, order, np.arange(1.0, returns.shape[1] + 1.0)[None, :], axis=-1)
    ours, total = arm.sum(axis=-1), arm.shape[1]
    mean, variance = ours * (total + 1) / 2, ours * (total - ours) * (total + 1) / 12
    found: Floats = ((ranks * arm).sum(axis=-1) - mean) / np.sqrt(np.maximum(variance, 1e-9))
    return found


def _later(at: Units, by: int) -> Units:
    return np.where(at == NEVER, NEVER, at + by)


def _times(at: Units, by: int) -> Units:
    return np.where(at == NEVER, NEVER, np.minimum(at, NEVER // by) * by)


def _twice(at: Units) -> Units:
    return _times(at, 2)


RULES: dict[str, Rule] = {
    "Airlock": airlock,
    "pairing": pairing,
    "Welch, peeking": welch,
    "Mann-Whitney, peeking": mann_whitney,
    "five looks": five_looks,
}
