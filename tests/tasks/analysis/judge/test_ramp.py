"""From shadow to shares of traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.analysis.judge.plan import SHADOW, first_step, may_advance, weight
from tests.tasks.analysis.plans import PLAN

SHADOWED = replace(PLAN, shadow_requests=200)
FIRST = replace(PLAN, champion=None)


def test_a_plan_with_shadow_requests_begins_in_shadow() -> None:
    assert (first_step(PLAN), first_step(SHADOWED)) == (0, SHADOW)


def test_the_weight_grows_from_nothing_and_never_falls() -> None:
    weights = [weight(SHADOWED, step) for step in range(SHADOW, len(SHADOWED.steps))]
    assert weights == [0.0, *SHADOWED.steps]
    assert weights == sorted(weights)


@pytest.mark.parametrize(("shadowed", "advance"), [(0, False), (199, False), (200, True)])
def test_shadow_ends_with_its_requests_whatever_units_there_are(shadowed: int, advance: bool) -> None:
    assert may_advance(SHADOWED, SHADOW, {"control": 0, "challenger": 0}, shadowed) is advance


@pytest.mark.parametrize(
    ("finished", "step", "advance"),
    [
        ({"control": 10, "challenger": 10}, 0, True),
        ({"control": 10, "challenger": 9}, 0, False),
        ({"control": 19, "challenger": 25}, 1, False),
        ({"control": 20, "challenger": 25}, 1, True),
        ({"control": 90, "challenger": 90}, 2, False),
    ],
)
def test_a_step_ends_once_both_arms_have_their_units(finished: dict[str, int], step: int, advance: bool) -> None:
    assert may_advance(PLAN, step, finished, 0) is advance


def test_a_first_release_ramps_by_the_challenger_alone() -> None:
    assert may_advance(FIRST, 0, {"control": 0, "challenger": 10}, 0)


def test_a_step_that_would_take_weight_away_never_begins() -> None:
    assert not may_advance(replace(PLAN, steps=(0.5, 0.25)), 0, {"control": 99, "challenger": 99}, 0)
