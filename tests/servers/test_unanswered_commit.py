"""PostgreSQL commits the starts of episodes, and its answer gets lost: they are closed, and nobody's outcome is."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from bentos.routing.registry import Picture
from bentos.routing.state import Kept, LastGood
from bentos.store import tables
from bentos.store.writer import StoreDown, Writer
from bentos.tokens import Signer
from tasks.canary.units import StoredUnits
from tasks.ports import free_port
from tests.bentos.gateway_process import EPISODE_KEY, GatewayProcess, wait_until
from tests.bentos.policy_packages import constant_graph, write_package
from tests.bentos.store_rows import outcome, start
from tests.bentos.way import Way
from tests.servers.postgres import Cluster

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

POLICY = "doubted"


@pytest.fixture
def way(postgres: Cluster) -> Iterator[Way]:
    """The way to the cluster."""
    running = Way(postgres.port)
    yield running
    running.close()


def kinds(url: str) -> dict[str, str | None]:
    """What became of each stored start: the kind of its outcome, null as long as it is open."""
    begun, ended = tables.episodes.c, tables.outcomes.c
    query = sa.select(begun.episode, ended.kind).outerjoin_from(
        tables.episodes, tables.outcomes, begun.episode == ended.episode
    )
    with tables.connect(url).connect() as connection:
        return {row.episode: row.kind for row in connection.execute(query)}


def test_an_outcome_whose_commit_was_not_answered_is_stored_and_sent_again_a_duplicate(
    postgres: Cluster, way: Way
) -> None:
    url = postgres.database()

    async def send() -> list[bool]:
        writer = Writer(url.replace(str(postgres.port), str(way.port)), patience=120.0)
        try:
            await writer.start_episodes([start("told"), start("other")])
            way.cut_off("other")
            with pytest.raises(StoreDown):
                await asyncio.gather(writer.outcomes([outcome("other", 7.0)]), writer.outcomes([outcome("told", 8.0)]))
            assert way.lost.is_set()
            assert len(writer.untold) == 0, "what is in doubt are no starts"
            while True:
                try:
                    return await writer.outcomes([outcome("other", 7.0), outcome("told", 8.0)])
                except StoreDown:
                    await asyncio.sleep(0.1)
        finally:
            writer.close()

    assert asyncio.run(send()) == [False, False]
    assert kinds(url) == {"told": "reported", "other": "reported"}


def test_a_withdrawal_waits_for_the_end_of_the_transaction_in_doubt(postgres: Cluster) -> None:
    url = postgres.database()
    engine = tables.create(url)
    open_still = engine.connect()
    begun = open_still.begin()
    open_still.execute(tables.episodes.insert(), [start("late", at=1.0)])

    async def send() -> int:
        writer = Writer(url, patience=120.0)
        try:
            writer.untold.add([start("late", at=1.0)])
            closing = asyncio.create_task(writer.withdraw())
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            with engine.connect() as watching:
                while not watching.exec_driver_sql(waiting).scalar_one():
                    watching.rollback()
                    await asyncio.sleep(0.05)
            begun.commit()
            await closing
            return writer.untold.withdrawn
        finally:
            writer.close()

    assert asyncio.run(send()) == 1
    assert kinds(url) == {"late": "withdrawn"}


def test_a_gateway_gives_the_episode_out_outside_the_experiment_and_the_judge_waits_for_nobody(
    postgres: Cluster, way: Way, tmp_path: Path
) -> None:
    url = postgres.database()
    tags = {}
    for version, status in (("1", "promoted"), ("2", "approved")):
        digest = write_package(tmp_path / version, name=POLICY, graph=constant_graph(int(version) - 1))
        tags[version] = {"package_sha256": digest, "package_uri": "", "validation_status": status}
        shutil.copytree(tmp_path / version, tmp_path / "home" / "gateway" / "packages" / digest)
    canary = {"generation": "g1", "champion": "1", "version": "2", "weight": 0.5, "salt": "0a"}
    document = json.dumps({**canary, "started_at": time.time()})
    known = LastGood([Picture(POLICY, "1", None, "2", "2", document, tags)])
    Kept(tmp_path / "home" / "gateway" / "state.json").write(known)
    gateway = GatewayProcess(
        tmp_path / "home",
        MLFLOW_TRACKING_URI=f"http://127.0.0.1:{free_port()}",
        AIRLOCK_DATABASE_URL=url.replace(str(postgres.port), str(way.port)),
    )
    episodes = f"{gateway.url}/v1/policies/{POLICY}/episodes"

    def begin(user: str, key: str | None = None) -> tuple[str, str]:
        asked = {"user_ids": [user], **({"idempotency_key": key} if key else {})}
        (found,) = httpx.post(episodes, json=asked, timeout=60).raise_for_status().json()["episodes"]
        return Signer(EPISODE_KEY).episode(found["episode_id"]).nonce, found["arm"]

    try:
        wait_until(lambda: begin("somebody")[1] != "champion", "the canary runs")
        before = kinds(url)
        way.cut_off("doubted-user")
        _, arm = begin("doubted-user", key="k" * 16)
        assert way.lost.is_set()
        assert arm == "champion"
        (doubted,) = wait_until(lambda: kinds(url).keys() - before.keys(), "the start is stored all the same")
        wait_until(lambda: kinds(url)[doubted] == "withdrawn", "it is withdrawn")
        wait_until(
            lambda: "rl_starts_withdrawn_total 1.0" in httpx.get(f"{gateway.url}/metrics", timeout=60).text,
            "it is counted",
        )
        given, arm = begin("doubted-user", key="k" * 16)
        assert (arm, given != doubted) == ("champion", True), "the same request finds it withdrawn"
        with tables.connect(url).connect() as connection:
            waiting = [one.unit for one in StoredUnits(POLICY, "g1").read(connection) if one.episode_return is None]
        assert "doubted-user" not in waiting
    finally:
        gateway.stop()
