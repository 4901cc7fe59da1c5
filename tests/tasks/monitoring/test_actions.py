"""What the monitor does, over every history that hypothesis can think of."""

from __future__ import annotations

import itertools
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.monitoring.actions import NONE, RETRAIN, ROLL_BACK, choose
from tasks.monitoring.hysteresis import Standing, after
from tasks.spec.files import load
from tasks.spec.sections import PolicySpec

TOLD = st.sampled_from([True, False, None])
RUNS = st.lists(st.tuples(TOLD, TOLD, st.floats(60, 3000)), max_size=50)
STATUSES = st.sampled_from([None, "approved", "promoted", "rolled_back", "aborted", "candidate"])


def spec_of(on_breach: Literal["alert", "roll_back"], on_drift: bool) -> PolicySpec:
    """Cartpole's spec that acts as asked, after two runs, once an hour."""
    document = load("cartpole").model_dump(mode="json")
    document["monitor"] |= {"on_breach": on_breach, "breach_runs": 2, "clear_runs": 2, "cooldown_minutes": 60}
    document["retrain"] = {"on_drift": on_drift}
    return PolicySpec.model_validate(document)


ROLLING, ASKING, BOTH = spec_of("roll_back", False), spec_of("alert", True), spec_of("roll_back", True)
ALERTING = spec_of("alert", False)


def state(previous: str | None, status: str | None) -> dict[str, Any]:
    """Champion 2, and where a rollback would go."""
    versions = {previous: {"validation_status": status}} if previous and status else {}
    return {"champion": "2", "previous": previous, "versions": {"2": {"validation_status": "promoted"}, **versions}}


def play(
    spec: PolicySpec, runs: list[tuple[Any, Any, float]], registry: dict[str, Any]
) -> list[tuple[float, str, Any]]:
    """Each run's time, what was done and where drift and decay stand; the champion stays, whatever was done."""
    at, acted_at, done = 0.0, None, []
    standings = {"breach": Standing(), "shift": Standing()}
    for breached, shifted, seconds in runs:
        at += seconds
        standings = {
            name: after(standings[name], told, at, spec.monitor.breach_runs, spec.monitor.clear_runs)
            for name, told in (("breach", breached), ("shift", shifted))
        }
        what = choose(spec, registry, breached, shifted, standings, acted_at, at)["what"]
        acted_at = acted_at if what == NONE else at
        done.append((at, what, standings["shift"]))
    return done


@settings(deadline=None)
@given(RUNS, STATUSES)
def test_actions_are_an_hour_apart_and_of_the_kinds_that_the_spec_asks_for(runs: Any, status: str | None) -> None:
    for spec, kinds in ((ROLLING, {ROLL_BACK}), (ASKING, {RETRAIN}), (BOTH, {ROLL_BACK, RETRAIN}), (ALERTING, set())):
        done = [(at, what) for at, what, _ in play(spec, runs, state("1", status)) if what != NONE]
        assert {what for _, what in done} <= kinds
        assert all(later[0] - earlier[0] >= 3600 for earlier, later in itertools.pairwise(done))


@settings(deadline=None)
@given(RUNS, STATUSES, st.sampled_from([None, "1", "2"]))
def test_a_rollback_goes_only_to_another_version_that_gateways_route(
    runs: Any, status: str | None, previous: str | None
) -> None:
    done = [what for _, what, _ in play(ROLLING, runs, state(previous, status))]
    if previous != "1" or status not in ("approved", "promoted"):
        assert ROLL_BACK not in done


@settings(deadline=None)
@given(RUNS)
def test_one_drift_asks_for_one_release(runs: Any) -> None:
    asked = [shift.since for _, what, shift in play(ASKING, runs, state("1", "promoted")) if what == RETRAIN]
    assert len(asked) == len(set(asked))


def test_drift_that_stays_asks_once_and_a_breach_comes_first() -> None:
    lasting = [(False, True, 3000.0)] * 20
    assert [what for _, what, _ in play(BOTH, lasting, state("1", "promoted"))].count(RETRAIN) == 1
    both = play(BOTH, [(True, True, 3000.0)] * 2, state("1", "promoted"))
    assert [what for _, what, _ in both] == [NONE, ROLL_BACK]
    without = play(BOTH, [(True, True, 3000.0)] * 2, state(None, None))
    assert [what for _, what, _ in without] == [NONE, RETRAIN]
