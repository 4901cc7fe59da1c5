"""The runners of a version, one by one and as a chain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.envelope.limits import bounds
from bentos.errors import Problem
from bentos.gateway.assign import Assign
from bentos.gateway.schemas import ActRequest
from bentos.gateway.validate import Validate
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Serve, Space, Tensor
from bentos.package.safety import Safety
from bentos.routing.route import Route
from bentos.routing.version import Version, same_questions
from bentos.rows import MAX_ROWS, DeadlineMissed, Decision, NothingCanAnswer, Overloaded, Rows
from bentos.runners import settled
from bentos.runners.batch import Batch
from bentos.runners.breaker import Breaker
from bentos.runners.constrain import Constrain
from bentos.runners.fallback import Constant, Fallback
from bentos.runners.infer import Infer
from bentos.runners.warmup import Pace, warm_up
from bentos.store.overrides import Active, Overrides
from bentos.telemetry.counters import Stats
from bentos.tokens import Episode, Signer, State, user_hash
from tests.bentos.policy_packages import BOX, DISCRETE, box_graph, constant_graph, discrete_graph, write_package


def observations(*values: float) -> Rows:
    array = np.zeros((len(values), 4), np.float32)
    array[:, 3] = values
    return Rows(feeds={"observation": array}, size=len(values), version="1")


class Says:
    """A runner that gives fixed actions."""

    def __init__(self, actions: Any, finite: Any = None, scores: Any = None, dtype: str = "float32") -> None:
        self.actions = np.asarray(actions, dtype=dtype)
        self.finite = np.ones(len(self.actions), bool) if finite is None else np.asarray(finite)
        self.scores = None if scores is None else np.asarray(scores)

    async def decide(self, rows: Rows) -> Decision:
        size = rows.size
        return Decision(self.actions[:size], self.finite[:size], ["policy"] * size, ["1"] * size, self.scores)


class Fails:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def decide(self, rows: Rows) -> Decision:
        raise self.error


def decide(runner: Any, rows: Rows) -> Decision:
    decision: Decision = asyncio.run(settled(runner.decide(rows)))
    return decision


def guard(inner: Any, champion: Fallback | None = None, last: Any = None, max_errors: int = 2) -> Fallback:
    return Fallback(
        inner,
        policy="p",
        version="1",
        breaker=Breaker(max_errors, lambda reason: None),
        champion=lambda: champion,
        last=last,
    )


# constrain


def test_actions_are_held_to_the_bounds_less_the_margin() -> None:
    constrain = Constrain(Says([[1.9], [-3.0], [0.5]]), BOX, Safety(safety_margin=0.1))
    decision = decide(constrain, observations(0, 0, 0))
    assert decision.action[:, 0] == pytest.approx([1.6, -1.6, 0.5])
    assert decision.adjusted == [["bounds"], ["bounds"], []]
    assert (np.abs(decision.action.astype(np.float64)) <= 1.6).all(), "rounding to float32 must not leave the envelope"


def test_the_specs_bounds_narrow_the_spaces_and_never_widen_them() -> None:
    low, high = bounds(BOX, Safety(action_bounds=(-1.0, 9.0)))
    assert (low.tolist(), high.tolist()) == ([-1.0], [2.0])
    with pytest.raises(PackageError, match="leave no action"):
        bounds(BOX, Safety(action_bounds=(3.0, 4.0)))


def test_the_mask_takes_the_best_allowed_action_by_the_policys_own_scores() -> None:
    space = Space("Discrete", dtype="int64", n=3)
    rows = observations(0, 0)
    rows.masks = np.array([[False, True, True], [True, True, True]])
    inner = Says([0, 0], scores=[[9.0, 1.0, 5.0], [9.0, 1.0, 5.0]], dtype="int64")
    decision = decide(Constrain(inner, space, Safety()), rows)
    assert decision.action.tolist() == [2, 0]
    assert decision.adjusted == [["action_mask"], []]


def test_the_rate_limit_holds_from_one_step_to_the_next() -> None:
    rows = observations(0, 0)
    rows.states = [State("p", "", 1, [1.0]), None]
    decision = decide(Constrain(Says([[-2.0], [-2.0]]), BOX, Safety(rate_limit=0.5)), rows)
    assert decision.action[:, 0].tolist() == [0.5, -2.0]
    assert decision.adjusted == [["rate_limit"], []]


def test_a_rate_limit_on_discrete_actions_is_refused() -> None:
    with pytest.raises(PackageError, match="rate_limit"):
        Constrain(Says([0]), DISCRETE, Safety(rate_limit=1.0))


# fallback


def test_only_the_rows_that_are_not_finite_are_answered_by_the_fallback() -> None:
    inner = Says([[1.0], [np.nan], [2.0], [1.5]], finite=[True, True, True, False])
    decision = decide(guard(inner, last=Constant(np.array([0.25], np.float32))), observations(1, 2, 3, 4))
    assert decision.action[:, 0].tolist() == [1.0, 0.25, 2.0, 0.25]
    assert decision.sources == ["policy", "fallback", "policy", "fallback"]
    assert decision.versions == ["1", None, "1", None]
    assert decision.faults == {"non_finite": 2}


@pytest.mark.parametrize(
    ("error", "kind"), [(RuntimeError("broken"), "exception"), (DeadlineMissed("late"), "deadline")]
)
def test_the_champion_answers_for_a_version_that_fails(error: Exception, kind: str) -> None:
    champion = Fallback(
        Says([[0.75]]), policy="p", version="0", breaker=Breaker(5, print), champion=lambda: None, last=None
    )
    decision = decide(guard(Fails(error), champion, last=Constant(np.array([0.0], np.float32))), observations(1))
    assert decision.action.tolist() == [[0.75]]
    assert decision.sources == ["fallback"]
    assert decision.faults == {kind: 1}


def test_with_neither_champion_nor_fallback_nothing_can_answer() -> None:
    with pytest.raises(NothingCanAnswer):
        decide(guard(Fails(RuntimeError("broken"))), observations(1))


def test_a_full_queue_is_no_fault_of_the_version() -> None:
    fallback = guard(Fails(Overloaded("full")), last=Constant(np.zeros(1, np.float32)), max_errors=1)
    with pytest.raises(Overloaded):
        decide(fallback, observations(1))
    assert not fallback.breaker.open


def test_too_many_rows_for_the_deadline_are_no_fault_of_the_version() -> None:
    fallback = guard(Fails(DeadlineMissed("late", partly=True)), last=Constant(np.zeros(1, np.float32)), max_errors=1)
    decision = decide(fallback, observations(1))
    assert (decision.sources, decision.faults) == (["fallback"], {"deadline": 1})
    assert not fallback.breaker.open
    late = guard(Fails(DeadlineMissed("late")), last=Constant(np.zeros(1, np.float32)), max_errors=1)
    decide(late, observations(1))
    assert late.breaker.open


def test_the_breaker_opens_after_consecutive_faults_and_closes_after_a_good_probe() -> None:
    now = [0.0]
    opened: list[str] = []
    breaker = Breaker(3, opened.append, cool_down=5.0, clock=lambda: now[0])
    for _ in range(2):
        breaker.fault("x")
    breaker.success()
    for _ in range(3):
        assert breaker.allows()
        breaker.fault("x")
    assert breaker.open
    assert len(opened) == 1
    assert not breaker.allows()
    now[0] = 6.0
    assert breaker.allows(), "one probe"
    assert not breaker.allows(), "and one only"
    breaker.fault("still")
    assert len(opened) == 1, "a failed probe is not a new opening"
    now[0] = 12.0
    assert breaker.allows()
    breaker.success()
    assert not breaker.open
    assert breaker.allows()


def test_an_open_breaker_leaves_the_version_alone() -> None:
    inner = Fails(RuntimeError("broken"))
    fallback = guard(inner, last=Constant(np.zeros(1, np.float32)), max_errors=1)
    assert decide(fallback, observations(1)).faults == {"exception": 1}
    assert decide(fallback, observations(1)).faults is None


# batch


class Slow(Infer):
    """A model that takes its time, and writes down how many rows each call had."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.calls: list[int] = []
        self.lock = threading.Lock()

    def run(self, rows: Rows) -> Decision:
        with self.lock:
            self.calls.append(rows.size)
            time.sleep(self.seconds)
        return Decision(
            rows.feeds["observation"][:, 3:] * 2, np.ones(rows.size, bool), ["policy"] * rows.size, ["1"] * rows.size
        )


