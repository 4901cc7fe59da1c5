"""The route `/readyz`: whether a gateway wants to be asked. Load balancers and orchestrators go by it."""

from __future__ import annotations

from collections.abc import Callable

from bentos.errors import CONTENT_TYPE, Problem
from bentos.http.messages import Request, Response, otherwise

_TEXT = b"text/plain; charset=utf-8"


class Health:
    """Answers 200, or 503 with the reason. BentoML's own `/livez` says whether the process lives."""

    prefix = "/readyz"

    def __init__(self, unready: Callable[[], str | None]) -> None:
        """`unready` says why others should be asked in this gateway's place; None: it is ready."""
        self._unready = unready
        self._handlers = {("GET", ""): self._ready}

    def answer(self, request: Request) -> Response:
        """The response to a request under the prefix. Raises Problem (405)."""
        return (self._handlers.get((request.method, "")) or otherwise(self._handlers, "", request))()

    def _ready(self) -> Response:
        why = self._unready()
        if why is None:
            return Response(200, b"\n", _TEXT)
        problem = Problem(503, "not_ready", why, retry_after=1)
        return Response(503, problem.body(), CONTENT_TYPE, problem.headers())
