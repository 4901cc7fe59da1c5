"""Makes the DAG `learn_<policy>`. Wiring only: what a task does lives in `tasks/`."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG

from dags.schedules import TRAIN_QUEUE, cron
from plugins.operators.learn import LearnOperator
from tasks.spec.sections import Learn, PolicySpec


def learn_dag(spec: PolicySpec, learn: Learn) -> DAG:
    """`learn_<policy>`: from the log to a candidate that an ordinary release tries, or to a reasoned no."""
    with DAG(
        dag_id=f"learn_{spec.name}",
        description=f"Fine-tune the policy {spec.name} on what its gateway logged, and release what is better",
        doc_md=_doc(spec, learn),
        schedule=cron(learn.schedule) if learn.schedule else None,
        catchup=False,
        max_active_runs=1,
        tags=["airlock", spec.name],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=5)},
    ) as dag:
        collect = LearnOperator(task_id="collect", stage="tasks.stages.learn:collect")
        fine_tune = LearnOperator(task_id="fine_tune", stage="tasks.stages.learn:fine_tune", queue=TRAIN_QUEUE)
        evaluate = LearnOperator(
            task_id="evaluate", stage="tasks.stages.learn:evaluate", rejection_skips=True, queue=TRAIN_QUEUE
        )
        release = TriggerDagRunOperator(
            task_id="release",
            trigger_dag_id=f"release_{spec.name}",
            trigger_run_id="learned__{{ run_id }}",
            conf={
                "source": "learned",
                "learned_run": "{{ ti.xcom_pull(task_ids='evaluate')['learned_run'] }}",
                "objective": "superiority",
            },
            skip_when_already_exists=True,
        )
        collect >> fine_tune >> evaluate >> release
    return dag


def _doc(spec: PolicySpec, learn: Learn) -> str:
    goes = "that is shown to be better" if learn.require == "better" else "that no estimate finds worse"
    return f"""\
### Online learning of `{spec.name}`

What the gateway logged (decisions, rewards, outcomes) becomes a versioned dataset in MLflow, once
{learn.update_every:,} new decisions are there; the champion is fine-tuned on it, without any environment; and episodes
that were held out say what the candidate would have earned (off-policy evaluation). Only a candidate {goes}
goes on, to an ordinary `release_{spec.name}` whose canary must show superiority.

`collect` fails where too many episodes have rewards that cannot be. Skipped tasks are a good end: there was too little
to learn from, or the candidate was held back; the log of the task says which.
"""
