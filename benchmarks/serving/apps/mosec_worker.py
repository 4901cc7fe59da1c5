"""mosec: its Rust front gathers requests into batches for one Python process, or several.

Its command line is mosec's own; `$BENCHMARK_GRAPH`, `_WORKERS`, `_BATCH` and `_WAIT_MS` say the rest, since its workers
import this module anew. With `$BENCHMARK_SLOW` the graph takes its time.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import numpy as np
from mosec import Server, Worker  # type: ignore[import-not-found]

from benchmarks.serving.apps.runtime import open_session
from benchmarks.serving.apps.slow_session import SlowSession

GRAPH = os.environ["BENCHMARK_GRAPH"]
WORKERS, BATCH, WAIT_MS = (int(os.environ[f"BENCHMARK_{name}"]) for name in ("WORKERS", "BATCH", "WAIT_MS"))


class Policy(Worker):  # type: ignore[misc]
    """The policy. msgspec reads and writes its JSON: the fastest that mosec can be given."""

    def __init__(self) -> None:
        self._session = open_session(GRAPH, SlowSession) if "BENCHMARK_SLOW" in os.environ else open_session(GRAPH)
        self._decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.Encoder().encode

    def deserialize(self, data: bytes) -> Any:
        """A request's body."""
        return self._decode(data)

    def serialize(self, data: Any) -> bytes:
        """An answer's body."""
        return self._encode(data)

    def forward(self, data: Any) -> Any:
        """One request, or with a batch size above one, a list of them."""
        return self._batch(data) if BATCH > 1 else self._batch([data])[0]

    def _batch(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        many = "observations" in requests[0]
        rows = (
            [row for one in requests for row in one["observations"]] if many else [r["observation"] for r in requests]
        )
        actions = self._session.run(["action"], {"observation": np.array(rows, np.float32)})[0].tolist()
        if not many:
            return [{"action": action} for action in actions]
        answers, start = [], 0
        for one in requests:
            stop = start + len(one["observations"])
            answers.append({"actions": actions[start:stop]})
            start = stop
        return answers


if __name__ == "__main__":
    server = Server()
    server.append_worker(Policy, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    server.run()
