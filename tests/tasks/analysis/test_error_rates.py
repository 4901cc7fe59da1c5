"""How often verdicts err and how soon they come: the benchmark's tables, smaller, seeded.

A look after every unit, margin 0.1 standard deviations, 5 % a side. A bound on a rate allows three binomial standard
errors of the few canaries simulated here; `python -m benchmarks.error_rates` has thousands.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import error_rates
from benchmarks.error_rates import Share, chains, ended, median_units, rate_alarms, sample_ratio_alarms, whole_judge
from benchmarks.simulated_canaries import WORLDS, Environment, World, simulate
from benchmarks.stopping_rules import NEVER, RULES, airlock
from tasks.analysis.judge import guardrails
from tasks.analysis.judge.units import Start, analyse
from tasks.analysis.sequential import asymptotic
from tasks.analysis.sequential.mean_difference import decide

CANARIES = 160
BOUNDED = [world for world in WORLDS if world.bounded]
UNBOUNDED = [world for world in WORLDS if not world.bounded]
ENVIRONMENTS: list[Environment] = ["still", "flipping", "200 users", "1,000 Zipf users"]
NAMES = {"ids": lambda value: value.name if isinstance(value, World) else None}


def at_most(share: Share, allowed: float) -> bool:
    return share.count / share.trials <= allowed + 3 * math.sqrt(allowed * (1 - allowed) / share.trials)


def at_least(share: Share, wanted: float) -> bool:
    return share.count / share.trials >= wanted - 3 * math.sqrt(wanted * (1 - wanted) / share.trials)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("world", WORLDS, **NAMES)
def test_equal_arms_are_rolled_back_at_most_as_often_as_alpha(world: World, environment: Environment) -> None:
    found = ended(airlock, world, environment, 0.0, CANARIES, 11)
    assert at_most(found.rolled_back, 0.05 if world.bounded else 0.06)
    if world.bounded and environment == "still":
        assert at_least(found.promoted, 0.72)


@pytest.mark.parametrize("environment", ["still", "flipping"])
@pytest.mark.parametrize("world", WORLDS, **NAMES)
def test_a_loss_of_the_margin_is_promoted_at_most_as_often_as_alpha_and_twice_it_hardly_ever(
    world: World, environment: Environment
) -> None:
    assert at_most(ended(airlock, world, environment, -0.1, CANARIES, 12).promoted, 0.05)
    assert at_most(ended(airlock, world, environment, -0.2, CANARIES, 13).promoted, 0.005)


@pytest.mark.parametrize("world", WORLDS, **NAMES)
@pytest.mark.parametrize(
    ("loss", "exact", "asymptotic"), [(2.0, 12, 20), (1.0, 31, 32), (0.5, 87, 80), (0.2, 410, 390)]
)
def test_losses_are_found_soon(world: World, loss: float, exact: int, asymptotic: int) -> None:
    assert median_units(world, loss, 100, 14) <= (exact if world.bounded else asymptotic)


@pytest.mark.parametrize("difference", [0.0, -0.2])
@pytest.mark.parametrize("world", [BOUNDED[2], UNBOUNDED[0]], **NAMES)
def test_what_is_simulated_is_what_the_judge_decides(world: World, difference: float) -> None:
    (part,) = simulate(world, "flipping", difference, 30, 22)
    kind = {"margin": part.margin, "alpha": 0.05, "objective": "non_inferiority"}
    for row, (promote, roll_back) in enumerate(zip(*airlock(part), strict=True)):
        challenger, returns = (units[row, : int(part.valid[row])] for units in (part.challenger, part.returns))
        if part.bounds:
            found = decide(challenger, returns, bounds=part.bounds, **kind)  # type: ignore[arg-type]
        else:
            found = asymptotic.decide(challenger, returns, **kind)  # type: ignore[arg-type]
        verdict = None if promote == roll_back == NEVER else "roll_back" if roll_back <= promote else "promote"
        assert (verdict, min(promote, roll_back, part.valid[row])) == (found.verdict, found.units)


def test_many_small_losses_do_not_add_up_to_more_than_the_margin() -> None:
    assert at_most(chains(BOUNDED[2], 20, 15, anchored=True), 0.05)
    assert at_least(chains(BOUNDED[2], 20, 15, anchored=False), 0.9)


def test_what_one_would_use_instead_errs_far_more_often() -> None:
    def wrong(name: str, environment: Environment) -> float:
        share = ended(RULES[name], BOUNDED[2], environment, 0.0, CANARIES, 16).rolled_back
        return share.count / share.trials

    assert wrong("pairing", "flipping") > 0.12
    assert wrong("Welch, peeking", "still") > 0.2
    assert wrong("Mann-Whitney, peeking", "still") > 0.12
    assert wrong("five looks", "still") > 0.8


def test_episodes_of_sticky_users_taken_for_units_err_and_users_do_not() -> None:
    rolled_back = 0
    for part in simulate(BOUNDED[2], "1,000 Zipf users", 0.0, CANARIES, 17):
        promote, roll_back = airlock(replace(part, users=None))
        rolled_back += int(((roll_back <= promote) & (roll_back < NEVER)).sum())
    assert rolled_back / CANARIES > 0.1


@pytest.mark.parametrize("environment", ["still", "200 users", "1,000 Zipf users"])
def test_a_fair_split_rarely_alarms_whoever_the_users_are(environment: Environment) -> None:
    assert at_most(sample_ratio_alarms(environment, 0.5, 300, 18)[0], 0.01)


def test_a_split_of_45_to_55_is_found() -> None:
    assert sample_ratio_alarms("still", 0.45, 100, 19)[1] <= 1500


def test_a_rate_of_2_percent_against_a_tenth_of_one_is_found() -> None:
    assert rate_alarms(0.001, 0.02, 100, 20)[1] <= 550


@pytest.mark.parametrize("world", [BOUNDED[1], UNBOUNDED[1]], **NAMES)
def test_the_whole_judge_keeps_to_the_sum_of_its_budgets(world: World) -> None:
    budget = guardrails.budget(error_rates.ALPHA, first_release=False)
    found = whole_judge(world, "flipping", 60, 21)
    assert at_most(found["roll_back"], budget["roll_back"])
    assert at_most(found["sample ratio"], budget["inconclusive"])
    assert found["promote"].count > 0


def test_a_share_comes_with_its_binomial_interval() -> None:
    # Clopper and Pearson 1934: none of 10 is compatible with up to 30.8 %
    assert Share(0, 10).interval == (0.0, pytest.approx(0.3085, abs=1e-4))
    assert Share(10, 10).interval == (pytest.approx(0.6915, abs=1e-4), 1.0)
    assert str(Share(50, 1000)) == "5.0 % (3.7 to 6.5)"


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


def test_verdicts_in_order_of_completion_err_and_in_order_of_start_they_do_not() -> None:
    # both arms return as much; an episode of the challenger is soon over if it fails, and long if it does not
    def rolled_back(*, by_completion: bool) -> Share:
        count = 0
        for seed in range(CANARIES):
            generator = np.random.default_rng(seed)
            challenger, failed = generator.random(1500) < 0.5, generator.random(1500) < 0.3
            returns = np.where(failed, generator.random(1500), 5 + generator.random(1500)) / 6
            ends = np.arange(1500) + np.where(challenger, np.where(failed, 5.0, 400.0), 100.0)
            order = np.argsort(ends, kind="stable") if by_completion else np.arange(1500)
            found = decide(
                challenger[order], returns[order], bounds=(0, 1), margin=0.04, alpha=0.05, objective="non_inferiority"
            )
            count += found.verdict == "roll_back"
        return Share(count, CANARIES)

    assert at_most(rolled_back(by_completion=False), 0.05)
    assert rolled_back(by_completion=True).count / CANARIES > 0.9
