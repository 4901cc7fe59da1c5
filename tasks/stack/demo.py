"""The demo: three releases of cartpole on a stack of its own: a first champion, a better one, and a rollback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bentos import settings
from tasks.ports import free_port, is_free
from tasks.stack.airflow_api import Airflow, AirflowError, Run
from tasks.stack.components import StackError, components
from tasks.stack.health import Health
from tasks.stack.lifecycle import Running, down, up
from tasks.stack.release_progress import outcome, task_seconds

POLICY = "cartpole"
USERS = 64
LEAST_REQUESTS = 50_000
"""The demo counts as served only with that many actions asked for during its canaries."""
RELEASE_SECONDS = 900.0
"""A release that takes longer has hung."""

_OWN_STATE = (
    "MLFLOW_TRACKING_URI",
    "AIRLOCK_DATABASE_URL",
    "AIRLOCK_GATEWAY_URL",
    "AIRLOCK_AIRFLOW_URL",
    "AIRLOCK_AIRFLOW_USER",
    "AIRLOCK_AIRFLOW_PASSWORD",
    "AIRLOCK_POLICIES",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__CORE__EXECUTOR",
)
"""Variables that would lead the demo to another stack's state."""


@dataclass(frozen=True)
class Plan:
    """One release of the demo: its params, and the verdict it should end with."""

    title: str
    params: dict[str, Any]
    verdict: str


PLANS = (
    Plan(
        "a modest policy, the first release",
        {"timesteps": 8_000, "seed": 7, "minimum_mean_return": 60},
        "promote",
    ),
    Plan(
        "trained longer: must be better",
        {"timesteps": 30_000, "seed": 7, "objective": "superiority"},
        "promote",
    ),
    Plan(
        "undertrained, let through by a lowered gate",
        {"timesteps": 2_000, "seed": 11, "minimum_mean_return": 9},
        "roll_back",
    ),
)


@dataclass
class Follower:
    """What the demo tells whoever shows it; every method may be replaced."""

    starting: Callable[[dict[str, Health]], None] = field(default=lambda health: None)
    started: Callable[[Running], None] = field(default=lambda running: None)
    released: Callable[[int, Run], None] = field(default=lambda number, run: None)
    moved: Callable[[int, Run], None] = field(default=lambda number, run: None)
    ended: Callable[[int, dict[str, Any]], None] = field(default=lambda number, release: None)


class DemoFailed(Exception):
    """A release of the demo broke; the message names the task and ends with its log."""


@contextlib.contextmanager
def own_state(state: Path) -> Iterator[None]:
    """Lead everything this process does, and starts, to a fresh Airlock home at `state`.

    A default port that is taken is replaced by a free one; a port the caller chose is kept. Scheduled runs are off,
    so that no weekly release falls into the demo.
    """
    before = dict(os.environ)
    try:
        for name in _OWN_STATE:
            os.environ.pop(name, None)
        os.environ["AIRLOCK_HOME"] = str(state)
        os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
        if state.exists():
            down()
            shutil.rmtree(state)
        for component in components():
            if component.port and component.port_variable not in os.environ and not is_free(component.port):
                os.environ[component.port_variable] = str(free_port())
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _stack(follower: Follower) -> Iterator[Running]:
    """The stack, stopped in any event: also at Ctrl-C and at SIGTERM."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        running = up(progress=follower.starting)
        follower.started(running)
        yield running
    finally:
        down()
        signal.signal(signal.SIGTERM, previous)


def _explain(airflow: Airflow, run: Run) -> str:
    """Which task failed, and the end of its log."""
    for task in run.failed():
        with contextlib.suppress(AirflowError):
            return f"the task {task.task_id} failed; the end of its log:\n{airflow.log(run, task)}"
    return f"the run ended {run.state}"


def _evidence(run: Run) -> dict[str, Any]:
    """What the release's MLflow run says: verdict, difference, checklists, traffic."""
    from tasks.tracking.release import Release

    release = Release.find(POLICY, run.run_id)
    if release is None:
        return {}
    verdict = release.get_json("canary/verdict.json") or {}
    checklists = {}
    for phase in ("pre_deployment", "post_deployment"):
        document = release.get_json(f"checklist/{phase}.json")
        if document:
            statuses = [check["status"] for check in document["checks"]]
            checklists[phase] = {status: statuses.count(status) for status in sorted(set(statuses))}
    return {
        "version": verdict.get("version"),
        "verdict": verdict.get("verdict"),
        "reason": verdict.get("reason"),
        "objective": verdict.get("objective"),
        "units": verdict.get("units"),
        "difference": verdict.get("difference"),
        "checklists": checklists,
        "traffic": release.get_json("canary/traffic.json") or {},
        "run_id": release.run_id,
    }


