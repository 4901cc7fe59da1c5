"""FastAPI with SB3's `predict`: the plain function that FastAPI runs in a thread, since `predict` takes a while.

python -m benchmarks.serving.apps.fastapi_sb3 ZIP PORT
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from stable_baselines3 import PPO

from benchmarks.serving.apps.bodies import Many, One


def app(model: PPO) -> FastAPI:
    """The app."""
    served = FastAPI()

    def decide(rows: list[list[float]]) -> list[int]:
        actions: list[int] = model.predict(np.array(rows, np.float32), deterministic=True)[0].tolist()
        return actions

    @served.post("/act")
    def act(given: One) -> dict[str, int]:
        return {"action": decide([given.observation])[0]}

    @served.post("/acts")
    def acts(given: Many) -> dict[str, list[int]]:
        return {"actions": decide(given.observations)}

    return served


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaded = PPO.load(sys.argv[1], device="cpu")
    uvicorn.run(app(loaded), host="127.0.0.1", port=int(sys.argv[2]), access_log=False, log_level="warning")
