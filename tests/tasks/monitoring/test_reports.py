"""Monitoring reports as the console reads them back, whole or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from bentos import settings
from bentos.store import tables
from tasks.checklist.run import run_all
from tasks.checklist.types import PHASES, Finding
from tasks.monitoring.reports import reports


def test_reports_are_read_newest_first_with_their_checks_alerts_and_action(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRLOCK_HOME", str(tmp_path))
    checks = {name: lambda: Finding("pass", "fine", 1.0, 2.0, "ms", 9, {}) for name in PHASES["post_deployment"]}
    whole = run_all("cartpole", "2", "post_deployment", checks, lambda name: "enforce", "monitor")[0].to_json()
    whole["alerts"] = [{"name": "ACTION_SHIFT", "firing": True}, {"name": "LOW_ENTROPY", "firing": False}]
    whole["action"] = {"what": "roll_back", "why": "returns fell"}
    stored = [("1", 1.0, "pass", {"action": {"what": "none", "why": ""}}), ("2", 2.0, "fail", whole)]
    with tables.connect(settings.database_url()).begin() as connection:
        for version, at, verdict, report in stored:
            row = {"policy": "cartpole", "version": version, "at": at, "verdict": verdict, "report": report}
            connection.execute(sa.insert(tables.monitor_reports).values(**row))
    newest, first = reports("cartpole")
    assert (newest.version, newest.verdict, newest.action) == ("2", "fail", "roll_back: returns fell")
    assert [alert["name"] for alert in newest.firing] == ["ACTION_SHIFT"]
    assert newest.checklist is not None
    assert {check.id for check in newest.checklist.checks} == set(checks)
    assert (first.action, first.checklist, first.firing) == ("", None, ())
    assert [report.version for report in reports("cartpole", limit=1)] == ["2"]
    assert reports("pendulum") == []
