"""How much is staked."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.analysis.sequential.stakes import GRID, Scale, stakes, weights


def test_the_scale_is_the_mean_square_of_earlier_scores_and_a_guess() -> None:
    scores = np.array([0.1, -0.3, 0.2])
    np.testing.assert_allclose(Scale().feed(scores), [0.25, (0.75 + 0.01) / 4, (0.75 + 0.01 + 0.09) / 5])


def test_batching_changes_not_one_digit() -> None:
    scores = np.random.default_rng(0).normal(size=500)
    scale = Scale()
    parts = [scale.feed(part) for part in np.split(scores, [1, 2, 77, 77, 300])]
    np.testing.assert_array_equal(np.concatenate(parts), Scale().feed(scores))


def test_stakes_follow_the_scale_so_that_the_unit_of_returns_does_not_matter() -> None:
    square = np.array([0.04, 1.0])
    np.testing.assert_allclose(stakes(100 * square), stakes(square) / 10)
    np.testing.assert_allclose(stakes(square)[:, 1], GRID)


def test_an_aim_is_staked_on_as_grows_fastest_there() -> None:
    payoffs = np.random.default_rng(1).normal(0.05, 1.0, 200_000)
    best = stakes(np.array([float((payoffs**2).mean())]), aim=0.05)[-1, 0]
    growth = [np.log1p(share * best * payoffs.clip(-4, 4)).mean() for share in (0.5, 1.0, 1.5)]
    assert growth[1] == max(growth)


def test_a_tiny_aim_is_not_staked_on_more_patiently_than_the_grid() -> None:
    square = np.array([0.25])
    assert stakes(square, aim=1e-9)[-1, 0] == pytest.approx(GRID[0] / 0.5)


@pytest.mark.parametrize("aim", [None, 0.1])
def test_weights_are_one_wealth(aim: float | None) -> None:
    assert weights(aim).sum() == pytest.approx(1.0)
    assert len(weights(aim)) == len(stakes(np.ones(1), aim))
