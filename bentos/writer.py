"""Group commit: one thread a worker writes everything to Airlock's database, many requests to a transaction."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from bentos import logs, store

Row = dict[str, Any]

_MOST_ROWS = 1000
_REST_SECONDS = 1.0
_BUSY_MILLISECONDS = 2000


class StoreDown(Exception):
    """The database could not take the rows; nothing of this request was stored."""


class _Job(msgspec.Struct):
    table: str
    rows: Sequence[Row]
    call: Callable[[sa.Connection], Any] | None
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Writer:
    """Commits rows of many requests together; each request is answered after the commit that holds its rows.

    After a failed transaction writes fail at once for a second, so that a dead database does not hold up requests.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine: sa.Engine | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._rest_until = 0.0
        self._thread = threading.Thread(target=self._run, name="airlock-writer", daemon=True)
        self._thread.start()

    async def start_episodes(self, rows: Sequence[Row]) -> None:
        """Commit starts of episodes. Raises StoreDown."""
        await self._submit("episodes", rows)

    async def outcomes(self, rows: Sequence[Row]) -> list[bool]:
        """Commit outcomes; for each row whether it is the episode's first. Raises StoreDown."""
        accepted: list[bool] = await self._submit("outcomes", rows)
        return accepted

    async def call(self, function: Callable[[sa.Connection], Any]) -> Any:
        """Run `function` in a transaction of its own on the writer's thread. Raises StoreDown."""
        return await self._submit("", (), function)

    def close(self) -> None:
        """Commit what is queued and end the thread. Blocks."""
        self._jobs.put(None)
        self._thread.join(timeout=10)
        if self._engine is not None:
            self._engine.dispose()

    def _submit(
        self, table: str, rows: Sequence[Row], call: Callable[[sa.Connection], Any] | None = None
    ) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.put(_Job(table, rows, call, future, loop))
        return future

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            jobs = []
            rows = 0
            while job is not None:
                jobs.append(job)
                rows += len(job.rows)
                if rows >= _MOST_ROWS:
                    break
                try:
                    job = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self._commit(jobs)
            if job is None:
                return

    def _commit(self, jobs: list[_Job]) -> None:
        grouped = [job for job in jobs if job.call is None]
        if grouped:
            self._attempt(grouped, lambda connection: _insert(connection, grouped))
        for job in jobs:
            if job.call is not None:
                self._attempt([job], lambda connection, job=job: [job.call(connection)])  # type: ignore[misc]

    def _attempt(self, jobs: list[_Job], work: Callable[[sa.Connection], list[Any]]) -> None:
        """One transaction for `jobs`, answered together."""
        results: list[Any]
        if time.monotonic() < self._rest_until:
            results = [StoreDown("the database failed a moment ago")] * len(jobs)
        else:
            try:
                with self._connect().begin() as connection:
                    results = work(connection)
            except Exception as error:  # noqa: BLE001 - whatever it was, the rows are not stored
                logs.error("store down", detail=str(error).splitlines()[0])
                self._rest_until = time.monotonic() + _REST_SECONDS
                results = [StoreDown(str(error).splitlines()[0])] * len(jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for job, result in zip(jobs, results, strict=True):
            by_loop.setdefault(job.loop, []).append((job.future, result))
        for loop, answers in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_answer, answers)

    def _connect(self) -> sa.Engine:
        if self._engine is None:
            engine = store.create(self._url)
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _wait_less)
                engine.dispose()
            self._engine = engine
        return self._engine


def _wait_less(connection: Any, _record: Any) -> None:
    """A request is waiting for this commit: do not wait as long for a lock as a batch job may."""
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")


def _answer(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in answers:
        if future.done():
            continue
        if isinstance(result, StoreDown):
            future.set_exception(result)
        else:
            future.set_result(result)


def _insert(connection: sa.Connection, jobs: list[_Job]) -> list[Any]:
    starts = [row for job in jobs if job.table == "episodes" for row in job.rows]
    if starts:
        connection.execute(store.episodes.insert(), starts)
    ended = [row for job in jobs if job.table == "outcomes" for row in job.rows]
    fresh = insert_outcomes(connection, ended) if ended else set()
    results: list[Any] = []
    for job in jobs:
        if job.table == "episodes":
            results.append(None)
            continue
        accepted = []
        for row in job.rows:
            accepted.append(row["episode"] in fresh)
            fresh.discard(row["episode"])
        results.append(accepted)
    return results


def insert_outcomes(connection: sa.Connection, rows: Sequence[Row]) -> set[str]:
    """Insert outcomes of episodes that have none; the episodes whose outcome was stored now."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["episode"], row)
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = insert(store.outcomes).on_conflict_do_nothing(index_elements=["episode"])
    stored: set[str] = set()
    everything = list(first.values())
    for at in range(0, len(everything), _MOST_ROWS):
        stored.update(
            connection.execute(statement.returning(store.outcomes.c.episode), everything[at : at + _MOST_ROWS])
            .scalars()
            .all()
        )
    return stored
