"""Starts whose commit was in doubt: closed once the store is back, but for those that were given out after all."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos.store import starts, tables
from bentos.store.starts import Untold
from bentos.store.writer import StoreDown, Writer
from tasks.canary.units import StoredUnits
from tests.bentos.store_rows import outcome, start


def stored(engine: sa.Engine) -> tuple[list[str], dict[str, str]]:
    """The episodes that began, and the kinds of the outcomes, by episode."""
    with engine.connect() as connection:
        begun = list(connection.execute(sa.select(tables.episodes.c.episode).order_by("start_seq")).scalars())
        ended = connection.execute(sa.select(tables.outcomes.c.episode, tables.outcomes.c.kind))
        return begun, {row.episode: row.kind for row in ended}


async def withdrawn(writer: Writer) -> int:
    """How many starts were withdrawn, once the writer has one to withdraw."""
    async with asyncio.timeout(60):
        while not len(writer.untold):
            await asyncio.sleep(0.01)
    await writer.withdraw()
    return writer.untold.withdrawn


def test_what_is_withdrawn_was_stored_and_neither_ended_nor_was_given_out_since(database: str) -> None:
    engine = tables.create(database)
    doubtful = [start(name, at=1.0) for name in ("a", "b", "c", "never")]
    with engine.begin() as connection:
        starts.insert(connection, doubtful[:3])
        connection.execute(tables.outcomes.insert(), [outcome("b")])
    with engine.begin() as connection:
        assert starts.insert(connection, [start("c", at=2.0)]) == set(), "sent again, it is given out"
    with engine.begin() as connection:
        starts.insert(connection, [start("c", at=1.0)])  # the first time comes through late
    for expected in (1, 0):
        with engine.begin() as connection:
            assert starts.withdraw(connection, doubtful) == expected
    assert stored(engine) == (["a", "b", "c"], {"a": "withdrawn", "b": "reported"})
    with engine.connect() as connection:
        read = {one.unit: one.withdrawn for one in StoredUnits("p", "g").read(connection)}
    assert read == {"a": True, "b": False, "c": False}


def test_a_withdrawn_start_is_never_given_out(database: str) -> None:
    engine = tables.create(database)
    with engine.begin() as connection:
        starts.insert(connection, [start("a", at=1.0)])
    with engine.begin() as connection:
        assert starts.withdraw(connection, [start("a", at=1.0)]) == 1
    with engine.begin() as connection:
        assert starts.insert(connection, [start("a", at=2.0), start("b", at=2.0)]) == {"a"}


def test_a_start_that_its_request_did_not_wait_for_is_withdrawn(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/airlock.db"
    engine = tables.create(url)

    async def send() -> int:
        with closing(Writer(url, patience=0.2)) as writer:
            assert await writer.start_episodes([start("before")]) == set()
            lock = sqlite3.connect(tmp_path / "airlock.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreDown, match="did not answer within"):
                await writer.start_episodes([start("late")])
            lock.execute("ROLLBACK")
            return await withdrawn(writer)

    assert asyncio.run(send()) == 1
    assert stored(engine) == (["before", "late"], {"late": "withdrawn"})


def test_a_start_whose_answer_comes_as_its_request_gives_up_is_withdrawn(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/airlock.db"
    tables.create(url)

    async def send() -> int:
        with closing(Writer(url, patience=0.2)) as writer:
            sent = asyncio.create_task(writer.start_episodes([start("a")]))
            await asyncio.sleep(0)
            time.sleep(1.0)  # the loop is held up: commit and timeout are both there when it looks again
            with pytest.raises(StoreDown):
                await sent
            return await withdrawn(writer)

    assert asyncio.run(send()) == 1


def test_starts_that_surely_failed_are_not_remembered(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/airlock.db"
    tables.create(url)

    async def send() -> int:
        with closing(Writer(url)) as writer:
            await writer.outcomes([outcome("before")])
            lock = sqlite3.connect(tmp_path / "airlock.db", isolation_level=None)
            lock.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreDown):
                await writer.start_episodes([start("a")])
            return len(writer.untold)

    assert asyncio.run(send()) == 0


def test_starts_that_the_store_will_never_take_are_forgotten(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/airlock.db"
    tables.create(url)

    async def withdraw() -> int:
        with closing(Writer(url)) as writer:
            writer.untold.add([start("a", policy=None)])
            await writer.withdraw()
            return len(writer.untold)

    assert asyncio.run(withdraw()) == 0


def test_no_more_starts_are_remembered_than_fit() -> None:
    untold = Untold(most=3)
    untold.add([start(name) for name in "abcd"])
    taken = untold.take()
    assert [row["episode"] for row in taken] == ["b", "c", "d"]
    assert not untold.take()
    untold.put_back(taken[1:])
    untold.add([start("e")])
    assert [row["episode"] for row in untold.take()] == ["c", "d", "e"]
