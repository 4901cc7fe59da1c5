"""Fault events of this worker, committed for the other gateways and the control plane, however long that takes."""

from __future__ import annotations

import asyncio

from bentos import logs
from bentos.routing import faults
from bentos.store.writer import StoreDown, Writer

_RETRY_SECONDS = 1.0


class FaultReports:
    """Commits each event in a task of its own, which tries again for as long as the store is down."""

    def __init__(self, writer: Writer, worker: str) -> None:
        """`worker` is the name under which events are stored."""
        self._writer = writer
        self._worker = worker
        self._tasks: set[asyncio.Task[None]] = set()

    def report(self, policy: str, version: str, digest: str, kind: str, detail: str) -> None:
        """Commit an event of a version's package (its SHA-256), soon. Call it on the event loop."""
        task = asyncio.get_running_loop().create_task(self._commit(policy, version, digest, kind, detail))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is not committed yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _commit(self, policy: str, version: str, digest: str, kind: str, detail: str) -> None:
        while True:
            try:
                await self._writer.call(
                    lambda connection: faults.record(
                        connection,
                        policy=policy,
                        version=version,
                        digest=digest,
                        kind=kind,
                        detail=detail,
                        worker=self._worker,
                    )
                )
            except StoreDown as error:
                logs.warning("fault event not stored", policy=policy, version=version, kind=kind, detail=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return
