"""The router: finds the table of a request's path and answers with what it answers, or with why it does not."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from bentos import logs
from bentos.errors import CONTENT_TYPE, Problem
from bentos.gateway.gateway import Gateway
from bentos.http.auth import Guard
from bentos.http.health import Health
from bentos.http.messages import Request, Responding, Response, RouteTable
from bentos.http.oip.router import InferenceProtocol
from bentos.http.v1 import V1
from bentos.logs import Quota

_LINES = 20
"""Lines of the log a second for refusals of one status and reason; each tells how many there were since the last."""


class Router:
    """One worker's routes. `answer` never raises: whatever is wrong with a request becomes a problem document."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.v1 = V1(self.running, guard)
        tables: tuple[RouteTable, ...] = (
            self.v1,
            InferenceProtocol(self.running, self.unready, guard),
            Health(self.unready),
        )
        self._tables = tuple((f"{table.prefix}/", table) for table in tables)
        self._prefixes = tuple(table.prefix for table in tables)
        self._quota = Quota(_LINES)
        self._gateway: Gateway | None = None
        self._ending = False

    def open(self, gateway: Gateway) -> None:
        """Answer with this gateway from now on; before, everything is answered with 503."""
        self._gateway = gateway

    def end(self) -> None:
        """Say from now on that this gateway is not ready; all else is answered as before."""
        self._ending = True

    def unready(self) -> str | None:
        """Why others should be asked in this gateway's place; None: it is ready."""
        if self._ending:
            return "the gateway is ending"
        return "the gateway is starting" if self._gateway is None else self._gateway.unready()

    @property
    def gateway(self) -> Gateway | None:
        """The gateway; None before it runs."""
        return self._gateway

    def running(self) -> Gateway:
        """The gateway. Raises Problem (503) before it runs."""
        if self._gateway is None:
            raise Problem(503, "starting", "the gateway is starting", retry_after=1)
        return self._gateway

    def knows(self, path: str) -> bool:
        """Whether a path is the gateway's own, not BentoML's."""
        return path.startswith(self._prefixes)

    def answer(self, request: Request) -> Responding:
        """The response to a request whose path is the gateway's own."""
        try:
            response = self._table(request.path).answer(request)
        except Exception as error:  # noqa: BLE001 - the client gets a clean answer, the log the traceback
            return self._failed(error, request)
        return response if isinstance(response, Response) else self._awaited(response, request)

    def refuse(self, problem: Problem, method: str, path: str) -> Response:
        """The response to a request that this router was not asked itself."""
        return self._refuse(problem, Request(method, path, b"", (), b""), problem.policy)

    def _table(self, path: str) -> RouteTable:
        for beginning, table in self._tables:
            if path.startswith(beginning) or path == table.prefix:
                return table
        return self.v1

    async def _awaited(self, coming: Coroutine[Any, Any, Response], request: Request) -> Response:
        try:
            return await coming
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(error, request)

    def _failed(self, error: Exception, request: Request) -> Response:
        """The response to a request that raised an error; called while that is handled, so that the log has it."""
        policy = self.v1.policy_of(request.path)
        if isinstance(error, Problem):
            return self._refuse(error, request, policy or error.policy)
        logs.error("request failed", path=request.path, policy=policy, method=request.method)
        internal = Problem(500, "internal", "the gateway failed on this request; its log says how")
        return Response(500, self._document(internal, request), CONTENT_TYPE)

    def _refuse(self, problem: Problem, request: Request, policy: str) -> Response:
        if times := self._quota.told((problem.status, problem.reason)):
            logs.warning(
                "problem",
                status=problem.status,
                reason=problem.reason,
                detail=problem.detail,
                method=request.method,
                path=request.path,
                policy=policy,
                times=times,
            )
        if self._gateway is not None:
            self._gateway.core.rejected(policy, problem.reason)
        return Response(problem.status, self._document(problem, request), CONTENT_TYPE, problem.headers())

    def _document(self, problem: Problem, request: Request) -> bytes:
        """The body of a refusal. Clients of other protocols look for a member `error`."""
        return problem.body() if self._table(request.path) is self.v1 else problem.body(error=problem.detail)
