"""The monitor's reports as stored: what each run found and did, read newest first."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from bentos.store.tables import intents, monitor_reports
from tasks.checklist.types import Checklist
from tasks.monitoring.hysteresis import Standing
from tasks.monitoring.sources import Since

WHO = "monitor"
"""Whoever acts for the monitor is called "monitor <DAG run>"."""


@dataclass(frozen=True)
class Memory:
    """What a run needs of those before it: where its stretches begin and where each thing stands.

    `outcome_seq` is the last outcome that was judged. Empty for a version that was never looked at.
    """

    run: str = ""
    since: Since | None = None
    outcome_seq: int = 0
    standings: dict[str, Standing] = field(default_factory=dict)
    acted_at: float | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def standing(self, name: str) -> Standing:
        """Where something stands; fresh where it was never looked at."""
        return self.standings.get(name, Standing())


def latest(engine: sa.Engine, policy: str) -> tuple[str, dict[str, Any]] | None:
    """The version and the report of a policy's last run."""
    table = monitor_reports.c
    query = sa.select(table.version, table.report).where(table.policy == policy).order_by(table.id.desc()).limit(1)
    with engine.connect() as connection:
        row = connection.execute(query).one_or_none()
    return (str(row.version), dict(row.report)) if row else None


def memory(engine: sa.Engine, policy: str, version: str) -> Memory:
    """What the runs before left for one that looks at `version`. After a change of champion only actions are kept.

    A rollback counts as an action from the moment its transition was stored, also where the run was killed over it.
    """
    last = latest(engine, policy)
    rolled_back = _rolled_back_at(engine, policy)
    if last is None:
        return Memory(acted_at=rolled_back)
    before, report = last
    kept = report.get("memory", {})
    acted = [at for at in (kept.get("acted_at"), rolled_back) if at is not None]
    acted_at = max(acted) if acted else None
    if before != version:
        return Memory(str(report.get("run", "")), acted_at=acted_at, report=report)
    since = kept.get("since")
    return Memory(
        str(report.get("run", "")),
        Since(since["at"], since["counters"]) if since else None,
        int(kept.get("outcome_seq", 0)),
        {name: Standing(**values) for name, values in kept.get("standings", {}).items()},
        acted_at,
        report,
    )


def _rolled_back_at(engine: sa.Engine, policy: str) -> float | None:
    table = intents.c
    query = sa.select(sa.func.max(table.created_at)).where(
        table.policy == policy, table.kind == "restore_previous", table.who.startswith(f"{WHO} ")
    )
    with engine.connect() as connection:
        at = connection.execute(query).scalar()
    return None if at is None else float(at)


def keep(engine: sa.Engine, policy: str, version: str, at: float, verdict: str, report: dict[str, Any]) -> None:
    """Store a run's report. `report` is plain JSON; `at` Unix seconds."""
    row = {"policy": policy, "version": version, "at": at, "verdict": verdict, "report": report}
    with engine.begin() as connection:
        connection.execute(sa.insert(monitor_reports).values(**row))


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
    table = tables.monitor_reports
    query = sa.select(table).where(table.c.policy == policy).order_by(table.c.id.desc()).limit(limit)
    with tables.connect(settings.database_url()).connect() as connection:
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
