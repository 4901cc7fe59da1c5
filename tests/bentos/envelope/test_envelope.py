"""The envelope, limit by limit: where an action goes, and which reasons are given."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from bentos.envelope.limits import inward
from bentos.envelope.polytope import Polytope
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Space
from bentos.package.safety import AccelerationLimit, Condition, Constraint, MaskRule, Safety, StateIndex
from bentos.routing.version import Version
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.constrain import Constrain
from bentos.store.overrides import Overrides
from bentos.telemetry.counters import Stats
from bentos.tokens import State
from tests.bentos.policy_packages import write_package

PLANE = Space("Box", shape=(2,), low=(-2.0, -2.0), high=(2.0, 2.0))
SEEN = Space("Box", shape=(3,), low=(None,) * 3, high=(None,) * 3)
PARTS = Space("Dict", spaces={"arm": SEEN, "gear": Space("Discrete", "int64", n=3)})
THREE = Space("Discrete", "int64", n=3)
PAIR = Space("MultiDiscrete", "int64", (2,), nvec=(3, 2))


class Says:
    """A policy of fixed actions that keeps the mask it was asked with."""

    def __init__(self, actions: Any, dtype: str = "float32", scores: Any = None) -> None:
        self.actions = np.asarray(actions, dtype)
        self.scores = None if scores is None else np.asarray(scores)
        self.masks: Any = None

    async def decide(self, rows: Rows) -> Decision:
        self.masks = rows.masks
        finite = np.ones(rows.size, bool)
        return Decision(np.array(self.actions), finite, ["policy"] * rows.size, ["1"] * rows.size, self.scores)


def seen(*rows: list[float]) -> Rows:
    return Rows({"observation": np.array(rows, np.float32)}, len(rows), version="1")


def held(actions: Any, safety: Safety, rows: Rows, fallback: Any = None, space: Space = PLANE) -> Decision:
    """What leaves of a policy's actions."""
    usual = None if fallback is None else np.asarray(fallback, space.dtype)
    constrain = Constrain(Says(actions, space.dtype), space, safety, SEEN, usual)
    return asyncio.run(settled(constrain.decide(rows)))


def test_a_commanded_velocity_stays_within_reach_of_the_velocity_observed() -> None:
    limit = AccelerationLimit(maximum=5.0, dt=0.1, state_index=[2, None])
    decision = held([[2.0, 2.0], [0.6, -2.0]], Safety(acceleration_limit=limit), seen([0, 0, 1.0], [0, 0, 1.0]))
    assert decision.action.tolist() == [[1.5, 2.0], [0.6000000238418579, -2.0]]
    assert decision.adjusted == [["acceleration_limit"], []]


def test_an_action_that_accelerates_is_limited_itself() -> None:
    limit = AccelerationLimit(maximum=[0.5, 1.0], action="acceleration")
    decision = held([[2.0, -2.0]], Safety(acceleration_limit=limit), seen([0, 0, 9.0]))
    assert decision.action.tolist() == [[0.5, -1.0]]


def test_a_velocity_is_found_in_a_part_of_a_dict_observation() -> None:
    limit = AccelerationLimit(maximum=1.0, dt=0.5, state_index=StateIndex("arm", [1, 0]))
    rows = Rows({"observation.arm": np.array([[0.25, -1.0, 0]], np.float32), "observation.gear": np.array([1])}, 1)
    constrain = Constrain(Says([[1.0, 1.0]]), PLANE, Safety(acceleration_limit=limit), PARTS)
    assert asyncio.run(settled(constrain.decide(rows))).action.tolist() == [[-0.5, 0.75]]


def test_a_constraint_moves_an_action_to_the_nearest_point_that_meets_it() -> None:
    constraint = Constraint([1.0, 1.0], bound=1.0, observation={"2": 0.5})
    rows = seen([0, 0, 0], [0, 0, 2], [0, 0, -9])
    decision = held([[1.0, 1.0], [0.5, 0.5], [2.0, 2.0]], Safety(constraints=[constraint]), rows)
    assert decision.action.tolist() == [[0.5, 0.5], [0.0, 0.0], [2.0, 2.0]]
    assert decision.adjusted == [["constraint"], ["constraint"], []]


