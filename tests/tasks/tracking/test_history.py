"""The releases so far, as a real MLflow tells them."""

from __future__ import annotations

from collections.abc import Callable

from tasks.spec.params import Params
from tasks.tracking.history import releases
from tasks.tracking.release import Release


def test_releases_are_told_newest_first_with_how_they_ended(
    mlflow_server: str, make_policy: Callable[..., str]
) -> None:
    policy = make_policy()
    assert releases(policy) == []
    first = Release.open(policy, "manual__1", Params())
    first.tag(version="1", stage="reported", outcome="promoted", reason="better")
    Release.open(policy, "scheduled__2026-11-22T03:00:00+00:00", Params())
    running, ended = releases(policy)
    assert (running.version, running.outcome, running.stage) == (None, None, "opened")
    assert (ended.version, ended.outcome, ended.reason) == ("1", "promoted", "better")
    assert running.started >= ended.started
    assert running.links["DAG run"].endswith(
        f"/dags/release_{policy}/runs/scheduled__2026-11-22T03%3A00%3A00%2B00%3A00"
    )
    assert "model version" not in running.links
    assert ended.links["model version"] == f"{mlflow_server}/#/models/{policy}/versions/1"
    assert ended.links["MLflow run"].endswith(f"/runs/{first.run_id}")
    assert [release.dag_run_id for release in releases(policy, 1)] == [running.dag_run_id]
