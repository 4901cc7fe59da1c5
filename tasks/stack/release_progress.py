"""A release as its follower sees it: the stages of its DAG run, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.stack.airflow_api import Run, TaskInstance

STAGES = ("build", "register", "package", "pre_deployment", "canary", "post_deployment", "report")
"""Task groups of a release, in order."""

_ACTIVE = ("running", "queued", "scheduled", "deferred", "up_for_retry", "restarting", "awaiting_input")
_NOT_RUN = ("skipped", "upstream_failed", "removed")


@dataclass(frozen=True)
class Stage:
    """One task group of a run. `state` is waiting, running, success, failed or skipped; `doing` names active tasks."""

    name: str
    state: str
    seconds: float
    doing: tuple[str, ...] = ()


def _state(tasks: list[TaskInstance]) -> str:
    states = {task.state for task in tasks}
    if "failed" in states:
        return "failed"
    if states & set(_ACTIVE):
        return "running"
    if states <= set(_NOT_RUN):
        return "skipped"
    if states <= {"success", *_NOT_RUN}:
        return "success"
    return "running" if "success" in states else "waiting"


def stages(run: Run, now: float) -> list[Stage]:
    """The stages of a run, in order; `now` is Unix time."""
    groups: dict[str, list[TaskInstance]] = {}
    for task in run.tasks:
        groups.setdefault(task.group, []).append(task)
    names = [name for name in STAGES if name in groups] + [name for name in groups if name not in STAGES]
    found = []
    for name in names:
        tasks = groups[name]
        begun = [task.started for task in tasks if task.started is not None]
        over = _state(tasks) not in ("running", "waiting")
        end = max((task.ended or now for task in tasks if task.started is not None), default=now) if over else now
        doing = tuple(sorted({t.task_id.split(".", 1)[-1] for t in tasks if t.state in _ACTIVE}))
        found.append(Stage(name, _state(tasks), max(0.0, end - min(begun)) if begun else 0.0, doing))
    return found


def task_seconds(run: Run, now: float) -> dict[str, float]:
    """Seconds of each task that ran, by task id; those of a mapped task add up."""
    seconds: dict[str, float] = {}
    for task in run.tasks:
        if task.started is not None:
            seconds[task.task_id] = seconds.get(task.task_id, 0.0) + task.seconds(now)
    return seconds


def outcome(policy: str, run: Run) -> dict[str, Any]:
    """How the release ended: its report from MLflow, at least `{"outcome", "reason"}`.

    A run that failed before it could report is `{"outcome": "failed"}`.
    """
    from tasks.tracking.release import Release

    release = Release.find(policy, run.run_id)
    report = release.get_json("report.json") if release else None
    if report:
        return dict(report)
    failed = ", ".join(task.task_id for task in run.failed()) or "no task"
    return {"outcome": "failed", "reason": f"the run ended {run.state} without a report; failed: {failed}"}
