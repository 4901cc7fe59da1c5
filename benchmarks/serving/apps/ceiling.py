"""Bare uvicorn: one JSON decode, one run of the graph in memory bound once, one JSON encode.

python -m benchmarks.serving.apps.ceiling GRAPH PORT WORKERS
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import numpy as np
import uvicorn

from benchmarks.serving.apps.runtime import open_session

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WIDTH = 8
INFER = "/v2/models/policy/infer"
LENGTH = b"inference-header-content-length"


class One(msgspec.Struct):
    """One observation."""

    observation: list[float]


class Many(msgspec.Struct):
    """Many observations."""

    observations: list[list[float]]


class Tensor(msgspec.Struct):
    """What the Open Inference Protocol says of a tensor that travels as bytes."""

    name: str
    shape: list[int]
    datatype: str


class Infer(msgspec.Struct):
    """The JSON part of an Open Inference Protocol request."""

    inputs: list[Tensor]


class App:
    """The ASGI app."""

    def __init__(self, graph: str) -> None:
        self._session = open_session(graph)
        self._row, self._action = np.zeros((1, WIDTH), np.float32), np.zeros(1, np.int64)
        self._binding = self._session.io_binding()
        self._binding.bind_input("observation", "cpu", 0, np.float32, self._row.shape, self._row.ctypes.data)
        self._binding.bind_output("action", "cpu", 0, np.int64, self._action.shape, self._action.ctypes.data)
        self._run = self._session.run_with_iobinding
        self._one = msgspec.json.Decoder(One).decode
        self._many = msgspec.json.Decoder(Many).decode
        self._infer = msgspec.json.Decoder(Infer).decode

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        message = await receive()
        body: bytes = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        headers = [(b"content-type", b"application/json")]
        path = scope["path"]
        if path == "/act":
            self._row[0] = self._one(body).observation
            self._run(self._binding)
            answer = b'{"action":%d}' % self._action[0]
        elif path == "/acts":
            rows = np.array(self._many(body).observations, np.float32)
            actions = self._session.run(["action"], {"observation": rows})[0]
            answer = msgspec.json.encode({"actions": actions.tolist()})
        elif path == INFER:
            answer, length = self._binary(body, int(dict(scope["headers"])[LENGTH]))
            headers = [(b"content-type", b"application/octet-stream"), (LENGTH, b"%d" % length)]
        else:
            raise ValueError(f"expected /act, /acts or {INFER}, came {path}")
        headers.append((b"content-length", b"%d" % len(answer)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def _binary(self, body: bytes, length: int) -> tuple[bytes, int]:
        """The answer to a request with a tensor in bytes, and how much of it is JSON."""
        tensor = self._infer(body[:length]).inputs[0]
        rows = np.frombuffer(body, np.float32, offset=length).reshape(tensor.shape)
        actions = self._session.run(["action"], {"observation": rows})[0]
        data = actions.tobytes()
        output = {
            "name": "action",
            "shape": [len(actions)],
            "datatype": "INT64",
            "parameters": {"binary_data_size": len(data)},
        }
        head = msgspec.json.encode({"model_name": "policy", "outputs": [output]})
        return head + data, len(head)


def app() -> App:
    """Of the graph that the command line names, which a worker has of its parent."""
    return App(sys.argv[1])


def main() -> None:
    """Serve."""
    uvicorn.run(
        "benchmarks.serving.apps.ceiling:app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[2]),
        workers=int(sys.argv[3]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )


if __name__ == "__main__":
    main()
