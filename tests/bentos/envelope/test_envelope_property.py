"""Whatever a policy, a fallback or a person asks for: no action outside of the envelope ever leaves."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from bentos.package.manifest import Space
from bentos.package.safety import AccelerationLimit, Condition, Constraint, MaskRule, Safety
from bentos.rows import Array, Decision, Rows
from bentos.runners import Runner
from bentos.runners.breaker import Breaker
from bentos.runners.constrain import Constrain
from bentos.runners.fallback import Constant, Fallback
from bentos.runners.override import Override
from bentos.store.overrides import Active, Overrides
from bentos.tokens import State

COUNT = settings(max_examples=200, derandomize=True, deadline=None)
ENTRIES = 3


class Says:
    """A policy that answers what it is told to, or fails where there is nothing."""

    def __init__(self, actions: Array | None, scores: Array | None = None) -> None:
        self.actions = actions
        self.scores = scores
        self.masks: Array | None = None

    async def decide(self, rows: Rows) -> Decision:
        self.masks = rows.masks
        if self.actions is None:
            raise RuntimeError("broken")
        finite = np.ones(rows.size, bool)
        return Decision(self.actions, finite, ["policy"] * rows.size, ["1"] * rows.size, self.scores)


def answer(runner: Runner, rows: Rows) -> Decision:
    """What a runner decides; nothing in these chains waits, so no event loop is needed."""
    deciding: Any = runner.decide(rows)
    if isinstance(deciding, Decision):
        return deciding
    try:
        deciding.send(None)
    except StopIteration as done:
        decision: Decision = done.value
        return decision
    raise AssertionError("the chain waits for something")


def chain(inner: Runner, fallback: Array, override: Any) -> Runner:
    """The runners within `Constrain`: an override that is not forced, around a fallback, around the policy."""
    guarded = Fallback(
        inner, policy="p", version="1", breaker=Breaker(5, print), champion=lambda: None, last=Constant(fallback)
    )
    active = Overrides()
    if override is not None:
        now = time.time()
        active.replace([Active(1, "p", "", None, "", override, False, "w", "r", now, now + 600)])
    return Override(guarded, "p", active)


EXTREMES = (0.0, -0.0, 1e-30, 1.0, 1e6, -1e12, 3e38, -3e38)


class Numbers:
    """Numbers of a case: moderate ones, so that limits bite and contradict each other, extremes where asked."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def within(self, low: float, high: float, *shape: int) -> Any:
        """Uniform numbers, rounded to quarters half of the time, so that some fall on a bound."""
        found = self.random.uniform(low, high, shape)
        return (np.round(found * 4) / 4 if self.random.random() < 0.5 else found).tolist()

    def wild(self, *shape: int) -> Array:
        found = np.array(self.within(-4, 4, *shape))
        return np.where(self.random.random(shape) < 0.2, self.random.choice(EXTREMES, shape), found)

    def perhaps(self, values: list[Any]) -> list[Any]:
        """The values, some of them left out (None), but not all."""
        kept = self.random.integers(len(values))
        return [one if k == kept or self.random.random() < 0.7 else None for k, one in enumerate(values)]


