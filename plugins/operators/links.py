"""Links from a task in the Airflow UI to what it wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

from bentos import home
from tasks.runs import Release

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class MlflowRunLink(BaseOperatorLink):
    """The release's MLflow run: artifacts, metrics and evidence of every stage."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the run, or the empty string when the release never began."""
        release = Release.find(ti_key.dag_id.removeprefix("release_"), ti_key.run_id)
        if release is None:
            return ""
        return f"{home.mlflow_url()}/#/experiments/{release.experiment_id}/runs/{release.run_id}"


LINKS = (MlflowRunLink(),)
