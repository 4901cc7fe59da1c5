"""What people and dashboards see of a policy: what is routed where, and statistics over all workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec
import sqlalchemy as sa

from bentos.gateway.engine import Core
from bentos.package.manifest import Space
from bentos.routing.route import Route
from bentos.runners import shadow
from bentos.store import tables
from bentos.telemetry import counters as stats

_FRESH_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0
"""How long a database that hangs may hold up a document; then it shows what this worker knows alone."""

Cell = tuple[str, str, str, str, dict[str, Any]]
"""generation, version, arm, worker and counters of one row of `arm_stats`."""


class Views:
    """Reads `arm_stats` of all workers, at most once a second."""

    def __init__(self, core: Core, url: str) -> None:
        self._core = core
        self._url = url
        self._cells: dict[str, list[Cell]] = {}
        self._read_at = 0.0
        self._reading: asyncio.Task[list[Any]] | None = None
        self._lock = asyncio.Lock()

    async def cells(self, policy: str) -> list[Cell]:
        """What all workers have counted for a policy."""
        async with self._lock:
            if time.monotonic() - self._read_at >= _FRESH_SECONDS:
                self._cells = await self._read()
                self._read_at = time.monotonic()
        return self._cells.get(policy, [])

    async def policy(self, route: Route, registry: dict[str, Any], trusted: bool) -> dict[str, Any]:
        """The document of `GET /v1/policies/{policy}`; who overrides, whom and why is for those who are `trusted`."""
        cells = await self.cells(route.policy)
        canary = route.canary
        now = time.time()
        return {
            "policy": route.policy,
            "environment": route.manifest.environment.get("id") if route.manifest else None,
            "observation_space": _outline(route.manifest.observation_space) if route.manifest else None,
            "action_space": _outline(route.manifest.action_space) if route.manifest else None,
            "champion": route.champion.name if route.champion else None,
            "previous": route.previous,
            "canary": {**canary.document(), "withdrawn": canary.version in route.withdrawn} if canary else None,
            "explore": route.provider is not None and route.provider.explores,
            "versions": route.shown,
            "statistics": stats.statistics(stats.total(cell[4] for cell in cells if cell[2] != stats.SHADOW)),
            "arms": _arms(route, cells),
            "overrides": [
                one.document() if trusted else one.outline()
                for one in self._core.overrides.of(route.policy)
                if one.until > now
            ],
            "registry": registry,
        }

    async def _read(self) -> dict[str, list[Cell]]:
        cells: dict[str, list[Cell]] = {}
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(self._rows))
        await asyncio.wait([self._reading], timeout=_PATIENCE_SECONDS)
        rows: list[Any] = []
        if self._reading.done():  # else it hangs: no second thread shall hang beside it
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                rows = self._reading.result()
            self._reading = None
        for policy, *cell in rows:
            if cell[3] != self._core.worker:
                cells.setdefault(policy, []).append(tuple(cell))
        for (policy, generation, version, arm), counters in self._core.stats.arms.items():
            cells.setdefault(policy, []).append((generation, version, arm, self._core.worker, counters.to_json()))
        return cells

    def _rows(self) -> list[Any]:
        table = tables.arm_stats
        columns = (table.c.policy, table.c.generation, table.c.version, table.c.arm, table.c.worker, table.c.stats)
        with tables.connect(self._url).connect() as connection:
            return list(connection.execute(sa.select(*columns)))


def _outline(space: Space) -> dict[str, Any]:
    """A space without its bounds, of which an image has thousands."""
    parts = {key: _outline(part) for key, part in (space.spaces or {}).items()}
    outline: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(space, low=None, high=None, spaces=None))
    return {**outline, "spaces": parts} if parts else outline


def _arms(route: Route, cells: list[Cell]) -> dict[str, Any]:
    """Statistics of the champion's traffic outside experiments, and of the running canary's arms."""
    wanted = {"champion": ("", route.champion.name if route.champion else "", "champion")}
    if route.canary is not None:
        generation = route.canary.generation
        wanted["challenger"] = (generation, route.canary.version, "challenger")
        if route.champion is not None:
            wanted["control"] = (generation, route.champion.name, "control")
        if any(cell[0] == generation and cell[2] == stats.SHADOW for cell in cells) or route.shadowed is not None:
            wanted[stats.SHADOW] = (generation, route.canary.version, stats.SHADOW)
    arms = {}
    for name, (generation, version, arm) in wanted.items():
        total = stats.total(cell[4] for cell in cells if cell[:3] == (generation, version, arm))
        arms[name] = {
            "version": version or None,
            "generation": generation,
            **stats.statistics(total),
            **{key: total[key] for key in ("sources", "faults", "adjusted", "rejected", "breaker_open")},
        }
        if name == stats.SHADOW:
            arms[name] |= shadow.figures(total["shadow"])
    return arms