@st.composite
def continuous(draw: st.DrawFn) -> tuple[Space, Safety, Rows, Array | None, Array, Any]:
    """A space, an envelope, rows of questions, what the policy says, the fallback and the override."""
    d, n = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    asked = draw(st.sets(st.sampled_from(["bounds", "acceleration", "velocity", "rate", "constraints", "unbounded"])))
    who = draw(st.sampled_from(["policy", "policy", "policy", "fallback", "override"]))
    numbers = Numbers(draw(st.integers(0, 2**32 - 1)))
    within = numbers.within
    low, high = within(-3, 0, d), within(0.5, 3, d)
    space = Space(
        "Box",
        shape=(d,),
        dtype=draw(st.sampled_from(["float32", "float32", "float64"])),
        low=tuple(numbers.perhaps(low) if "unbounded" in asked else low),
        high=tuple(numbers.perhaps(high) if "unbounded" in asked else high),
    )
    limit = None
    if "acceleration" in asked:
        limit = AccelerationLimit(maximum=within(0, 2), action="acceleration")
    elif "velocity" in asked:
        index = numbers.perhaps(numbers.random.integers(0, ENTRIES, d).tolist())
        limit = AccelerationLimit(maximum=within(0, 4), dt=0.5, state_index=index if d > 1 else 1)
    observed: list[Any] = [[], within(-2, 2, ENTRIES), {"0": within(-2, 2), "2": 1.0}]
    constraints = [
        Constraint((np.array(within(-2, 2, d)) + 0.01).tolist(), within(-1, 3), observed[k % 3])
        for k in range(numbers.random.integers(1, 5) if "constraints" in asked else 0)
    ]
    safety = Safety(
        action_bounds=(within(-2, -0.1), within(0.1, 2)) if "bounds" in asked else None,
        safety_margin=draw(st.sampled_from([0.0, 0.1, 0.4])),
        rate_limit=within(0, 2, d) if "rate" in asked else None,
        acceleration_limit=limit,
        constraints=constraints,
    )
    states = numbers.perhaps([State("p", "", 1, last) for last in within(-4, 4, n, d)])
    rows = Rows({"observation": np.array(within(-2, 2, n, ENTRIES), np.float32)}, n, states=states, version="1")
    said = None if who == "fallback" else numbers.wild(n, d).astype(space.dtype)
    override = numbers.wild(d).tolist() if who == "override" else None
    return space, safety, rows, said, np.array(within(-4, 4, d), space.dtype), override


def box_of(space: Space, safety: Safety, rows: Rows, row: int) -> tuple[Array, Array, bool]:
    """The box of a row, said again in other words than the gateway's: the bounds, and the limits within them."""
    low, high = space.bounds()
    if safety.action_bounds:
        low, high = np.maximum(low, safety.action_bounds[0]), np.minimum(high, safety.action_bounds[1])
    span = np.where(np.isinf(high - low), 0.0, high - low)
    low, high = low + safety.safety_margin * span, high - safety.safety_margin * span
    observed = rows.feeds["observation"][row].astype(np.float64)
    for dimension in range(len(low)):
        intervals = []
        limit = safety.acceleration_limit
        if limit is not None and limit.action == "acceleration":
            intervals.append((-limit.maximum, limit.maximum))
        elif limit is not None:
            index = limit.state_index if isinstance(limit.state_index, int) else limit.state_index[dimension]
            if index is not None:
                reach = limit.maximum * limit.dt
                intervals.append((observed[index] - reach, observed[index] + reach))
        state = rows.states[row] if rows.states else None
        if safety.rate_limit is not None and state is not None:
            step = safety.rate_limit[dimension]
            intervals.append((state.action[dimension] - step, state.action[dimension] + step))
        for lowest, highest in intervals:
            low[dimension], high[dimension] = max(low[dimension], lowest), min(high[dimension], highest)
    return low, high, bool((low <= high).all())


def rows_of(safety: Safety, observed: Array) -> tuple[Array, Array]:
    """A and b of A a <= b for one observation."""
    bounds = []
    for one in safety.constraints:
        terms = one.observation if isinstance(one.observation, dict) else dict(enumerate(one.observation))
        bounds.append(one.bound - sum(value * float(observed[int(index)]) for index, value in terms.items()))
    return np.array([one.action for one in safety.constraints]), np.array(bounds)


