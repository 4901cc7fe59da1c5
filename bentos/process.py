"""This process's gateway. Only workers import it: the process that keeps them needs none of what a gateway needs."""

from __future__ import annotations

from uvicorn.protocols.http import auto

from bentos import bad_requests, health, home, logs, single
from bentos.app import App, Asgi
from bentos.background import Worker
from bentos.door import Door
from bentos.guard import Guard, clients
from bentos.oip.desk import PREFIX, InferenceDesk
from bentos.protocol import SwiftProtocol

_worker: Worker | None = None
"""The gateway, once it has started: BentoML makes the service's instances, so it cannot be handed over."""


def running() -> Worker | None:
    """This process's gateway; None before it has started."""
    return _worker


def app(following: Asgi, bento_version: str | None) -> App:
    """The app that this process runs: the gateway's own in front of BentoML's (`following`)."""
    logs.configure()
    bad_requests.log_as_lines()
    door = Door(Guard(home.secret("admin_token"), clients()))
    door.admit(PREFIX, InferenceDesk(door).answer)
    door.admit(health.PREFIX, health.desk(door))
    # the server that BentoML is about to make takes its protocol from here
    auto.AutoHTTPProtocol = SwiftProtocol.to(door)

    async def start() -> Worker:
        global _worker
        worker = Worker()
        await worker.start(single.find(bento_version))
        _worker = worker
        door.open(worker)
        return worker

    return App(following, door, start)
