"""Backup and restore: what was acknowledged before the backup is there after the restore, and the writer goes on."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos.store import tables
from bentos.store.writer import StoreDown, Writer
from tests.bentos.store_rows import outcome
from tests.servers.postgres import Cluster, binary

pytestmark = pytest.mark.servers


async def report(writer: Writer, name: str) -> None:
    """Store an outcome, as often as it takes."""
    while True:
        try:
            await writer.outcomes([outcome(name)])
            return
        except StoreDown:
            await asyncio.sleep(0.1)


async def busy(writer: Writer, acknowledged: list[str], until: asyncio.Event) -> None:
    """Outcomes, one after another."""
    while not until.is_set():
        name = f"o{len(acknowledged)}"
        await report(writer, name)
        acknowledged.append(name)


def stored(url: str) -> set[str]:
    """The episodes that have an outcome."""
    with tables.create(url).connect() as connection:
        return set(connection.execute(sa.select(tables.outcomes.c.episode)).scalars())


def test_postgresql_dumped_under_load_and_restored_loses_only_what_came_after(
    postgres: Cluster, tmp_path: Path
) -> None:
    url = postgres.database()
    plain, name = url.replace("+psycopg", ""), url.rpartition("/")[2]
    dump = tmp_path / "airlock.dump"

    async def run() -> tuple[list[str], list[str]]:
        writer, acknowledged, until = Writer(url), list[str](), asyncio.Event()
        load = asyncio.ensure_future(busy(writer, acknowledged, until))
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        before = list(acknowledged)
        command = [binary("pg_dump"), "--format=custom", f"--file={dump}", plain]
        await asyncio.to_thread(subprocess.run, command, check=True)
        while len(acknowledged) < len(before) + 50:
            await asyncio.sleep(0.01)
        until.set()
        await load
        postgres.administer(f"DROP DATABASE {name} WITH (FORCE)")
        postgres.administer(f"CREATE DATABASE {name}")
        command = [binary("pg_restore"), "--exit-on-error", f"--dbname={plain}", str(dump)]
        await asyncio.to_thread(subprocess.run, command, check=True)
        await report(writer, "after")
        await asyncio.to_thread(writer.close)
        return before, acknowledged

    before, acknowledged = asyncio.run(run())
    there = stored(url)
    assert set(before) <= there, "what was acknowledged before the dump is there"
    assert "after" in there, "the same writer goes on"
    assert set(acknowledged) - there, "what came after the dump is lost, as the docs say"


def test_sqlite_copied_under_load_is_whole(tmp_path: Path) -> None:
    url, copy = f"sqlite:///{tmp_path}/airlock.db", tmp_path / "copy.db"

    async def run() -> list[str]:
        writer, acknowledged, until = Writer(url), list[str](), asyncio.Event()
        load = asyncio.ensure_future(busy(writer, acknowledged, until))
        while len(acknowledged) < 50:
            await asyncio.sleep(0.01)
        before = list(acknowledged)

        def vacuum() -> None:
            with sqlite3.connect(tmp_path / "airlock.db", timeout=60) as connection:
                connection.execute("VACUUM INTO ?", (str(copy),))

        await asyncio.to_thread(vacuum)
        until.set()
        await load
        await asyncio.to_thread(writer.close)
        return before

    before = asyncio.run(run())
    assert set(before) <= stored(f"sqlite:///{copy}")
    with sqlite3.connect(copy) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
