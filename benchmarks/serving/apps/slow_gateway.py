"""The gateway with two policies: one as it is, and `slow`, whose graph takes its time and holds a lock.

`bentoml serve benchmarks.serving.apps.slow_gateway:Gateway`, with `$AIRLOCK_PACKAGE` for the fast policy and
`$BENCHMARK_SLOW_PACKAGE` for the slow one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import onnxruntime as ort

import bentos.service
from bentos import single
from bentos.background import Worker

CALL_SECONDS, ROW_SECONDS = 0.010, 0.0001


class SlowSession(ort.InferenceSession):  # type: ignore[misc]
    """A graph that takes 10 ms and 0.1 ms a row, one call at a time, as one that runs on an accelerator does."""

    _lock = threading.Lock()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """Wait, then answer what the graph answers."""
        self._wait(len(next(iter(input_feed.values()))))
        return super().run(output_names, input_feed, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """Wait for one row: memory is bound for one row only."""
        self._wait(1)
        super().run_with_iobinding(iobinding, run_options)

    def _wait(self, rows: int) -> None:
        with self._lock:
            time.sleep(CALL_SECONDS + ROW_SECONDS * rows)


class TwoPolicies(Worker):
    """Loads the slow policy beside the one that it is told to serve."""

    async def start(self, package: single.Package | None) -> None:
        """Start as ever, then route the slow policy."""
        await super().start(package)
        slow = single.Package(Path(os.environ["BENCHMARK_SLOW_PACKAGE"]), "1")
        with mock.patch.object(ort, "InferenceSession", SlowSession):
            self.core.route(await asyncio.to_thread(single.route, self.core, slow))


# The service makes its worker itself, so it cannot be handed this one.
vars(bentos.service)["Worker"] = TwoPolicies
Gateway = bentos.service.Gateway