def room(matrix: Array, bound: Array, low: Array, high: Array) -> float:
    """The radius of the largest ball, at most 1, in the polytope within the box; below 0 where there is no point."""
    lengths = np.linalg.norm(matrix, axis=1)
    d = len(low)
    sides = [(np.eye(d), high), (-np.eye(d), -low)]
    rows = [np.hstack([matrix, lengths[:, None]])]
    limits = [bound]
    for normal, end in sides:
        kept = np.isfinite(end)
        rows.append(np.hstack([normal, np.ones((d, 1))])[kept])
        limits.append(end[kept])
    cost = np.zeros(d + 1)
    cost[-1] = -1
    found = linprog(cost, np.vstack(rows), np.concatenate(limits), bounds=[(None, None)] * d + [(None, 1.0)])
    return float(found.x[-1]) if found.status == 0 else -1.0


@COUNT
@given(continuous())
def test_no_continuous_action_outside_of_the_envelope_ever_leaves(case: Any) -> None:
    space, safety, rows, said, fallback, override = case
    constrain = Constrain(
        chain(Says(said), fallback, override), space, safety, Space("Box", shape=(ENTRIES,)), fallback
    )
    decision = answer(constrain, rows)
    chosen = fallback if said is None else said
    inner = np.broadcast_to(np.array(chosen if override is None else override, space.dtype), decision.action.shape)
    reasons = decision.adjusted or [[]] * rows.size
    assert decision.action.dtype == inner.dtype
    for row, action in enumerate(decision.action.astype(np.float64)):
        low, high, _ = box_of(space, Safety(safety.action_bounds, safety.safety_margin), rows, row)
        assert ((low <= action) & (action <= high)).all(), "bounds hold whatever else does"
        low, high, possible = box_of(space, safety, rows, row)
        matrix, bound = rows_of(safety, rows.feeds["observation"][row])
        slack = 1e-12 * (1 + np.abs(bound) + np.abs(matrix) @ np.abs(action)) if len(bound) else 0.0
        inside = ((low <= action) & (action <= high)).all()
        met = not len(bound) or (matrix @ action <= bound + slack).all()
        if "infeasible" in reasons[row]:
            thin = (np.array(high - low) < 1e-6).any() or (len(bound) and room(matrix, bound, low, high) < 1e-5)
            assert not possible or thin, "limits that can all be met are met"
        else:
            assert inside, (low, action, high)
            assert met, (matrix @ action, bound)
        if reasons[row] == []:
            assert (decision.action[row] == inner[row]).all()


def places(space: Space, values: Any) -> list[int]:
    """The entries of a mask that the values of an action stand for, dimension by dimension."""
    widths = [space.n] if space.type == "Discrete" else list(space.nvec or (2,) * space.shape[0])
    starts = np.cumsum([0, *widths[:-1]])
    return [int(start + value - space.start) for start, value in zip(starts, np.reshape(values, -1), strict=True)]


@st.composite
def choices(draw: st.DrawFn) -> tuple[Space, Safety, Rows, Array | None, Array | None, Array, Any]:
    """A space, rules, rows with and without masks, what the policy says and its scores, fallback and override."""
    kind = draw(st.sampled_from(["Discrete", "MultiDiscrete", "MultiBinary"]))
    n, d = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    numbers = Numbers(draw(st.integers(0, 2**32 - 1)))
    random = numbers.random
    widths = {"Discrete": [3], "MultiDiscrete": random.integers(2, 4, d).tolist(), "MultiBinary": [2] * d}[kind]
    space = {
        "Discrete": Space("Discrete", "int64", n=3, start=int(random.integers(-2, 3))),
        "MultiDiscrete": Space("MultiDiscrete", "int64", (d,), nvec=tuple(widths)),
        "MultiBinary": Space("MultiBinary", "int8", (d,), n=d),
    }[kind]

    def actions(*size: int) -> Array:
        found = np.stack([random.integers(0, width, size) for width in widths], axis=-1) + space.start
        return found.reshape((*size, *space.shape)).astype(space.dtype)

    rules = []
    for _ in range(draw(st.integers(0, 3))):
        dimension = int(random.integers(len(widths)))
        count = int(random.integers(1, widths[dimension]))
        values = (random.permutation(widths[dimension])[:count] + space.start).tolist()
        tests = {"above": numbers.within(-1, 1), "below": numbers.within(-1, 1), "equals": 0.0}
        test = str(random.choice(list(tests)))
        when = [Condition(int(random.integers(ENTRIES)), **{test: tests[test]})]
        if random.random() < 0.3:
            when.append(Condition(0, above=-0.5))
        rules.append(MaskRule(when, values if kind == "Discrete" else {str(dimension): values}))
    rows = Rows({"observation": np.array(numbers.within(-1.5, 1.5, n, ENTRIES), np.float32)}, n, version="1")
    if draw(st.booleans()):
        rows.masks = random.random((n, sum(widths))) < 0.6
        for row in range(n):
            rows.masks[row, places(space, actions())] = True
    who = draw(st.sampled_from(["policy", "policy", "fallback", "override"]))
    said = None if who == "fallback" else actions(n)
    if said is not None and draw(st.booleans()):
        said[0] = 100
    scores = draw(st.sampled_from([None, random.normal(size=(n, sum(widths)))]))
    override = actions().tolist() if who == "override" else None
    return space, Safety(action_mask=rules), rows, said, scores, actions(), override


