"""Bad requests to BentoML's own routes: a line in the gateway's log, where BentoML would write a traceback of each."""

from __future__ import annotations

import logging

from bentoml.exceptions import BentoMLException
from pydantic import ValidationError

from bentos import logs
from bentos.server import patches

_BAD_REQUEST, _INTERNAL_ERROR = 400, 500


class BadRequests(logging.Filter):
    """Takes the records of refused requests (4xx) for itself; all others, the server's own failures, pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether BentoML shall log it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            status, detail = _BAD_REQUEST, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        elif isinstance(error, BentoMLException):
            status, detail = error.error_code.value, str(error)
        else:
            return True
        if status >= _INTERNAL_ERROR or not isinstance(record.args, tuple):
            return True
        path, method = record.args
        logs.warning("problem", status=status, reason="bentoml_api", detail=detail, method=method, path=path)
        return False


def log_as_lines() -> None:
    """Have this process log bad requests so."""
    logging.getLogger(patches.BAD_REQUESTS_LOGGER).addFilter(BadRequests())
