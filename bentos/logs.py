"""The gateway's structured log: one JSON object a line, on standard error, from the logger `airlock.gateway`.

A quota keeps lines of one kind few: a flood of bad requests, or a broken version under load, must not fill the disk.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Any

import msgspec

LOGGER = "airlock.gateway"

_logger = logging.getLogger(LOGGER)


class JsonLines(logging.Formatter):
    """`{"at","level","logger","event","pid", ...fields}`; a traceback, where there is one, under `error`."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            "pid": os.getpid(),
        }
        document.update(getattr(record, "fields", {}))
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(document, enc_hook=str).decode()


def configure() -> None:
    """Send the gateway's log to standard error as JSON lines, and keep the web server's access log out of the way.

    The access logger is cut from its handlers, not merely silenced: the web server then skips formatting each line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    _logger.disabled = False
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def info(event: str, **fields: Any) -> None:
    """Log something that a reader of the log wants to know: a start, a change of routes."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: Any) -> None:
    """Log something refused or degraded that the gateway itself deals with."""
    _logger.warning(event, extra={"fields": fields})


def error(event: str, **fields: Any) -> None:
    """Log a fault, with the traceback of the exception being handled, if any."""
    _logger.error(event, extra={"fields": fields}, exc_info=sys.exc_info()[0] is not None)


_SECOND = 1.0


class _Kind:
    def __init__(self, now: float) -> None:
        self.since = now
        self.lines = 0
        self.untold = 0


class Quota:
    """At most so many lines a second of each kind; the next line tells of what was left out. Kinds must be few."""

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines = lines
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def told(self, kind: Hashable, count: int = 1) -> int:
        """How many a line written now stands for: `count`, and those since the last line. 0: write none now."""
        now = self._clock()
        one = self._kinds.get(kind)
        if one is None:
            one = self._kinds[kind] = _Kind(now)
        elif now - one.since >= _SECOND:
            one.since, one.lines = now, 0
        one.untold += count
        if one.lines >= self._lines:
            return 0
        one.lines += 1
        untold, one.untold = one.untold, 0
        return untold
