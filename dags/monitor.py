"""Makes the DAG `monitor_<policy>`. Wiring only: what a task does lives in `tasks/`."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from dags.schedules import cron, drift_asset
from plugins.operators.monitor import AskForRelease, LookAtChampion
from tasks.spec.sections import PolicySpec


def monitor_dag(spec: PolicySpec) -> DAG:
    """`monitor_<policy>`: the champion looked at again and again, and what the spec says follows from it."""
    with DAG(
        dag_id=f"monitor_{spec.name}",
        description=f"Look at the champion of the policy {spec.name}: checks, drift, decay, alerts",
        doc_md=_monitor_doc(spec),
        schedule=cron(spec.monitor.schedule),
        catchup=False,
        max_active_runs=1,
        tags=["airlock", spec.name],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    ) as dag:
        look = LookAtChampion(task_id="look")
        look >> AskForRelease(task_id="ask_for_release", after=look.task_id, outlets=[drift_asset(spec.name)])
    return dag


def _monitor_doc(spec: PolicySpec) -> str:
    acts = (
        "and rolls back to `previous`" if spec.monitor.on_breach == "roll_back" else "and does not touch the champion"
    )
    asks = "Drift or decay asks for a release, too." if spec.retrain.on_drift else ""
    return f"""\
### Monitoring of `{spec.name}`

Makes the observable checks of the post-deployment checklist on the champion, over what it served since the stretch
before, and looks for drift and for returns that decay. A broken rule raises its alert; a check that fails in
{spec.monitor.breach_runs} runs in a row is a breach: the monitor says so {acts}. {asks}
After an action nothing is done for {spec.monitor.cooldown_minutes:g} minutes.

The task `look` is green whatever it finds: its result says what it was. `ask_for_release` is skipped unless it asks.
"""
