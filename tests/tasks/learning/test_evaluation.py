"""What estimates from the log decide: who may vote, and what is asked of the votes."""

from __future__ import annotations

import pytest

from tasks.analysis.off_policy.importance_sampling import Estimate
from tasks.learning.evaluation import Requirement, decide


def estimate(gain: float, lower: float, upper: float, doubt: str = "") -> Estimate:
    return Estimate("a method", 0.0, gain, lower, upper, 0.95, "bootstrap", not doubt, doubt)


@pytest.mark.parametrize(
    ("estimates", "require", "passed", "said"),
    [
        ([estimate(5, 1, 9)], "better", True, "finds it better"),
        ([estimate(5, -1, 9)], "better", False, "no method finds it better"),
        ([estimate(5, -1, 9)], "not_worse", True, "its canary has to show"),
        ([estimate(-1, -9, 5)], "not_worse", True, "its canary has to show"),
        ([estimate(0, -9, 1e-13)], "not_worse", False, "no method finds it better"),
        ([estimate(-5, -9, -1)], "not_worse", False, "finds it worse"),
        ([estimate(5, 1, 9), estimate(-5, -9, -1)], "not_worse", False, "finds it worse"),
        ([estimate(5, 1, 9), estimate(-5, -9, -1, "1.0 effective")], "better", True, "finds it better"),
        ([estimate(5, 1, 9, "1.0 effective")], "not_worse", False, "no method can tell: a method: 1.0 effective"),
    ],
)
def test_only_reliable_estimates_vote_and_none_may_find_it_worse(
    estimates: list[Estimate], require: Requirement, passed: bool, said: str
) -> None:
    found, reason = decide(estimates, require)
    assert found is passed
    assert said in reason
