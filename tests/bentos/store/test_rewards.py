"""Rewards step by step: each counts once, and an episode's outcome is stored with its last missing step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from bentos.client import GatewayError
from bentos.store import tables
from bentos.store.writer import RewardsTaken, Writer
from bentos.tokens import Signer
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess, wait_until
from tests.bentos.store_rows import outcome, reward


def written(database: str, work: Callable[[Writer], Any]) -> Any:
    """What `work` answers, with a writer that is closed afterwards."""

    async def run() -> Any:
        writer = Writer(database)
        try:
            return await work(writer)
        finally:
            writer.close()

    return asyncio.run(run())


def outcomes_of(database: str) -> list[tuple[str, float, int]]:
    """Every stored outcome."""
    table = tables.outcomes.c
    with tables.create(database).connect() as connection:
        rows = connection.execute(sa.select(table.episode, table.episode_return, table.length).order_by(table.episode))
        return [tuple(row) for row in rows]


def test_a_step_counts_once_and_the_outcome_is_the_sum_up_to_the_end(database: str) -> None:
    async def send(writer: Writer) -> list[list[bool]]:
        told = [
            await writer.rewards([reward("a", 0, 0.1), reward("a", 1, 0.1), reward("a", 1, 7.0)]),
            await writer.rewards([reward("a", 1, 9.0), reward("a", 2, 0.1, ends=True)]),
            await writer.rewards([reward("a", 2, 0.1, ends=True), reward("a", 3, 5.0)]),
        ]
        assert [len(one.ended) for one in told] == [0, 1, 0]
        return [one.accepted for one in told]

    assert written(database, send) == [[True, True, False], [False, True], [False, True]]
    assert outcomes_of(database) == [("a", pytest.approx(0.3, abs=1e-15), 3)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_outcome_waits_for_every_step_in_whatever_order_they_come(order: tuple[int, ...], database: str) -> None:
    async def send(writer: Writer) -> list[int]:
        return [len((await writer.rewards([reward("a", step, 2.0**step, ends=step == 2)])).ended) for step in order]

    assert written(database, send) == [0, 0, 1]
    assert outcomes_of(database) == [("a", 7.0, 3)]


def test_an_outcome_that_came_first_stays(database: str) -> None:
    async def send(writer: Writer) -> tuple[list[bool], RewardsTaken, list[bool]]:
        first = await writer.outcomes([outcome("a", 5.0)])
        taken = await writer.rewards([reward("a", 0, 1.0, ends=True), reward("b", 0, 2.0, ends=True)])
        return first, taken, await writer.outcomes([outcome("b", 6.0)])

    first, taken, last = written(database, send)
    assert (first, taken.accepted, last) == ([True], [True, True], [False])
    assert [row["episode"] for row in taken.ended] == ["b"]
    assert outcomes_of(database) == [("a", 5.0, 3), ("b", 2.0, 1)]


def test_an_outcome_sent_with_the_last_reward_counts_once_and_is_the_one_that_was_told(database: str) -> None:
    async def send(writer: Writer) -> tuple[RewardsTaken, list[bool]]:
        await writer.outcomes([outcome("x")])
        taken, told = await asyncio.gather(
            writer.rewards([reward("a", 0, 1.0, ends=True)]), writer.outcomes([outcome("a", 5.0)])
        )
        return taken, told

    taken, told = written(database, send)
    assert len(taken.ended) + sum(told) == 1
    assert outcomes_of(database)[0] == (("a", 1.0, 1) if taken.ended else ("a", 5.0, 3))


def test_rewards_that_add_up_to_what_cannot_be_are_refused_and_may_be_sent_right(database: str) -> None:
    async def send(writer: Writer) -> tuple[RewardsTaken, RewardsTaken]:
        await writer.rewards([reward("a", 0, 4.0)])
        wrong = [reward("a", 1, 9.0, ends=True, allowed=(0, 10)), reward("b", 0, 1.0, ends=True, allowed=(0, 10))]
        right = [reward("a", 1, 5.0, ends=True, allowed=(0, 10))]
        return await writer.rewards(wrong), await writer.rewards(right)

    wrong, right = written(database, send)
    assert (wrong.accepted, wrong.outside) == ([False, True], {"a": 13.0})
    assert right.accepted == [True]
    assert outcomes_of(database) == [("a", 9.0, 2), ("b", 1.0, 1)]


def test_the_gateway_takes_rewards_one_or_many_and_shows_the_episode_they_complete(served: GatewayProcess) -> None:
    client = served.client
    before = client.policy("cartpole")["statistics"]["episodes_completed"]
    (episode,) = client.start_episodes("cartpole", [None])
    step = {"episode_id": episode["episode_id"], "reward": 2.0, "terminated": False, "truncated": False}
    steps = [{**step, "step": 0, "next_observation": [0.1, 0, 0, 0]}, {**step, "step": 1, "truncated": True}]
    assert client.rewards("cartpole", steps) == {"accepted": 2, "duplicates": 0}
    assert client.rewards("cartpole", [*steps, {**step, "step": 2}]) == {"accepted": 1, "duplicates": 2}
    url = f"{served.url}/v1/policies/cartpole/rewards"
    bare = [httpx.post(url, json=body).json() for body in (steps, steps[0])]
    assert bare == [{"accepted": 0, "duplicates": 2}, {"accepted": 0, "duplicates": 1}]
    late = {"episode_id": episode["episode_id"], "return": 1.0, "length": 9}
    assert client.outcomes("cartpole", [late]) == {"accepted": 0, "duplicates": 1}
    nonce = Signer(EPISODE_KEY).episode(episode["episode_id"]).nonce
    engine = sa.create_engine(f"sqlite:///{served.home}/airlock.db")
    with engine.connect() as connection:
        own = sa.select(tables.rewards.c.next_observation).where(tables.rewards.c.episode == nonce)
        kept = connection.execute(own.order_by(tables.rewards.c.step)).scalars().all()
        found = connection.execute(sa.select(tables.outcomes).where(tables.outcomes.c.episode == nonce)).one()
    assert len(kept[0]) == 4 * 4  # four float32
    assert kept[1:] == [None, None]
    assert (found.episode_return, found.length, found.kind) == (4.0, 2, "reported")
    wait_until(
        lambda: client.policy("cartpole")["statistics"]["episodes_completed"] == before + 1, "the episode is counted"
    )


@pytest.mark.parametrize(
    ("wrong", "status", "reason"),
    [
        ({"step": -1}, 422, "body"),
        ({"reward": None}, 422, "body"),
        ({"terminated": 1}, 422, "body"),
        ({"episode_id": "e1.x.y"}, 403, "episode_id"),
        ({"next_observation": [1.0]}, 422, "shape"),
        ({"reward": 501.0, "terminated": True}, 422, "return_range"),
    ],
)
def test_a_reward_that_does_not_fit_is_refused(
    wrong: dict[str, Any], status: int, reason: str, served: GatewayProcess
) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    right = {"episode_id": episode["episode_id"], "step": 0, "reward": 1.0, "terminated": False, "truncated": False}
    with pytest.raises(GatewayError) as caught:
        served.client.rewards("cartpole", [{**right, **wrong}])
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert served.client.rewards("cartpole", [right]) == {"accepted": 1, "duplicates": 0}


def test_too_many_and_endless_rewards_are_refused(served: GatewayProcess) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    one = {"episode_id": episode["episode_id"], "step": 0, "reward": 1.0, "terminated": False, "truncated": False}
    with pytest.raises(GatewayError) as caught:
        served.client.rewards("cartpole", [one] * 4097)
    assert caught.value.status == 413
    endless = '{"episode_id":"%s","step":0,"reward":1e999,"terminated":false,"truncated":false}'
    url = f"{served.url}/v1/policies/cartpole/rewards"
    answer = httpx.post(url, content=endless % episode["episode_id"], timeout=10)
    assert answer.status_code in (400, 422)
