"""The writer: commits many requests together, each outcome once, and says so when it could not."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos.package.manifest import Outcomes
from bentos.store import tables
from bentos.store.abandonment import sweep
from bentos.store.writer import RowsRefused, StoreDown, Writer
from tests.bentos.store_rows import outcome, start


def test_an_outcome_counts_once_however_often_and_however_concurrently_it_is_sent(database: str) -> None:
    async def send() -> list[list[bool]]:
        writer = Writer(database)
        try:
            several = [writer.outcomes([outcome("a"), outcome("b"), outcome("a")]) for _ in range(20)]
            return [await writer.outcomes([outcome("a")]), *await asyncio.gather(*several)]
        finally:
            writer.close()

    answers = asyncio.run(send())
    assert sum(map(sum, answers)) == 2
    with tables.create(database).connect() as connection:
        assert sorted(connection.execute(sa.select(tables.outcomes.c.episode)).scalars()) == ["a", "b"]


def test_starts_keep_the_order_in_which_they_were_asked_for(database: str) -> None:
    async def send() -> None:
        writer = Writer(database)
        await asyncio.gather(*(writer.start_episodes([start(f"e{number:03}")]) for number in range(100)))
        writer.close()

    asyncio.run(send())
    with tables.create(database).connect() as connection:
        found = list(connection.execute(sa.select(tables.episodes.c.episode).order_by("start_seq")).scalars())
    assert found == [f"e{number:03}" for number in range(100)]


def test_a_locked_database_refuses_the_write_and_takes_it_again_afterwards(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/airlock.db"
    tables.create(url)

    async def send() -> list[bool]:
        writer = Writer(url)
        try:
            lock = sqlite3.connect(tmp_path / "airlock.db", isolation_level=None)
            lock.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreDown):
                await writer.outcomes([outcome("a")])
            with pytest.raises(StoreDown):
                await writer.outcomes([outcome("a")])
            lock.execute("ROLLBACK")
            while True:
                try:
                    return await writer.outcomes([outcome("a")])
                except StoreDown:
                    await asyncio.sleep(0.1)
        finally:
            writer.close()

    assert asyncio.run(send()) == [True]


def test_a_row_that_cannot_be_stored_fails_alone(database: str) -> None:
    async def send() -> tuple[list[bool], list[bool]]:
        writer = Writer(database)
        try:
            together = [writer.outcomes([outcome("a")]), writer.outcomes([outcome("b", policy=None)])]
            together.append(writer.outcomes([outcome("c")]))
            good, refused, too = await asyncio.gather(*together, return_exceptions=True)
            assert isinstance(refused, RowsRefused)
            assert isinstance(good, list)
            assert isinstance(too, list)
            return good, too
        finally:
            writer.close()

    assert asyncio.run(send()) == ([True], [True])


def test_what_may_wait_is_written_once_nothing_else_waits(tmp_path: Path) -> None:
    order: list[str] = []

    async def send() -> None:
        writer = Writer(f"sqlite:///{tmp_path}/airlock.db")
        await writer.outcomes([outcome("first")])
        jobs = [
            writer.call(lambda _: order.append("later"), later=True),
            *(writer.call(lambda _: order.append("now")) for _ in range(3)),
        ]
        await asyncio.gather(*jobs)
        last = asyncio.ensure_future(writer.call(lambda _: order.append("at the end"), later=True))
        await asyncio.sleep(0)
        writer.close()
        await last

    asyncio.run(send())
    assert order.index("later") > order.index("now")
    assert order[-1] == "at the end"


def test_many_may_create_the_tables_at_once(database: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        engines = list(threads.map(tables.create, [database] * 8))
    assert all(sa.inspect(engine).has_table("episodes") for engine in engines)


def test_silent_episodes_are_closed_after_their_time_with_the_stated_score(database: str) -> None:
    engine = tables.create(database)
    with engine.begin() as connection:
        connection.execute(tables.episodes.insert(), [start("done"), start("silent"), start("young", at=95.0)])
        connection.execute(tables.outcomes.insert(), [outcome("done")])
    settings = Outcomes(return_range=(-5.0, 5.0), episode_ttl_seconds=10.0)
    for now, closed in ((100.0, 1), (101.0, 0), (106.0, 1)):
        with engine.begin() as connection:
            assert sweep(connection, "p", settings, now) == closed
    with engine.connect() as connection:
        rows = connection.execute(sa.select(tables.outcomes).where(tables.outcomes.c.kind == "abandoned")).all()
    assert [(row.episode, row.episode_return, row.arm) for row in rows] == [
        ("silent", -5.0, "control"),
        ("young", -5.0, "control"),
    ]


def test_a_sweep_reads_on_from_where_the_last_one_of_any_worker_had_come(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bentos.store.abandonment._WINDOW", 3)
    engine = tables.create(database)
    names = [f"e{number}" for number in range(8)]
    with engine.begin() as connection:
        connection.execute(tables.episodes.insert(), [start(name, at=float(name != "e7") * 95.0) for name in names])
        connection.execute(tables.outcomes.insert(), [outcome(name) for name in names if name not in ("e4", "e7")])
    settings = Outcomes(return_range=(-5.0, 5.0), episode_ttl_seconds=10.0)
    reached = []
    for now, closed in ((100.0, 0), (100.0, 0), (100.0, 0), (106.0, 1), (106.0, 0), (106.0, 1), (106.0, 0)):
        with engine.begin() as connection:
            assert sweep(connection, "p", settings, now) == closed, reached
            reached.append(connection.execute(sa.select(tables.swept.c.start_seq)).scalar_one())
    assert reached == [3, 4, 4, 4, 7, 7, 8], "e4 is waited for; what follows is read once"
