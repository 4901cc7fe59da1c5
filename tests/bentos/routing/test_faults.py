"""Fault events while the database is down: they count here at once, and are told until they are stored."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.routing import fault_reports, faults
from bentos.runners.crash_marks import Marks, Suspect
from bentos.server.worker import Worker
from bentos.store import tables
from bentos.store.writer import StoreDown

SUSPECT = Suspect("p", "2", "ab" * 32)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    monkeypatch.delenv("AIRLOCK_DATABASE_URL", raising=False)
    monkeypatch.setattr(fault_reports, "_RETRY_SECONDS", 0.01)
    return Worker()


def down(worker: Worker, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The next writes fail."""
    real, left = worker.core.writer.call, [times]

    async def call(function: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreDown("for now")
        return await real(function)

    monkeypatch.setattr(worker.core.writer, "call", call)


def kinds() -> list[str]:
    with tables.connect(settings.database_url()).connect() as connection:
        return list(connection.execute(sa.select(tables.fault_events.c.kind)).scalars())


def test_an_event_that_could_not_be_stored_is_stored_later(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    down(worker, monkeypatch, 3)

    async def scenario() -> None:
        worker._fault_reports.report("p", "2", "ab" * 32, faults.BREAKER_OPEN, "5 faults")
        await asyncio.gather(*worker._fault_reports._tasks)

    asyncio.run(scenario())
    assert kinds() == ["breaker_open"]
    worker.core.writer.close()


def test_deaths_count_here_while_the_database_is_down_and_are_stored_once_it_is_up(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "gateway" / "marks"
    down(worker, monkeypatch, 2)

    async def scenario() -> None:
        for name, quarantined in (("w1", False), ("w2", True)):
            marks = Marks(directory, name)
            mark = marks.of(SUSPECT)
            assert mark is not None
            mark.__enter__()
            left = (directory / f"{name}.marks").read_bytes()
            marks.close()
            (directory / f"{name}.marks").write_bytes(left)  # as at its death: there, and locked no more
            await worker._read_database()
            assert worker.core.faults.quarantined(SUSPECT.package_sha256) is quarantined
        assert kinds() == []
        await worker._read_database()
        await worker._read_database()

    asyncio.run(scenario())
    assert kinds() == ["killed_worker", "killed_worker", "quarantined"]
    assert list(directory.iterdir()) == []
    worker.core.writer.close()
