"""Group commit: one thread a worker writes everything to Airlock's database, many requests to a transaction."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from bentos import logs
from bentos.store import episode_events, outcomes, rewards, starts, tables
from bentos.store.episode_events import Events
from bentos.store.rewards import Reported
from bentos.store.starts import Untold

Row = dict[str, Any]

_EPISODES, _OUTCOMES, _REWARDS, _EVENTS = "episodes", "outcomes", "rewards", "events"
_MOST_ROWS = 1000
_REST_SECONDS = 1.0
_BUSY_MILLISECONDS = 2000
PATIENCE_SECONDS = 5.0
"""How long a request waits for its commit: a database that hangs is as good as down."""


class StoreDown(Exception):
    """The database could not take the rows; nothing of this request was stored."""


class RowsRefused(StoreDown):
    """The database works, but will never take these rows."""


class RewardsTaken(NamedTuple):
    """What came of a request's rewards: for each whether it is its step's first, the outcomes stored with them, and
    the returns that were refused, by episode."""

    accepted: list[bool]
    ended: list[Row]
    outside: dict[str, float]


class _Job(msgspec.Struct):
    table: str
    rows: Sequence[Any]
    call: Callable[[sa.Connection], Any] | None
    later: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Writer:
    """Commits rows of many requests together; each request is answered after the commit that holds its rows.

    After a failed transaction writes fail at once for a second, so that a dead database does not hold up requests; and
    for as long as one transaction takes longer than `patience` seconds, so that one that hangs does not either.
    `events` that are not stored yet go into the same transaction as whatever is written next: an outcome is never
    stored before what this worker saw befall its episode. Starts that may have been stored though their request was
    told otherwise are remembered, in `untold`, and closed by `withdraw`.
    """

    def __init__(self, url: str, pending: Events | None = None, patience: float = PATIENCE_SECONDS) -> None:
        self._url = url
        self._patience = patience
        self._pending = Events() if pending is None else pending
        self.untold = Untold()
        self._engine: sa.Engine | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._later: deque[_Job] = deque()
        self._rest_until = 0.0
        self._begun = math.inf
        """When the transaction that runs now was begun (monotonic clock)."""
        self._thread = threading.Thread(target=self._run, name="airlock-writer", daemon=True)
        self._thread.start()

    async def start_episodes(self, rows: Sequence[Row]) -> set[str]:
        """Commit starts of episodes; those among them that must not be given out (see `starts`). Raises StoreDown."""
        withdrawn: set[str] = await self._submit(_EPISODES, rows)
        return withdrawn

    async def outcomes(self, rows: Sequence[Row]) -> list[bool]:
        """Commit outcomes; for each row whether it is the episode's first. Raises StoreDown."""
        accepted: list[bool] = await self._submit(_OUTCOMES, rows)
        return accepted

    async def rewards(self, given: Sequence[Reported]) -> RewardsTaken:
        """Commit rewards, and the outcomes of episodes that they complete. Raises StoreDown."""
        taken: RewardsTaken = await self._submit(_REWARDS, given)
        return taken

    async def flush_events(self) -> None:
        """Commit pending events, if there are any. Raises StoreDown."""
        if len(self._pending):
            await self._submit(_EVENTS, ())

    async def withdraw(self) -> None:
        """Close the starts that nobody was told of, if there are any. Raises StoreDown.

        Those that the database will never take are forgotten: they are abandoned after their time.
        """
        while rows := self.untold.take():
            try:
                self.untold.withdrawn += await self.call(partial(starts.withdraw, rows=rows), later=True)
            except RowsRefused:
                logs.warning("starts in doubt forgotten", count=len(rows))
            except BaseException:
                self.untold.put_back(rows)
                raise

    async def call(self, function: Callable[[sa.Connection], Any], *, later: bool = False) -> Any:
        """Run `function` in a transaction of its own on the writer's thread; `later`: once nothing else waits.

        Raises StoreDown.
        """
        return await self._submit("", (), function, later)

    def close(self) -> None:
        """Commit what is queued and end the thread. Blocks."""
        self._jobs.put(None)
        self._thread.join(timeout=10)
        if self._engine is not None:
            self._engine.dispose()

    async def _submit(
        self,
        table: str,
        rows: Sequence[Any],
        call: Callable[[sa.Connection], Any] | None = None,
        later: bool = False,
    ) -> Any:
        if time.monotonic() - self._begun > self._patience:
            raise StoreDown("the database does not answer")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.put(_Job(table, rows, call, later, future, loop))
        try:
            async with asyncio.timeout(None if later else self._patience):
                return await future
        except TimeoutError as error:
            if table == _EPISODES and future.done() and not future.cancelled() and future.exception() is None:
                self.untold.add(rows)  # the answer came in the moment that the request gave up
            # what was not begun is not done any more; what was may still be stored
            raise StoreDown(f"the database did not answer within {self._patience:g} s") from error

    def _run(self) -> None:
        running = True
        while running or self._later:
            jobs, more = self._gather()
            running = running and more
            self._commit(jobs)
            if not jobs and self._later:
                self._commit([self._later.popleft()])

    def _gather(self) -> tuple[list[_Job], bool]:
        """What waits to be written, none of it for later, and whether more may come. Waits if nothing at all does."""
        jobs: list[_Job] = []
        rows = 0
        while rows < _MOST_ROWS:
            try:
                job = self._jobs.get(block=not jobs and not self._later)
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            if job.later:
                self._later.append(job)
            else:
                jobs.append(job)
                rows += len(job.rows)
        return jobs, True

    def _commit(self, jobs: list[_Job]) -> None:
        grouped = [job for job in jobs if job.call is None]
        if grouped:
            self._attempt(grouped, self._insert)
        for job in jobs:
            if job.call is not None:
                self._attempt([job], lambda connection, jobs: [job.call(connection) for job in jobs if job.call])

    def _attempt(self, jobs: list[_Job], work: Callable[[sa.Connection, list[_Job]], list[Any]]) -> None:
        """One transaction for `jobs`, answered together. If only some rows are to blame, only they fail."""
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return
        befell: list[Row] = []
        results: list[Any] = []
        if time.monotonic() < self._rest_until:
            results = [StoreDown("the database failed a moment ago")] * len(jobs)
        else:
            befell = self._pending.take(_MOST_ROWS) if jobs[0].call is None else []
            self._begun = time.monotonic()
            try:
                with self._connect().begin() as connection:
                    if befell:
                        episode_events.insert(connection, befell)
                    results = work(connection, jobs)
            except (sa.exc.DataError, sa.exc.IntegrityError) as error:
                self._pending.give_back(befell)
                if len(jobs) > 1:
                    for job in jobs:
                        self._attempt([job], work)
                    return
                logs.error("rows refused", detail=str(error).splitlines()[0])
                results = [RowsRefused(str(error).splitlines()[0])]
            except Exception as error:  # noqa: BLE001 - whatever it was, nobody is told that the rows are stored
                self._pending.give_back(befell)
                if results:  # it was the commit that failed
                    self._in_doubt(jobs)
                results = [self._failed(error)] * len(jobs)
            finally:
                self._begun = math.inf
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any]]] = {}
        for job, result in zip(jobs, results, strict=True):
            by_loop.setdefault(job.loop, []).append((job, result))
        for loop, answers in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._answer, answers)

    def _answer(self, answers: list[tuple[_Job, Any]]) -> None:
        for job, result in answers:
            if isinstance(result, StoreDown):
                if not job.future.done():
                    job.future.set_exception(result)
            elif job.future.done():  # its request lost patience before the commit came through
                self._in_doubt([job])
            else:
                job.future.set_result(result)

    def _in_doubt(self, jobs: list[_Job]) -> None:
        self.untold.add(row for job in jobs if job.table == _EPISODES for row in job.rows)

    def _failed(self, error: Exception) -> StoreDown:
        logs.error("store down", detail=str(error).splitlines()[0])
        self._rest_until = time.monotonic() + _REST_SECONDS
        if self._engine is not None and self._engine.dialect.name != "sqlite":
            # the server that comes back may be another, restored one: look at its tables again
            self._engine.dispose()
            self._engine = None
        return StoreDown(str(error).splitlines()[0])

    def _connect(self) -> sa.Engine:
        if self._engine is None:
            engine = tables.create(self._url)
            if engine.dialect.name == "sqlite":
                sa.event.listen(engine, "connect", _wait_less)
                engine.dispose()
            self._engine = engine
        return self._engine

    @staticmethod
    def _insert(connection: sa.Connection, jobs: list[_Job]) -> list[Any]:
        begun = [row for job in jobs if job.table == _EPISODES for row in job.rows]
        withdrawn = starts.insert(connection, begun) if begun else set()
        stepped = rewards.insert(connection, [one for job in jobs if job.table == _REWARDS for one in job.rows])
        reported = [row for job in jobs if job.table == _OUTCOMES for row in job.rows]
        first = outcomes.insert(connection, reported + stepped.ended)
        told = {row["episode"] for row in reported}
        endings = {row["episode"]: row for row in stepped.ended if row["episode"] in first - told}
        left, steps = first & told, set(stepped.fresh)
        results: list[Any] = []
        for job in jobs:
            if job.table == _OUTCOMES:
                results.append([_take(left, row["episode"]) for row in job.rows])
            elif job.table == _REWARDS:
                accepted = [_take(steps, one.key) for one in job.rows]
                mine = {one.row["episode"] for one in job.rows}
                ended = [endings.pop(episode) for episode in mine & endings.keys()]
                outside = {episode: total for episode, total in stepped.outside.items() if episode in mine}
                results.append(RewardsTaken(accepted, ended, outside))
            else:
                results.append({row["episode"] for row in job.rows} & withdrawn)
        return results


def _take(left: set[Any], key: Any) -> bool:
    """Whether `key` is left, and it is not any more: of two that are the same the first counts."""
    found = key in left
    left.discard(key)
    return found


def _wait_less(connection: Any, _record: Any) -> None:
    """A request is waiting for this commit: do not wait as long for a lock as a batch job may."""
    connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
