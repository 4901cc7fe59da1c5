"""Outages: a server that a task needs and that is away is waited for, in place of failing the release."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa

from tasks.control.lease import LeaseHeld, LeaseLost
from tasks.errors import first_line
from tasks.tracking.client import RegistryUnavailable

PATIENCE_SECONDS = 900.0
"""How long a server may be away: a database that is restored takes longer than one that is started again."""

PAUSE_SECONDS = 5.0

_PASSING = (RegistryUnavailable, LeaseHeld, LeaseLost, sa.exc.OperationalError, sa.exc.InterfaceError)
"""MLflow or its artifact store does not answer; a killed task's lease has yet to run out; the database is away."""

_T = TypeVar("_T")

log = logging.getLogger(__name__)


def wait_out(
    work: Callable[..., _T],
    *arguments: Any,
    patience: float = PATIENCE_SECONDS,
    pause: float = PAUSE_SECONDS,
    **named: Any,
) -> _T:
    """The result of `work`, called again every `pause` seconds for as long as a server that it needs is away.

    `work` must be safe to call again, as all stages are. What it raises is passed on when that is no outage, or
    `patience` seconds after it began.
    """
    begun: float | None = None
    while True:
        try:
            return work(*arguments, **named)
        except Exception as error:
            now = time.monotonic()
            begun = now if begun is None else begun
            if not passing(error) or now - begun >= patience:
                raise
            log.warning("waiting, for %.0f s so far: %s", now - begun, first_line(error))
        time.sleep(pause)


def passing(error: Exception) -> bool:
    """Whether an error says that a server is away, which passes, and not that something is wrong."""
    if isinstance(error, _PASSING):
        return True
    mlflow = sys.modules.get("mlflow.exceptions")  # whoever raised it has imported it: it is too heavy to import here
    if mlflow is None or not isinstance(error, mlflow.MlflowException):
        return False
    # its client gave up on the server, or the server answered that it cannot now
    refused = isinstance(error, mlflow.RestException) and error.get_http_status_code() >= 500
    return refused or str(error).startswith("API request to ")
