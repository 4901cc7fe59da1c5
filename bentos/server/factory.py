"""This process's gateway. Only workers import it: the process that keeps them needs none of what a gateway needs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from bentos import logs, settings
from bentos.gateway.gateway import Gateway
from bentos.http.app import App, Asgi
from bentos.http.auth import Guard, clients
from bentos.http.protocol import SwiftProtocol
from bentos.http.router import Router
from bentos.server import bad_requests, patches, single
from bentos.server.worker import Worker


def app(following: Asgi, bento_version: str | None) -> App:
    """The app that this process runs: the gateway's own in front of BentoML's (`following`)."""
    logs.configure()
    bad_requests.log_as_lines()
    router = Router(Guard(settings.secret("admin_token"), clients()))
    patches.serve_http_with(SwiftProtocol.to(router))

    def serving() -> AbstractAsyncContextManager[Gateway]:
        return Worker().running(single.find(bento_version))

    return App(following, router, serving)