def test_all_limits_hold_together_and_each_that_was_broken_is_named() -> None:
    safety = Safety(
        rate_limit=1.0,
        acceleration_limit=AccelerationLimit(maximum=10.0, dt=0.1, state_index=0),
        constraints=[Constraint([1.0, 1.0], 1.0)],
    )
    rows = seen([0.5, 0, 0])
    rows.states = [State("p", "", 1, [0.25, 0.25])]
    decision = held([[3.0, 0.5]], safety, rows)
    assert decision.action.tolist() == [[1.25, -0.25]], "on the constraint, as far as the last action allows"
    assert decision.adjusted == [["bounds", "acceleration_limit", "rate_limit", "constraint"]]


def test_a_projection_is_the_nearest_point_as_another_solver_finds_it() -> None:
    random = np.random.default_rng(7)
    low, high = np.full(3, -1.0, np.float32), np.full(3, 1.0, np.float32)
    space = Space("Box", shape=(3,), low=(-1.0,) * 3, high=(1.0,) * 3)
    for _ in range(40):
        rows = random.normal(size=(3, 3))
        bound = random.uniform(0.1, 1.0, 3)
        polytope = Polytope([Constraint(row, 0.0) for row in rows.tolist()], space, SEEN)
        target = random.normal(size=3).astype(np.float32) * 3
        projected = polytope.project(target, low, high, bound)
        assert projected is not None
        point, inside = projected
        assert inside
        other = minimize(
            lambda x, target=target: ((x - target) ** 2).sum(),
            np.zeros(3),
            bounds=[(-1, 1)] * 3,
            constraints=[{"type": "ineq", "fun": lambda x, rows=rows, bound=bound: bound - rows @ x}],
            method="SLSQP",
            options={"ftol": 1e-12},
        )
        assert point == pytest.approx(other.x, abs=2e-5)


def test_where_constraints_leave_nothing_the_fallback_leaves_if_the_bounds_allow_it() -> None:
    safety = Safety(constraints=[Constraint([1.0, 0.0], -1.0), Constraint([-1.0, 0.0], -1.0)])
    decision = held([[0.5, 0.5]], safety, seen([0, 0, 0]), fallback=[0.0, 0.25])
    assert decision.action.tolist() == [[0.0, 0.25]]
    assert decision.adjusted == [["constraint", "infeasible"]]


def test_without_a_fallback_in_the_bounds_the_point_of_least_violation_leaves() -> None:
    safety = Safety(constraints=[Constraint([1.0, 0.0], -1.0), Constraint([-2.0, 0.0], -4.0)])
    for fallback in (None, [9.0, 0.0]):
        decision = held([[0.0, 0.5]], safety, seen([0, 0, 0]), fallback)
        assert decision.action[0] == pytest.approx([0.5, 0.5], abs=1e-6), "as far from a <= -1 as from a >= 2"
        assert decision.adjusted == [["constraint", "infeasible"]]


def test_of_limits_that_contradict_each_other_the_earlier_holds() -> None:
    safety = Safety(rate_limit=0.5, acceleration_limit=AccelerationLimit(maximum=1.0, dt=0.1, state_index=0))
    rows = seen([1.0, 0, 0])
    rows.states = [State("p", "", 1, [0.0, -9.0])]
    decision = held([[1.0, 1.0]], safety, rows)
    assert decision.action[0] == pytest.approx([0.9, 0.9]), "within reach of 1, nearest to the last action"
    assert decision.adjusted == [["rate_limit", "infeasible"]]


def test_equalities_are_met_as_nearly_as_float32_allows() -> None:
    safety = Safety(constraints=[Constraint([0.3, 0.7], 0.1), Constraint([-0.3, -0.7], -0.1)])
    decision = held([[1.0, 1.0]], safety, seen([0, 0, 0]), fallback=[0.0, 0.0])
    assert decision.action[0].astype(float) @ [0.3, 0.7] == pytest.approx(0.1, abs=1e-7)


def test_rounding_never_leads_out_of_a_constraint() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        row, bound = random.normal(size=2), float(random.normal())
        safety = Safety(constraints=[Constraint(row.tolist(), bound)])
        decision = held(random.normal(size=(4, 2)) * 2, safety, seen(*[[0.0] * 3] * 4))
        reasons = decision.adjusted or [[]] * 4
        for action, why in zip(decision.action.astype(np.float64), reasons, strict=True):
            assert "infeasible" in why or (action * row).sum() <= bound


