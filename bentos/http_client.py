"""What HTTP clients of this process share: the trusted certificates, read once, and the login at MLflow."""

from __future__ import annotations

import os
import ssl
from collections.abc import Generator
from functools import cache

import httpx


def trusted(url: str) -> ssl.SSLContext | bool:
    """httpx's `verify` for an address: the certificates that it trusts by itself, where the address asks for any."""
    return False if url.lower().startswith("http:") else _known()


@cache
def _known() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The token with each request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def mlflow_login() -> httpx.Auth | None:
    """`$MLFLOW_TRACKING_USERNAME` with `$MLFLOW_TRACKING_PASSWORD`, else `$MLFLOW_TRACKING_TOKEN`; None: nobody."""
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        return httpx.BasicAuth(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return _Bearer(token) if token else None
