"""The decision log: whole episodes, chosen by their key, with what each decision was made from."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from bentos.gateway.schemas import ActRequest
from bentos.package.manifest import Serve
from bentos.store import decision_log, tables
from bentos.store.decision_log import DecisionLog, limit
from bentos.store.retention import Retention
from bentos.tokens import Signer, new_nonce
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess, wait_until
from tests.bentos.in_process import BREAKS, FINE, Desk


def logged(database: str) -> list[Any]:
    """Every row of the log."""
    with tables.create(database).connect() as connection:
        return list(connection.execute(sa.select(tables.decisions).order_by(tables.decisions.c.id)))


def test_every_decision_of_a_logged_episode_is_kept_with_what_it_was_made_from(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")

    async def play(desk: Desk) -> Any:
        episode = next(one for one in await desk.start(40) if one.arm == "challenger")
        answers = [await desk.act(episode, observation) for observation in (FINE, BREAKS, FINE)]
        await desk.core.act("cartpole", ActRequest(observation=FINE))
        await desk.write()
        return answers

    began = time.time()
    answers = asyncio.run(Desk(tmp_path, database).run(play))
    rows = logged(database)
    assert [row.step for row in rows] == [0, 1, 2], "decisions without an episode are not logged"
    assert [row.action for row in rows] == [answer.action for answer in answers]
    assert [row.source for row in rows] == ["policy", "fallback", "policy"]
    assert [row.version for row in rows] == ["2", "1", "2"], "the champion answered for the challenger"
    assert {(row.arm, row.generation, row.policy, row.log_prob) for row in rows} == {
        ("challenger", "g1", "cartpole", None)
    }
    for row, observation in zip(rows, (FINE, BREAKS, FINE), strict=True):
        np.testing.assert_array_equal(np.frombuffer(row.observation, np.float32), np.float32(observation))
        assert row.observation_norm == pytest.approx(np.linalg.norm(observation))
        assert began <= row.at <= time.time()
        assert row.latency_seconds > 0
        assert row.adjusted == []


def test_the_share_is_of_whole_episodes_and_everyone_chooses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "0.3")
    url = f"sqlite:///{tmp_path}/airlock.db"

    async def play(desk: Desk) -> None:
        episodes = await desk.start(60)
        for _ in range(3):
            for episode in episodes:
                await desk.act(episode, FINE)
        await desk.write()

    asyncio.run(Desk(tmp_path, url).run(play))
    rows = logged(url)
    counts = {episode: sum(row.episode == episode for row in rows) for episode in {row.episode for row in rows}}
    assert set(counts.values()) == {3}
    assert all(episode < limit(0.3) for episode in counts)
    assert 2 <= len(counts) <= 40


def test_shares_of_random_keys_are_what_they_say() -> None:
    keys = [new_nonce() for _ in range(20_000)]
    assert not any(key < limit(0.0) for key in keys)
    assert all(key < limit(1.0) for key in keys)
    assert sum(key < limit(0.25) for key in keys) == pytest.approx(5000, abs=400)


@pytest.mark.parametrize("wrong", ["2", "-0.1", "much"])
def test_a_share_that_is_none_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", wrong)
    with pytest.raises(ValueError, match=r"AIRLOCK_LOG_EPISODES|could not convert"):
        decision_log.share()


def test_the_step_is_that_of_the_state_token_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")
    url = f"sqlite:///{tmp_path}/airlock.db"
    desk = Desk(tmp_path, url, serve=Serve(fallback={"constant": 0}))
    desk.core._validators["cartpole"].stateful = True

    async def play(desk: Desk) -> None:
        (episode,) = await desk.start(1)
        first = await desk.act(episode, FINE)
        await desk.act(episode, FINE, state=first.state)
        await desk.act(episode, FINE, state=first.state)  # a retry is the same step
        await desk.write()

    asyncio.run(desk.run(play))
    assert [row.step for row in logged(url)] == [0, 1, 1]


def test_what_there_is_no_room_for_is_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")
    monkeypatch.setattr(decision_log, "_MOST_ROWS", 5)
    url = f"sqlite:///{tmp_path}/airlock.db"

    async def play(desk: Desk) -> int:
        (episode,) = await desk.start(1)
        for _ in range(8):
            await desk.act(episode, FINE)
        await desk.write()
        await desk.act(episode, FINE)
        await desk.write()
        return desk.journal.log.lost

    assert asyncio.run(Desk(tmp_path, url).run(play)) == 3
    assert [row.step for row in logged(url)] == [0, 1, 2, 3, 4, 8]


def test_large_observations_fill_the_room_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")
    monkeypatch.setattr(decision_log, "_MOST_BYTES", 3 * 16)
    monkeypatch.setattr(decision_log, "_LARGEST", 8)

    async def play(desk: Desk) -> int:
        (episode,) = await desk.start(1)
        for _ in range(5):
            await desk.act(episode, FINE)
        await desk.write()
        return desk.journal.log.lost

    url = f"sqlite:///{tmp_path}/airlock.db"
    assert asyncio.run(Desk(tmp_path, url).run(play)) == 2
    assert [row.observation for row in logged(url)] == [None] * 3, "too large an observation is left out"


def test_nothing_is_lost_while_the_store_is_down_for_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")
    url = f"sqlite:///{tmp_path}/airlock.db"

    write = DecisionLog.write

    def fail(log: DecisionLog, connection: sa.Connection) -> None:
        write(log, connection)
        raise sa.exc.OperationalError("", {}, Exception("the disk is full"))

    async def play(desk: Desk) -> None:
        (episode,) = await desk.start(1)
        for _ in range(3):
            await desk.act(episode, FINE)
        with monkeypatch.context() as broken:
            broken.setattr(DecisionLog, "write", fail)
            with pytest.raises(Exception, match="disk is full"):
                await desk.write()
        await desk.act(episode, FINE)
        desk.writer._rest_until = 0.0
        await desk.write()

    asyncio.run(Desk(tmp_path, url).run(play))
    assert [row.step for row in logged(url)] == [0, 1, 2, 3]


def test_all_episodes_of_a_policy_that_explores_are_logged_with_the_probability_of_what_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "0")
    url = f"sqlite:///{tmp_path}/airlock.db"

    async def play(desk: Desk) -> None:
        for episode in await desk.start(10):
            await desk.act(episode, FINE)
        await desk.write()

    serve = Serve(explore=True, deadline_ms=60_000, fallback={"constant": 0})
    asyncio.run(Desk(tmp_path, url, serve=serve).run(play))
    rows = logged(url)
    assert len(rows) == 10
    logits = np.array([-0.1, 0.1])  # of FINE, in either version
    expected = logits - np.log(np.exp(logits).sum())
    assert [row.log_prob for row in rows] == pytest.approx([expected[row.action] for row in rows], abs=1e-6)


def test_reasons_of_adjusted_actions_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "1")
    url = f"sqlite:///{tmp_path}/airlock.db"

    async def play(desk: Desk) -> None:
        (episode,) = await desk.start(1)
        await desk.act(episode, FINE, action_mask=[True, False])
        await desk.write()

    asyncio.run(Desk(tmp_path, url).run(play))
    assert [row.adjusted for row in logged(url)] == [["action_mask"]]


def test_the_gateway_writes_its_log_by_itself_and_shows_what_it_lost(served: GatewayProcess) -> None:
    (episode,) = served.client.start_episodes("cartpole", [None])
    served.client.act("cartpole", [FINE], [episode["episode_id"]])
    served.client.act("cartpole", [FINE], [episode["episode_id"]])
    url = f"sqlite:///{served.home}/airlock.db"
    (nonce,) = {Signer(EPISODE_KEY).episode(episode["episode_id"]).nonce}
    wait_until(lambda: [row.step for row in logged(url) if row.episode == nonce] == [0, 1], "both decisions are stored")
    metrics = httpx.get(f"{served.url}/metrics", timeout=10).text
    assert "rl_decision_log_lost_total 0.0" in metrics
    assert "rl_episode_events_lost_total 0.0" in metrics


def test_old_and_surplus_rows_are_deleted_oldest_first(database: str) -> None:
    engine = tables.create(database)
    row = {"policy": "p", "arm": "champion", "generation": "", "step": 0, "observation_norm": 0.0, "action": 0}
    row |= {"source": "policy", "adjusted": [], "latency_seconds": 0.0}
    with engine.begin() as connection:
        ages = [100.0, 100.0, *[10.0] * 8]
        connection.execute(
            tables.decisions.insert(), [{**row, "episode": f"e{n}", "at": 1000.0 - age} for n, age in enumerate(ages)]
        )
        event = {"kind": "fault", "policy": "p", "generation": "g"}
        connection.execute(
            tables.episode_events.insert(), [{**event, "episode": f"e{n}", "at": 1000.0 - 100 * n} for n in range(3)]
        )

    def left(days: float, rows: int) -> list[str]:
        with engine.begin() as connection:
            assert not Retention(days, rows).run(connection, now=1000.0)
            return list(connection.execute(sa.select(tables.decisions.c.episode).order_by("id")).scalars())

    assert left(50 / 86400, 100) == [f"e{n}" for n in range(2, 10)]
    assert left(50 / 86400, 3) == ["e7", "e8", "e9"]
    with engine.connect() as connection:
        assert connection.execute(sa.select(tables.episode_events.c.episode)).scalars().all() == ["e0"]
