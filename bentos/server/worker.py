"""What a worker does beside answering: follow the registry and the database, flush statistics, sweep, and end well."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from bentos import logs, settings
from bentos.gateway.engine import Core
from bentos.gateway.gateway import Gateway
from bentos.routing import faults
from bentos.routing.fault_reports import FaultReports
from bentos.routing.faults import Event, Faults
from bentos.routing.follower import Follower
from bentos.routing.loader import Loader
from bentos.routing.package_cache import PackageCache
from bentos.routing.peers import Peers
from bentos.routing.registry import Registry
from bentos.routing.state import Kept
from bentos.routing.version import Version
from bentos.runners import crash_marks
from bentos.runners.crash_marks import Marks
from bentos.server import single
from bentos.server.metrics import Metrics
from bentos.store import overrides, tables
from bentos.store.abandonment import sweep
from bentos.store.journal import Journal
from bentos.store.overrides import Overrides
from bentos.store.retention import Retention
from bentos.store.writer import RowsRefused, StoreDown, Writer
from bentos.telemetry.counters import Arm, Key
from bentos.tokens import Signer

_SECOND = 1.0
_SWEEP_SECONDS = 5.0
_RETENTION_SECONDS = 60.0
_START_TIMEOUT = 1.5


class Worker:
    """One gateway process: builds the gateway, runs its loops, and takes all down again in order."""

    def __init__(self) -> None:
        directory = settings.home() / "gateway"
        directory.mkdir(parents=True, exist_ok=True)
        url = settings.database_url()
        journal = Journal()
        self.core = Core(
            Signer(settings.secret("episode_key")),
            Writer(url, journal.events),
            Overrides(directory / "overrides.json"),
            journal,
            Faults(directory / "faults.json"),
            breaker_opened=self._breaker_opened,
            unheard=self._unheard,
        )
        self._fault_reports = FaultReports(self.core.writer, self.core.worker)
        self._directory = directory
        self._url = url
        self._follower: Follower | None = None
        self._marks: Marks | None = None
        self._metrics: Metrics | None = None
        self._retention = Retention()
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def running(self, package: single.Package | None) -> AsyncIterator[Gateway]:
        """The gateway, while it runs: with `package` of that one version, else of what the registry says.

        Raises PackageError when the one package cannot be served.
        """
        gateway = await self._start(package)
        try:
            yield gateway
        finally:
            await self._stop()

    async def _start(self, package: single.Package | None) -> Gateway:
        self._metrics = Metrics()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._read_database()
        except TimeoutError:
            logs.warning("database slow", detail=f"no answer within {_START_TIMEOUT} s; starting without")
        if package is not None:
            self.core.route(await asyncio.to_thread(single.route, self.core, package))
        else:
            self._follower = self._following()
            await self._follower.start()
            self._loop("registry", self._follower.poll, settings.poll_seconds())
        self._loop("database", self._read_database, _SECOND)
        self._loop("flush", self._flush, _SECOND)
        self._loop("journal", self._write_journal, _SECOND)
        self._loop("sweep", self._sweep_all, _SWEEP_SECONDS)
        self._loop("retention", self._retain, _RETENTION_SECONDS)
        settle()
        logs.info("gateway started", mode="single" if package else "gateway", policies=sorted(self.core.routes))
        return Gateway(self.core, self._url, self._follower)

    def _following(self) -> Follower:
        core, directory = self.core, self._directory
        registry = Registry(settings.mlflow_url())
        self._marks = Marks(directory / "marks", core.worker)
        living = partial(crash_marks.living, directory / "marks")
        peers = Peers(directory / "peers", core.worker, living, grace=2 * settings.poll_seconds())
        packages = PackageCache(directory / "packages")
        loader = Loader(registry, packages, peers, self._marks, core, self._fault_reports)
        return Follower(registry, Kept(directory / "state.json"), peers, loader, core.faults, core)

    async def _stop(self) -> None:
        """Stop the loops, store what was counted, and close the database."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._fault_reports.close()
        await self._write_journal()
        await self._flush()
        if self._follower is not None:
            await self._follower.stop()
        await asyncio.to_thread(self.core.writer.close)
        if self._marks is not None:
            self._marks.close()
        logs.info("gateway stopped")

    def _unheard(self) -> bool:
        return self._follower is not None and not self._follower.seen_at

    def _loop(self, name: str, step: Callable[[], Awaitable[None]], seconds: float) -> None:
        async def run() -> None:
            while True:
                # jitter: many gateways shall not ask at the same moment
                await asyncio.sleep(seconds * random.uniform(0.8, 1.2))
                try:
                    await step()
                except Exception:  # noqa: BLE001 - a loop must outlive whatever one turn meets
                    logs.error("background step failed", step=name)

        self._tasks.append(asyncio.create_task(run(), name=f"airlock-{name}"))

    def _breaker_opened(self, policy: str, version: Version, reason: str) -> None:
        self._fault_reports.report(policy, version.name, version.package_sha256, faults.BREAKER_OPEN, reason)
        if self._follower is not None:
            self._follower.reroute(policy)

    async def _read_database(self) -> None:
        """Take over the overrides and fault events that others committed, and say what dead workers cannot."""
        try:
            await self._bury()
        except StoreDown:
            logs.warning("deaths of workers not stored", detail="the marks are kept until they can be")

        def read() -> tuple[list[overrides.Active], list[Any]]:
            with tables.connect(self._url).connect() as connection:
                return overrides.read(connection, time.time()), self.core.faults.read(connection)

        try:
            active, events = await asyncio.to_thread(read)
        except sa.exc.SQLAlchemyError as error:
            logs.warning("database not readable", detail=str(error).splitlines()[0])
            return
        self.core.overrides.replace(active)
        for policy in self.core.faults.take(events):
            if self._follower is not None:
                self._follower.reroute(policy)

    async def _bury(self) -> None:
        """Tell of workers of this machine that died at work: it counts here at once, and everywhere once stored."""
        with crash_marks.dead(self._directory / "marks") as deaths:
            for death in deaths:
                policy, version, digest = msgspec.structs.astuple(death.suspect)
                worker = death.workers[0]
                self.core.faults.note(Event(policy, version, digest, faults.KILLED_WORKER, time.time(), worker))
                if self._follower is not None:
                    self._follower.reroute(policy)
            if deaths:

                def bury(connection: sa.Connection) -> None:
                    for death in deaths:
                        faults.bury(connection, death, self.core.worker)

                await self.core.writer.call(bury)
                for death in deaths:
                    about = msgspec.to_builtins(death.suspect)
                    logs.error("a version killed its worker", **about, workers=list(death.workers))

    async def _flush(self) -> None:
        """Bring the counters to Prometheus and to `arm_stats`."""
        self._note_breakers()
        changed = self.core.stats.take_changed()
        if self._metrics is not None:
            self._metrics.flush(changed)
            self._metrics.lost(self.core.journal.log.lost, self.core.journal.events.lost)
            self._metrics.withdrawn(self.core.writer.untold.withdrawn)
            self._metrics.show_usage(self.core.worker)
            for route in list(self.core.routes.values()):
                self._metrics.show(route)
                self._metrics.show_overrides(route.policy, self.core.overrides.of(route.policy))
                await asyncio.sleep(0)  # requests come in between: a look at drift takes a millisecond a policy
        if not changed:
            return
        now = time.time()
        rows = [_row(self.core.worker, key, arm, now) for key, arm in changed]
        try:
            await self.core.writer.call(lambda connection: _upsert(connection, rows))
        except StoreDown:
            for _, arm in changed:
                arm.changed = True

    async def _write_journal(self) -> None:
        """Store events, and behind whatever else is to be written, withdrawals and the decision log."""
        journal, writer = self.core.journal, self.core.writer
        try:
            await writer.flush_events()
            await writer.withdraw()
            while len(journal.log):
                try:
                    await writer.call(journal.log.write, later=True)
                except RowsRefused:
                    journal.log.refused()
                else:
                    journal.log.written()
        except StoreDown:
            return

    async def _retain(self) -> None:
        """Delete what need not be kept, a batch at a time, behind whatever is to be written."""
        try:
            while await self.core.writer.call(self._retention.run, later=True):
                await asyncio.sleep(0)
        except StoreDown:
            return

    def _note_breakers(self) -> None:
        for (policy, _, version, _), arm in self.core.stats.arms.items():
            route = self.core.routes.get(policy)
            loaded = route.versions.get(version) if route else None
            is_open = loaded is not None and loaded.breaker.open
            if arm.breaker_open != is_open:
                arm.breaker_open, arm.changed = is_open, True

    async def _sweep_all(self) -> None:
        for route in list(self.core.routes.values()):
            if route.manifest is None:
                continue
            # a transaction each: two gateways that sweep several policies in one could wait for each other in a circle
            close = partial(sweep, policy=route.policy, settings=route.manifest.outcomes)
            try:
                closed = await self.core.writer.call(close)
            except StoreDown:
                return
            if closed:
                logs.info("episodes abandoned", policy=route.policy, count=closed)


def _row(worker: str, key: Key, arm: Arm, now: float) -> dict[str, Any]:
    policy, generation, version, name = key
    return {
        "policy": policy,
        "generation": generation,
        "version": version,
        "arm": name,
        "worker": worker,
        "stats": arm.to_json(),
        "updated_at": now,
    }


def _upsert(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    statement = tables.insert(connection, tables.arm_stats)
    keys = [column.name for column in tables.arm_stats.primary_key]
    fresh = {name: statement.excluded[name] for name in ("stats", "updated_at")}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=fresh), rows)


_ALLOCATIONS = 50_000
"""Objects made and not yet freed before the youngest are looked through; requests leave none behind."""


def settle() -> None:
    """Take what is loaded by now out of every later collection: modules and versions live as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS, 20, 100)
