"""As whom this process asks MLflow, told by the variables that MLflow's own client reads."""

from __future__ import annotations

import os
from collections.abc import Generator

import httpx


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