def batched(following: Slow, questions: list[Rows], **settings: Any) -> list[Any]:
    async def ask() -> list[Any]:
        batch = Batch(following, **{"batch_size": 8, "deadline": 30.0, **settings})
        try:
            return await asyncio.gather(*(settled(batch.decide(rows)) for rows in questions), return_exceptions=True)
        finally:
            batch.close()

    return asyncio.run(ask())


def test_concurrent_questions_share_calls_and_each_gets_its_own_answer() -> None:
    model = Slow()
    answers = batched(model, [observations(float(number)) for number in range(64)])
    assert [answer.action.tolist() for answer in answers] == [[[2.0 * number]] for number in range(64)]
    assert len(model.calls) < 20
    assert max(model.calls) <= 8


def test_many_rows_in_one_question_are_cut_to_the_batch_size_and_joined_again() -> None:
    for inline_rows in (0, 21):
        model = Slow(0.0)
        (answer,) = batched(model, [observations(*range(21))], inline_rows=inline_rows)
        assert answer.action[:, 0].tolist() == [2.0 * number for number in range(21)]
        assert sorted(model.calls) == [5, 8, 8]


def test_clients_that_ask_again_at_once_go_on_sharing_calls() -> None:
    model = Slow()

    async def client(batch: Batch) -> None:
        for _ in range(5):
            await settled(batch.decide(observations(1.0)))

    async def ask() -> None:
        batch = Batch(model, batch_size=64, deadline=30.0, in_flight=1)
        await asyncio.gather(*(client(batch) for _ in range(64)))
        batch.close()

    asyncio.run(ask())
    assert model.calls == [64] * 5, "a call that begins with the first who asks again leaves the others to the next"