def forbidden(safety: Safety, space: Space, observed: Array) -> set[int]:
    """The entries of a mask that the rules forbid for one observation."""
    found: set[int] = set()
    widths = [space.n] if space.type == "Discrete" else list(space.nvec or (2,) * space.shape[0])
    for rule in safety.action_mask or []:
        conditions = rule.when if isinstance(rule.when, list) else [rule.when]
        if all(
            (one.above is None or observed[one.index] > one.above)
            and (one.below is None or observed[one.index] < one.below)
            and (one.equals is None or observed[one.index] == one.equals)
            for one in conditions
        ):
            by_dimension = rule.forbid if isinstance(rule.forbid, dict) else {"0": rule.forbid}
            for dimension, values in by_dimension.items():
                found |= {sum(widths[: int(dimension)]) + value - space.start for value in values}
    return found


@COUNT
@given(choices())
def test_no_forbidden_choice_ever_leaves(case: Any) -> None:
    space, safety, rows, said, scores, fallback, override = case
    policy = Says(said, scores)
    runners = chain(policy, fallback, override)
    decision = answer(Constrain(runners, space, safety, Space("Box", shape=(ENTRIES,)), fallback), rows)
    reasons = decision.adjusted or [[]] * rows.size
    inner = fallback if said is None else said
    inner = np.broadcast_to(np.array(inner if override is None else override, space.dtype), decision.action.shape)
    widths = [space.n] if space.type == "Discrete" else list(space.nvec or (2,) * space.shape[0])
    for row, action in enumerate(decision.action):
        taken = places(space, action)
        requested = np.ones(sum(widths), bool) if rows.masks is None else rows.masks[row]
        ruled = forbidden(safety, space, rows.feeds["observation"][row].astype(np.float64))
        emptied = False
        for dimension, entry in enumerate(taken):
            start = sum(widths[:dimension])
            assert start <= entry < start + widths[dimension], "no action leaves its space"
            assert requested[entry], "the request's mask is always obeyed"
            left = [one for one in range(start, start + widths[dimension]) if requested[one] and one not in ruled]
            allowed = left or [entry]
            if not left:
                emptied = True
                usual = places(space, fallback)[dimension]
                allowed = [usual] if requested[usual] else list(range(start, start + widths[dimension]))
            assert entry in allowed
            asked = policy.masks
            if asked is not None and left:
                assert asked[row, start : start + widths[dimension]].nonzero()[0].tolist() == [
                    one - start for one in left
                ], "the policy is asked with the mask that it will be held to"
        assert ("infeasible" in reasons[row]) == emptied
        changed = bool((action != inner[row]).any())
        assert changed == bool(set(reasons[row]) - {"infeasible"})
