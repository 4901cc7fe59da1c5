"""A challenger in shadow: it decides beside the champion, serves nobody, delays nobody, and is measured."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bentos.canary import Canary
from bentos.gateway.assign import Assign, Shadowed
from bentos.package.loader import load
from bentos.package.manifest import Serve
from bentos.routing.route import Route
from bentos.routing.version import Version
from bentos.rows import Decision, Rows
from bentos.runners import settled
from bentos.runners.shadow import MOST_ROWS, MOST_WAITING, Shadow, figures
from bentos.store.overrides import Overrides
from bentos.telemetry.counters import SHADOW, Arm, Stats
from tests.bentos.policy_packages import BOX, box_graph, constant_graph, discrete_graph, write_package

SERVE = Serve(fallback={"constant": 0}, max_errors=3, deadline_ms=60_000)
GENERATION = "g1"


class Pair:
    """Champion 1 and challenger 2 of one policy, the challenger in shadow."""

    def __init__(self, directory: Path, champion: Any, challenger: Any, **about: Any) -> None:
        self.stats = Stats()
        self.opened: list[str] = []
        about = {"serve": SERVE, **about}
        write_package(directory / "1", graph=champion, **about)
        write_package(directory / "2", graph=challenger, **about)
        self.champion, self.challenger = (self._version(name, directory / name) for name in ("1", "2"))

    def _version(self, name: str, package: Path) -> Version:
        return Version(
            name,
            load(package),
            name,
            stats=self.stats,
            overrides=Overrides(),
            champion=lambda: self.champion,
            opened=lambda version, reason: self.opened.append(reason),
        )

    def route(self, champion: bool = True, weight: float = 0.0, withdrawn: frozenset[str] = frozenset()) -> Route:
        return Route(
            "cartpole",
            champion=self.champion if champion else None,
            previous=None,
            canary=Canary(GENERATION, "1" if champion else None, "2", weight, "00", -1),
            versions={"1": self.champion, "2": self.challenger} if champion else {"2": self.challenger},
            withdrawn=withdrawn,
            provider=self.challenger,
            shown={},
        )

    async def ask(self, sizes: list[int], champion: bool = True) -> list[Decision]:
        """Answers to requests of these many rows, each asked once the shadow has dealt with the one before."""
        shadowed = Shadowed(Assign(self.route(champion)), self.challenger.shadow, GENERATION)
        answers = []
        for size in sizes:
            feeds = {"observation": np.zeros((size, 4), np.float32)}
            rows = Rows(feeds=feeds, size=size)
            answers.append(await settled(shadowed.decide(rows, shadowed.following.seats(rows, None))))
            await idle(self.challenger.shadow)
        return answers

    @property
    def arm(self) -> Arm:
        return self.stats.arm("cartpole", GENERATION, "2", SHADOW)


async def idle(shadow: Shadow) -> None:
    """Wait until the shadow has nothing to do."""
    while shadow._task is not None:
        await asyncio.wait([shadow._task])


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., Pair]:
    return lambda champion, challenger, **about: Pair(tmp_path, champion, challenger, **about)


NAN = discrete_graph([[float("nan")] * 2] * 4, [0, 0])


@pytest.mark.parametrize(("action", "disagreement"), [(0, 0.0), (1, 1.0)])
def test_its_actions_are_compared_with_the_champions(
    pair: Callable[..., Pair], action: int, disagreement: float
) -> None:
    both = pair(constant_graph(0), constant_graph(action))
    answers = asyncio.run(both.ask([1, 3]))
    assert [answer.action.tolist() for answer in answers] == [[0], [0, 0, 0]], "the champion alone answers"
    assert [answer.versions for answer in answers] == [["1"], ["1"] * 3]
    assert (both.arm.decisions, both.arm.requests, sum(both.arm.latency)) == (4, 2, 2)
    assert both.arm.actions == {str(action): 4}
    assert figures(both.arm.shadow) == {"dropped": 0, "compared": 4, "disagreement": disagreement}


def test_continuous_actions_disagree_by_their_distance_as_a_share_of_the_span(pair: Callable[..., Pair]) -> None:
    both = pair(
        box_graph([[0]] * 4, [0.5]),
        box_graph([[0]] * 4, [1.5]),
        action_space=BOX,
        serve=msgspec.structs.replace(SERVE, fallback={"constant": [0.0]}),
    )
    asyncio.run(both.ask([2]))
    assert figures(both.arm.shadow)["disagreement"] == pytest.approx(0.25)


def test_the_envelope_is_applied_and_what_it_changed_is_counted(pair: Callable[..., Pair]) -> None:
    both = pair(
        box_graph([[0]] * 4, [2.0]),
        box_graph([[0]] * 4, [9.0]),
        action_space=BOX,
        serve=msgspec.structs.replace(SERVE, fallback={"constant": [0.0]}),
    )
    asyncio.run(both.ask([2]))
    assert both.arm.adjusted == {"bounds": 2}
    assert figures(both.arm.shadow)["disagreement"] == 0.0


def test_of_a_large_request_a_few_rows_are_taken_and_copied(pair: Callable[..., Pair]) -> None:
    both = pair(constant_graph(0), constant_graph(1))
    asyncio.run(both.ask([500]))
    assert both.arm.decisions == MOST_ROWS

    async def reused() -> None:
        shadow = both.challenger.shadow
        rows = Rows(feeds={"observation": np.zeros((2, 4), np.float32)}, size=2)
        decision = Decision(np.array([1, 1]), np.ones(2, bool), ["policy"] * 2, ["1"] * 2)
        shadow.offer(rows, decision, "g2")
        rows.feeds["observation"][:] = np.nan
        decision.action[:] = 0
        await idle(shadow)

    asyncio.run(reused())
    arm = both.stats.arm("cartpole", "g2", "2", SHADOW)
    assert (arm.faults, figures(arm.shadow)["disagreement"]) == ({}, 0.0)


def test_a_challenger_without_finite_answers_opens_its_breaker_and_no_client_notices(
    pair: Callable[..., Pair],
) -> None:
    both = pair(constant_graph(0), NAN)
    answers = asyncio.run(both.ask([2] * 5))
    assert {action for answer in answers for action in answer.action.tolist()} == {0}
    assert both.arm.faults == {"non_finite": 6}
    assert both.arm.sources == {"fallback": 6}
    assert both.arm.shadow == {"dropped": 2}, "an open breaker lets nothing through until it is probed"
    assert len(both.opened) == 1
    assert "in shadow, non_finite" in both.opened[0]


def test_an_exception_is_a_fault_that_nobody_hears_of(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = pair(constant_graph(0), constant_graph(1))

    def fails(rows: Rows) -> Decision:
        raise RuntimeError("broken kernel")

    monkeypatch.setattr(both.challenger.infer, "run", fails)
    answers = asyncio.run(both.ask([1]))
    assert answers[0].versions == ["1"]
    assert both.arm.faults == {"exception": 1}


def test_an_answer_past_the_deadline_is_a_fault(pair: Callable[..., Pair]) -> None:
    both = pair(constant_graph(0), constant_graph(1), serve=msgspec.structs.replace(SERVE, deadline_ms=1e-6))
    asyncio.run(both.ask([1], champion=False))
    assert both.arm.faults == {"deadline": 1}


def test_a_busy_shadow_drops_samples_and_delays_no_answer(
    pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = pair(constant_graph(0), constant_graph(1))
    free = threading.Event()
    real = both.challenger.infer.run

    def waits(rows: Rows) -> Decision:
        assert free.wait(60)
        return real(rows)

    monkeypatch.setattr(both.challenger.infer, "run", waits)

    async def flood() -> None:
        shadowed = Shadowed(Assign(both.route()), both.challenger.shadow, GENERATION)
        for _ in range(MOST_WAITING + 6):
            rows = Rows(feeds={"observation": np.zeros((1, 4), np.float32)}, size=1)
            answer = await settled(shadowed.decide(rows, shadowed.following.seats(rows, None)))
            assert answer.versions == ["1"]
            await asyncio.sleep(0)
        assert both.arm.decisions == 0, "every answer came while the shadow was still at its first call"
        free.set()
        await idle(both.challenger.shadow)

    asyncio.run(flood())
    assert both.arm.shadow["dropped"] == 5
    assert both.arm.decisions == MOST_WAITING + 1


def test_beside_the_fallback_of_a_first_release_there_is_nothing_to_compare(pair: Callable[..., Pair]) -> None:
    both = pair(constant_graph(0), constant_graph(1))
    answers = asyncio.run(both.ask([2], champion=False))
    assert answers[0].sources == ["fallback"] * 2
    assert both.arm.decisions == 2
    assert figures(both.arm.shadow) == {"dropped": 0, "compared": 0, "disagreement": None}


class Recalls:
    """A stand-in for a recurrent graph: it notes the state that it was given."""

    recurrent = ("state_h",)

    def __init__(self) -> None:
        self.feeds: list[dict[str, Any]] = []

    def run(self, rows: Rows) -> Decision:
        self.feeds.append(rows.feeds)
        actions = np.ones(rows.size, np.int64)
        states = {"state_h": rows.feeds["state_h"] + 1}
        return Decision(actions, np.ones(rows.size, bool), ["policy"] * rows.size, ["2"] * rows.size, recurrent=states)


def test_a_policy_with_memory_is_asked_as_at_an_episodes_start_and_not_compared(pair: Callable[..., Pair]) -> None:
    from bentos.package.manifest import Tensor

    both = pair(constant_graph(0), constant_graph(1))
    extra = (Tensor("state_h", "float32", (1, 2)), Tensor("episode_start", "float32", ()))
    manifest = both.challenger.manifest
    graph = Recalls()
    both.challenger.shadow = Shadow(
        "2",
        graph,  # type: ignore[arg-type]
        msgspec.structs.replace(manifest, inputs=(*manifest.inputs, *extra)),
        both.challenger.breaker,
        both.stats,
    )
    asyncio.run(both.ask([1, 1]))
    assert [(feeds["state_h"].tolist(), feeds["episode_start"].tolist()) for feeds in graph.feeds] == [
        ([[[0.0, 0.0]]], [1.0])
    ] * 2
    assert both.arm.decisions == 2
    assert "compared" not in both.arm.shadow


def test_a_withdrawn_challenger_is_probed_in_shadow_as_long_as_its_breaker_is_open(pair: Callable[..., Pair]) -> None:
    both = pair(constant_graph(0), constant_graph(1))
    withdrawn = frozenset({"2"})
    assert both.route(weight=0.5).shadowed is None, "it serves its episodes by now"
    assert both.route(weight=0.5, withdrawn=withdrawn).shadowed is None, "a person took it out"
    for _ in range(3):
        both.challenger.breaker.fault("broken")
    seat = both.route(weight=0.5, withdrawn=withdrawn).shadowed
    assert seat is not None
    assert (seat.chain, seat.arm) == (both.challenger, SHADOW)


def test_a_closed_version_ends_its_shadow_without_a_fault(pair: Callable[..., Pair]) -> None:
    both = pair(constant_graph(0), constant_graph(1))
    both.challenger.close()
    answers = asyncio.run(both.ask([1]))
    assert answers[0].versions == ["1"]
    assert (both.arm.faults, both.arm.decisions) == ({}, 0)