def test_those_who_were_answered_are_looked_out_for_before_the_next_call() -> None:
    model = Slow(0.06)

    async def client(batch: Batch, pause: int) -> None:
        for _ in range(10):
            await settled(batch.decide(observations(1.0)))
            for _ in range(pause):
                await asyncio.sleep(0)

    async def ask() -> None:
        batch = Batch(model, batch_size=64, deadline=30.0, in_flight=1)
        await asyncio.gather(client(batch, 0), client(batch, 8))
        batch.close()

    asyncio.run(ask())
    assert model.calls.count(2) >= 6, "the second asks again some looks at the network later than the first"


def test_questions_of_several_rows_are_split_where_a_call_is_full() -> None:
    model = Slow()
    questions = [observations(*range(start, start + 5)) for start in (0, 5, 10)]
    answers = batched(model, questions, in_flight=1)
    assert [answer.action[:, 0].tolist() for answer in answers] == [
        [2.0 * number for number in range(start, start + 5)] for start in (0, 5, 10)
    ]
    assert model.calls == [8, 7]


def test_a_question_of_very_many_rows_lets_others_go_first_after_each_call() -> None:
    model = Slow(0.05)
    ended: list[str] = []

    async def ask() -> Any:
        batch = Batch(model, batch_size=8, deadline=30.0, in_flight=1)

        async def one(name: str, rows: Rows) -> Decision:
            decision = await settled(batch.decide(rows))
            ended.append(name)
            return decision

        large = asyncio.ensure_future(one("large", observations(*range(40))))
        await asyncio.sleep(0)
        small = [one(str(number), observations(float(number))) for number in range(3)]
        found = await asyncio.gather(large, *small)
        batch.close()
        return found

    decision, *others = asyncio.run(ask())
    assert ended[-1] == "large"
    assert decision.action[:, 0].tolist() == [2.0 * number for number in range(40)]
    assert [one.action.tolist() for one in others] == [[[2.0 * number]] for number in range(3)]
    assert sum(model.calls) == 43
    assert len(model.calls) == 6


def test_a_missed_deadline_says_whether_one_request_asked_for_more_than_there_was_time_for() -> None:
    slow = Slow(0.1)
    (large,) = batched(slow, [observations(*range(80))], deadline=0.7, in_flight=1)
    assert isinstance(large, DeadlineMissed)
    assert large.partly
    several = [observations(*range(7)) for _ in range(10)]
    late = [one for one in batched(slow, several, deadline=0.7, in_flight=1) if isinstance(one, DeadlineMissed)]
    assert late
    assert not any(one.partly for one in late), "many requests are slow answers to each"
    (hanging,) = batched(Slow(2.0), [observations(*range(80))], deadline=0.1, in_flight=1)
    assert isinstance(hanging, DeadlineMissed)
    assert not hanging.partly, "no call was answered in time"


