"""PostgreSQL: what SQLite, with its one writer, cannot get wrong."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from bentos.package.manifest import Outcomes
from bentos.store import tables
from bentos.store.abandonment import sweep
from bentos.store.writer import StoreDown, Writer
from tasks.canary.units import StoredUnits
from tests.bentos.gateway_process import GatewayProcess, wait_until
from tests.bentos.policy_packages import write_package
from tests.bentos.store_rows import outcome, reward, start
from tests.servers.postgres import Cluster

pytestmark = pytest.mark.servers


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A cluster that a test may take away."""
    cluster = Cluster()
    yield cluster
    cluster.stop()


def units(engine: sa.Engine, reader: StoredUnits) -> list[str]:
    """The units that are read now, in order."""
    with engine.connect() as connection:
        return [one.unit for one in reader.read(connection)]


def test_an_open_transaction_holds_back_what_was_committed_after_it(postgres: Cluster) -> None:
    engine = tables.create(postgres.database())
    reader = StoredUnits("p", "g")
    settings = Outcomes(return_range=(0.0, 5.0), episode_ttl_seconds=10.0)
    with engine.begin() as connection:
        connection.execute(tables.episodes.insert(), [start("before")])
    with engine.connect() as slow:
        slow.execute(tables.episodes.insert(), [start("slow", at=1000.0)])
        with engine.begin() as quick:
            quick.execute(tables.episodes.insert(), [start("quick", at=1000.0)])
        assert units(engine, reader) == ["before"]
        with engine.begin() as connection:
            assert sweep(connection, "p", settings, now=500.0) == 1
        slow.commit()
    assert units(engine, reader) == ["before", "slow", "quick"]
    with engine.begin() as connection:
        assert sweep(connection, "p", settings, now=2000.0) == 2, "what came late is closed all the same"


def test_rows_of_transactions_that_overlap_keep_the_order_they_were_first_read_in(postgres: Cluster) -> None:
    engine = tables.create(postgres.database())
    reader = StoredUnits("p", "g")
    with engine.connect() as one, engine.connect() as other:
        one.execute(tables.episodes.insert(), [start("a")])
        other.execute(tables.episodes.insert(), [start("b")])
        one.execute(tables.episodes.insert(), [start("c")])
        one.commit()
        assert units(engine, reader) == ["a", "c"]
        other.commit()
    assert units(engine, reader) == units(engine, StoredUnits("p", "g")) == ["a", "c", "b"]


def test_whatever_is_read_later_comes_after_what_was_read_before(postgres: Cluster) -> None:
    engine = tables.create(postgres.database())
    done = threading.Event()

    def write(worker: int) -> None:
        chance = random.Random(worker)
        for group in range(12):
            with engine.begin() as connection:
                for member in range(chance.randrange(1, 4)):
                    connection.execute(tables.episodes.insert(), [start(f"{worker}-{group}-{member}")])
                    time.sleep(chance.random() * 0.005)
            ended = [outcome(f"{worker}-{group}-0")]
            with engine.begin() as connection:
                connection.execute(tables.outcomes.insert(), ended)

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    reader = StoredUnits("p", "g")
    seen: list[list[str]] = []

    def look() -> None:
        while not done.is_set():
            seen.append(units(engine, reader))

    looker = threading.Thread(target=look)
    for thread in (*writers, looker):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    looker.join()
    everything = units(engine, StoredUnits("p", "g"))
    assert len(everything) == len(set(everything)) >= 48
    assert len({len(one) for one in seen}) > 3, "it was read while it grew"
    assert all(one == everything[: len(one)] for one in seen)
    with engine.connect() as connection:
        assert reader.read(connection) == StoredUnits("p", "g").read(connection)
        ended = [one for one in reader.read(connection) if one.episode_return is not None]
    assert len(ended) == 48


def test_two_writers_of_the_same_rows_store_each_once_and_never_wait_in_a_circle(postgres: Cluster) -> None:
    database = postgres.database()
    turns, size = 8, 400

    async def send() -> tuple[int, int]:
        first, second = Writer(database, patience=120), Writer(database, patience=120)  # a circle ends in an error
        told = stepped = 0
        try:
            for turn in range(turns):
                names = [f"{turn}-{number}" for number in range(size)]
                ends = [reward(f"r{name}", 0, ends=True) for name in names]
                told += sum(map(sum, await asyncio.gather(_outcomes(first, names), _outcomes(second, names[::-1]))))
                both = await asyncio.gather(first.rewards(ends), second.rewards(ends[::-1]))
                stepped += sum(sum(one.accepted) for one in both)
        finally:
            first.close()
            second.close()
        return told, stepped

    assert asyncio.run(send()) == (turns * size, turns * size)
    with tables.create(database).connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.outcomes)).scalar() == 2 * turns * size


