"""Makes the DAGs of one policy from its spec. Wiring only: what a task does lives in `tasks/`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, Param, TaskGroup, TriggerRule

from dags.learn import TRAIN_QUEUE, learn_dag
from dags.learn import cron as _cron
from plugins.operators.approval import ReleaseApproval
from plugins.operators.canary import CanaryOperator
from plugins.operators.monitor import AskForRelease, LookAtChampion
from plugins.operators.report import ReportOperator
from plugins.operators.stage import StageOperator
from tasks.spec.files import load
from tasks.spec.sections import FAMILIES, POST_DEPLOYMENT, PRE_DEPLOYMENT, Approval, PolicySpec


def dags_of(policy: str) -> dict[str, DAG]:
    """The DAGs of `policy`, by the name a DAG file binds them to. Raises SpecError when its spec is broken."""
    spec = load(policy)
    dags = {f"release_{policy}": release_dag(spec), f"monitor_{policy}": monitor_dag(spec)}
    return dags | ({f"learn_{policy}": learn_dag(spec, spec.learn)} if spec.learn else {})


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


def monitor_dag(spec: PolicySpec) -> DAG:
    """`monitor_<policy>`: the champion looked at again and again, and what the spec says follows from it."""
    with DAG(
        dag_id=f"monitor_{spec.name}",
        description=f"Look at the champion of the policy {spec.name}: checks, drift, decay, alerts",
        doc_md=_monitor_doc(spec),
        schedule=_cron(spec.monitor.schedule),
        catchup=False,
        max_active_runs=1,
        tags=["airlock", spec.name],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    ) as dag:
        look = LookAtChampion(task_id="look")
        look >> AskForRelease(task_id="ask_for_release", after=look.task_id, outlets=[drift_asset(spec.name)])
    return dag


def drift_asset(policy: str) -> Asset:
    """The asset whose events say that a policy's traffic has drifted, or its returns decayed."""
    return Asset(f"airlock://{policy}/drift")


def _schedule(spec: PolicySpec) -> Any:
    """When a release starts by itself: on the spec's cron, on drift, on either, or never."""
    retrain = spec.retrain
    cron = _cron(retrain.schedule) if retrain.schedule else None
    if not retrain.on_drift:
        return cron
    assets = [drift_asset(spec.name)]
    return AssetOrTimeSchedule(timetable=cron, assets=assets) if cron else assets


def release_params(spec: PolicySpec) -> dict[str, Param]:
    """The trigger form: every field bounded and described, filled with the spec's own values."""
    canary = spec.canary
    return {
        "source": Param(
            "train",
            enum=["train", "zip", "learned"],
            title="Source",
            description_md="*train* a new policy, import a *zip*, or take over what was *learned* from the log",
        ),
        "zip_path": Param(
            None,
            type=["null", "string"],
            title="Zip to import",
            description_md="Path of a Stable-Baselines3 zip on the worker, for the source *zip*. "
            "A zip is a pickle: give only files you trust.",
        ),
        "learned_run": Param(
            None,
            type=["null", "string"],
            title="Learned candidate",
            description_md=f"MLflow run of *learn_{spec.name}* whose candidate is released, for the source *learned*.",
        ),
        "seed": Param(
            spec.train.seed,
            type="integer",
            minimum=0,
            maximum=2**31 - 1,
            title="Seed",
            description_md="Seed of everything random in training. The same seed trains the same policy.",
        ),
        "timesteps": Param(
            spec.train.total_timesteps,
            type="integer",
            minimum=1,
            maximum=100_000_000,
            title="Timesteps",
            description_md="Environment steps to train for.",
        ),
        "minimum_mean_return": Param(
            spec.evaluate.minimum_mean_return,
            type="number",
            title="Minimum mean return",
            description_md="The offline gate: a candidate that scores below on seeded episodes is rejected. "
            "A first release is judged against it in its canary, too.",
        ),
        "objective": Param(
            canary.objective,
            enum=["non_inferiority", "superiority"],
            title="Objective",
            description_md=f"What the canary must show: not worse by the margin ({canary.margin:g}), or better. "
            "Scheduled runs ask for *superiority*.",
        ),
        "canary_steps": Param(
            list(canary.steps),
            type="array",
            minItems=1,
            maxItems=10,
            items={"type": "number", "exclusiveMinimum": 0, "maximum": 0.5},
            title="Canary steps",
            description_md="Share of traffic each arm gets, step by step, growing, at most 0.5.",
        ),
        "max_units_per_arm": Param(
            canary.max_units_per_arm,
            type="integer",
            minimum=2,
            maximum=1_000_000,
            title="Canary budget, units an arm",
            description_md="Users (or episodes without a user) in each arm; then the canary ends inconclusive.",
        ),
        "max_hours": Param(
            canary.max_hours,
            type="number",
            exclusiveMinimum=0,
            maximum=2160,
            title="Canary budget, hours",
            description_md="Then the canary ends inconclusive and the champion stays.",
        ),
        "approval": Param(
            spec.approval != "none",
            type="boolean",
            title="Ask for approval",
            description_md="A person must approve the candidate in the Airflow UI before its canary.",
        ),
        "approval_hours": Param(
            spec.approval_hours or Approval().timeout_hours,
            type="number",
            exclusiveMinimum=0,
            maximum=720,
            title="Deadline of the approval, hours",
            description_md="Where approval is asked for: without an answer by then, the candidate is rejected.",
        ),
        "dry_run_checks": Param(
            [check for check, mode in spec.checks.items() if mode == "dry_run"],
            type="array",
            items={"type": "string", "enum": [*PRE_DEPLOYMENT, *POST_DEPLOYMENT]},
            examples=[*PRE_DEPLOYMENT, *POST_DEPLOYMENT],
            title="Checks in dry run",
            description_md="These checks are run and shown, and do not gate.",
        ),
        "simulate_users": Param(
            0,
            type="integer",
            minimum=0,
            maximum=1024,
            title="Simulated users",
            description_md="Play that many episodes at once through the gateway during the canary. "
            "0: your own traffic decides.",
        ),
    }


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