def test_a_forced_row_is_left_alone_by_every_limit() -> None:
    class Forces(Says):
        async def decide(self, rows: Rows) -> Decision:
            decision = await settled(super().decide(rows))
            decision.forced = np.array([True, False])
            return decision

    safety = Safety(rate_limit=0.1, constraints=[Constraint([1.0, 0.0], 0.5)])
    rows = seen([0, 0, 0], [0, 0, 0])
    rows.states = [State("p", "", 1, [0.0, 0.0])] * 2
    decision = asyncio.run(settled(Constrain(Forces([[9.0, 9.0]] * 2), PLANE, safety, SEEN).decide(rows)))
    assert decision.action[0].tolist() == [9.0, 9.0]
    assert np.abs(decision.action[1]).max() <= 0.1
    assert decision.adjusted is not None
    assert decision.adjusted[0] == []


def test_whole_numbers_too_large_for_floats_keep_their_bounds() -> None:
    low, high = inward(np.array(-np.inf), np.array(np.inf), np.dtype("int64"))
    assert low < 0 < high


# rules


def test_a_rule_forbids_an_action_while_its_conditions_hold() -> None:
    rules = [MaskRule([Condition(0, above=2.0), Condition(1, below=0.0)], [2])]
    policy = Says([2, 2, 2], "int64", [[1.0, 5.0, 9.0]] * 3)
    constrain = Constrain(policy, THREE, Safety(action_mask=rules), SEEN)
    decision = asyncio.run(settled(constrain.decide(seen([3, -1, 0], [3, 1, 0], [2, -1, 0]))))
    assert decision.action.tolist() == [1, 2, 2], "the next best by the policy's scores, where both conditions hold"
    assert decision.adjusted == [["mask_rule"], [], []]
    assert policy.masks.tolist() == [[True, True, False], [True] * 3, [True] * 3]


def test_a_rule_reads_numbers_as_the_graph_does() -> None:
    safety = Safety(action_mask=[MaskRule(Condition(0, equals=0.1), [0])])
    decision = asyncio.run(settled(Constrain(Says([0], "int64"), THREE, safety, SEEN).decide(seen([0.1, 0, 0]))))
    assert decision.action.tolist() == [1]


def test_rules_and_the_requests_mask_forbid_together_and_are_told_apart() -> None:
    rows = Rows({"observation.arm": np.zeros((2, 3), np.float32), "observation.gear": np.array([2, 0])}, 2)
    rows.masks = np.array([[1, 1, 1, 0, 1], [0, 1, 1, 1, 1]], bool)
    safety = Safety(action_mask=[MaskRule(Condition(0, key="gear", equals=2), {"0": [0, 1]})])
    decision = asyncio.run(settled(Constrain(Says([[0, 0], [0, 0]], "int64"), PAIR, safety, PARTS).decide(rows)))
    assert decision.action.tolist() == [[2, 1], [1, 0]]
    assert decision.adjusted == [["action_mask", "mask_rule"], ["action_mask"]]


@pytest.mark.parametrize(
    ("requested", "fallback", "expected", "reasons"),
    [
        ([0, 1, 1], 2, 2, ["action_mask", "mask_rule", "infeasible"]),
        ([0, 1, 1], 0, 1, ["action_mask", "mask_rule", "infeasible"]),
        ([1, 1, 1], 0, 0, ["infeasible"]),
        (None, None, 0, ["infeasible"]),
    ],
)
def test_rules_that_forbid_everything_give_way_to_the_fallback_then_to_the_request(
    requested: Any, fallback: Any, expected: int, reasons: list[str]
) -> None:
    rules = [MaskRule(Condition(0, equals=0.0), [0]), MaskRule(Condition(1, equals=0.0), [1, 2])]
    rows = seen([0, 0, 0])
    rows.masks = None if requested is None else np.array([requested], bool)
    usual = None if fallback is None else np.array(fallback)
    constrain = Constrain(Says([0], "int64"), THREE, Safety(action_mask=rules), SEEN, usual)
    decision = asyncio.run(settled(constrain.decide(rows)))
    assert decision.action.tolist() == [expected]
    assert decision.adjusted == [reasons]


# what does not fit is refused at load


