"""This process's gateway. Only workers import it: the process that keeps them needs none of what a gateway needs."""

from __future__ import annotations

from uvicorn.protocols.http import auto

from bentos import logs
from bentos import settings as home
from bentos.http import health
from bentos.http.app import App, Asgi
from bentos.http.auth import Guard, clients
from bentos.http.oip.router import PREFIX, InferenceDesk
from bentos.http.protocol import SwiftProtocol
from bentos.http.router import Door
from bentos.server import bad_requests, single
from bentos.server.worker import Worker

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