def test_a_call_that_fails_fails_the_questions_it_has_a_part_of_and_no_other() -> None:
    model = Slow()
    calls = []

    def run(rows: Rows) -> Decision:
        calls.append(rows.size)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return Slow.run(model, rows)

    model.run = run  # type: ignore[method-assign]
    answers = batched(model, [observations(*[1.0] * 5) for _ in range(4)], in_flight=1)
    assert [isinstance(answer, RuntimeError) for answer in answers] == [True, True, False, False]
    assert calls[0] == 8
    assert sum(calls[1:]) == 10, "of a question that failed nothing more is computed"


def test_two_calls_at_a_time_only_where_that_pays(package: Path) -> None:
    manifest = load(package).manifest
    slow = Slow(0.2)
    slow.run = lambda rows: Decision(  # type: ignore[method-assign]
        np.zeros(rows.size, np.int64), np.ones(rows.size, bool), Slow.run(slow, rows).sources, ["1"] * rows.size
    )
    assert warm_up(slow, manifest) == Pace(inline_rows=0, in_flight=1), "its calls wait for each other"
    side_by_side = Slow()
    side_by_side.run = lambda rows: (  # type: ignore[method-assign]
        time.sleep(0.2) or Decision(np.zeros(rows.size, np.int64), np.ones(rows.size, bool), [], [])
    )
    assert warm_up(side_by_side, manifest) == Pace(inline_rows=0, in_flight=2)


def test_a_graph_whose_calls_waited_for_their_turn_is_not_taken_for_a_slow_one(package: Path) -> None:
    manifest = load(package).manifest
    calls = []

    def run(rows: Rows) -> Decision:
        calls.append(rows.size)
        time.sleep(0.005 if len(calls) < 40 else 0)
        return Decision(np.zeros(rows.size, np.int64), np.ones(rows.size, bool), [], [])

    model = Slow()
    model.run = run  # type: ignore[method-assign]
    assert warm_up(model, manifest).inline_rows > 0


def test_a_question_past_its_deadline_is_given_up_and_dropped_from_the_queue() -> None:
    model = Slow(2.0)
    answers = batched(model, [observations(0.0) for _ in range(64)], deadline=0.05, batch_size=1)
    assert all(isinstance(answer, DeadlineMissed) for answer in answers)
    assert len(model.calls) <= 4


def test_a_full_queue_refuses() -> None:
    answers = batched(Slow(), [observations(0.0) for _ in range(30)], batch_size=1, max_queued=10)
    assert sum(isinstance(answer, Overloaded) for answer in answers) >= 18


def test_the_largest_request_fits_into_an_empty_queue() -> None:
    (answer,) = batched(Slow(0.0), [observations(*[0.0] * MAX_ROWS)], batch_size=32)
    assert isinstance(answer, Decision)
    assert len(answer.action) == MAX_ROWS


# validate


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_package(tmp_path / "package")
    return tmp_path / "package"


def version_of(
    package: Path, overrides: Overrides | None = None, stats: Stats | None = None, name: str = "1"
) -> Version:
    return Version(
        name,
        load(package),
        "digest",
        stats=stats or Stats(),
        overrides=overrides or Overrides(),
        champion=lambda: None,
        opened=lambda version, reason: None,
    )


def route_of(version: Version) -> Route:
    return Route(
        "cartpole",
        champion=version,
        previous=None,
        canary=None,
        versions={version.name: version},
        withdrawn=frozenset(),
        provider=None,
        shown={},
    )


