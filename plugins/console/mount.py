"""The console as Airflow mounts it: made at the first request, so that loading the plugin costs a worker nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from plugins.console import AIRFLOW

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def _console() -> App:
    from plugins.console.app import create

    app: App = create()
    return app


class Console:
    """An ASGI application that is `make()`, called in a thread when the first request comes."""

    def __init__(self, make: Callable[[], App] = _console) -> None:
        self._make = make
        self._app: App | None = None
        self._lock: asyncio.Lock | None = None

    async def __call__(
        self, scope: Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Answer one connection."""
        if self._app is None:
            self._lock = self._lock or asyncio.Lock()
            async with self._lock:
                if self._app is None:
                    self._app = await asyncio.to_thread(self._make)
        await self._app({**scope, AIRFLOW: scope.get("app")}, receive, send)
