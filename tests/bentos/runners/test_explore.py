"""A policy whose spec explores: drawn actions with their log-probability, through the gateway's whole chain."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.gateway.engine import Core
from bentos.gateway.schemas import ActRequest
from bentos.gateway.status import Views
from bentos.package.distributions import Categorical, Gaussian, distribution_of
from bentos.package.loader import load
from bentos.package.manifest import PackageError, Serve, Space, Tensor
from bentos.package.safety import Safety
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.constrain import Constrain
from bentos.runners.explore import Explore
from bentos.server.single import Package, route
from bentos.store import tables
from bentos.store.overrides import Active, Overrides
from bentos.store.writer import Writer
from bentos.tokens import Signer
from tests.bentos.policy_packages import BOX, DISCRETE, discrete_graph, write_package

UPRIGHT, FAR = [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 9.0]
EVEN = discrete_graph(np.zeros((4, 2)), np.log([0.25, 0.75]))


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/airlock.db"
    tables.connect(found)
    return found


def gateway(tmp_path: Path, url: str, overrides: Overrides | None = None, **package: Any) -> Core:
    given = {"graph": EVEN, "serve": Serve(explore=True, deadline_ms=60_000, fallback={"constant": 0})} | package
    write_package(tmp_path / "package", **given)
    core = Core(Signer("key"), Writer(url), overrides or Overrides())
    core.route(route(core, Package(tmp_path / "package", "7")))
    for version in core.routes["cartpole"].versions.values():
        if isinstance(version.infer, Explore):
            version.infer._random = np.random.default_rng(3)
    return core


def ask(core: Core, **request: Any) -> dict[str, Any]:
    answer = asyncio.run(core.act("cartpole", ActRequest(**request)))
    core.writer.close()
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return document


def test_actions_come_as_often_as_the_policy_says_and_each_with_its_own_log_probability(
    tmp_path: Path, url: str
) -> None:
    answer = ask(gateway(tmp_path, url), observations=[UPRIGHT] * 2_000)
    ones = sum(answer["actions"])
    assert abs(ones - 1_500) < 4 * np.sqrt(2_000 * 0.25 * 0.75)
    expected = np.log([0.25, 0.75])[answer["actions"]]
    assert answer["log_probs"] == pytest.approx(expected, abs=1e-6)
    assert answer["sources"] == ["policy"] * 2_000
    assert answer["adjusted"] == [[]] * 2_000


def test_one_observation_at_a_time_explores_too(tmp_path: Path, url: str) -> None:
    core = gateway(tmp_path, url)

    async def play() -> list[Any]:
        return [await core.act("cartpole", ActRequest(observation=UPRIGHT)) for _ in range(60)]

    answers = asyncio.run(play())
    core.writer.close()
    assert {answer.action for answer in answers} == {0, 1}
    assert all(answer.log_prob == pytest.approx(np.log([0.25, 0.75][answer.action]), abs=1e-6) for answer in answers)


def test_a_masked_action_is_never_drawn_and_the_probability_is_among_the_allowed(tmp_path: Path, url: str) -> None:
    masks = [[True, False]] * 500 + [[True, True]] * 500
    answer = ask(gateway(tmp_path, url), observations=[UPRIGHT] * 1_000, action_masks=masks)
    assert answer["actions"][:500] == [0] * 500
    assert answer["log_probs"][:500] == [0.0] * 500
    assert 300 < sum(answer["actions"][500:]) < 450
    assert answer["adjusted"] == [[]] * 1_000


def test_what_the_envelope_makes_of_a_drawn_action_is_flagged_and_keeps_its_probability(
    tmp_path: Path, url: str
) -> None:
    bounds = Safety(action_bounds=(0, 0), observation_range=None)
    space = Space("MultiDiscrete", dtype="int64", nvec=(2,), shape=(1,))
    decision = Decision(np.array([[1]]), np.ones(1, bool), ["policy"], ["1"], log_prob=np.array([-0.5]))

    class Drew:
        async def decide(self, rows: Rows) -> Decision:
            return decision

    rows = Rows({}, 1, masks=np.array([[True, False]]))
    changed = asyncio.run(settled(Constrain(Drew(), space, bounds).decide(rows)))
    assert (changed.action.tolist(), changed.adjusted) == ([[0]], [["action_mask"]])
    assert changed.log_prob is not None
    assert changed.log_prob.tolist() == [-0.5]


def test_an_action_that_a_person_gave_has_no_probability(tmp_path: Path, url: str) -> None:
    overrides = Overrides()
    overrides.replace([Active(1, "cartpole", "", None, "", 0, False, "ann", "test", 0.0, 2e9 + 1e9)])
    answer = ask(gateway(tmp_path, url, overrides), observations=[UPRIGHT] * 3)
    assert answer["sources"] == ["override"] * 3
    assert answer["log_probs"] == [None] * 3


def test_rows_that_the_fallback_answers_have_no_probability(tmp_path: Path, url: str) -> None:
    graph = discrete_graph([[0, 0], [0, 0], [0, 0], [np.float32(3e38), 0]], [0, 0])
    answer = ask(gateway(tmp_path, url, graph=graph), observations=[UPRIGHT, FAR, UPRIGHT])
    assert answer["sources"] == ["policy", "fallback", "policy"]
    assert answer["log_probs"] == [pytest.approx(np.log(0.5)), None, pytest.approx(np.log(0.5))]


def test_arms_that_explore_and_those_that_do_not_share_an_answer(tmp_path: Path) -> None:
    whole = Decision(np.empty(3, np.int64), np.empty(3, bool), [""] * 3, [None] * 3)
    whole.put(np.array([1]), Decision(np.array([1]), np.ones(1, bool), ["policy"], ["1"]))
    assert whole.log_prob is None
    drawn = Decision(np.array([1, 0]), np.ones(2, bool), ["policy"] * 2, ["2"] * 2, log_prob=np.array([-1.0, -2.0]))
    whole.put(np.array([0, 2]), drawn)
    assert whole.log_prob is not None
    assert whole.log_prob.tolist() == pytest.approx([-1.0, np.nan, -2.0], nan_ok=True)


def test_a_policy_that_does_not_explore_says_nothing_of_probabilities(tmp_path: Path, url: str) -> None:
    core = gateway(tmp_path, url, serve=Serve(deadline_ms=60_000, fallback={"constant": 0}))
    assert not isinstance(core.routes["cartpole"].versions["7"].infer, Explore)
    answer = ask(core, observations=[UPRIGHT] * 50)
    assert answer["actions"] == [1] * 50
    assert "log_probs" not in answer


def test_exploring_is_shown_and_can_be_switched_off_on_a_gateway(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = gateway(tmp_path, url)
    assert asyncio.run(Views(core, url).policy(core.routes["cartpole"], {}, True))["explore"] is True
    monkeypatch.setenv("AIRLOCK_EXPLORE", "0")
    core.writer.close()
    core = gateway(tmp_path, url)
    assert asyncio.run(Views(core, url).policy(core.routes["cartpole"], {}, True))["explore"] is False
    assert ask(core, observations=[UPRIGHT] * 50)["actions"] == [1] * 50


def test_a_deviation_that_is_no_number_is_a_fault_and_never_an_action() -> None:
    rows = np.zeros((3, 1), np.float32)
    deviations = np.array([[0.0], [np.nan], [np.inf]], np.float32)
    for squashed in (False, True):
        actions, log_prob = Gaussian(BOX, squashed).draw((rows, deviations), None, np.random.default_rng(0))
        assert np.isfinite(log_prob).tolist() == [True, False, False]
        assert abs(actions[0, 0]) <= 2.0


def test_a_distribution_that_the_graph_does_not_put_out_is_refused() -> None:
    with pytest.raises(PackageError, match=r"'logits' with 2 numbers, came none"):
        distribution_of("categorical", DISCRETE, [Tensor("mean", "float32", (2,))])
    with pytest.raises(PackageError, match=r"'log_std' with 1 numbers, came \[3\]"):
        distribution_of("gaussian", BOX, [Tensor("mean", "float32", (1,)), Tensor("log_std", "float32", (3,))])
    with pytest.raises(PackageError, match="must be bounded"):
        distribution_of("squashed_gaussian", Space("Box", shape=(1,), low=(None,), high=(1.0,)), [])


def test_logits_of_any_size_are_drawn_from_without_overflow() -> None:
    logits = np.array([[1e4, -1e8], [-1e8, -1e8 + 1], [3e38, 3e38]], np.float32)
    actions, log_prob = Categorical(DISCRETE).draw((logits,), None, np.random.default_rng(0))
    assert actions[0] == 0
    assert np.isfinite(log_prob).all()
    assert (log_prob <= 0).all()


def test_two_workers_draw_different_actions(tmp_path: Path) -> None:
    write_package(tmp_path, graph=EVEN, serve=Serve(explore=True, fallback={"constant": 0}))
    rows = Rows({"observation": np.zeros((200, 4), np.float32)}, 200)
    first, second = (Explore(load(tmp_path), "1").run(rows).action.tolist() for _ in range(2))
    assert first != second
