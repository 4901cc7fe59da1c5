"""The gateway with two policies: one as it is, and `slow`, whose graph takes its time and holds a lock.

`bentoml serve benchmarks.serving.apps.slow_gateway:Gateway`, with `$AIRLOCK_PACKAGE` for the fast policy and
`$BENCHMARK_SLOW_PACKAGE` for the slow one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import onnxruntime as ort

from benchmarks.serving.apps.slow_session import SlowSession
from bentos.gateway import gateway
from bentos.server import factory, single
from bentos.server.worker import Worker
from bentos.service import Gateway

__all__ = ["Gateway"]


class TwoPolicies(Worker):
    """Loads the slow policy beside the one that it is told to serve."""

    @asynccontextmanager
    async def running(self, package: single.Package | None) -> AsyncIterator[gateway.Gateway]:
        """Start as ever, then route the slow policy."""
        async with super().running(package) as serving:
            slow = single.Package(Path(os.environ["BENCHMARK_SLOW_PACKAGE"]), "1")
            with mock.patch.object(ort, "InferenceSession", SlowSession):
                self.core.route(await asyncio.to_thread(single.route, self.core, slow))
            yield serving


# The service makes its worker itself, so it cannot be handed this one.
vars(factory)["Worker"] = TwoPolicies
