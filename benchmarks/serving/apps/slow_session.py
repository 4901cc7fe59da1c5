"""A graph that takes its time: a stand-in for one that runs on an accelerator."""

from __future__ import annotations

import threading
import time
from typing import Any

import onnxruntime as ort

CALL_SECONDS, ROW_SECONDS = 0.010, 0.0001


class SlowSession(ort.InferenceSession):  # type: ignore[misc]
    """A graph that takes 10 ms and 0.1 ms a row, one call at a time."""

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
