"""BentoML's own APIs, plain and batchable: `bentoml serve benchmarks.serving.apps.bentoml_service:Policy`.

The graph is `$BENCHMARK_GRAPH`.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import numpy as np

from benchmarks.serving.apps.runtime import open_session


@bentoml.service(workers=1, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Policy:
    """The policy, as BentoML's documentation would have one serve it."""

    def __init__(self) -> None:
        self._session = open_session(os.environ["BENCHMARK_GRAPH"])

    @bentoml.api  # type: ignore[untyped-decorator]
    async def act(self, observation: list[float]) -> dict[str, int]:
        """One observation."""
        return {"action": self._decide([observation])[0]}

    @bentoml.api  # type: ignore[untyped-decorator]
    async def acts(self, observations: list[list[float]]) -> dict[str, list[int]]:
        """Many observations."""
        return {"actions": self._decide(observations)}

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    async def batched(self, observations: list[list[float]]) -> list[int]:
        """Many observations, gathered with those of other requests."""
        return self._decide(observations)

    def _decide(self, rows: Any) -> list[int]:
        actions: list[int] = self._session.run(["action"], {"observation": np.array(rows, np.float32)})[0].tolist()
        return actions
