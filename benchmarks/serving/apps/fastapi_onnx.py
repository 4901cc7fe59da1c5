"""FastAPI with ONNX Runtime, as its documentation would have one write it: a model of the body, an async function.

python -m benchmarks.serving.apps.fastapi_onnx GRAPH PORT
"""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI

from benchmarks.serving.apps.bodies import Many, One
from benchmarks.serving.apps.runtime import open_session


def app(graph: str) -> FastAPI:
    """The app."""
    session = open_session(graph)
    served = FastAPI()

    def decide(rows: list[list[float]]) -> list[int]:
        actions: list[int] = session.run(["action"], {"observation": np.array(rows, np.float32)})[0].tolist()
        return actions

    @served.post("/act")
    async def act(given: One) -> dict[str, int]:
        return {"action": decide([given.observation])[0]}

    @served.post("/acts")
    async def acts(given: Many) -> dict[str, list[int]]:
        return {"actions": decide(given.observations)}

    return served


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