def door_of(package: Path) -> Validate:
    version = version_of(package)
    return Validate(Assign(route_of(version)), version.manifest, Signer("key"), version.stateful)


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (ActRequest(), 422, "observation"),
        (ActRequest(observation=[0.0] * 4, observations=[[0.0] * 4]), 422, "either"),
        (ActRequest(observation=[0.0] * 3), 422, "shape"),
        (ActRequest(observation=[0.0, 0.0, 0.0, [1.0]]), 422, "shape"),
        (ActRequest(observation=["1", "2", "3", "4"]), 422, "numbers"),
        (ActRequest(observation=[None, 0.0, 0.0, 0.0]), 422, "numbers"),
        (ActRequest(observation=[True, False, True, False]), 422, "numbers"),
        (ActRequest(observation=[1e39, 0.0, 0.0, 0.0]), 422, "finite"),
        (ActRequest(observation=[10**400, 0, 0, 0]), 422, "numbers"),
        (ActRequest(observation=[10**400, 0.5, 0.0, 0.0]), 422, "numbers"),
        (ActRequest(observations=[]), 422, "at least one"),
        (ActRequest(observations=[[0.0] * 4] * 5000), 413, "at most"),
        (ActRequest(observations=[[0.0] * 4], user_ids=["a", "b"]), 422, "as long as"),
        (ActRequest(observation=[0.0] * 4, user_id=""), 422, "user id"),
        (ActRequest(observation=[0.0] * 4, episode_id="e1.x.y"), 403, "refused"),
        (ActRequest(observation=[0.0] * 4, state="forged"), 403, "refused"),
        (ActRequest(observation=[0.0] * 4, action_mask=[False, False]), 422, "at least one action"),
        (ActRequest(observation=[0.0] * 4, action_mask=[True]), 422, "booleans"),
    ],
)
def test_bad_input_is_refused_with_what_was_expected(
    package: Path, request_: ActRequest, status: int, words: str
) -> None:
    validate = door_of(package)
    with pytest.raises(Problem) as caught:
        asyncio.run(settled(validate.decide(validate.ask(request_))))
    assert caught.value.status == status
    assert words in caught.value.detail


def test_rows_outside_the_observation_range_are_counted_and_still_answered(package: Path) -> None:
    validate = door_of(package)
    rows = validate.rows(validate.ask(ActRequest(observations=[[0.0] * 4, [0, 11, 0, 0], [0, 0, -11.0, 99.0]])))
    assert rows.out_of_range is not None
    assert rows.out_of_range.tolist() == [False, True, True]
    chosen = rows.take(np.array([0, 2])).out_of_range
    assert chosen is not None
    assert chosen.tolist() == [False, True], "where rows are split over arms, each arm counts its own"
    assert validate.rows(validate.ask(ActRequest(observations=[[0.0] * 4] * 2))).out_of_range is None


# the chain


def act(version: Version, rows: Rows) -> Decision:
    return asyncio.run(settled(version.decide(rows)))


def test_a_version_decides_as_its_graph_and_counts_it(package: Path) -> None:
    stats = Stats()
    version = version_of(package, stats=stats)
    decision = act(version, observations(0.5, -0.5, 0.1))
    assert decision.action.tolist() == [1, 0, 1]
    counted = stats.arm("cartpole", "", "1", "champion").to_json()
    assert (counted["decisions"], counted["requests"]) == (3, 1)
    assert counted["actions"] == {"1": 2, "0": 1}
    assert counted["sources"] == {"policy": 3, "fallback": 0, "override": 0}


def override(action: Any, **about: Any) -> Active:
    defaults = {"id": 1, "policy": "cartpole", "user": "", "user_id": None, "episode": "", "force": False}
    values = {**defaults, "who": "ada", "reason": "test", "set_at": 0.0, "until": time.time() + 60, **about}
    return Active(action=action, **values)


@pytest.mark.parametrize(
    ("about", "overridden"),
    [
        ({}, [True, True, True]),
        ({"until": 1.0}, [False, False, False]),
        ({"user": user_hash("ada")}, [True, True, False]),
        ({"episode": "n1"}, [True, False, False]),
        ({"policy": "other"}, [False, False, False]),
    ],
)
def test_an_override_reaches_whom_it_names(package: Path, about: dict[str, Any], overridden: list[bool]) -> None:
    overrides = Overrides()
    overrides.replace([override(0, **about)])
    rows = observations(1.0, 1.0, 1.0)
    rows.episodes = [Episode("cartpole", "1", "champion", "", "n1", user_hash("ada"), 0.0), None, None]
    rows.users = ["", user_hash("ada"), user_hash("bob")]
    decision = act(version_of(package, overrides), rows)
    assert decision.sources == ["override" if one else "policy" for one in overridden]
    assert decision.action.tolist() == [0 if one else 1 for one in overridden]


def test_the_envelope_holds_an_override_too_unless_it_is_forced(tmp_path: Path) -> None:
    write_package(tmp_path, action_space=BOX, safety=Safety(safety_margin=0.25))
    overrides = Overrides()
    version = version_of(tmp_path, overrides)
    overrides.replace([override([2.0])])
    held = act(version, observations(0.0))
    assert (held.action.tolist(), held.adjusted) == ([[1.0]], [["bounds"]])
    overrides.replace([override([2.0], force=True)])
    forced = act(version, observations(0.0))
    assert (forced.action.tolist(), forced.adjusted) == ([[2.0]], None)


