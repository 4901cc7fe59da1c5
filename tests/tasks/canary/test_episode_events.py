"""What befell an episode at the gateway is what the canary's judge reads of its unit, once, whenever it looks."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.gateway.schemas import Started
from bentos.store import tables
from tasks.analysis.judge.verdict import Evidence, judge
from tasks.canary.evidence import units
from tasks.canary.units import StoredUnits
from tests.bentos.in_process import BREAKS, FINE, GENERATION, Desk
from tests.bentos.store_rows import outcome, start
from tests.tasks.analysis.plans import PLAN

CANARY = replace(PLAN, policy="cartpole", generation=GENERATION, champion="1", version="2", bounds=(0.0, 500.0))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("AIRLOCK_LOG_EPISODES", "0")
    return Desk(tmp_path, settings.database_url())


def test_a_fault_in_a_unit_counts_once_and_only_for_the_unit_that_met_it(desk: Desk) -> None:
    async def play(desk: Desk) -> list[Started]:
        episodes = await desk.start(12)
        for episode in episodes:
            for observation in (FINE, BREAKS, FINE, BREAKS, FINE):
                await desk.act(episode, observation)
            await desk.end(episode)
        return episodes

    episodes = asyncio.run(desk.run(play))
    found = units(CANARY)
    assert found.challenger.tolist() == [episode.arm == "challenger" for episode in episodes]
    assert 0 < found.challenger.sum() < len(episodes)
    assert found.events["fault"].tolist() == found.challenger.tolist()
    assert found.events["fallback"].tolist() == found.challenger.tolist()
    with tables.connect(settings.database_url()).connect() as connection:
        stored = connection.execute(sa.select(tables.episode_events)).all()
    assert len(stored) == 2 * found.challenger.sum()
    rails = {rail.id: rail for rail in judge(Evidence(found), CANARY).guardrails}
    assert {"fault_rate_of_units", "fallback_rate_of_units"} <= rails.keys()


def test_an_adjusted_action_is_an_event_of_its_episode(desk: Desk) -> None:
    async def play(desk: Desk) -> list[Started]:
        episodes = await desk.start(4)
        for place, episode in enumerate(episodes):
            # FINE leans right, so the policy's action is 1
            await desk.act(episode, FINE, action_mask=[True, place != 2 and place != 0])
            await desk.end(episode)
        return episodes

    asyncio.run(desk.run(play))
    assert units(CANARY).events["adjustment"].tolist() == [True, False, True, False]


def test_what_is_noted_after_the_outcome_changes_nothing_that_was_read(desk: Desk) -> None:
    async def play(desk: Desk) -> None:
        late = next(episode for episode in await desk.start(20) if episode.arm == "challenger")
        await desk.end(late)
        before = units(CANARY)
        await desk.act(late, BREAKS)
        await desk.write()
        assert (before.waiting, units(CANARY).events) == (units(CANARY).waiting, before.events)
        with tables.connect(settings.database_url()).connect() as connection:
            assert len(connection.execute(sa.select(tables.episode_events)).all()) == 2
            assert connection.execute(sa.select(tables.outcomes.c.events)).scalars().all() == [""]

    asyncio.run(desk.run(play))


def test_events_outlive_a_store_that_was_down(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("", {}, Exception("the disk is full"))

    async def play(desk: Desk) -> None:
        episode = next(episode for episode in await desk.start(20) if episode.arm == "challenger")
        await desk.act(episode, BREAKS)
        with monkeypatch.context() as broken:
            broken.setattr("bentos.store.episode_events.insert", fail)
            with pytest.raises(Exception, match="disk is full"):
                await desk.write()
        desk.writer._rest_until = 0.0
        await desk.end(episode)
        with tables.connect(settings.database_url()).connect() as connection:
            assert connection.execute(sa.select(tables.outcomes.c.events)).scalars().all() == ["fallback,fault"]

    asyncio.run(desk.run(play))


def test_the_first_observation_reaches_the_judge_as_a_covariate(desk: Desk) -> None:
    async def play(desk: Desk) -> None:
        episodes = await desk.start(3, observations=[[3.0, 4.0, 0.0, 0.0], [0.0] * 4, [0.0, 0.0, 0.0, 2.0]])
        for episode in episodes:
            await desk.end(episode)
        for episode in await desk.start(1):
            await desk.end(episode)

    asyncio.run(desk.run(play))
    covariate = units(CANARY).covariate
    assert covariate is not None
    np.testing.assert_array_equal(covariate, [5.0, 0.0, 2.0, np.nan])


@pytest.mark.parametrize("seed", range(3))
def test_reading_what_is_new_finds_what_reading_everything_finds(seed: int, database: str) -> None:
    chance = random.Random(seed)
    engine = tables.create(database)
    growing = StoredUnits("p", "g")
    running: list[str] = []
    for number in range(120):
        with engine.begin() as connection:
            if chance.random() < 0.5 or not running:
                arm = chance.choice(["control", "challenger"])
                row = start(f"e{number}", unit=f"u{chance.randrange(30)}", arm=arm, covariate=chance.random())
                connection.execute(tables.episodes.insert(), [row])
                running.append(f"e{number}")
            else:
                ended = running.pop(chance.randrange(len(running)))
                told = {"events": chance.choice(["", "fault", "adjustment,fault"])}
                kind = chance.choice(["reported", "abandoned"])
                connection.execute(tables.outcomes.insert(), [outcome(ended, chance.random(), kind=kind, **told)])
        if chance.random() < 0.3 or number == 119:
            with engine.connect() as connection:
                assert growing.read(connection) == StoredUnits("p", "g").read(connection)
    with engine.connect() as connection:
        assert len(growing.read(connection)) > 10


def test_a_look_reads_only_rows_that_are_new(tmp_path: Path) -> None:
    engine = tables.create(f"sqlite:///{tmp_path}/airlock.db")
    reader = StoredUnits("p", "g")
    with engine.begin() as connection:
        connection.execute(tables.episodes.insert(), [start(f"e{n}") for n in range(50)])
        connection.execute(tables.outcomes.insert(), [outcome(f"e{n}") for n in range(0, 50, 2)])
        first = reader.read(connection)
        connection.execute(tables.episodes.delete())
        connection.execute(tables.outcomes.delete())
        connection.execute(tables.episodes.insert(), [start("new")])
        connection.execute(tables.outcomes.insert(), [outcome("e1", 7.0)])
        second = reader.read(connection)
    assert (len(first), [one.unit for one in second[50:]]) == (50, ["new"])
    changed = [later.unit for earlier, later in zip(first, second, strict=False) if earlier != later]
    assert changed == ["e1"]
