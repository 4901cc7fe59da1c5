"""One connection to MLflow's REST API: quick to import, every call bounded in time.

MLflow's own client costs a second to import and may retry for minutes, longer than a lease lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, Self

import httpx

from bentos import settings
from bentos.http_client import mlflow_login, trusted
from tasks.errors import Misconfigured

TIMEOUT = httpx.Timeout(connect=3.0, write=5.0, read=12.0, pool=3.0)
"""Together less than a lease lasts (`tasks.control.lease.TTL_SECONDS`), so that no call of a lost lease lands late."""

API = "/api/2.0/mlflow"
_MISSING = "RESOURCE_DOES_NOT_EXIST"


class RegistryUnavailable(Exception):
    """MLflow did not answer, or answered that it cannot now: worth another try."""


class RegistryRefused(Misconfigured):
    """MLflow said no to a request; trying again will not help."""


class Connection:
    """One connection to an MLflow server; a context manager. Safe to use from one thread."""

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or settings.mlflow_url()).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise Misconfigured(f"MLFLOW_TRACKING_URI must be the URL of an MLflow server, came {self.url!r}")
        self._client = httpx.Client(base_url=self.url, timeout=TIMEOUT, verify=trusted(self.url), auth=mlflow_login())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def ask(self, method: str, path: str, fields: dict[str, Any], missing_ok: bool = False) -> dict[str, Any] | None:
        """Call `path` of the API with `fields`; with `missing_ok`, None where the resource does not exist.

        Raises RegistryUnavailable, RegistryRefused.
        """
        answer = self.send(method, f"{API}/{path}", fields)
        if answer.status_code == 200:
            document: dict[str, Any] = answer.json()
            return document
        try:
            problem = answer.json()
        except ValueError:
            problem = {}
        if missing_ok and problem.get("error_code") == _MISSING:
            return None
        said = problem.get("message") or answer.text[:200]
        raise RegistryRefused(f"MLflow at {self.url} refused {path} {fields}: {answer.status_code} {said}")

    def file(
        self, path: str, fields: dict[str, Any] | None, listed: Callable[[], Collection[str]], name: str
    ) -> httpx.Response | None:
        """The answer to a request for the file `name`; None where `listed`, the names in its folder, lack it.

        Over S3 MLflow answers 500 for a file that is not there, as it does when the store is down: the folder says
        which it is. Raises RegistryUnavailable.
        """
        try:
            return self.send("GET", path, fields)
        except RegistryUnavailable:
            if name in listed():
                raise
            return None

    def send(
        self, method: str, path: str, fields: dict[str, Any] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        """One HTTP request; any status but 429 and 5xx is returned. Raises RegistryUnavailable."""
        arguments: dict[str, Any] = {"params": fields} if method == "GET" else {"json": fields}
        if content is not None:
            arguments = {"content": content}
        try:
            answer = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise RegistryUnavailable(
                f"MLflow at {self.url} did not answer {path}: {type(error).__name__}: {error}"
            ) from error
        if answer.status_code >= 500 or answer.status_code == 429:
            raise RegistryUnavailable(f"MLflow at {self.url} answered {answer.status_code} to {path}")
        return answer
