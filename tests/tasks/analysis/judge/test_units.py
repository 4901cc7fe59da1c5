"""From stored starts to analysed units."""

from __future__ import annotations

import numpy as np

from tasks.analysis.judge.units import Start, analyse, within_budget


def start(seq: int, unit: str, arm: str, value: float | None, abandoned: bool = False) -> Start:
    return Start(seq, unit, arm, value, abandoned)


def test_only_the_first_episode_of_a_unit_counts() -> None:
    found = analyse(
        [
            start(1, "ada", "control", 10.0),
            start(2, "ada", "control", 99.0),
            start(3, "bob", "challenger", 20.0),
        ]
    )
    assert found.returns.tolist() == [10.0, 20.0]
    assert found.challenger.tolist() == [False, True]
    assert found.assigned.tolist() == [False, True]


def test_a_later_episode_does_not_stand_in_for_a_first_one_that_still_runs() -> None:
    found = analyse([start(1, "ada", "control", None), start(2, "ada", "control", 99.0)])
    assert found.returns.tolist() == []
    assert found.finished == {"control": 0, "challenger": 0}


def test_nobody_overtakes_a_unit_that_still_runs() -> None:
    found = analyse(
        [
            start(1, "a", "control", 1.0),
            start(2, "b", "challenger", None),
            start(3, "c", "control", 3.0),
            start(4, "d", "challenger", 4.0),
        ]
    )
    assert found.returns.tolist() == [1.0]
    assert found.waiting == 2
    assert found.finished == {"control": 2, "challenger": 1}
    assert found.assigned.tolist() == [False, True, False, True]


def test_a_unit_whose_start_nobody_was_told_of_is_left_out() -> None:
    found = analyse(
        [
            start(1, "a", "control", 1.0),
            Start(2, "b", "challenger", 0.0, False, withdrawn=True),
            start(3, "b", "challenger", 9.0),
            start(4, "c", "challenger", 3.0),
        ]
    )
    assert found.returns.tolist() == [1.0, 3.0]
    assert found.assigned.tolist() == [False, True]
    assert (found.finished, found.waiting) == ({"control": 1, "challenger": 1}, 0)


def test_an_abandoned_unit_scores_the_same_in_both_arms_whatever_was_stored() -> None:
    starts = [start(1, "a", "control", -7.0, abandoned=True), start(2, "b", "challenger", 0.0, abandoned=True)]
    assert analyse(starts, abandoned_return=5.0).returns.tolist() == [5.0, 5.0]
    assert analyse(starts).returns.tolist() == [-7.0, 0.0]
    assert analyse(starts).abandoned.tolist() == [True, True]


def test_returns_are_clipped_where_the_plan_says_so() -> None:
    starts = [start(1, "a", "control", -2000.0), start(2, "b", "challenger", -5.0)]
    assert analyse(starts, clip=(-1800.0, 0.0)).returns.tolist() == [-1800.0, -5.0]


def test_the_budget_ends_with_the_unit_that_fills_an_arm() -> None:
    challenger = np.array([True, False, True, True, False])
    assert within_budget(challenger, 2) == 3
    assert within_budget(challenger, 3) == 4
    assert within_budget(challenger, 4) == 5
    assert within_budget(np.zeros(0, dtype=bool), 4) == 0


def test_cutting_keeps_what_was_assigned() -> None:
    found = analyse([start(n, str(n), "control" if n % 2 else "challenger", float(n)) for n in range(6)])
    cut = found.first(3)
    assert cut.count() == {"control": 1, "challenger": 2}
    assert len(cut.assigned) == 6
