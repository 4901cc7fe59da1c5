"""Health: whether a gateway wants to be asked. Load balancers and orchestrators go by it."""

from __future__ import annotations

from bentos.errors import CONTENT_TYPE, Problem
from bentos.http.router import Call, Desk, Door, Reply, otherwise

PREFIX = "/readyz"

_TEXT = b"text/plain; charset=utf-8"


def desk(door: Door) -> Desk:
    """What answers at `PREFIX`: 200, or 503 with the reason. BentoML's own `/livez` says whether the process lives."""

    def ready(call: Call) -> Reply:
        why = door.unready
        if why is None:
            return Reply(200, b"\n", _TEXT)
        problem = Problem(503, "not_ready", why, retry_after=1)
        return Reply(503, problem.body(), CONTENT_TYPE, problem.headers())

    handlers = {("GET", ""): ready}
    return lambda call: (handlers.get((call.method, "")) or otherwise(handlers, "", call))(call)
