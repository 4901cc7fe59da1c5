"""One simulated canary: fair coins, returns drawn from the champion's, and the judge's own primary test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tasks.analysis.sequential import asymptotic, mean_difference
from tasks.analysis.sequential.decision import Objective
from tasks.analysis.sequential.wealth import Floats

_FIRST_BLOCK, _LARGEST_BLOCK = 128, 4096


@dataclass(frozen=True)
class Rules:
    """What decides a canary. `margin` in return units, `alpha` per side; `max_units` is the most of both arms."""

    objective: Objective
    margin: float
    alpha: float
    bounds: tuple[float, float] | None
    max_units_per_arm: int
    max_units: int


@dataclass(frozen=True)
class Ended:
    """How it ended, after how many units of both arms, and of the larger arm."""

    verdict: Literal["promote", "roll_back", "inconclusive"]
    units: int
    per_arm: int


def moved(returns: Floats, difference: float, bounds: tuple[float, float] | None) -> Floats | None:
    """`returns` [n], all moved by one amount and kept within `bounds`, so that their mean moves by `difference`.

    None where the bounds leave no room for that.
    """
    if bounds is None or difference == 0.0:
        return returns + difference
    low, high = bounds
    goal, reach = float(returns.mean()) + difference, high - low
    if not low <= goal <= high:
        return None
    below, above = -reach, reach
    for _ in range(60):
        middle = (below + above) / 2
        if float((returns + middle).clip(low, high).mean()) < goal:
            below = middle
        else:
            above = middle
    return (returns + (below + above) / 2).clip(low, high)


def play(rules: Rules, control: Floats, challenger: Floats, generator: np.random.Generator) -> Ended:
    """One canary, a look after every unit, to its verdict or the end of its budget."""
    comparison = _comparison(rules)
    arms = np.zeros(2, dtype=np.int64)
    fed, size = 0, _FIRST_BLOCK
    while True:
        coin = generator.random(size) < 0.5
        drawn = generator.integers(len(control), size=size)
        returns = np.where(coin, challenger[drawn], control[drawn])
        counts = arms[:, None] + np.stack([np.cumsum(~coin), np.cumsum(coin)])
        within = int(np.searchsorted(counts.max(axis=0), rules.max_units_per_arm)) + 1
        end = min(within, size, rules.max_units - fed)
        verdict = comparison.feed(coin[:end], returns[:end])
        if verdict is not None:
            return Ended(verdict, comparison.units, int(counts[:, comparison.units - fed - 1].max()))
        fed += end
        if end < size or fed >= rules.max_units or counts[:, -1].max() >= rules.max_units_per_arm:
            return Ended("inconclusive", fed, int(counts[:, end - 1].max()))
        arms, size = counts[:, -1], min(2 * size, _LARGEST_BLOCK)


def _comparison(rules: Rules) -> asymptotic.Comparison | mean_difference.Comparison:
    if rules.bounds is None:
        return asymptotic.Comparison(margin=rules.margin, alpha=rules.alpha, objective=rules.objective)
    return mean_difference.Comparison(
        bounds=rules.bounds, margin=rules.margin, alpha=rules.alpha, objective=rules.objective
    )
