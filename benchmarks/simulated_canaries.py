"""Simulated canaries: what returns look like, what the environment does meanwhile, and who the users are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Environment = Literal["still", "flipping", "200 users", "1,000 Zipf users"]

BUDGET = 2000
"""Units an arm."""

FLIP_EVERY = 400
FLIP = 2.0
USER_EFFECT = 0.5
"""The environment gets worse by `FLIP` every other `FLIP_EVERY` units; users differ: both in standard deviations."""

PART = 40


@dataclass(frozen=True)
class World:
    """Returns of one policy. `draw` gives independent returns; bounded ones lie on [0, 1]."""

    name: str
    bounded: bool
    draw: Callable[[np.random.Generator, tuple[int, ...]], Floats]


def _failing(generator: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    fine = generator.normal(0.85, 0.03, shape).clip(0, 1)
    return np.where(generator.random(shape) < 0.15, 0.3 * generator.random(shape), fine)


WORLDS = (
    World("70 % at the top", True, lambda g, n: np.where(g.random(n) < 0.7, 1.0, g.random(n))),
    World("15 % failures", True, _failing),
    World("Beta(4, 2)", True, lambda g, n: g.beta(4, 2, n)),
    World("negative, skewed", False, lambda g, n: -150.0 - 60.0 * g.gamma(1.2, 1.5, n)),
    World("t, 3 degrees of freedom", False, lambda g, n: g.standard_t(3, n)),
)


@dataclass(frozen=True)
class Canaries:
    """Some canaries at once, each a row. Units beyond `valid` [c] are none; `margin` is in return units."""

    challenger: Bools
    returns: Floats
    valid: npt.NDArray[np.int64]
    bounds: tuple[float, float] | None
    margin: float
    deviation: float
    users: npt.NDArray[np.int64] | None = None


@cache
def _sample(world: World) -> Floats:
    return world.draw(np.random.default_rng(99), (400_000,))


@cache
def _shift(world: World, loss: float) -> float:
    """What to take off a bounded return so that, cut off at 0, its mean falls by `loss` exactly."""
    sample, low, high = _sample(world), 0.0, 2.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sample.mean() - (sample - middle).clip(0).mean() < loss else (low, middle)
    return low


def simulate(
    world: World, environment: Environment, difference: float, canaries: int, seed: int, units: int | None = None
) -> Iterator[Canaries]:
    """Canaries in parts; the challenger's mean is `difference` (at most 0) standard deviations from control's.

    With users, each has one arm and one effect, and `units` are episodes.
    """
    generator = np.random.default_rng(seed)
    deviation, length = float(_sample(world).std()), units or 2 * BUDGET
    loss = -difference * deviation
    for begin in range(0, canaries, PART):
        shape = (min(PART, canaries - begin), length)
        users, challenger = None, generator.random(shape) < 0.5
        if environment in ("200 users", "1,000 Zipf users"):
            users = _users(generator, environment, shape)
            challenger = np.take_along_axis(generator.random((shape[0], users.max() + 1)) < 0.5, users, axis=-1)
        returns = world.draw(generator, shape)
        if world.bounded:
            returns = np.where(challenger, (returns - _shift(world, loss)).clip(0), returns) if loss else returns
        else:
            returns = returns - loss * challenger
        low, high = 0.0, 1.0
        if environment == "flipping":
            returns = returns - FLIP * deviation * (np.arange(length) // FLIP_EVERY % 2)
            low -= FLIP * deviation
        if users is not None:
            effects = generator.normal(0, USER_EFFECT, (shape[0], users.max() + 1)).clip(-1, 1) * deviation
            returns = returns + np.take_along_axis(effects, users, axis=-1)
            low, high = low - deviation, high + deviation
        most = np.maximum(np.cumsum(challenger, axis=-1), np.cumsum(~challenger, axis=-1))
        bounds = (low, high) if world.bounded else None
        valid = (most < BUDGET).sum(axis=-1).clip(max=length - 1) + 1
        yield Canaries(challenger, returns, valid, bounds, 0.1 * deviation, deviation, users)


def _users(generator: np.random.Generator, environment: Environment, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    if environment == "200 users":
        return generator.integers(0, 200, shape)
    shares = np.cumsum(1.0 / np.arange(1, 1001))
    return np.searchsorted(shares / shares[-1], generator.random(shape)).astype(np.int64)


def first_episodes(found: Canaries) -> Canaries:
    """Each user's first episode, in order of start: one number a randomised unit. Short rows are filled up."""
    if found.users is None:
        return found
    starts = [np.sort(np.unique(row, return_index=True)[1]) for row in found.users]
    longest = max(len(row) for row in starts)
    places = np.array([np.pad(row, (0, longest - len(row)), mode="edge") for row in starts])
    return Canaries(
        np.take_along_axis(found.challenger, places, axis=-1),
        np.take_along_axis(found.returns, places, axis=-1),
        np.array([len(row) for row in starts]),
        found.bounds,
        found.margin,
        found.deviation,
    )
