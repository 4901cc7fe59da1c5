"""The last task of every release: says how it ended, whatever happened before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from plugins.operators.links import LINKS
from plugins.operators.retry import wait_out
from tasks.tracking.release import Release

if TYPE_CHECKING:
    from airflow.sdk import Context

CONFIRMATION = "post_deployment.checklist"


class ReportOperator(BaseOperator):
    """Writes the release's report. Fails the run of a release that was rejected, aborted, undone or broke."""

    operator_extra_links = LINKS

    def execute(self, context: Context) -> dict[str, Any]:
        """Report from the states of the run's other tasks."""
        from tasks.stages.report import ENDED_WELL, report

        ti, dag_run, dag_id = context["ti"], context["dag_run"], context["dag"].dag_id
        states = ti.get_task_states(dag_id=dag_id, run_ids=[dag_run.run_id]).get(dag_run.run_id, {})
        states.pop(self.task_id, None)
        policy = dag_id.removeprefix("release_")
        release = wait_out(Release.find, policy, dag_run.run_id)
        summary = wait_out(report, release, policy, dag_run.run_id, states)
        if summary["outcome"] not in ENDED_WELL or states.get(CONFIRMATION) == "failed":
            raise AirflowFailException(f"release {summary['outcome']}: {summary['reason']}")
        return dict(summary)
