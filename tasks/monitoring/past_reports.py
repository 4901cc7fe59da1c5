"""What monitoring runs found of a policy's champion, as stored, newest first."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from bentos import settings as home
from bentos.store import tables as store
from tasks.checklist.types import Checklist

SHOWN = 10
_CHECKLIST = tuple(field.name for field in fields(Checklist))


@dataclass(frozen=True)
class Report:
    """One monitoring run. `at` is in Unix seconds; `alerts` are those it looked at, firing or not.

    `action` is what it did and why, empty where that was nothing.

    `checklist` is null where the report holds none that can be read.
    """

    version: str
    at: float
    verdict: str
    alerts: tuple[dict[str, Any], ...]
    action: str
    checklist: Checklist | None

    @property
    def firing(self) -> tuple[dict[str, Any], ...]:
        """The alerts that fired."""
        return tuple(alert for alert in self.alerts if alert.get("firing"))


def reports(policy: str, limit: int = SHOWN) -> list[Report]:
    """The last `limit` reports of a policy, newest first."""
    table = store.monitor_reports
    query = sa.select(table).where(table.c.policy == policy).order_by(table.c.id.desc()).limit(limit)
    with store.connect(home.database_url()).connect() as connection:
        rows = connection.execute(query).all()
    return [_report(row.version, row.at, row.verdict, dict(row.report)) for row in rows]


def _report(version: str, at: float, verdict: str, document: dict[str, Any]) -> Report:
    alerts = tuple(dict(alert) for alert in document.get("alerts") or ())
    action = document.get("action") or {}
    words = f"{action['what']}: {action['why']}" if action.get("what", "none") != "none" else ""
    try:
        checklist = Checklist.from_json({name: document[name] for name in _CHECKLIST})
    except (KeyError, TypeError, ValueError):
        checklist = None
    return Report(version, at, verdict, alerts, words, checklist)