@pytest.mark.parametrize(
    ("space", "safety", "said"),
    [
        (THREE, Safety(constraints=[Constraint([1.0], 1.0)]), r"safety\.constraints: for Box actions"),
        (THREE, Safety(acceleration_limit=AccelerationLimit(1.0, 1.0, 0)), "acceleration_limit: for Box actions"),
        (PLANE, Safety(action_mask=[MaskRule(Condition(0, above=1), [0])]), "Box actions cannot be masked"),
        (PLANE, Safety(constraints=[Constraint([1.0], 1.0)]), "expected 2 coefficients"),
        (PLANE, Safety(constraints=[Constraint([0.0, 0.0], 1.0)]), "not all 0"),
        (PLANE, Safety(constraints=[Constraint([1.0, 1.0], 1.0, [1.0])]), "expected 3 coefficients"),
        (PLANE, Safety(constraints=[Constraint([1.0, 1.0], 1.0, {"3": 1.0})]), "indices of observation from 0 to 2"),
        (PLANE, Safety(constraints=[Constraint([1.0, 1.0], 1.0, {"arm": 1.0})]), "coefficients in a list or by index"),
        (PLANE, Safety(constraints=[Constraint([1.0, 1.0], float("inf"))]), "finite"),
        (PLANE, Safety(acceleration_limit=AccelerationLimit(1.0, 0.1, 3)), "from 0 to 2"),
        (PLANE, Safety(acceleration_limit=AccelerationLimit(1.0, 0.1, [0])), "one for each of 2"),
        (PLANE, Safety(acceleration_limit=AccelerationLimit([1.0] * 3, 0.1, 0)), "acceleration_limit.maximum"),
        (PLANE, Safety(acceleration_limit=AccelerationLimit(1.0)), "needs `dt`"),
        (PLANE, Safety(acceleration_limit=AccelerationLimit(1.0, 0.1, StateIndex("arm", 0))), "there is no"),
        (PLANE, Safety(rate_limit=-1.0), "at least 0"),
        (PLANE, Safety(action_bounds=([0.0] * 3, 1.0)), "action_bounds"),
        (THREE, Safety(action_mask=[MaskRule(Condition(0), [0])]), "above, below or equal"),
        (THREE, Safety(action_mask=[MaskRule(Condition(0, above=1), [0, 1, 2])]), "not all"),
        (THREE, Safety(action_mask=[MaskRule(Condition(0, above=1), [3])]), "has 3 actions"),
        (THREE, Safety(action_mask=[MaskRule(Condition(9, above=1), [0])]), "from 0 to 2"),
        (PAIR, Safety(action_mask=[MaskRule(Condition(0, above=1), [0])]), "by dimension"),
        (PAIR, Safety(action_mask=[MaskRule(Condition(0, above=1), {"1": [0, 1]})]), "not all"),
    ],
)
def test_limits_that_do_not_fit_are_refused_with_what_was_expected(space: Space, safety: Safety, said: str) -> None:
    with pytest.raises(PackageError, match=said):
        Constrain(Says([0]), space, safety, SEEN)


def test_constraints_ask_for_actions_of_floats() -> None:
    space = Space("Box", dtype="int32", shape=(2,), low=(0.0, 0.0), high=(9.0, 9.0))
    with pytest.raises(PackageError, match="float numbers"):
        Constrain(Says([0]), space, Safety(constraints=[Constraint([1.0, 1.0], 1.0)]), SEEN)


def test_a_served_package_obeys_its_rules_with_its_own_next_best_action(tmp_path: Path) -> None:
    rules = [MaskRule(Condition(2, above=0.5), [1])]
    write_package(tmp_path, safety=Safety(action_mask=rules))
    version = Version(
        "1",
        load(tmp_path),
        "digest",
        stats=Stats(),
        overrides=Overrides(),
        champion=lambda: None,
        opened=lambda version, reason: None,
    )
    rows = Rows({"observation": np.array([[0, 0, 1, 0], [0, 0, 0.25, 0]], np.float32)}, 2, version="1")
    decision = asyncio.run(settled(version.decide(rows)))
    version.close()
    assert decision.action.tolist() == [0, 1]
    assert decision.adjusted == [["mask_rule"], []]
    assert decision.scores is not None
    assert decision.scores.shape == (2, 2)