def test_overrides_survive_a_restart_while_the_database_is_down(tmp_path: Path) -> None:
    Overrides(tmp_path / "overrides.json").replace([override(1)])
    assert [one.action for one in Overrides(tmp_path / "overrides.json").of("cartpole")] == [1]


def test_a_nan_from_the_graph_never_leaves(tmp_path: Path) -> None:
    write_package(
        tmp_path, action_space=BOX, graph=box_graph([[np.inf]] * 4, [0]), serve=Serve(fallback={"constant": [0.5]})
    )
    decision = act(version_of(tmp_path), observations(0.0, 1.0))
    assert decision.action.tolist() == [[0.5], [0.5]]
    assert decision.sources == ["fallback", "fallback"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"safety": Safety(constraints=[{"a": 1}])}, "safety.constraints"),
        ({"safety": Safety(acceleration_limit={"dt": 1})}, "acceleration_limit"),
        ({"serve": Serve(explore=True), "action_space": BOX}, "no distribution"),
        ({"serve": Serve(fallback={"constant": [0, 1]})}, "shape"),
        ({"serve": Serve(fallback={"constant": 0.5})}, "whole numbers"),
        ({"serve": Serve(fallback={"package": "/nowhere"})}, "cannot be read"),
        ({"graph": discrete_graph([[0.0, 0.0]] * 3, [0, 0])}, "cannot load"),
    ],
)
def test_a_package_that_asks_for_what_is_not_done_is_not_served_with_less(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write_package(tmp_path, **change)
    with pytest.raises(PackageError, match=words):
        version_of(tmp_path)


def test_a_fallback_package_answers_where_the_policy_cannot(tmp_path: Path) -> None:
    write_package(tmp_path / "spare", graph=constant_graph(1))
    broken = discrete_graph([[np.nan] * 2] * 4, [0, 0])
    write_package(tmp_path / "main", graph=broken, serve=Serve(fallback={"package": str(tmp_path / "spare")}))
    decision = act(version_of(tmp_path / "main"), observations(0.0))
    assert (decision.action.tolist(), decision.sources, decision.versions) == ([1], ["fallback"], [None])


def test_a_running_episode_of_a_withdrawn_version_is_answered_by_the_champion(tmp_path: Path) -> None:
    found: list[Version] = []
    build: Callable[[str, int], Version] = lambda name, action: Version(  # noqa: E731
        name,
        load(tmp_path / name),
        name,
        stats=Stats(),
        overrides=Overrides(),
        champion=lambda: found[0],
        opened=lambda version, reason: None,
    )
    for name, action in (("1", 0), ("2", 1)):
        write_package(tmp_path / name, graph=constant_graph(action))
        found.append(build(name, action))
    route = Route(
        "cartpole",
        champion=found[0],
        previous=None,
        canary=None,
        versions={"1": found[0], "2": found[1]},
        withdrawn=frozenset({"2"}),
        provider=None,
        shown={},
    )
    rows = observations(0.0, 0.0)
    rows.episodes = [Episode("cartpole", version, "challenger", "g", version, "", 0.0) for version in ("2", "1")]
    assign = Assign(route)
    seats = assign.seats(rows, None)
    decision = asyncio.run(settled(assign.decide(rows, seats)))
    assert decision.action.tolist() == [0, 0]
    assert decision.sources == ["fallback", "policy"]
    assert decision.versions == ["1", "1"]
    assert [seat.version for seat in seats] == ["2", "1"]


def test_a_fallback_package_that_acts_in_another_space_is_refused(package: Path, tmp_path: Path) -> None:
    write_package(tmp_path / "other", action_space=BOX)
    write_package(tmp_path / "policy", serve=Serve(fallback={"package": str(tmp_path / "other")}))
    with pytest.raises(PackageError, match="other observations or actions"):
        version_of(tmp_path / "policy")


def test_memory_and_masks_are_no_hindrance_to_a_canary_and_another_space_is(package: Path) -> None:
    manifest = load(package).manifest
    maskable = msgspec.structs.replace(manifest, inputs=(*manifest.inputs, Tensor("action_mask", "bool", (2,))))
    assert same_questions(manifest, maskable)
    assert not same_questions(manifest, msgspec.structs.replace(manifest, action_space=BOX))
