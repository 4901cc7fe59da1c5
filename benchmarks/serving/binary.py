"""256 binary rows a request, by the Open Inference Protocol: the gateway beside a bare uvicorn app."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import numpy as np

from benchmarks.serving.paired_rounds import Cell, Target, in_turns, warm_up
from benchmarks.serving.peers.gateway import Gateway
from benchmarks.serving.peers.table import CEILING
from benchmarks.serving.policy import NAME, Policy
from benchmarks.serving.server import NotServing
from benchmarks.serving.start_peer import Serving, serve
from benchmarks.serving.wrk import Posts, write_bodies

ROWS = 256
CONNECTIONS = 16
PATH = f"/v2/models/{NAME}/infer"
LENGTH = "Inference-Header-Content-Length"


def binary(policy: Policy, scratch: Path, seconds: float, rounds: int) -> Cell:
    """The gateway beside the ceiling. Raises NotServing where it does not answer, or wrongly."""
    with serve(CEILING, policy, scratch) as ceiling, serve(Gateway(), policy, scratch) as gateway:
        beside, target = _target(ceiling), _target(gateway)
        warm_up(target)
        return in_turns(beside, target, CONNECTIONS, seconds, rounds)[0]


def _target(serving: Serving) -> Target:
    policy, url = serving.site.policy, f"{serving.site.url}{PATH}"
    head, body = request(policy)
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(head)}
    answer = httpx.post(url, content=body, headers=headers, timeout=30)
    if answer.status_code != 200:
        raise NotServing(f"{serving.peer.title}: not served: {answer.status_code} at {PATH}: {answer.text[:300]}")
    came = np.frombuffer(answer.content, np.int64, offset=int(answer.headers[LENGTH]))
    if not np.array_equal(came, policy.actions[:ROWS]):
        raise NotServing(f"{serving.peer.title} answers {ROWS} binary rows wrongly: {came[:10]}...")
    return Target(serving.server, Posts(url, write_bodies(serving.site.directory / "binary.bodies", [body]), headers))


def request(policy: Policy) -> tuple[int, bytes]:
    """How much of the body is JSON, and the body."""
    data = policy.observations[:ROWS].tobytes()
    tensor = {
        "name": "observation",
        "shape": [ROWS, policy.observations.shape[1]],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(data)},
    }
    wanted = {"name": "action", "parameters": {"binary_data": True}}
    head = msgspec.json.encode({"inputs": [tensor], "outputs": [wanted]})
    return len(head), head + data
