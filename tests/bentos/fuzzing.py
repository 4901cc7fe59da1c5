"""What the fuzzing tests share: how many requests they send, and what every answer must be like."""

from __future__ import annotations

import http.client
import json
import logging
import os
from collections import Counter
from pathlib import Path

import psutil

from tests.bentos.gateway_process import GatewayProcess
from tests.bentos.policy_packages import write_package

REQUESTS = int(os.environ.get("AIRLOCK_FUZZ_REQUESTS", "800"))
"""Requests that the fuzzing tests generate together; at least 20,000 for a whole run."""

FROM_OPENAPI = REQUESTS // 4
"""Those from the OpenAPI document: schemathesis takes a hundred times longer to generate one."""

OF_TENSORS = REQUESTS - FROM_OPENAPI

HANG_SECONDS = 30.0
GROWTH_BYTES = 150 * 2**20
"""How much a worker may grow: it fills its bounded caches, and answers requests of up to 16 MiB."""


class Target:
    """A gateway of its own, watched: every answer is judged, and its memory when all are in."""

    def __init__(self, home: Path) -> None:
        write_package(home / "package")
        self.gateway = GatewayProcess(home, AIRLOCK_PACKAGE=str(home / "package"), AIRLOCK_VERSION="7")
        self.statuses: Counter[int] = Counter()
        self._connection: http.client.HTTPConnection | None = None
        (self._worker,) = self.gateway.workers()
        self._rss = self._worker.memory_info().rss

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """One request as it is, nothing escaped or mended; the judged answer."""
        for last in (False, True):
            connection = self._connection
            fresh = connection is None
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=HANG_SECONDS)
                self._connection = connection
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answer = response.read()
                break
            except (ConnectionError, http.client.RemoteDisconnected):
                # a kept connection may have been closed meanwhile, a fresh one may not
                connection.close()
                self._connection = None
                if fresh or last:
                    raise
        given = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            connection.close()
            self._connection = None
        self.judge(response.status, given, answer)
        return response.status, given, answer

    def judge(self, status: int, headers: dict[str, str], body: bytes, own: bool = True) -> None:
        """No answer is a server's error; a refusal by one of our `own` routes is a problem document that fits it."""
        self.statuses[status] += 1
        assert status < 500, body[:2000]
        if own and status >= 400:
            assert headers["content-type"] == "application/problem+json", (status, headers)
            if body:
                problem = json.loads(body)
                assert problem["status"] == status
                assert problem["detail"]
                assert problem["reason"]

    def close(self) -> None:
        """Judge what all the requests did to the worker, and end it."""
        try:
            assert self._worker.is_running(), "the worker died"
            assert self._worker.status() != psutil.STATUS_ZOMBIE, "the worker died"
            grown = self._worker.memory_info().rss - self._rss
            told = f"{self.statuses.total()} requests, answered {dict(self.statuses)}; grown by {grown >> 20} MiB"
            logging.getLogger(__name__).info(told)
            assert grown < GROWTH_BYTES, told
            assert "request failed" not in self.gateway.log.read_text()
        finally:
            self.gateway.stop()
