"""A stand-in for the gateway: keeps the HTTP contract of episodes, act and outcomes, and can be told to misbehave."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import uvicorn


@dataclass
class GatewayDouble:
    """Plays CartPole badly (episodes of some 40 steps), Pendulum worse; arms alternate while `canary` is set."""

    canary: dict[str, Any] | None = None
    faults: list[int] = field(default_factory=list)
    """Status codes that the next act requests answer with."""
    issued: list[dict[str, Any]] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    outcomes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: int = 0
    ends_after: int | None = None
    """End the canary once that many outcomes have come."""
    lagging: bool = False
    """Whether every second question is answered by a gateway that has not heard of the canary yet."""
    looks: int = 0
    policies: list[dict[str, Any]] = field(default_factory=list)
    """What `GET /v1/policies` lists."""
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        status, document = self._answer(scope["method"], scope["path"], msgspec.json.decode(body) if body else {})
        await _respond(send, status, document)

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/policies":
            return 200, {"policies": self.policies}
        if method == "GET":
            self.looks += 1
            unheard = self.lagging and self.looks % 2 == 0
            return 200, {"policy": path.rsplit("/", 1)[-1], "canary": None if unheard else self.canary}
        return {"episodes": self._open, "act": self._act, "outcomes": self._close}[path.rsplit("/", 1)[-1]](body)

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        opened = []
        for user in body["user_ids"]:
            number = len(self.issued)
            arm = ("control", "challenger")[number % 2] if self.canary else "champion"
            episode = {"episode_id": f"e{number}", "version": "2" if arm == "challenger" else "1", "arm": arm}
            self.issued.append(episode)
            self.users.append(user)
            opened.append(episode)
        return 201, {"episodes": opened}

    def _act(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.faults:
            return self.faults.pop(0), {"title": "as asked"}
        count = len(body["observations"])
        self.rows += count
        pendulum = len(body["observations"][0]) == 3
        actions = [[0.5] if pendulum else int(observation[2] > 0) for observation in body["observations"]]
        return 200, {
            "actions": actions,
            "versions": ["1"] * count,
            "arms": ["champion"] * count,
            "sources": ["policy"] * count,
            "adjusted": [[] for _ in range(count)],
            "decision_ids": [""] * count,
        }

    def _close(self, body: dict[str, Any]) -> tuple[int, Any]:
        fresh = [outcome for outcome in body["outcomes"] if outcome["episode_id"] not in self.outcomes]
        self.outcomes.update({outcome["episode_id"]: outcome for outcome in fresh})
        if self.ends_after is not None and len(self.outcomes) >= self.ends_after:
            self.canary = None
        return 200, {"accepted": len(fresh), "duplicates": len(body["outcomes"]) - len(fresh)}


async def _respond(send: Callable[[Any], Awaitable[None]], status: int, document: Any) -> None:
    content = msgspec.json.encode(document)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


@contextmanager
def serving(double: GatewayDouble) -> Iterator[GatewayDouble]:
    """The double, listening on a free port of this machine."""
    server = uvicorn.Server(uvicorn.Config(double, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    double.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join(timeout=10)
