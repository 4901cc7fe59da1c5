"""When and where DAGs run: crons, the drift asset, and the queue of long tasks."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Asset, CronTriggerTimetable


def drift_asset(policy: str) -> Asset:
    """The asset whose events say that a policy's traffic has drifted, or its returns decayed."""
    return Asset(f"airlock://{policy}/drift")


TRAIN_QUEUE = "train"
"""Where the tasks go that keep a processor busy for long. Only executors with queues (Celery) look at it."""


def cron(schedule: str) -> CronTriggerTimetable:
    """A cron, from its next tick on: starting a stack never starts a run by itself."""
    return CronTriggerTimetable(schedule, timezone="UTC", run_immediately=timedelta(0))
