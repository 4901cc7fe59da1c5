"""How often the exact test errs, by simulation: seeded, a look after every unit, margin 0.1 SD, alpha 0.05 a side.

The bound on a rate allows three binomial standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from tasks.analysis import asymptotic
from tasks.analysis.decision import first_look
from tasks.analysis.mean_difference import decide, scores, wealth_above, wealth_below
from tasks.analysis.units import Start, analyse

CANARIES, UNITS, ALPHA = 300, 2000, 0.05
SCALE = 0.5
WORLDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "15 % failures": lambda r, n: np.where(r.random(n) < 0.15, 0.3 * r.random(n), r.normal(0.85, 0.03, n).clip(0, 1)),
    "70 % at the top": lambda r, n: np.where(r.random(n) < 0.7, 1.0, r.random(n)),
}


def at_most(rate: float, allowed: float, trials: int) -> bool:
    return rate <= allowed + 3 * math.sqrt(allowed * (1 - allowed) / trials)


def verdicts(challenger: np.ndarray, scaled: np.ndarray, margin: float) -> dict[str, float]:
    """Shares of canaries [canaries, units] promoted and rolled back at their first crossing."""
    score, bound = scores(challenger, scaled)
    needed = math.log(1 / ALPHA)
    promote, roll_back = (
        wealth_below(score, bound, -margin, margin) >= needed,
        wealth_above(score, bound, 0.0) >= needed,
    )
    found = [first_look(up, down)[0] for up, down in zip(promote, roll_back, strict=True)]
    return {name: found.count(name) / len(found) for name in ("promote", "roll_back")}  # type: ignore[arg-type]


def simulate(world: str, *, shift_in_sd: float, flip_every: int | None = None, seed: int = 0) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    shape = (CANARIES, UNITS)
    deviation = float(WORLDS[world](generator, (1, 20_000)).std())
    totals = {"promote": 0.0, "roll_back": 0.0}
    for part in range(0, CANARIES, 50):
        size = (min(50, CANARIES - part), shape[1])
        challenger = generator.random(size) < 0.5
        scaled = SCALE * WORLDS[world](generator, size) + 0.4
        if flip_every:
            bad = (np.arange(UNITS) // flip_every) % 2 == 1
            scaled = scaled - np.where(bad, 2 * SCALE * deviation, 0.0)
        scaled = scaled + SCALE * shift_in_sd * deviation * challenger
        assert scaled.min() >= 0
        assert scaled.max() <= 1
        for name, share in verdicts(challenger, scaled, 0.1 * SCALE * deviation).items():
            totals[name] += share * size[0] / CANARIES
    return totals


@pytest.mark.parametrize("world", WORLDS)
def test_equal_arms_are_rolled_back_at_most_as_often_as_alpha(world: str) -> None:
    assert at_most(simulate(world, shift_in_sd=0.0)["roll_back"], ALPHA, CANARIES)


@pytest.mark.parametrize("world", WORLDS)
def test_a_loss_of_the_whole_margin_is_promoted_at_most_as_often_as_alpha(world: str) -> None:
    found = simulate(world, shift_in_sd=-0.1, seed=1)
    assert at_most(found["promote"], ALPHA, CANARIES)


def test_an_environment_that_flips_by_two_deviations_breaks_nothing() -> None:
    found = simulate("15 % failures", shift_in_sd=0.0, flip_every=400, seed=2)
    assert at_most(found["roll_back"], ALPHA, CANARIES)


def test_large_losses_are_found_fast() -> None:
    generator = np.random.default_rng(3)
    needed: dict[float, list[int]] = {2.0: [], 1.0: [], 0.5: []}
    for shift, units in needed.items():
        for _ in range(100):
            challenger = generator.random(1000) < 0.5
            returns = 0.3 + 0.7 * (generator.beta(4, 2, 1000) - shift * 0.178 * challenger)
            found = decide(challenger, returns, bounds=(0, 1), margin=0.02, alpha=0.05, objective="superiority")
            assert found.verdict == "roll_back"
            units.append(found.units)
    # units an arm; long simulations of these returns, which fill 70 % of their range, give 18, 39 and 90
    assert np.median(needed[2.0]) / 2 <= 22
    assert np.median(needed[1.0]) / 2 <= 48
    assert np.median(needed[0.5]) / 2 <= 110


def test_an_asymptotic_test_of_heavy_tails_keeps_its_rate_as_well() -> None:
    generator = np.random.default_rng(4)
    rolled_back = 0
    for _ in range(300):
        challenger = generator.random(1500) < 0.5
        returns = generator.standard_t(3, 1500)
        found = asymptotic.decide(challenger, returns, margin=0.17, alpha=0.05, objective="non_inferiority")
        rolled_back += found.verdict == "roll_back"
    assert at_most(rolled_back / 300, 0.06, 300)


def test_outcomes_in_order_of_completion_are_biased_and_in_order_of_start_they_are_not() -> None:
    # an episode's return is its length: those that have ended early on are the bad ones
    generator = np.random.default_rng(5)
    lengths = generator.integers(10, 500, 400)
    starts = np.arange(400) * 2.0
    now = 400.0
    ended = starts + lengths <= now
    by_completion = lengths[ended]
    rows = [
        Start(n, str(n), "control", float(lengths[n]) if ended[n] else None, False)
        for n in range(400)
        if starts[n] <= now
    ]
    by_start = analyse(rows).returns
    truth = lengths.mean()
    assert by_completion.mean() < 0.85 * truth
    assert len(by_start) > 0
    np.testing.assert_array_equal(by_start, lengths[: len(by_start)])