def _release(airflow: Airflow, number: int, plan: Plan, follower: Follower) -> dict[str, Any]:
    dag_id = f"release_{POLICY}"
    begun = time.monotonic()
    run = airflow.trigger(dag_id, {**plan.params, "simulate_users": USERS})
    follower.released(number, run)
    run = airflow.follow(
        dag_id, run.run_id, on_change=lambda seen: follower.moved(number, seen), timeout=RELEASE_SECONDS
    )
    evidence = _evidence(run)
    release = {
        "policy": POLICY,
        "version": evidence.get("version"),
        "verdict": evidence.get("verdict"),
        "dag_run_id": run.run_id,
        "seconds": task_seconds(run, time.time()),
        "title": plan.title,
        "expected": plan.verdict,
        "total_seconds": time.monotonic() - begun,
        **{key: value for key, value in evidence.items() if key not in ("version", "verdict")},
        "outcome": outcome(POLICY, run)["outcome"],
    }
    follower.ended(number, release)
    if run.state != "success" or release["verdict"] != plan.verdict:
        reason = evidence.get("reason") or ""
        raise DemoFailed(
            f"release {number} ended {release['verdict'] or release['outcome']}, expected {plan.verdict}. {reason}\n"
            f"{_explain(airflow, run)}"
        )
    return release


def demo(follower: Follower | None = None, state: Path | None = None, result: Path | None = None) -> dict[str, Any]:
    """Run the demo in a fresh home at `state` (default `$AIRLOCK_HOME/demo`); returns and writes `demo.json`.

    The document is written to `result` (default `$AIRLOCK_HOME/demo.json`) however the demo ends; `problem` says why
    `ok` is false. KeyboardInterrupt is passed on once the stack is down.
    """
    follower = follower or Follower()
    result = result or settings.home() / "demo.json"
    state = state or settings.home() / "demo"
    begun = time.monotonic()
    releases: list[dict[str, Any]] = []
    problem: str | None = None
    try:
        with own_state(state), _stack(follower), Airflow() as airflow:
            airflow.await_dag(f"release_{POLICY}")
            for number, plan in enumerate(PLANS, start=1):
                releases.append(_release(airflow, number, plan, follower))
    except KeyboardInterrupt:
        problem = "interrupted"
        raise
    except (DemoFailed, StackError, AirflowError) as error:
        problem = str(error)
    finally:
        document = _document(releases, time.monotonic() - begun, state, problem)
        result.write_text(json.dumps(document, indent=2) + "\n")
    return document


def _document(releases: list[dict[str, Any]], seconds: float, state: Path, problem: str | None) -> dict[str, Any]:
    traffic = [release["traffic"] for release in releases if release.get("traffic")]
    requests = {
        "total": sum(played.get("decisions", 0) for played in traffic),
        "failed": sum(played.get("failures", 0) for played in traffic),
        "http_requests": sum(played.get("requests", 0) for played in traffic),
    }
    if problem is None and requests["failed"]:
        problem = f"{requests['failed']} requests failed"
    if problem is None and requests["total"] < LEAST_REQUESTS:
        problem = f"only {requests['total']} actions were asked for, expected at least {LEAST_REQUESTS}"
    ok = problem is None and [release["verdict"] for release in releases] == [plan.verdict for plan in PLANS]
    return {
        "ok": ok,
        "problem": problem,
        "releases": releases,
        "requests": requests,
        "seconds": seconds,
        "home": str(state),
    }
