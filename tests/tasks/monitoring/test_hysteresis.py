"""The rule that keeps the monitor from flapping, on every sequence of runs that hypothesis can think of."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.monitoring.hysteresis import Standing, after, may_act

RUNS = st.lists(st.tuples(st.sampled_from([True, False, None]), st.floats(1, 1000)), max_size=60)
COUNTS = st.integers(1, 5)


def play(runs: list[tuple[bool | None, float]], raise_after: int, clear_after: int, cooldown: float):  # type: ignore[no-untyped-def]
    """Each run's time, finding, standing and whether it acted."""
    at, standing, acted_at = 0.0, Standing(), None
    for breached, seconds in runs:
        at += seconds
        standing = after(standing, breached, at, raise_after, clear_after)
        acts = may_act(standing, breached, acted_at, at, cooldown)
        acted_at = at if acts else acted_at
        yield at, breached, standing, acts


@settings(deadline=None)
@given(RUNS, COUNTS, COUNTS, st.floats(0, 5000))
def test_two_actions_are_never_closer_than_the_cooldown(runs, raise_after, clear_after, cooldown) -> None:  # type: ignore[no-untyped-def]
    acted = [at for at, _, _, acts in play(runs, raise_after, clear_after, cooldown) if acts]
    assert all(later - earlier >= cooldown for earlier, later in itertools.pairwise(acted))


@settings(deadline=None)
@given(RUNS, COUNTS, COUNTS)
def test_nothing_is_raised_before_so_many_breaches_in_a_row_nor_cleared_before_so_many_clean_runs(
    runs: list[tuple[bool | None, float]], raise_after: int, clear_after: int
) -> None:
    told: list[bool] = []
    raised = False
    for _, breached, standing, _ in play(runs, raise_after, clear_after, 0.0):
        told += [] if breached is None else [breached]
        if standing.raised and not raised:
            assert told[-raise_after:] == [True] * raise_after
        if raised and not standing.raised:
            assert told[-clear_after:] == [False] * clear_after
        raised = standing.raised


@settings(deadline=None)
@given(RUNS, COUNTS, COUNTS)
def test_it_acts_only_on_what_this_run_found_and_was_raised(
    runs: list[tuple[bool | None, float]], raise_after: int, clear_after: int
) -> None:
    for _, breached, standing, acts in play(runs, raise_after, clear_after, 0.0):
        assert acts == (breached is True and standing.raised)


@settings(deadline=None)
@given(RUNS, COUNTS)
def test_what_comes_and_goes_from_run_to_run_never_raises_with_two_runs_asked_for(
    runs: list[tuple[bool | None, float]], clear_after: int
) -> None:
    flapping = [(number % 2 == 0, seconds) for number, (_, seconds) in enumerate(runs)]
    assert not any(standing.raised for _, _, standing, _ in play(flapping, 2, clear_after, 0.0))


def test_since_is_when_it_was_raised_and_stays_until_it_is_cleared() -> None:
    runs: list[tuple[bool | None, float]] = [(True, 10), (True, 10), (False, 10), (True, 10), (False, 10), (False, 10)]
    assert [standing.since for _, _, standing, _ in play(runs, 2, 2, 0.0)] == [None, 20.0, 20.0, 20.0, 20.0, None]
