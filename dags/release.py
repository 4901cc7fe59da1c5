"""Makes the DAG `release_<policy>`. Wiring only: what a task does lives in `tasks/`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, TaskGroup, TriggerRule

from dags.params import release_params
from dags.schedules import TRAIN_QUEUE, cron, drift_asset
from plugins.operators.approval import ReleaseApproval
from plugins.operators.canary import CanaryOperator
from plugins.operators.report import ReportOperator
from plugins.operators.stage import StageOperator
from tasks.spec.sections import FAMILIES, PolicySpec


def release_dag(spec: PolicySpec) -> DAG:
    """`release_<policy>`: from training to a champion, or to a reasoned no."""
    # a try is spent by each kill of its worker, and when it cannot be queued: a broker may be away for two minutes
    retries: dict[str, Any] = {
        "retries": 5,
        "retry_delay": timedelta(seconds=5),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=1),
    }
    with DAG(
        dag_id=f"release_{spec.name}",
        description=f"Train or import, check, canary and promote the policy {spec.name}",
        doc_md=_doc(spec),
        schedule=_schedule(spec),
        catchup=False,
        max_active_runs=1,
        params=release_params(spec),
        render_template_as_native_obj=False,
        tags=["airlock", spec.name],
        default_args=retries,
    ) as dag:
        with TaskGroup("build", tooltip="Train or import, evaluate, export, quantize, benchmark, select"):
            train = StageOperator(
                task_id="train",
                stage="tasks.stages.train:train",
                task_display_name="train or import",
                queue=TRAIN_QUEUE,
            )
            evaluate = StageOperator(task_id="evaluate", stage="tasks.stages.evaluate:evaluate", queue=TRAIN_QUEUE)
            export = StageOperator(task_id="export", stage="tasks.stages.export:export")
            quantize = StageOperator(task_id="quantize", stage="tasks.stages.quantize:quantize", queue=TRAIN_QUEUE)
            benchmark = StageOperator.partial(
                task_id="benchmark",
                stage="tasks.stages.benchmark:benchmark",
                queue=TRAIN_QUEUE,
                max_active_tis_per_dagrun=1,
                map_index_template="{{ task.arguments['family'] }}",
            ).expand(arguments=[{"family": family} for family in FAMILIES])
            select = StageOperator(task_id="select", stage="tasks.stages.select:select")
            train >> evaluate >> export >> quantize >> benchmark >> select
        with TaskGroup("register", tooltip="A candidate in the MLflow registry, with its model card"):
            register = StageOperator(task_id="model_version", stage="tasks.stages.register:register")
        with TaskGroup("package", tooltip="A Bento, built, served and asked"):
            bento = StageOperator(task_id="bento", stage="tasks.stages.bento:build")
        with TaskGroup("pre_deployment", tooltip="The checklist before anyone is served; approval where asked for"):
            before = StageOperator(task_id="checklist", stage="tasks.stages.checklist:pre_deployment")
            approval = ReleaseApproval(task_id="approval", subject=f"Release a new {spec.name} to a canary?")
            before >> approval
        with TaskGroup("canary", tooltip="Real episodes on both arms, until the verdict"):
            canary = CanaryOperator(task_id="verdict", retries=10)
            users = StageOperator(task_id="simulated_users", stage="tasks.stages.simulated_users:simulate")
        with TaskGroup(
            "post_deployment", tooltip="The checklist on the new champion; failing restores the previous one"
        ):
            after = StageOperator(
                task_id="checklist", stage="tasks.stages.checklist:post_deployment", after_promotion=canary.task_id
            )
        report = ReportOperator(task_id="report", trigger_rule=TriggerRule.ALL_DONE, retries=10)
        select >> register >> bento >> before
        approval >> [canary, users]
        canary >> after
        [after, users] >> report
    return dag


def _schedule(spec: PolicySpec) -> Any:
    """When a release starts by itself: on the spec's cron, on drift, on either, or never."""
    retrain = spec.retrain
    timetable = cron(retrain.schedule) if retrain.schedule else None
    if not retrain.on_drift:
        return timetable
    assets = [drift_asset(spec.name)]
    return AssetOrTimeSchedule(timetable=timetable, assets=assets) if timetable else assets


def _doc(spec: PolicySpec) -> str:
    promise = "better than" if spec.canary.objective == "superiority" else f"not worse by {spec.canary.margin:g} than"
    approval = "by the trigger form" if spec.approval_hours is None else f"within {spec.approval_hours:g} hours"
    return f"""\
### Release of `{spec.name}`

A {spec.train.algorithm.upper()} policy for `{spec.environment.id}` is trained (or imported), evaluated on
{spec.evaluate.episodes} seeded episodes, exported and proved equal, quantized, benchmarked, registered in MLflow and
packaged as a Bento. The pre-deployment checklist gates it into a canary; the canary promotes it when it is shown to be
{promise} the champion, and rolls it back when it is worse. The post-deployment checklist confirms it or restores the
previous champion. One release of a policy runs at a time; another one waits for it.

Ends: `promoted`, `rolled_back` or `inconclusive` (both keep the champion; the run is green), `rejected` by a gate or
`aborted` (the run is red and the champion untouched). The task `report` says which and why, and leaves an evidence
bundle in the MLflow run.

Where approval is asked for ({approval}), the task `approval` waits for a person: *Required Actions* of the run shows
the candidate beside the champion. Approved: the canary starts. Rejected, or no answer by the deadline: the task fails,
the version becomes `rejected` with who and why, and no canary is started.
"""
