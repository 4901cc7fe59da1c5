"""The monitor's DAG, and the releases that its event or a cron start."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowSkipException
from airflow.serialization.encoders import coerce_to_core_timetable
from airflow.timetables.base import TimeRestriction

from dags.monitor import monitor_dag
from dags.release import release_dag
from dags.schedules import drift_asset
from plugins.operators.monitor import AskForRelease
from tasks.spec.files import load
from tasks.spec.sections import PolicySpec


@pytest.fixture
def spec() -> PolicySpec:
    return load("cartpole")


def first_run(timetable: Any) -> datetime:
    """When a DAG that has never run would run first."""
    found = coerce_to_core_timetable(timetable).next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert found is not None
    return found.run_after


def test_the_monitor_runs_on_its_cron_one_run_at_a_time_and_only_from_the_next_tick_on(spec: PolicySpec) -> None:
    dag = monitor_dag(spec)
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert first_run(dag.timetable) > datetime.now(UTC)
    assert first_run(dag.timetable).minute % 10 == 0
    assert [asset.uri for asset in dag.get_task("ask_for_release").outlets] == ["airlock://cartpole/drift"]


@pytest.mark.parametrize(
    ("schedule", "on_drift", "cron", "asset"),
    [
        ("0 3 * * 0", True, True, True),
        ("0 3 * * 0", False, True, False),
        (None, True, False, True),
        (None, False, False, False),
    ],
)
def test_a_release_starts_as_its_spec_says(
    spec: PolicySpec, schedule: str | None, on_drift: bool, cron: bool, asset: bool
) -> None:
    document = spec.model_dump(mode="json")
    document["retrain"] = {"schedule": schedule, "on_drift": on_drift}
    timetable = release_dag(PolicySpec.model_validate(document)).timetable
    condition = getattr(timetable, "asset_condition", None)
    uris = [found.uri for found in condition.objects] if condition else []
    assert ("airlock://cartpole/drift" in uris) == asset
    if cron:
        assert first_run(timetable) > datetime.now(UTC)
        assert first_run(timetable).weekday() == 6
    elif not asset:
        assert not coerce_to_core_timetable(timetable).can_be_scheduled


class _Instance:
    def __init__(self, result: Any) -> None:
        self.result = result

    def xcom_pull(self, task_ids: str) -> Any:
        return self.result


class _Event:
    extra: dict[str, Any]


@pytest.mark.parametrize("what", ["none", "monitor_rollback", "retraining"])
def test_only_a_run_that_asks_for_a_release_emits_the_event(what: str) -> None:
    asset: Asset = drift_asset("cartpole")
    task = AskForRelease(task_id="ask", after="look", outlets=[asset])
    events = {asset: _Event()}
    result = {"version": "3", "action": {"what": what, "why": "observations drifted"}}
    context: Any = {"ti": _Instance(result), "outlet_events": events}
    if what == "retraining":
        task.execute(context)
        assert events[asset].extra == {"why": "observations drifted", "version": "3"}
    else:
        with pytest.raises(AirflowSkipException, match="observations drifted"):
            task.execute(context)
