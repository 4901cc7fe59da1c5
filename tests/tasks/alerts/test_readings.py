"""Numbers read from the gateway's counters."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bentos.store import tables
from bentos.telemetry import counters as stats
from tasks.alerts.readings import (
    action_counts,
    chi_squared,
    counters,
    entropy,
    quantile_ms,
    readings,
    return_drop,
    total_variation,
)

BUCKETS = [0.001, 0.01, 0.1]


@pytest.mark.parametrize(
    ("counts", "q", "milliseconds"),
    [
        ([100, 0, 0, 0], 0.5, 0.5),
        ([100, 0, 0, 0], 0.99, 0.99),
        ([90, 10, 0, 0], 0.95, 5.5),
        ([0, 0, 100, 0], 1.0, 100.0),
        ([99, 0, 0, 1], 0.999, math.inf),
        ([0, 0, 0, 0], 0.99, 0.0),
    ],
)
def test_a_quantile_lies_within_its_bucket(counts: list[int], q: float, milliseconds: float) -> None:
    assert quantile_ms({"buckets": BUCKETS, "counts": counts, "sum": 1.0}, q) == pytest.approx(milliseconds)


def test_total_variation_is_the_largest_difference_in_probability() -> None:
    assert total_variation(np.array([30.0, 70.0]), np.array([500.0, 500.0])) == pytest.approx(0.2)
    assert total_variation(np.array([0.0, 10.0]), np.array([5.0, 0.0])) == 1.0


def test_chi_squared_of_proportional_counts_is_zero() -> None:
    assert chi_squared(np.array([10.0, 20.0]), np.array([100.0, 200.0])) == pytest.approx(0.0)
    assert chi_squared(np.array([20.0, 10.0]), np.array([100.0, 200.0])) > 10


def test_entropy_of_one_action_is_zero_and_of_equal_ones_the_logarithm_of_their_number() -> None:
    assert entropy(np.array([0.0, 7.0])) == 0.0
    assert entropy(np.array([5.0, 5.0, 5.0])) == pytest.approx(math.log(3))


def test_continuous_actions_are_read_dimension_by_dimension() -> None:
    baseline = {"kind": "continuous", "edges": [[0, 1, 2], [0, 1, 2]], "counts": [[1, 1], [2, 0]]}
    (first, _), (second, expected) = action_counts({"d0:1": 3, "d1:0": 4}, baseline)
    assert (first.tolist(), second.tolist(), expected.tolist()) == ([0, 3], [4, 0], [2, 0])


def test_a_drop_is_a_share_of_the_baseline_also_where_returns_are_negative() -> None:
    assert return_drop([400.0], 500.0).value == pytest.approx(0.2)
    assert return_drop([-180.0], -150.0).value == pytest.approx(0.2)
    assert return_drop([], 500.0).samples == 0


def test_counters_of_a_version_are_summed_over_arms_and_workers() -> None:
    engine = tables.create("sqlite:///:memory:")
    arm = stats.Arm()
    arm.decided(10, 0.002)
    rows = [("3", "champion", "a"), ("3", "control", "a"), ("3", "champion", "b"), ("4", "challenger", "a")]
    with engine.begin() as connection:
        for version, name, worker in rows:
            values = {"policy": "cartpole", "generation": "", "version": version, "arm": name, "worker": worker}
            connection.execute(tables.arm_stats.insert(), values | {"stats": arm.to_json(), "updated_at": 0.0})
    assert counters(engine, "cartpole", "3")["decisions"] == 30
    assert counters(engine, "cartpole", "5")["decisions"] == 0


def test_readings_cover_what_the_counters_can_tell() -> None:
    arm = stats.Arm()
    arm.decided(100, 0.002)
    arm.count(arm.faults, "non_finite", 2)
    arm.count(arm.sources, "fallback", 5)
    for value in (300.0, 400.0):
        arm.ended(value, 1)
    found = readings(arm.to_json(), 500.0, {"action_shift": 0.5, "action_entropy": math.nan})
    assert found["fault_share"].value == pytest.approx(0.02)
    assert found["fallback_share"].value == pytest.approx(0.05)
    assert (found["return_drop"].value, found["return_drop"].samples) == (pytest.approx(0.3), 2)
    assert found["action_shift"].value == 0.5
    assert "action_entropy" not in found, "a figure that is told no more raises nothing"


def test_of_returns_that_never_came_nothing_is_read() -> None:
    assert "return_drop" not in readings(stats.Arm().to_json(), 500.0)