async def _outcomes(writer: Writer, names: list[str]) -> list[bool]:
    return await writer.outcomes([outcome(name) for name in names])


def test_a_killed_connection_fails_its_requests_and_sending_them_again_loses_none(postgres: Cluster) -> None:
    database = postgres.database()
    engine = tables.create(database)
    killer = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    acknowledged: list[str] = []

    async def report(writer: Writer, name: str) -> int:
        failures = 0
        while True:
            try:
                (fresh,) = await writer.outcomes([outcome(name)])
            except StoreDown:
                failures += 1
                await asyncio.sleep(0.05)
                continue
            acknowledged.extend([name] * fresh)
            return failures

    async def send() -> int:
        writer = Writer(database)
        failures = 0
        try:
            for turn in range(6):
                reports = [asyncio.ensure_future(report(writer, f"{turn}-{n}")) for n in range(40)]
                await asyncio.sleep(0)
                with engine.connect() as connection:
                    connection.execute(killer)
                failures += sum(await asyncio.gather(*reports))
        finally:
            writer.close()
        return failures

    asyncio.run(send())
    with tables.create(database).connect() as connection:
        stored = connection.execute(sa.select(tables.outcomes.c.episode)).scalars().all()
    assert len(stored) == len(set(stored)) == 240
    assert len(acknowledged) == len(set(acknowledged)), "none was acknowledged as new twice"


def test_rows_restored_into_another_cluster_are_read_in_their_order(postgres: Cluster) -> None:
    database = postgres.database()
    engine = tables.create(database)
    for name in ("b", "a", "c"):
        with engine.begin() as connection:
            connection.execute(tables.episodes.insert(), [start(name)])
            connection.execute(tables.outcomes.insert(), [outcome(name)])
    with engine.begin() as connection:
        for table in ("episodes", "outcomes"):
            # a dump from a cluster that has seen more transactions than this one
            connection.exec_driver_sql(f"UPDATE {table} SET xact = xact + 1000000000")
    assert units(engine, StoredUnits("p", "g")) == []
    restored = tables.create(database)
    with restored.begin() as connection:
        connection.execute(tables.episodes.insert(), [start("new")])
    assert units(restored, StoredUnits("p", "g")) == ["b", "a", "c", "new"]


def test_what_is_acknowledged_is_on_disk_even_where_the_server_was_told_otherwise(postgres: Cluster) -> None:
    database = postgres.database()
    postgres.administer(f"ALTER DATABASE {database.rpartition('/')[2]} SET synchronous_commit TO off")
    with tables.create(database).connect() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_connection_to_a_machine_that_vanished_is_given_up_soon(postgres: Cluster) -> None:
    with tables.create(postgres.database()).connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=os.dup(driver.fileno())) as link:
            option = partial(link.getsockopt, socket.IPPROTO_TCP)
            probes = option(socket.TCP_KEEPINTVL) * option(socket.TCP_KEEPCNT)
            assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert option(socket.TCP_KEEPIDLE) + probes <= 15, "while it waits for an answer"
            assert option(socket.TCP_USER_TIMEOUT) <= 15_000, "while it sends"


def test_a_gateway_goes_on_deciding_while_the_database_is_away_and_loses_nothing(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    write_package(tmp_path / "package")
    gateway = GatewayProcess(
        tmp_path,
        AIRLOCK_PACKAGE=str(tmp_path / "package"),
        AIRLOCK_VERSION="7",
        AIRLOCK_DATABASE_URL=own_cluster.database(),
        AIRLOCK_LOG_EPISODES="1",
    )
    try:
        episodes = [one["episode_id"] for one in gateway.client.start_episodes("cartpole", [None] * 4)]
        gateway.client.act("cartpole", [[0.0] * 4] * 4, episodes)
        ended = [{"episode_id": one, "return": 1.0, "length": 1} for one in episodes]
        assert gateway.client.outcomes("cartpole", ended[:2]) == {"accepted": 2, "duplicates": 0}
        own_cluster.kill()
        url = f"{gateway.url}/v1/policies/cartpole"
        refused = httpx.post(f"{url}/outcomes", json={"outcomes": ended}, timeout=30)
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert httpx.post(f"{url}/act", json={"observation": [0.0] * 4}, timeout=30).status_code == 200
        own_cluster.start()

        def stored() -> bool:
            return httpx.post(f"{url}/outcomes", json={"outcomes": ended}, timeout=30).status_code == 200

        wait_until(stored, "the gateway stores again")
        assert gateway.client.outcomes("cartpole", ended) == {"accepted": 0, "duplicates": 4}
        engine = sa.create_engine(gateway._environment["AIRLOCK_DATABASE_URL"])

        def logged() -> bool:
            with engine.connect() as connection:
                return connection.execute(sa.select(sa.func.count()).select_from(tables.decisions)).scalar() == 4

        wait_until(logged, "the log is written")
    finally:
        gateway.stop()
